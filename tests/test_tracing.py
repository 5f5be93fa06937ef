"""Traces from a door to the products, as a collector receives them, and logs as lines of JSON."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tasks.at_work import at_work, ids
from tasks.log_format import JsonFormatter

ROOT = Path(__file__).resolve().parents[1]


class Collector:
    """A collector of OpenTelemetry: what is posted to it, decoded."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Any]] = {}
        self.services: set[str] = set()
        self.logs: list[tuple[str, dict[str, str], Any]] = []
        """Service, attributes and record."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/logs":
                    collector.take_logs(ExportLogsServiceRequest.FromString(body))
                else:
                    assert self.path == "/v1/traces"
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            said = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(said["service.name"])
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.setdefault(span.name, []).append(span)

    def take_logs(self, request: ExportLogsServiceRequest) -> None:
        for resource in request.resource_logs:
            (service,) = [
                one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
            ]
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    said = {one.key: one.value.string_value for one in record.attributes}
                    self.logs.append((service, said, record))

    def one(self, name: str) -> Any:
        (span,) = self.spans[name]
        return span

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


SOUNDER = """
import sys
from datetime import UTC, datetime, timedelta
import json
from tasks.landing.spool import Record, SpoolWriter
from tasks.settings import load_settings
from tasks.simulation import simulate_network
from services.observed import observe

settings = load_settings()
observe("gateway", settings)
start = datetime(2026, 3, 20, tzinfo=UTC)
items = simulate_network(start, hours=3.0, seed=7)
record = Record("http", "ionograms", None, datetime.now(UTC), "application/json", json.dumps(items).encode(), "simulated")
with SpoolWriter(settings.spool_root / "http") as writer:
    writer.append_many([record])
"""
CURATION_AND_CYCLE = """
from datetime import UTC, datetime, timedelta
from tasks import cycles
from tasks.curation import curate_batches, pending_batches
from tasks.landing.spool import collect
from tasks.products import publish_products
from tasks.settings import load_settings
from services.observed import observe

