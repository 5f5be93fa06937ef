"""A lost catalog made again: batches by curating what landed once more, cycles from the files they published.

Curation is a pure function of a batch and of what other batches have published, so it ends with the lake it finds.
What only the catalog knew cannot come back: sounders register anew, and pull sources begin at their default span.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks import catalog, lake
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
        details = _details(files[0])
        newest = max(path.stat().st_mtime for path in files)
        catalog.record_cycle(
            engine,
            cycle_id,
            valid_time=datetime.fromisoformat(details["valid_time"]),
            available_until=datetime.fromtimestamp(newest, UTC),  # the latest it can have been
            config_hash=details["config_hash"],
            inputs_hash=details["inputs_hash"],
            effective_ig12=details["effective_index"],
            details={**details, "is_rebuilt": True},
            files=[path.relative_to(settings.lake_root).as_posix() for path in files],
            now=datetime.now(UTC),
        )
    return Rebuilt(len(pending), len(lost))


def _published_cycles(settings: Settings) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for dataset in CYCLE_DATASETS:
        for path in lake.files(dataset, settings=settings):
            found.setdefault(_details(path)["cycle_id"], []).append(path)
    return found


def _details(path: Path) -> dict[str, Any]:
    """What `tasks.cycles.store_cycle` wrote of the cycle beside the columns."""
    entries = pq.read_schema(path).metadata or {}
    details = {}
    for key, value in entries.items():
        try:
            details[key.decode()] = json.loads(value)
        except ValueError:  # the contract's own entries and Arrow's are no JSON
            continue
    return details
