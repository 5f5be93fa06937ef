"""A lost catalog made again: batches by curating what landed once more, cycles from the files they published.

Curation is a pure function of a batch and of what other batches have published, so it ends with the lake it finds.
What only the catalog knew cannot come back: sounders register anew, and pull sources begin at their default span.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks import catalog, compacted, lake
from tasks.curation import curate_batches, groups, pending_batches
from tasks.settings import Settings

log = logging.getLogger(__name__)

CYCLE_DATASETS = ("analysis", "feedback", "verification", "sounders", "echoes", "network")


@dataclass(frozen=True)
class Rebuilt:
    """Rows written to the catalog."""

    n_batches: int
    n_cycles: int


def rebuild_catalog(*, settings: Settings) -> Rebuilt:
    """Write the rows that the catalog lacks; to be repeated when it was interrupted.

    Raises:
        tasks.catalog.CatalogError: a damaged catalog is still in place; move it away first.
        tasks.lake.LakeError: the lake cannot be read or written.
    """
    engine = catalog.open_catalog(settings)
    pending = pending_batches(settings)
    for group in groups(pending):
        for result in curate_batches(group, settings=settings):
            if result.fault is not None:  # committed all the same, as when it was first curated
                log.warning("%s", result.fault)
    known = {cycle.cycle_id for cycle in catalog.cycles(engine)}
    lost = {name: files for name, files in _published_cycles(settings).items() if name not in known}
    for cycle_id, files in lost.items():
        details = files[0].details
        newest = max(file.changed_at for file in files)
        catalog.record_cycle(
            engine,
            cycle_id,
            valid_time=datetime.fromisoformat(details["valid_time"]),
            available_until=newest,  # the latest it can have been
            config_hash=details["config_hash"],
            inputs_hash=details["inputs_hash"],
            effective_ig12=details["effective_index"],
            details={**details, "is_rebuilt": True},
            files=[file.path.relative_to(settings.lake_root).as_posix() for file in files],
            now=datetime.now(UTC),
        )
    return Rebuilt(len(pending), len(lost))


@dataclass(frozen=True)
class _Published:
    """A file of a cycle, by itself or within a compacted one, and what `tasks.cycles.store_cycle` wrote of the cycle in it."""

    path: Path
    details: dict[str, Any]
    changed_at: datetime


def _published_cycles(settings: Settings) -> dict[str, list[_Published]]:
    found: dict[str, list[_Published]] = {}
    for dataset in CYCLE_DATASETS:
        for path in lake.files(dataset, settings=settings):
            for file in _files_of(path):
                found.setdefault(file.details["cycle_id"], []).append(file)
    return found


def _files_of(path: Path) -> list[_Published]:
    if not compacted.is_compacted(path):
        entries = pq.read_schema(path).metadata or {}
        metadata = {key.decode(): value.decode() for key, value in entries.items()}
        changed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return [_Published(path, compacted.details(metadata), changed_at)]
    return [
        _Published(
            path.with_name(f"{member.name}.parquet"),
            compacted.details(member.metadata),
            datetime.fromtimestamp(member.mtime_ns / 1e9, UTC),
        )
        for member in compacted.members(path)
    ]
