"""The site of the documentation: built strictly, whole, and with nothing from another host."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("sphinx", reason="Sphinx is a development dependency")


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = re.search(
        r"^docs:.*\n\t\$\(BIN\)/python (.*) build/site$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert command is not None
    return subprocess.run(
        [sys.executable, *command[1].split(), str(out)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_every_page_is_in_it_and_the_top_leads_to_the_front(site: Path) -> None:
    written = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "deployments").glob("*.md"),
        *(ROOT / "infra").rglob("*.md"),
    ]
    assert {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in pages} <= written
    assert "url=docs/index.html" in (site / "index.html").read_text()


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(https?:)?//[^\"]*\"", path.read_text()
        )
        assert loaded == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", path.read_text()), path


def test_what_alerts_link_to_is_there(site: Path) -> None:
    """An alert's runbook_url ends in the entry's anchor."""
    anchors = set(re.findall(r'id="([^"]+)"', (site / "docs/operations/runbook.html").read_text()))
    alerts = (ROOT / "infra/prometheus/alerts.yml").read_text()
    named = set(re.findall(r"runbook\.md#(\w+)", alerts))
    assert len(named) > 10
    assert named <= anchors


def test_a_link_that_leads_nowhere_stops_the_build(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "site", tmp_path / "docs" / "site")
    (tmp_path / "docs" / "index.md").write_text("# Front\n\n[gone](operations/gone.md)\n")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    assert "operations/gone.md" in done.stderr
