"""kill -9 of the process that collects and curates, at random moments, with repeats in the batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from typing import Any

from tasks.landing.spool import Record, SpoolWriter
from tests.faults import victims
from tests.faults.conftest import Trial, kill_after


def spool(trial: Trial, items: list[dict[str, Any]]) -> None:
    """One sealed segment with one record; what is durable here is acknowledged."""
    record = Record(
        "http", "ionograms", None, datetime.now(UTC), "application/json", json.dumps(items).encode(), "http"
    )
    with SpoolWriter(trial.settings.spool_root / "http") as writer:
        writer.append_many([record])
    trial.ledger.acknowledge(items)


def test_a_killed_curation_loses_and_doubles_nothing(
    trial: Trial, start_victim: Callable[..., BaseProcess]
) -> None:
    n_killed, wanted = 0, len(trial.runs(6, 70))
    items: list[dict[str, Any]] = []
    while n_killed < wanted:
        fresh = trial.ledger.items(15)
        spool(trial, fresh + items[:5])
        items = fresh
        process = start_victim(victims.land_for_ever, trial.settings.home)
        n_killed += kill_after(process, trial.chance.uniform(0.0, 1.0))
    trial.conclude("kill -9 of the curating process", n_killed)
    assert list((trial.settings.home / "staging").iterdir()) == []
