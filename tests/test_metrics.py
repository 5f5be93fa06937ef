"""What Prometheus is told: by a gateway that runs, by flow runs that ended, through restarts and damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tasks.curation import curate_batches, pending_batches
from tasks.landing.spool import Record, SpoolWriter, collect, count_records, sealed_segments
from tasks.metrics.exposition import page
from tasks.metrics.runs import TOP_SOUNDERS, measure_cycle, measure_landing, measure_run
from tasks.metrics.state import State
from tasks.process_identity import started_s
from tasks.quarantine import reason_code
from tasks.settings import Settings
from tests.landing.door_server import IONOGRAM, MEASUREMENT, Lines, Server

PROMISED = (
    "nvis_ingestion_latency_seconds",
    "nvis_observations_total",
    "nvis_observations_by_tier",
    "nvis_information_gain_total",
    "nvis_sounder_information_gain",
    "nvis_filter_cycle_duration_seconds",
    "nvis_errors_total",
)
"""Row A12: others build on these names."""


def values(text: str | bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a page, without the labels that all of them have."""
    found = {}
    for family in text_string_to_metric_families(text.decode() if isinstance(text, bytes) else text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("cluster", "environment")}
            found[sample.name, frozenset(labels.items())] = sample.value
    return found


def value(text: str | bytes, name: str, **labels: str) -> float:
    return values(text)[name, frozenset(labels.items())]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, cluster="north", environment="test")
    yield server
    server.stop()


def cycle(valid_time: datetime, n_sounders: int = 3, *, is_climatology: bool = False) -> Any:
    network = pa.table(
        {
            "sounder_id": [f"S{number:03d}" for number in range(n_sounders)],
            "tier": ["GOLD" if number % 2 else "BRONZE" for number in range(n_sounders)],
            "n_obs": [10] * n_sounders,
            "information_gain_nats": [0.5 + number for number in range(n_sounders)],
        }
    )
    metadata = {
        "valid_time": valid_time.isoformat(), "n_observations": 12, "n_stations": n_sounders,
        "effective_index": 55.0, "climatology_only": is_climatology,
    }  # fmt: skip
    return SimpleNamespace(network=network if n_sounders else None, metadata=metadata)


SKILL = pd.DataFrame(
    {
        "quantity": ["fof2_mhz", "fof2_mhz"], "sounder_id": ["AT138", "all"], "n": [10, 20],
        "rmse_holdout": [0.4, 0.5], "rmse_iri_index": [0.8, 0.9], "rmse_persistence": [0.6, float("nan")],
        "coverage50": [0.5, 0.51], "coverage90": [0.9, 0.91],
    }
)  # fmt: skip
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)


def test_a_gateway_counts_what_landed_by_door_and_receipt_and_how_long_it_took(server: Server) -> None:
    before = values(httpx.get(f"{server.url}/metrics").text)
    assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM).status_code == 202
    assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM).status_code == 202
    assert httpx.post(f"{server.url}/ionogram", json={**IONOGRAM, "fof2_mhz": 999.0}).status_code == 202
    lines = Lines(server)
    lines.send(MEASUREMENT)
    assert lines.statuses(1) == [["accepted"]]
    lines.close()
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    after = values(answer.text)

    def increase(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0.0)

    assert increase("nvis_observations_total", door="http", outcome="accepted") == 1
    assert increase("nvis_observations_total", door="http", outcome="duplicate") == 1
    assert increase("nvis_observations_total", door="http", outcome="rejected") == 1
    assert increase("nvis_observations_total", door="tcp", outcome="accepted") == 1
    assert increase("nvis_ingestion_latency_seconds_count", door="http") == 3
    assert 0 < increase("nvis_ingestion_latency_seconds_sum", door="http") < 3
    assert (
        increase(
            "nvis_http_request_duration_seconds_count", service="gateway", route="/ionogram", status="202"
        )
        == 3
    )
    assert all(
        sample.labels["cluster"] == "north" and sample.labels["environment"] == "test"
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    )
    assert value(answer.text, "nvis_spool_messages", channel="http") == 4


def test_several_gateways_are_each_asked_for_themselves_and_one_for_the_system(server: Server) -> None:
    assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM).status_code == 202
    measure_run(server.settings, "nowcast", "completed", 4.0)

    def names_of(**query: str) -> set[str]:
        text = httpx.get(f"{server.url}/metrics", params=query).text
        return {family.name for family in text_string_to_metric_families(text)}

    process, system = names_of(of="process"), names_of(of="system")
    assert "nvis_ingestion_latency_seconds" in process - system
    assert {"nvis_spool_messages", "nvis_flow_runs"} <= system - process
    assert process | system == names_of()
    refused = httpx.get(f"{server.url}/metrics", params={"of": "everything"})
    assert refused.status_code == 400
    assert "of must be process or system" in refused.json()["detail"]


