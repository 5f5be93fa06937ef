"""When the disk will be full, from how its use went; written to `run/maintenance.json` for metrics and health.

Backups and maintenance note the use, once an hour. The slope is the median of those between all pairs of notes (Theil
1950, Sen 1968): one night on which much was removed, or copied in, does not turn it.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.settings import Settings

HISTORY = Path("run/disk-history.json")
STATUS = Path("run/maintenance.json")
EVERY = timedelta(hours=1)
REMEMBERED = timedelta(days=30)
SHORTEST = timedelta(hours=6)
"""No forecast from less: a day has its own course."""


@dataclass(frozen=True)
class DiskForecast:
    """Bytes of the disk that the root is on, its growth, and when it is full; None while that is unknown or never."""

    noted_at: datetime
    total_bytes: int
    free_bytes: int
    growth_bytes_per_d: float | None
    days_until_full: float | None
    full_at: datetime | None
    n_notes: int
    folders: dict[str, int]

    def summary(self) -> str:
        free = f"{self.free_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB free"
        if self.growth_bytes_per_d is None:
            return f"{free}; no forecast yet: it needs notes of {SHORTEST / EVERY:.0f} hours"
        if self.days_until_full is None:
            return f"{free}; it does not grow"
        return (
            f"{free}; full in {self.days_until_full:.0f} days at {self.growth_bytes_per_d / 1e6:.0f} MB a day"
        )


def note_disk(settings: Settings, *, now: datetime) -> None:
    """Remembers how full the disk of the root is; within an hour of the last note, nothing."""
    notes = _history(settings, now)
    if notes and now - notes[-1][0] < EVERY:
        return
    used = shutil.disk_usage(settings.lake_root if settings.lake_root.is_dir() else settings.home).used
    notes.append((now, used))
    content = [{"noted_at": moment.isoformat(), "used_bytes": n_bytes} for moment, n_bytes in notes]
    _write_whole(settings.home / HISTORY, content)


def forecast_disk(settings: Settings, *, now: datetime) -> DiskForecast:
    """The forecast by the notes so far."""
    notes = _history(settings, now)
    usage = shutil.disk_usage(settings.lake_root if settings.lake_root.is_dir() else settings.home)
    growth = _slope(notes)
    days = usage.free / growth if growth is not None and growth > 0 else None
    try:
        full_at = now + timedelta(days=days) if days is not None else None
    except OverflowError:  # beyond the year 9999
        days = full_at = None
    return DiskForecast(
        noted_at=now,
        total_bytes=usage.total,
        free_bytes=usage.free,
        growth_bytes_per_d=growth,
        days_until_full=days,
        full_at=full_at,
        n_notes=len(notes),
        folders=_folders(settings),
    )


def write_status(settings: Settings, content: dict[str, Any]) -> None:
    """Replaces `run/maintenance.json` whole."""
    _write_whole(settings.home / STATUS, content)


def _slope(notes: list[tuple[datetime, int]]) -> float | None:
    """Bytes per day; None where the notes span too little."""
    if len(notes) < 2 or notes[-1][0] - notes[0][0] < SHORTEST:
        return None
    from scipy.stats import theilslopes  # heavy, and needed once a day

    days = [(moment - notes[0][0]) / timedelta(days=1) for moment, _ in notes]
    return float(theilslopes([n_bytes for _, n_bytes in notes], days).slope)


def _history(settings: Settings, now: datetime) -> list[tuple[datetime, int]]:
    try:
        said = json.loads((settings.home / HISTORY).read_bytes())
        notes = [(datetime.fromisoformat(one["noted_at"]), int(one["used_bytes"])) for one in said]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []
    return [(moment, n_bytes) for moment, n_bytes in notes if now - REMEMBERED <= moment <= now]


def _folders(settings: Settings) -> dict[str, int]:
    """Bytes below each folder of the root, and of each dataset."""
    found = {}
    for root, prefix in ((settings.home, ""), (settings.lake_root, "lake/")):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.is_dir() and not path.is_symlink() and path.resolve() != settings.lake_root.resolve():
                found[f"{prefix}{path.name}"] = _n_bytes(path)
    return found


def _n_bytes(folder: Path) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(here, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _write_whole(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_text(json.dumps(content, default=_plain, indent=1))
    os.replace(partial, path)


def _plain(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
