"""The flows on a real Prefect server: landing to products, reruns, and what they say when something is wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.client.orchestration import get_client

from flows.backfill import backfill
from flows.land import drain_mqtt, land
from flows.nowcast import nowcast
from flows.report import report
from tasks import curation, lake
from tasks.landing.spool import Record, SpoolWriter
from tasks.metrics.ledger import read_ledgers
from tasks.settings import Settings, load_settings
from tasks.simulated_sounders import draw_network, listen
from tasks.simulated_truth import SimulatedTruth
from tasks.simulation import simulate_network

START = datetime(2026, 3, 20, tzinfo=UTC)
END = START + timedelta(hours=30)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in [name for name in os.environ if name.startswith("AUTONVIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("AUTONVIS_GRID_STEP_DEG", "5")
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


def spool(
    settings: Settings,
    items: list[dict[str, object]],
    source: str = "simulated",
    dataset: str = "ionograms",
) -> None:
    """What the gateway does: one record per message, sealed for the flow to collect."""
    writer = SpoolWriter(settings.spool_root / "http")
    writer.append_many(
        [
            Record(
                channel="http",
                dataset=dataset,
                sounder_id=None,
                received_at=datetime.now(UTC),
                content_type="application/json",
                payload=json.dumps(items[first : first + 200]).encode(),
                source=source,
                licence=None,
            )
            for first in range(0, len(items), 200)
        ]
    )
    writer.seal()


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*.parquet"))
    }


def test_observations_become_products_and_reruns_change_no_byte(
    prefect_server: None, settings: Settings
) -> None:
    items = simulate_network(START, hours=30.0, seed=7)
    spool(settings, [*items, {**items[0], "fof2_mhz": 9999.0, "observed_at": "2026-03-20T00:05:00Z"}])

    state = land(return_state=True)
    assert state.is_completed(), state.message
    landed = lake.read("ionograms", settings=settings)
    quarantined = lake.read("quarantine", settings=settings)
    assert len(landed) + len(quarantined) == len(items) + 1  # nothing is lost
    assert any("9999" in reasons for reasons in quarantined["reasons"])

    assert backfill(END - timedelta(hours=6), END) == 25
    folder = Path(nowcast(valid_time=END, available_until=datetime.now(UTC)))
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert (settings.products_root / "current").resolve() == folder.resolve()

    analysis = lake.read("analysis", settings=settings)
    nowcast_rows = analysis[analysis["lead_h"] == 0]
    assert len(nowcast_rows) == 37 * 72
    ahead = analysis[analysis["lead_h"] > 0]
    assert sorted(ahead["lead_h"].unique()) == [1.0, 3.0, 6.0, 12.0, 24.0]
    assert (ahead["valid_time"] - pd.to_timedelta(ahead["lead_h"], unit="h") == pd.Timestamp(END)).all()
    assert (analysis["fof2_mhz_sd"] > 0).all()
    verification = lake.read("verification", settings=settings)
    of_fof2 = verification[verification["quantity"] == "fof2_mhz"]
    assert set(of_fof2["sounder_id"]) == {item["sounder_id"] for item in items}

    before = digests(settings.lake_root)
    assert land(return_state=True).is_completed()
    assert backfill(END - timedelta(hours=6), END) == 25
    nowcast(valid_time=END)
    assert digests(settings.lake_root) == before


def test_run_leaves_artifacts_for_the_operator(prefect_server: None, settings: Settings) -> None:
    spool(settings, simulate_network(START, hours=3.0, seed=7))
    land()
    nowcast(valid_time=START + timedelta(hours=3))
    with get_client(sync_client=True) as client:
        keys = {artifact.key for artifact in client.read_artifacts()}
    assert {"landing", "cycle", "skill", "map", "network"} <= keys
    network = lake.read("network", settings=settings)
    assert set(network["sounder_id"]) == set(lake.read("feedback", settings=settings)["sounder_id"])


def test_nowcast_without_observations_is_climatology_and_says_so(
    prefect_server: None, settings: Settings
) -> None:
    folder = Path(nowcast(valid_time=START))
    record = json.loads((folder / "cycle.json").read_text())
    assert record["climatology_only"] is True
    analysis = lake.read("analysis", settings=settings)
    pd.testing.assert_series_equal(
        analysis["fof2_mhz"], analysis["fof2_background_mhz"], check_names=False, check_exact=False
    )


def test_land_names_the_broker_that_is_down_and_still_lands_the_rest(
    prefect_server: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTONVIS_MQTT_URL", "mqtt://sounder:secret@127.0.0.1:9")
    load_settings.cache_clear()
    spool(settings, simulate_network(START, hours=1.0, seed=7))
    monkeypatch.setattr("flows.land.drain_mqtt", drain_mqtt.with_options(retries=0))
    state = land(return_state=True)
    assert state.is_failed()
    assert "127.0.0.1:9" in str(state.message)
    assert "secret" not in str(state.message)
    assert len(lake.read("ionograms", settings=settings)) > 0


def test_a_batch_that_cannot_be_curated_keeps_no_other_back(
    prefect_server: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour in range(3):
        spool(settings, simulate_network(START + timedelta(hours=hour), hours=0.5, seed=7))
    known_rows = curation.known_rows

    def fail_at_one(dataset: str, rows: pd.DataFrame, **more: Any) -> pd.DataFrame | None:
        if rows["observed_at"].min().hour == 1:
            raise RuntimeError("poisoned")
        return known_rows(dataset, rows, **more)

    monkeypatch.setattr(curation, "known_rows", fail_at_one)
    state = land(return_state=True)
    assert state.is_failed()
    assert "poisoned" in str(state.message)
    assert set(lake.read("ionograms", settings=settings)["observed_at"].dt.hour) == {0, 2}
    assert len(curation.pending_batches(settings)) == 1


def test_a_wrong_setting_is_not_retried_and_says_its_sentence_without_traceback(
    prefect_server: None,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AUTONVIS_SOURCES", "moon")
    load_settings.cache_clear()
    began = time.monotonic()
    state = land(return_state=True)
    assert time.monotonic() - began < 14  # the first retry would wait 15 s
    assert state.is_failed()
    assert "source 'moon' of AUTONVIS_SOURCES is unknown" in str(state.message)


def test_named_errors_are_logged_as_their_sentence_and_others_with_traceback() -> None:
    def record_of(error: Exception) -> logging.LogRecord:
        info = (type(error), error, None)
        return logging.LogRecord(
            "prefect.task_runs", logging.ERROR, __file__, 1, "failed: %r", (error,), info
        )

    ours, foreign = record_of(lake.LakeError("the disk is full")), record_of(KeyError("x"))
    assert all(logging.getLogger("prefect.task_runs").filter(record) for record in (ours, foreign))
    assert ours.getMessage() == "failed: the disk is full"
    assert ours.exc_info is None
    assert foreign.exc_info is not None


def test_sounders_go_from_the_doors_to_their_report(prefect_server: None, settings: Settings) -> None:
    truth = SimulatedTruth(4, START)
    network = draw_network(4, n_by_tier={"PLATINUM": 1, "GOLD": 1})
    items = [
        item for sounder in network for item in listen(sounder, truth, START + timedelta(hours=8), 1.0, 4)
    ]
    spool(settings, items, dataset="measurements")
    assert land(return_state=True).is_completed()
    end = START + timedelta(hours=9)
    backfill(end - timedelta(minutes=30), end - timedelta(minutes=15))
    nowcast(valid_time=end)
    sounders = lake.read("sounders", settings=settings)
    assert set(sounders["sounder_id"]) == {"NVIS-P01", "NVIS-G01"}
    assert sounders["valid_time"].nunique() == 3
    newest = sounders[sounders["valid_time"] == pd.Timestamp(end)].set_index("sounder_id")
    # It goes on from the cycles before.
    assert newest.loc["NVIS-P01", "n_delay_innovations"] > 100
    before = {path: path.read_bytes() for path in lake.files("sounders", settings=settings)}
    nowcast(valid_time=end)
    assert {path: path.read_bytes() for path in lake.files("sounders", settings=settings)} == before
    folder = Path(report(day=START.date()))
    assert (folder / "sounders" / "NVIS-P01.html").is_file()

    with get_client(sync_client=True) as client:
        keys = {artifact.key for artifact in client.read_artifacts()}
    assert {"tiers", "sounders", "report"} <= keys


def test_runs_leave_their_metrics_behind(prefect_server: None, settings: Settings) -> None:
    spool(settings, simulate_network(START, hours=3.0, seed=7))
    land()
    nowcast(valid_time=START + timedelta(hours=3))
    with pytest.raises(ValueError, match="region"):
        nowcast(valid_time=START + timedelta(hours=3), region="moon")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in read_ledgers(settings)
        for sample in family.samples
    }
    assert found["nvis_flow_runs_total", "completed", "land"] == 1
    assert found["nvis_flow_runs_total", "completed", "nowcast"] == 1
    assert found["nvis_flow_runs_total", "failed", "nowcast"] == 1
    assert found["nvis_errors_total", "flow-nowcast"] == 1
    assert found["nvis_filter_cycle_duration_seconds_count",] == 2
    assert 0.1 < found["nvis_filter_cycle_duration_seconds_sum",] < 60
    assert found["nvis_cycle_state", "failed"] == 1
    assert found["nvis_information_gain_total",] > 1
    assert found["nvis_curated_items_total", "accepted"] > 10
    assert found["nvis_skill_rmse", "analysis", "fof2_mhz"] > 0
    assert found["nvis_newest_observation_timestamp_seconds", "simulated"] > START.timestamp()
