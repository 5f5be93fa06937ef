"""Retention by contract: a day of a dataset goes when its time is over, and nobody wrote to it since then either.

Both must be older than the contract's days: what a backfill made of a past year yesterday is not gone tomorrow.
"""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from tasks import lake
from tasks.contracts import DATASETS, load_contract
from tasks.settings import Settings

log = logging.getLogger(__name__)


def expire_lake(settings: Settings, *, now: datetime) -> list[Path]:
    """Removes the files of expired days; returns them. An empty folder stays: a writer may be about to use it."""
    removed = []
    for dataset in DATASETS:
        oldest = _oldest_day(dataset, now)
        for path in lake.files(dataset, settings=settings, end=oldest - timedelta(days=1)):
            with lake.publishing(settings):
                try:
                    if datetime.fromtimestamp(path.stat().st_mtime, UTC).date() >= oldest:
                        continue
                    path.unlink()
                except FileNotFoundError:  # withdrawn, or compacted
                    continue
            removed.append(path)
    for folder in sorted({path.parent for path in removed}):
        lake.sync_folder(folder)
    if removed:
        log.info("removed %d files of the lake past the retention of their contracts", len(removed))
    return removed


def is_expired(path: Path, now: datetime) -> bool:
    """Whether a published file's day is past its contract's retention, be the file there or not."""
    day = date.fromisoformat(path.parent.name.removeprefix(lake.PARTITION_PREFIX))
    return day < _oldest_day(path.parent.parent.name, now)


def _oldest_day(dataset: str, now: datetime) -> date:
    return (now.astimezone(UTC) - timedelta(days=load_contract(dataset).retention_d)).date()
