"""The pages of the web service itself: the front page, and the list of reports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from services.published import Published, health_of
from services.web_files import report_days
from tasks.products import CURRENT
from tasks.settings import Settings

TEMPLATES = Path(__file__).with_name("templates")
REPORTS_SHOWN = 7


def front_page(settings: Settings, paths: Mapping[str, Any], now: datetime) -> bytes:
    """The map of now, the bulletin, and where everything else is.

    Args:
        paths: of the OpenAPI document.
    """
    is_fresh, sentence, published = health_of(settings, now)
    current = settings.products_root / CURRENT
    bulletin = current / "bulletin.txt"
    return _render(
        "index.html.j2",
        published=published,
        valid=_valid(published),
        is_fresh=is_fresh,
        sentence=sentence[:1].upper() + sentence[1:],
        bulletin=bulletin.read_text(encoding="utf-8") if bulletin.is_file() else None,
        files=sorted(one.name for one in current.iterdir()) if current.is_dir() else [],
        days=report_days(settings.products_root / "reports")[:REPORTS_SHOWN],
        endpoints=[
            (method.upper(), path, operation["summary"], method == "get" and "{" not in path)
            for path, operations in paths.items()
            for method, operation in operations.items()
        ],
    )


def reports_page(days: list[str]) -> bytes:
    """Every report, newest first."""
    return _render("reports.html.j2", days=days)


def _valid(published: Published | None) -> str:
    return "" if published is None else f"{published.valid_time.astimezone(UTC):%d %B %Y, %H:%M} UTC"


def _render(name: str, **values: Any) -> bytes:
    page: str = _environment().get_template(name).render(**values)
    return page.encode()


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