def test_a_path_that_nobody_serves_makes_no_series_of_its_own(server: Server) -> None:
    for number in range(3):
        assert httpx.get(f"{server.url}/scan-{number}").status_code == 404
    text = httpx.get(f"{server.url}/metrics").text
    assert "scan-" not in text
    assert (
        value(text, "nvis_http_request_duration_seconds_count", service="gateway", route="none", status="404")
        >= 3
    )


def test_one_page_shows_every_promised_name_with_help_and_passes_promtool(tmp_path: Path) -> None:
    server = Server(tmp_path)
    httpx.post(f"{server.url}/ionogram", json=IONOGRAM)
    measure_cycle(server.settings, cycle(NOW), SKILL)
    measure_run(server.settings, "nowcast", "completed", 4.0)
    text = httpx.get(f"{server.url}/metrics").text
    server.stop()
    helped = {
        line.split()[2] for line in text.splitlines() if line.startswith("# HELP") and len(line.split()) > 3
    }
    assert set(PROMISED) <= helped
    n_types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(n_types) == len(set(n_types))
    assert all(
        name.startswith("nvis_")
        for name in helped
        if not name.startswith(("process_", "python_", "prefect_"))
    )
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, text=True, capture_output=True, timeout=30
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_counts_of_flow_runs_go_on_and_gauges_are_those_of_the_last_run(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for duration_s, outcome in ((4.0, "completed"), (70.0, "failed"), (5.0, "completed")):
        measure_cycle(settings, cycle(NOW), SKILL)
        measure_run(settings, "nowcast", outcome, duration_s, now=NOW)
    text = page(settings, State(settings), CollectorRegistry())
    assert value(text, "nvis_filter_cycle_duration_seconds_count") == 3
    assert value(text, "nvis_filter_cycle_duration_seconds_sum") == 79.0
    assert value(text, "nvis_filter_cycle_duration_seconds_bucket", le="60.0") == 2
    assert value(text, "nvis_cycle_last_duration_seconds") == 5.0
    assert value(text, "nvis_information_gain_total") == 3 * (0.5 + 1.5 + 2.5)
    assert value(text, "nvis_observations_by_tier", tier="BRONZE") == 20
    assert value(text, "nvis_flow_runs_total", flow="nowcast", outcome="completed") == 2
    assert value(text, "nvis_errors_total", component="flow-nowcast") == 1
    assert value(text, "nvis_flow_last_success_timestamp_seconds", flow="nowcast") == NOW.timestamp()
    assert value(text, "nvis_skill_rmse", quantity="fof2_mhz", method="analysis") == 0.5
    assert value(text, "nvis_process_resident_memory_bytes", process="flow-nowcast") > 10e6


def test_a_failed_nowcast_shows_as_the_cycle_s_state_and_so_does_climatology(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)

    def state() -> str:
        found = values(page(settings, State(settings), CollectorRegistry()))
        (one,) = [
            dict(labels)["state"]
            for (name, labels), is_it in found.items()
            if name == "nvis_cycle_state" and is_it
        ]
        return one

    measure_cycle(settings, cycle(NOW), SKILL)
    assert state() == "analysis"
    measure_run(settings, "nowcast", "failed", 1.0)
    assert state() == "failed"
    measure_cycle(settings, cycle(NOW, 0, is_climatology=True), SKILL.iloc[:0])
    assert state() == "climatology"


def test_a_network_of_any_size_has_a_bounded_number_of_series(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    measure_cycle(settings, cycle(NOW, 3000), SKILL)
    measure_cycle(settings, cycle(NOW, 2999), SKILL)
    found = values(page(settings, State(settings), CollectorRegistry()))
    gains = {dict(labels)["sounder_id"] for name, labels in found if name == "nvis_sounder_information_gain"}
    assert len(gains) == TOP_SOUNDERS
    assert "S2998" in gains
    assert "S2999" not in gains  # it is gone from the network, and from the page


def test_runs_at_the_same_time_lose_no_count(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path, 20)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    text = (Settings(home=tmp_path).metrics_root / "flow-land.prom").read_text()
    assert value(text, "nvis_flow_runs_total", flow="land", outcome="completed") == 80


def _count(home: Path, n_runs: int) -> None:
    for _ in range(n_runs):
        measure_run(Settings(home=home), "land", "completed", 0.1)


def test_a_damaged_file_begins_anew_and_the_page_is_still_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    measure_run(settings, "land", "completed", 0.1)
    measure_run(settings, "nowcast", "completed", 1.0)
    (settings.metrics_root / "flow-land.prom").write_text("nvis_flow_runs_total{flow=")
    text = page(settings, State(settings), CollectorRegistry())
    assert "flow-land.prom cannot be read" in caplog.text
    assert value(text, "nvis_flow_runs_total", flow="nowcast", outcome="completed") == 1
    measure_run(settings, "land", "completed", 0.1)
    text = page(settings, State(settings), CollectorRegistry())
    assert value(text, "nvis_flow_runs_total", flow="land", outcome="completed") == 1


def test_a_folder_that_cannot_be_written_costs_the_measurement_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    (tmp_path / "run").write_text("a file where a folder should be")
    measure_run(settings, "land", "completed", 0.1)
    assert "the metrics of flow-land are lost" in caplog.text


def test_landing_counts_items_reasons_and_the_newest_of_each_source(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    rows = [
        {**IONOGRAM, "observed_at": f"2026-01-02T11:{minute:02d}:00Z", "fof2_mhz": value}
        for minute, value in ((0, 5.5), (15, 5.6), (30, 999.0))
    ]
    with SpoolWriter(settings.spool_root / "http") as writer:
        writer.append_many(
            [
                Record("http", "ionograms", None, datetime(2026, 1, 2, 12, tzinfo=UTC), "application/json",
                       json.dumps(rows).encode(), "simulated"),
                Record("http", "ionograms", None, datetime(2026, 1, 2, 12, tzinfo=UTC), "application/json", b"{", "http"),
            ]
        )  # fmt: skip
    collect(settings.spool_root, settings.lake_root)
    results = curate_batches(pending_batches(settings), settings=settings)
    measure_landing(settings, results, {"mqtt": 7, "pull": 0}, 2)
    measure_landing(settings, [], {"mqtt": 1, "pull": 0}, 0)
    text = page(settings, State(settings), CollectorRegistry())
    assert value(text, "nvis_curated_items_total", outcome="accepted") == 2
    assert value(text, "nvis_curated_items_total", outcome="quarantined") == 2
    assert value(text, "nvis_quarantined_items_total", reason="decode") == 1
    (code,) = {dict(k)["reason"] for n, k in values(text) if n == "nvis_quarantined_items_total"} - {"decode"}
    assert "fof2" in code
    assert value(text, "nvis_observations_total", door="mqtt", outcome="landed") == 8
    assert value(text, "nvis_pending_batches") == 0
    newest = value(text, "nvis_newest_observation_timestamp_seconds", source="simulated")
    assert newest == datetime(2026, 1, 2, 11, 15, tzinfo=UTC).timestamp()


def test_a_reason_is_counted_by_its_code_and_never_by_what_it_says_of_a_value() -> None:
    assert reason_code("fof2_mhz_range: 999 is above 30") == "fof2_mhz_range"
    assert reason_code("Something: with 'x'") == "other"
    assert reason_code("no code") == "other"


def test_the_spool_is_counted_to_the_message_while_it_grows_and_is_handed_off(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    record = Record("http", "ionograms", None, NOW, "application/json", b"{}" * 50, "http")
    state = State(settings)

    def n_messages() -> float:
        return value(page(settings, state, CollectorRegistry()), "nvis_spool_messages", channel="http")

    writer = SpoolWriter(settings.spool_root / "http")
    writer.append_many([record] * 1000)
    assert n_messages() == 1000
    writer.append_many([record])
    assert n_messages() == 1001
    writer.seal()
    writer.append_many([record] * 5)
    assert n_messages() == 1006
    (segment,) = sealed_segments(settings.spool_root / "http")
    assert count_records(segment)[0] == 1001
    segment.write_bytes(segment.read_bytes()[:-1])  # torn
    assert count_records(segment)[0] == 1000
    segment.unlink()
    assert n_messages() == 5
    writer.seal()


def test_processes_disk_and_the_public_s_cycle_are_looked_at(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    (tmp_path / "run").mkdir()
    processes = [
        {"name": "gateway", "pid": os.getpid(), "start_s": started_s(os.getpid())},
        {"name": "prefect-worker", "pid": os.getpid(), "start_s": started_s(os.getpid()) - 3600},
    ]
    (tmp_path / "run" / "system.json").write_text(json.dumps({"processes": processes, "environment": {}}))
    current = settings.products_root / "current"
    current.mkdir(parents=True)
    (current / "cycle.json").write_text(json.dumps({"valid_time": NOW.isoformat()}))
    text = page(settings, State(settings), CollectorRegistry())
    assert value(text, "nvis_process_up", process="gateway") == 1
    assert value(text, "nvis_process_up", process="prefect-worker") == 0
    assert value(text, "nvis_process_resident_memory_bytes", process="gateway") > 10e6
    assert value(text, "nvis_public_valid_timestamp_seconds") == NOW.timestamp()
    assert (
        0
        < value(text, "nvis_disk_free_bytes", folder="home")
        <= value(text, "nvis_disk_size_bytes", folder="home")
    )
