"""kill -9 of Prefect's server while a run is under way and others fall due: shorter than its clients are patient, and longer."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun

from services.broker import Broker, NotInstalled, start_broker
from tests.faults.live_flows import LiveFlows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Stopped in its tracks it keeps a run of `land` waiting for as long as a test wants."""
    try:
        broker = start_broker(tmp_path / "broker", kind="mosquitto")
    except NotInstalled as error:
        pytest.skip(str(error))
    os.kill(broker.pid, signal.SIGSTOP)
    yield broker
    os.kill(broker.pid, signal.SIGCONT)
    broker.stop()


@pytest.fixture
def system(tmp_path: Path, broker: Broker) -> Iterator[Callable[..., LiveFlows]]:
    started: list[LiveFlows] = []

    def start(**environment: str) -> LiveFlows:
        started.append(
            LiveFlows(
                tmp_path / "home", AUTONVIS_MQTT_URL=broker.url, AUTONVIS_MQTT_CLIENT_ID="land", **environment
            )
        )
        return started[-1]

    yield start
    for live in started:
        live.stop()


def wait_until(is_so: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def running(live: LiveFlows) -> list[FlowRun]:
    return [run for run in live.runs() if run.state is not None and run.state.is_running()]


def assert_one_at_a_time_and_all_over(live: LiveFlows) -> None:
    runs = live.runs()
    assert [run.name for run in runs if run.state is None or not run.state.is_final()] == []
    spans = sorted((run.start_time, run.end_time) for run in runs if run.run_count and run.start_time)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end is not None
        assert end <= begin + timedelta(seconds=1)
    due = [run.expected_start_time for run in runs]
    assert len(due) == len(set(due))


def test_a_run_goes_on_through_a_short_outage(system: Callable[..., LiveFlows], broker: Broker) -> None:
    live = system()
    run_id = live.schedule()
    live.wait_for(run_id, "Running")
    flow = live.process_of(run_id)
    psutil.Process(live.server.pid).kill()
    began_s = time.monotonic()
    time.sleep(5)
    os.kill(broker.pid, signal.SIGCONT)
    time.sleep(5)
    live.start_server()
    outage_s = time.monotonic() - began_s
    assert live.worker.is_running
    run = live.wait_for(run_id, "Completed")
    print(f"outage of {outage_s:.0f} s: the run {run.state_name}")
    assert run.run_count == 1
    wait_until(lambda: not flow.is_running(), 60)
    live.wait_for(live.schedule(), "Completed")
    assert_one_at_a_time_and_all_over(live)


def test_schedules_go_on_after_an_outage_that_the_worker_of_prefect_does_not_survive(
    system: Callable[..., LiveFlows], broker: Broker
) -> None:
    # Without patience in its client Prefect's worker gives up within seconds; with its default after a quarter of an hour.
    live = system(PREFECT_CLIENT_MAX_RETRIES="0", PREFECT_WORKER_QUERY_SECONDS="0.3")
    log = live.settings.log_root / "prefect-worker.log"
    live.resume()
    wait_until(lambda: bool(running(live)), 150)
    (interrupted,) = running(live)
    flow = live.process_of(interrupted.id)
    psutil.Process(live.server.pid).kill()
    wait_until(lambda: not flow.is_running(), 120)
    wait_until(lambda: "beginning anew" in log.read_text(), 120)
    time.sleep(65)  # a run at least falls due
    os.kill(broker.pid, signal.SIGCONT)
    live.start_server()
    back = datetime.now(UTC)
    assert live.worker.is_running  # the process that was started

    def done() -> list[FlowRun]:
        """Of the runs that fell due after the server was back, those that are done."""
        return [
            run for run in live.runs() if run.expected_start_time > back and run.state_name == "Completed"
        ]

    wait_until(lambda: len(done()) >= 2, 300)
    live.pause()
    wait_until(lambda: not running(live), 60)
    assert live.client.read_flow_run(interrupted.id).state_name == "Crashed"
    assert_one_at_a_time_and_all_over(live)
    # On a busy machine a run may take longer than the minute to the next, which is then cancelled.
    assert {
        run.state_name for run in live.runs() if run.expected_start_time > back and run.auto_scheduled
    } <= {"Completed", "Cancelled"}
    missed = [
        run
        for run in live.runs()
        if interrupted.expected_start_time < run.expected_start_time <= back and run.auto_scheduled
    ]
    assert missed
    assert sum(bool(run.run_count) for run in missed) <= 1
