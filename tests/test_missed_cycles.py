"""After an outage: the cycles that never ran, once their observations have landed; on a real Prefect server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.catch_up import catch_up
from tasks import catalog, cycles, lake
from tasks.landing.spool import collect
from tasks.missed_cycles import missed_plans, wait_until_landed
from tasks.settings import Settings, load_settings
from tasks.simulation import simulate_network
from tests.small_root import checksums, land, run_cycle, spool

STEP = timedelta(hours=1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in [name for name in os.environ if name.startswith("AUTONVIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("AUTONVIS_GRID_STEP_DEG", "10")
    monkeypatch.setenv("AUTONVIS_LEADS_H", "1")
    monkeypatch.setenv("AUTONVIS_CYCLE_MINUTES", "60")
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


def observed(item: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(item["observed_at"])


@pytest.fixture
def newest(settings: Settings) -> datetime:
    """The newest cycle, after an outage of five hours, of one of which nobody has an observation."""
    newest = cycles.newest_valid_time(settings, datetime.now(UTC))
    items = simulate_network(newest - 8 * STEP, hours=8.0, seed=7)
    silent_from = newest - 3 * STEP
    before = [item for item in items if observed(item) <= newest - 6 * STEP]
    spool(settings, before, datetime.now(UTC))
    land(settings)
    run_cycle(settings, newest - 7 * STEP)
    run_cycle(settings, newest - 6 * STEP)
    # The system comes back: what was queued for it arrives, and the nowcast of now runs.
    meanwhile = [
        item
        for item in items
        if observed(item) > newest - 6 * STEP and not silent_from < observed(item) <= silent_from + STEP
    ]
    spool(settings, meanwhile, datetime.now(UTC))
    run_cycle(settings, newest)
    return newest


def test_the_cycles_of_an_outage_run_once_and_in_order(
    prefect_server: None, settings: Settings, newest: datetime
) -> None:
    assert missed_plans(settings, datetime.now(UTC)) == []  # nothing of their time has landed
    land(settings)
    wanted = [newest - hours * STEP for hours in (5, 4, 3, 1)]
    assert [plan.valid_time for plan in missed_plans(settings, datetime.now(UTC))] == wanted

    done = catch_up(return_state=True)
    assert done.is_completed(), done.message
    assert done.message == "4 missed cycles done, 0 left"
    ran = catalog.cycles(catalog.open_catalog(settings))
    assert [cycle.valid_time for cycle in ran] == [newest - hours * STEP for hours in (7, 6, 5, 4, 3, 1, 0)]
    caught_up = sorted(ran, key=lambda cycle: cycle.recorded_at)[-4:]
    assert [cycle.valid_time for cycle in caught_up] == wanted
    for cycle in caught_up:
        assert cycle.details["plan"]["step_deg"] == 10.0  # a whole one, with its grid and its forecasts
        assert cycle.details["n_observations"] > 0
        assert any(name.startswith("analysis/") for name in cycle.files)

    before = checksums(settings.lake_root)
    again = catch_up(return_state=True)
    assert again.message == "0 missed cycles done, 0 left"
    assert checksums(settings.lake_root) == before
    assert "nvis_missed_cycles 0" in (settings.metrics_root / "missed.prom").read_text()


def test_it_is_bounded_and_waits_for_what_has_not_been_curated(settings: Settings, newest: datetime) -> None:
    now = datetime.now(UTC)
    landed_before = lake.files("ionograms", settings=settings)
    collect(settings.spool_root, settings.lake_root)
    assert not wait_until_landed(settings, 0.0)
    land(settings)
    assert len(lake.files("ionograms", settings=settings)) > len(landed_before)
    assert wait_until_landed(settings, 0.0)
    bounded = settings.model_copy(update={"catch_up_h": 3.5})
    assert [plan.valid_time for plan in missed_plans(bounded, now)] == [newest - 3 * STEP, newest - STEP]
    assert missed_plans(settings.model_copy(update={"catch_up_h": 0.0}), now) == []
    run_cycle(settings, newest - 7 * STEP - timedelta(minutes=13))  # that somebody asked for
    assert len(missed_plans(settings, now)) == 4


def test_a_new_system_has_missed_nothing(settings: Settings) -> None:
    spool(settings, simulate_network(datetime.now(UTC) - 8 * STEP, hours=8.0, seed=7), datetime.now(UTC))
    land(settings)
    assert missed_plans(settings, datetime.now(UTC)) == []
