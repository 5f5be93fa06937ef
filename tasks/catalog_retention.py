"""The records of old cycles leave the catalog once nothing needs them.

A record says how a cycle is computed again to the bit, so it stays as long as a file that could be compared with: as long as the
contracts keep grids and feedback. What is kept for years, verification and sounders, says the same in its own metadata.
The service-level objectives count records, so they stay for the days of the settings at least; and the newest stay always,
however old: they are what the public sees and what `verify-backup` computes again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from tasks import catalog
from tasks.contracts import load_contract
from tasks.newest_cycle import LOOK_BACK
from tasks.settings import Settings

log = logging.getLogger(__name__)

COMPARED = ("analysis", "feedback", "echoes", "network")


def expire_cycles(settings: Settings, *, now: datetime) -> int:
    """Removes the records of cycles that are both of and from before then; returns how many."""
    kept_d = max(load_contract(dataset).retention_d for dataset in COMPARED) + 1
    before = now - timedelta(days=max(kept_d, settings.cycle_record_d))
    n_removed = catalog.remove_cycles(catalog.open_catalog(settings), before, n_newest=LOOK_BACK)
    if n_removed:
        log.info("removed the records of %d cycles from before %s", n_removed, before.date())
    return n_removed
