"""The sign of life: given after a nowcast by the clock, to whom it concerns; what refuses it costs no nowcast."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Completed, Crashed, Failed
from pydantic import SecretStr

from flows import watch
from tasks.heartbeat import beat
from tasks.metrics.ledger import read_ledgers
from tasks.settings import Settings

NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)


@pytest.fixture
def pings() -> Iterator[tuple[str, list[str]]]:
    """An address, and the paths that were asked for; below /refused it answers 500."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(500 if "refused" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()
    thread.join()


def n_errors(settings: Settings) -> float:
    return sum(
        sample.value
        for family in read_ledgers(settings)
        for sample in family.samples
        if sample.name == "nvis_errors_total" and sample.labels["component"] == "heartbeat"
    )


def test_a_sign_of_life_is_a_file_for_the_public_and_a_request(
    tmp_path: Path, pings: tuple[str, list[str]]
) -> None:
    url, paths = pings
    settings = Settings(home=tmp_path, heartbeat_url=SecretStr(f"{url}/alive/secret"))
    beat(settings, NOW)
    assert paths == ["/alive/secret"]
    content = json.loads((settings.products_root / "heartbeat.json").read_text())
    assert content == {"alive_at": "2026-03-20T12:00:00+00:00", "late_after": "2026-03-20T12:45:00+00:00"}
    assert n_errors(settings) == 0


@pytest.mark.parametrize("where", ["/refused/secret", "closed", "nonsense"])
def test_an_address_that_refuses_is_logged_without_its_secret_and_counted(
    where: str, tmp_path: Path, pings: tuple[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    address = {"closed": "http://127.0.0.1:9/secret", "nonsense": "secret"}.get(where, pings[0] + where)
    settings = Settings(home=tmp_path, heartbeat_url=SecretStr(address))
    with caplog.at_level(logging.WARNING):
        beat(settings, NOW)
    assert "AUTONVIS_HEARTBEAT_URL" in caplog.text
    assert "secret" not in caplog.text
    assert n_errors(settings) == 1
    assert (settings.products_root / "heartbeat.json").exists()


@pytest.mark.parametrize(
    ("flow", "parameters", "state", "n_pings"),
    [
        ("nowcast", {"valid_time": None}, Completed(), 1),
        ("nowcast", {"valid_time": NOW}, Completed(), 0),  # asked for by hand: says nothing of the schedule
        ("nowcast", {"valid_time": None}, Failed(), 0),
        ("land", {}, Completed(), 0),
    ],
)
def test_only_a_nowcast_by_the_clock_that_succeeded_is_a_sign_of_life(
    flow: str,
    parameters: dict[str, Any],
    state: Any,
    n_pings: int,
    tmp_path: Path,
    pings: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(home=tmp_path, heartbeat_url=SecretStr(pings[0]))
    monkeypatch.setattr(watch, "load_settings", lambda: settings)
    run: Any = SimpleNamespace(id=uuid4(), parameters=parameters)
    a_flow: Any = SimpleNamespace(name=flow)
    watch.start_clock(a_flow, run, state)
    watch.record_run(a_flow, run, state)
    assert len(pings[1]) == n_pings


def test_a_run_whose_process_died_is_counted_by_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's worker, which then speaks for the run, calls its hooks by the names of their arguments."""
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(watch, "load_settings", lambda: settings)
    run: Any = SimpleNamespace(id=uuid4(), parameters={})
    land: Any = SimpleNamespace(name="land")
    watch.record_run(flow=land, flow_run=run, state=Crashed())
    counted = (settings.metrics_root / "flow-land.prom").read_text()
    assert 'nvis_flow_runs_total{flow="land",outcome="crashed"} 1.0' in counted
