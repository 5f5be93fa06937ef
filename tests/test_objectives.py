"""Objectives over a span: from notes of what was counted, through restarts; from cycles in the catalog; from a gateway that runs."""

from __future__ import annotations

import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from autonvis.cli import main
from services.processes import free_port
from tasks import catalog
from tasks.health.finding import Level
from tasks.health.promises import check_objectives
from tasks.metrics.runs import measure_run
from tasks.objectives import COLUMNS, OBJECTIVES, measure_objectives, note_objectives, objectives_rows
from tasks.settings import Settings
from tests.landing.door_server import IONOGRAM, Server

DAY = datetime(2026, 3, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)


def note(
    settings: Settings, noted: dict[datetime, dict[tuple[str, str], float]], service: str = "gateway"
) -> None:
    """Notes as the flight check leaves them: by time, samples with their labels as JSON."""
    rows = [
        (time, service, sample, labels, value)
        for time, samples in noted.items()
        for (sample, labels), value in samples.items()
    ]
    folder = settings.home / "objectives"
    folder.mkdir(exist_ok=True, parents=True)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for day, part in table.groupby(table["noted_at"].dt.strftime("%Y%m%d")):
        part.to_parquet(folder / f"objectives-{day}.parquet", index=False)


def answers(status: str, route: str = "/ionogram") -> tuple[str, str]:
    labels = json.dumps({"route": route, "service": "gateway", "status": status}, sort_keys=True)
    return "nvis_http_request_duration_seconds_count", labels


def bucket(limit: str, family: str = "nvis_ingestion_latency_seconds", **labels: str) -> tuple[str, str]:
    return f"{family}_bucket", json.dumps({"door": "http", "le": limit, **labels}, sort_keys=True)


def value(table: pd.DataFrame, name: str) -> Any:
    (row,) = table[table["name"] == name].to_dict("records")
    return row["value"]


def record(settings: Settings, valid_time: datetime, delay: timedelta) -> None:
    catalog.record_cycle(
        catalog.open_catalog(settings), f"c{valid_time:%H%M}", valid_time=valid_time, available_until=valid_time,
        config_hash="", inputs_hash="", effective_ig12=1.0, details={}, files=[], now=valid_time + delay,
    )  # fmt: skip


