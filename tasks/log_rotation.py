"""Logs that have grown become `<name>.<stamp>.gz`, and those of long ago go.

Their writers hold them open and append (O_APPEND), so that the file is copied and cut to nothing in place: no process has
to be told. A line written in the instant between the last copy and the cut is lost, or cut short; the log is a help, not a record.
"""

from __future__ import annotations

import gzip
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks import lake
from tasks.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rotated:
    """What a rotation came to."""

    n_rotated: int
    n_removed: int
    freed_bytes: int


def rotate_logs(settings: Settings, *, now: datetime) -> Rotated:
    """Rotates the logs above the size of the settings and removes rotated ones past their retention."""
    n_rotated = n_removed = freed = 0
    for path in _logs(settings):
        n_bytes = path.stat().st_size
        if n_bytes > settings.log_mb * 1e6:
            rotated = path.with_name(f"{path.name}.{now:%Y%m%dT%H%M%SZ}.gz")
            _cut(path, rotated)
            n_rotated, freed = n_rotated + 1, freed + n_bytes - rotated.stat().st_size
    last = now - timedelta(days=settings.log_retention_d)
    for folder in {path.parent for path in _logs(settings)} | {settings.log_root}:
        for path in sorted(folder.glob("*.log.*.gz")) if folder.is_dir() else ():
            if datetime.fromtimestamp(path.stat().st_mtime, UTC) < last:
                freed += path.stat().st_size
                path.unlink()
                n_removed += 1
    if n_rotated or n_removed:
        log.info("rotated %d logs, removed %d old ones", n_rotated, n_removed)
    return Rotated(n_rotated, n_removed, freed)


def _logs(settings: Settings) -> Iterator[Path]:
    yield from sorted(settings.log_root.glob("*.log"))
    yield from sorted(settings.home.glob("broker/*/broker.log"))


def _cut(path: Path, rotated: Path) -> None:
    partial = rotated.with_name(f"{rotated.name}.partial")
    try:
        with path.open("r+b") as file, gzip.open(partial, "wb") as packed:
            shutil.copyfileobj(file, packed)
            packed.flush()
            shutil.copyfileobj(file, packed)  # what was written meanwhile
            os.ftruncate(file.fileno(), 0)
        os.replace(partial, rotated)
        lake.sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
