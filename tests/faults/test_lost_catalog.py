"""The catalog is lost or ruined: it is made again, and the lake is byte for byte what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import catalog
from tasks.catalog_rebuild import Rebuilt, rebuild_catalog
from tasks.curation import pending_batches
from tasks.cycles import CyclePlan, store_cycle
from tasks.settings import Settings
from tests.faults import victims
from tests.faults.conftest import Trial, kill_after
from tests.faults.ledger import land_everything
from tests.faults.test_kill_curation import spool
from tests.product_cycles import VALID_TIME, make_analysis


def published(settings: Settings) -> dict[str, str]:
    return {
        str(path.relative_to(settings.lake_root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in settings.lake_root.rglob("*.parquet")
    }


def recorded(settings: Settings) -> tuple[list[Any], list[Any]]:
    engine = catalog.open_catalog(settings)
    batches = [(row.batch_id, row.state, row.path, row.counts, row.files) for row in catalog.batches(engine)]
    cycles = [
        (
            row.cycle_id,
            row.valid_time,
            row.config_hash,
            row.inputs_hash,
            row.effective_ig12,
            sorted(row.files),
        )
        for row in catalog.cycles(engine)
    ]
    return batches, cycles


def lose_catalog(settings: Settings) -> None:
    catalog._open.cache_clear()
    for path in settings.home.glob("catalog.db*"):
        path.unlink()


def store_some_cycle(settings: Settings) -> None:
    plan = CyclePlan(VALID_TIME, datetime.now(UTC), "global", 5.0)
    analysis = make_analysis([40.0, 45.0], [10.0, 15.0], VALID_TIME)  # type: ignore[arg-type]
    metadata = {
        "cycle_id": analysis["cycle_id"][0],
        "valid_time": VALID_TIME.isoformat(),
        "config_hash": "c" * 64,
        "inputs_hash": "1" * 64,
        "effective_index": 55.5,
    }
    cycle: Any = SimpleNamespace(metadata=metadata)
    for part in ("analysis", "forecast", "feedback", "verification", "sounders", "echoes", "network"):
        setattr(cycle, part, None)
    import pyarrow as pa

    cycle.analysis = pa.Table.from_pandas(analysis, preserve_index=False)
    store_cycle(settings, plan, cycle)


def test_a_lost_catalog_is_made_again(trial: Trial, start_victim: Callable[..., BaseProcess]) -> None:
    settings = trial.settings
    runs = trial.runs(1, 10)
    store_some_cycle(settings)
    for number in runs:
        items = trial.ledger.items(40)
        for begin in range(0, 40, 15):
            spool(trial, items[begin : begin + 20])  # neighbours share five
        land_everything(settings)
        before, (batches, cycles) = published(settings), recorded(settings)
        lose_catalog(settings)
        interrupted = start_victim(victims.land_once, settings.home)
        kill_after(interrupted, trial.chance.uniform(0.0, 1.0))
        rebuilt = rebuild_catalog(settings=settings)
        assert published(settings) == before
        assert recorded(settings) == (batches, cycles)
        assert rebuilt.n_batches <= 3 * (number + 1)
        assert rebuilt.n_cycles == 1
        assert rebuild_catalog(settings=settings) == Rebuilt(0, 0)
    (cycle,) = catalog.cycles(catalog.open_catalog(settings))
    assert datetime.now(UTC) - cycle.available_until < timedelta(minutes=30)
    trial.conclude("catalog lost and rebuilt", len(runs))


def test_a_ruined_catalog_is_named_and_can_be_moved_away(trial: Trial) -> None:
    spool(trial, trial.ledger.items(20))
    land_everything(trial.settings)
    catalog._open.cache_clear()
    path = trial.settings.home / "catalog.db"
    path.write_bytes(trial.chance.randbytes(path.stat().st_size))
    with pytest.raises(catalog.CatalogError, match="cannot be opened"):
        pending_batches(trial.settings)
    lose_catalog(trial.settings)
    assert rebuild_catalog(settings=trial.settings).n_batches == 1
    trial.conclude("catalog overwritten with noise", 1)