def test_what_was_counted_in_the_span_is_the_difference_of_the_notes_through_a_restart(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    note(
        settings,
        {
            DAY - HOUR: {answers("202"): 5000.0, answers("503"): 70.0},  # before the span
            DAY + HOUR: {answers("202"): 5900.0, answers("503"): 71.0, answers("503", "/health"): 300.0},
            DAY + 2 * HOUR: {answers("202"): 90.0, answers("503"): 0.0},  # the gateway began anew
            DAY + 3 * HOUR: {answers("202"): 98.0, answers("503"): 1.0},
            DAY + 30 * HOUR: {answers("202"): 10_000.0, answers("503"): 9000.0},  # after it
        },
    )
    table = measure_objectives(settings, DAY, DAY + 24 * HOUR)
    assert value(table, "answers") == pytest.approx(1 - 2 / (900 + 90 + 8 + 2))
    (row,) = table[table["name"] == "answers"].to_dict("records")
    assert (row["n"], row["is_met"]) == (1000, False)


def test_a_percentile_lies_where_prometheus_puts_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    zero = {bucket(limit): 0.0 for limit in ("0.1", "0.2", "0.5", "+Inf")}
    note(
        settings,
        {
            DAY: zero,
            DAY + HOUR: {
                bucket("0.1"): 900.0,
                bucket("0.2"): 980.0,
                bucket("0.5"): 1000.0,
                bucket("+Inf"): 1000.0,
            },
        },
    )
    table = measure_objectives(settings, DAY, DAY + 24 * HOUR)
    assert value(table, "ingestion_p99") == pytest.approx(0.2 + 0.3 * (990 - 980) / 20)
    (row,) = table[table["name"] == "ingestion_p99"].to_dict("records")
    assert row["is_met"] is False
    web = {
        bucket(limit, "nvis_http_request_duration_seconds", service="web"): n
        for limit, n in (("0.2", 50.0), ("+Inf", 50.0))
    }
    note(settings, {DAY: dict.fromkeys(web, 0.0), DAY + HOUR: web}, service="web")
    assert value(measure_objectives(settings, DAY, DAY + 24 * HOUR), "web_p99") == pytest.approx(0.198)


def test_nowcasts_and_freshness_are_those_of_the_catalog_and_backfills_say_nothing(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for number in range(96):
        if number not in (10, 11):  # missed
            late = timedelta(minutes=40 if number == 20 else 4)
            record(settings, DAY + number * timedelta(minutes=15), late)
    record(settings, DAY + 10 * timedelta(minutes=15), timedelta(days=3))  # backfilled
    table = measure_objectives(settings, DAY, DAY + 24 * HOUR)
    n_due = 95  # the last may still come
    assert value(table, "nowcasts") == pytest.approx((n_due - 3) / n_due)
    assert value(table, "freshness_p95") == pytest.approx(240.0)
    assert not table.set_index("name").loc["nowcasts", "is_met"]
    assert table.set_index("name").loc["freshness_p95", "is_met"]
    started_late = measure_objectives(settings, DAY - 24 * HOUR, DAY + HOUR)
    assert value(started_late, "nowcasts") == 1.0  # it promised nothing before it was there


def test_nothing_measured_is_said_as_such(tmp_path: Path) -> None:
    table = measure_objectives(Settings(home=tmp_path), DAY, DAY + HOUR)
    assert list(table["name"]) == [one.name for one in OBJECTIVES]
    assert table["is_met"].isna().all()
    assert {tuple(row[1:2] + row[3:]) for row in objectives_rows(table)} == {("-", "-", "0")}


def test_a_system_that_runs_is_noted_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path)
    try:
        state = {"processes": [], "environment": {}, "addresses": {"gateway": f"{server.url}/health"}}
        (tmp_path / "run" / "system.json").write_text(json.dumps(state))
        now = datetime.now(UTC)
        assert note_objectives(server.settings, now - timedelta(minutes=30)) > 10
        for _ in range(20):
            assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM).status_code == 202
        measure_run(server.settings, "nowcast", "completed", 75.0)
        note_objectives(server.settings, now)
    finally:
        server.stop()
    table = measure_objectives(server.settings, now - timedelta(minutes=20), now).set_index("name")
    assert table.loc["ingestion_p99", "n"] == 20
    assert 0 < table.loc["ingestion_p99", "value"] < 5
    assert table.loc["answers", "value"] == 1.0
    assert table.loc["cycle_p99", "value"] == pytest.approx(89.7)
    assert not table.loc["cycle_p99", "is_met"]
    (found,) = [one for one in check_objectives(server.settings, now) if "nowcast runs" in one.sentence]
    assert found.level is Level.WARNING
    assert "99 % of nowcast runs within 89.7 s, promised 60 s" in found.sentence

    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path))
    main(["objectives", "--out", str(tmp_path / "objectives.parquet")])
    shown = capsys.readouterr().out
    assert "MISSED" in shown
    assert len(pd.read_parquet(tmp_path / "objectives.parquet")) == len(OBJECTIVES)
    with pytest.raises(SystemExit):
        main(["objectives", "--since", "2026-03-20T00:00Z", "--until", "2026-03-19T00:00Z"])
    assert "is not before --until" in capsys.readouterr().err


def test_gateways_behind_one_name_count_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"127.0.0.1": 1000.0, "127.0.0.2": 10.0}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = str(self.server.server_address[0])
            labels = 'service="gateway",route="/ionogram",status="202"'
            body = f"# TYPE nvis_http_request_duration_seconds summary\nnvis_http_request_duration_seconds_count{{{labels}}} {counts[host]}\n"
            self.send_response(200 if self.path == "/metrics?of=process" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            return

    port = free_port()
    pods = [ThreadingHTTPServer((host, port), Page) for host in counts]
    for pod in pods:
        threading.Thread(target=pod.serve_forever, daemon=True).start()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in counts]
    by_name = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more: found if host == "gateway-pods" else by_name(host, *more)
    )
    settings = Settings(home=tmp_path, endpoints=f"gateway=http://gateway-pods:{port}/health")
    try:
        note_objectives(settings, DAY)
        counts |= {"127.0.0.1": 1004.0, "127.0.0.2": 16.0}
        note_objectives(settings, DAY + HOUR)
    finally:
        for pod in pods:
            pod.shutdown()
            pod.server_close()
    measured = measure_objectives(settings, DAY + HOUR / 2, DAY + 2 * HOUR)
    assert measured.set_index("name").loc["answers", "n"] == 10
