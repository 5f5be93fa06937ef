"""Retention of landed segments: raw bytes are kept for ever, or so many days after they were curated.

A segment goes only when nothing can be lost with it: its batch is committed in the catalog, every file of that batch
is still in the lake or past its own retention, and every record of it reads back, so that what was not published is in quarantine with its bytes.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks import catalog, lake
from tasks.lake_retention import is_expired
from tasks.landing.spool import SegmentError, read_segment
from tasks.settings import Settings

log = logging.getLogger(__name__)


def expire_landing(settings: Settings, *, now: datetime | None = None) -> list[Path]:
    """Removes the landed segments whose curation is older than the setting `landing_retention_d`; returns them.

    Without the setting nothing is removed. Segments that must stay are named in the log.
    """
    if settings.landing_retention_d is None:
        return []
    engine = catalog.open_catalog(settings)
    moment = now or datetime.now(UTC)
    last = moment - timedelta(days=settings.landing_retention_d)
    removed = []
    for batch in catalog.batches(engine, state="curated"):
        path = settings.lake_root / batch.path
        if batch.recorded_at > last or not path.exists():
            continue
        with catalog.exclusive(engine, "curation"):  # a replay may be reading it
            obstacle = _obstacle(path, batch, settings, moment)
            if obstacle is not None:
                log.warning("%s is kept beyond its time: %s", path, obstacle)
                continue
            path.unlink(missing_ok=True)
            lake.sync_folder(path.parent)
        removed.append(path)
    if removed:
        log.info("removed %d landed segments curated before %s", len(removed), f"{last:%Y-%m-%d %H:%M} UTC")
    return removed


def _obstacle(path: Path, batch: catalog.Batch, settings: Settings, now: datetime) -> str | None:
    published = [name for name in batch.files if not is_expired(settings.lake_root / name, now)]
    missing = [name for name in published if not lake.holds(settings.lake_root / name)]
    if missing:
        return f"{missing[0]} that was published from it is not in the lake (`autonvis replay --since` restores it)"
    try:
        for _ in read_segment(path):
            pass
    except SegmentError as error:
        return f"it was not curated whole: {error}"
    return None