settings = load_settings()
observe("flows", settings)
collect(settings.spool_root, settings.lake_root)
curate_batches(pending_batches(settings), settings=settings)
plan = cycles.plan_cycle(settings, datetime(2026, 3, 20, 3, tzinfo=UTC))
observations = cycles.read_window(settings, [plan])
cycle = cycles.assimilate(settings, plan, observations)
cycles.store_cycle(settings, plan, cycle)
publish_products(settings, cycle, observations)
"""


def run(program: str, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AUTONVIS_", "OTEL_", "PREFECT_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**kept, "AUTONVIS_HOME": str(home), "AUTONVIS_GRID_STEP_DEG": "10", **more},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def test_a_batch_is_one_trace_through_two_processes_and_the_cycle_links_to_it(
    collector: Collector, tmp_path: Path
) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    run(SOUNDER, tmp_path, **endpoint)
    run(CURATION_AND_CYCLE, tmp_path, **endpoint)
    assert collector.services == {"autonvis-gateway", "autonvis-flows"}
    sealed, curated = collector.one("batch from http"), collector.one("curate")
    assert curated.trace_id == sealed.trace_id
    assert curated.parent_span_id == sealed.span_id
    assert not sealed.parent_span_id
    assert sealed.start_time_unix_nano <= sealed.end_time_unix_nano <= curated.start_time_unix_nano
    (batch,) = (tmp_path / "lake" / "landing").glob("*/*.seg")
    assert {one.key: one.value.string_value for one in curated.attributes}["batch_id"] == batch.stem
    assimilated, published = collector.one("assimilate"), collector.one("publish")
    (link,) = assimilated.links
    assert (link.trace_id, link.span_id) == (sealed.trace_id, sealed.span_id)
    assert {one.key: one.value.string_value for one in assimilated.attributes}["cycle"] == "20260320T0300Z"
    stored = {one.key: one.value.string_value for one in collector.one("store").attributes}
    assert stored["cycle_id"] == {one.key: one.value.string_value for one in published.attributes}["cycle_id"]


@pytest.mark.slow
def test_flow_runs_and_their_tasks_are_spans_around_ours(collector: Collector, tmp_path: Path) -> None:
    run(SOUNDER, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "autonvis", "land"], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "AUTONVIS_HOME": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "AUTONVIS_LOG_FORMAT": "json"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
    assert any(line.get("flow_run_name", "").startswith("land-") for line in lines)
    assert [line["message"].split()[0] for line in lines if "batch_id" in line][:1] == ["curated"]
    (flow,) = [spans[0] for name, spans in collector.spans.items() if name.startswith("land-")]
    (task,) = [spans[0] for name, spans in collector.spans.items() if name.startswith("curate-batches")]
    assert (task.trace_id, task.parent_span_id) == (flow.trace_id, flow.span_id)
    (link,) = collector.one("curate").links  # its trace is the batch's; it links to the task
    assert (link.trace_id, link.span_id) == (task.trace_id, task.span_id)


def test_logs_go_to_the_collector_with_their_batch_and_the_span_they_were_logged_in(
    collector: Collector, tmp_path: Path
) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    quiet = run(SOUNDER, tmp_path, **endpoint)
    assert collector.logs == []  # not asked for
    shipped = run(CURATION_AND_CYCLE, tmp_path, OTEL_LOGS_EXPORTER="otlp", **endpoint)
    assert "Traceback" not in quiet.stderr + shipped.stderr
    (batch,) = (tmp_path / "lake" / "landing").glob("*/*.seg")
    ((service, said, record),) = [
        one for one in collector.logs if one[2].body.string_value.startswith("curated ")
    ]
    assert service == "autonvis-flows"
    assert (said["logger"], said["batch_id"]) == ("tasks.curation", batch.stem)
    assert record.severity_text == "INFO"
    assert record.trace_id == collector.one("batch from http").trace_id
    assert record.span_id == collector.one("curate").span_id
    assert {said.get("cycle") for _, said, _ in collector.logs if said["logger"] == "tasks.cycles"} == {
        "20260320T0300Z"
    }
    assert not any(said["logger"].startswith(("urllib3", "opentelemetry")) for _, said, _ in collector.logs)


@pytest.mark.slow
def test_the_logs_of_flow_runs_go_to_the_collector(collector: Collector, tmp_path: Path) -> None:
    run(SOUNDER, tmp_path)
    more = {
        "AUTONVIS_HOME": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_LOGS_EXPORTER": "otlp",
    }
    done = subprocess.run(
        [sys.executable, "-m", "autonvis", "land"], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **more}
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [said for _, said, record in collector.logs if record.body.string_value.startswith("curated ")]
    assert len(said) == 1
    assert any(said.get("flow_run_name", "").startswith("land-") for _, said, _ in collector.logs)


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer_costs_no_batch(tmp_path: Path) -> None:
    more = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_LOGS_EXPORTER": "otlp"}  # fmt: skip
    run(SOUNDER + CURATION_AND_CYCLE, tmp_path, **more)
    assert (tmp_path / "products" / "current" / "map.png").exists()


def test_logs_are_lines_of_json_that_name_batch_and_cycle_and_without_an_endpoint_no_sdk_is_imported(
    tmp_path: Path,
) -> None:
    imported = "\nprint([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = run(SOUNDER + CURATION_AND_CYCLE + imported, tmp_path, AUTONVIS_LOG_FORMAT="json")
    assert done.stdout.strip() == "[]"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (batch,) = (tmp_path / "lake" / "landing").glob("*/*.seg")
    curated = [line for line in lines if line["message"].startswith("curated ")]
    assert [line["batch_id"] for line in curated] == [batch.stem]
    assert [line["cycle"] for line in lines if line["logger"] == "tasks.cycles"] == ["20260320T0300Z"]
    (published,) = [line for line in lines if line["logger"] == "tasks.products"]
    assert published["cycle_id"] in published["message"]
    assert datetime.fromisoformat(published["time"]).tzinfo is not None


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.LogRecord(
        "services.gateway", logging.ERROR, __file__, 1, message, arguments, more.get("exc_info")
    )


def test_an_event_s_fields_and_an_error_s_traceback_are_fields() -> None:
    said = json.loads(
        JsonFormatter().format(
            record("event=sealed batch=%s bytes=%d reason=%r", "20260320T0000Z-ab", 3, "no space")
        )
    )
    assert said["event"] == "sealed"
    assert (said["batch_id"], said["bytes"], said["reason"], said["level"]) == (
        "20260320T0000Z-ab",
        "3",
        "no space",
        "error",
    )
    try:
        raise KeyError("x")
    except KeyError:
        failed = json.loads(JsonFormatter().format(record("failed", exc_info=sys.exc_info())))
    assert "KeyError: 'x'" in failed["traceback"]


def test_work_within_work_names_both_and_ends_with_it() -> None:
    with at_work("a", batch_id="b"):
        with at_work("c", cycle_id="d"):
            assert ids() == {"batch_id": "b", "cycle_id": "d"}
        assert ids() == {"batch_id": "b"}
    assert ids() == {}
