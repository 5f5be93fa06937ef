"""kill -9 of the worker and of the process of the flow `land` that it started, under a Prefect server as in `make up`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from autonvis.environment import make_home, prefect_environment
from autonvis.system import Process, deploy, start_prefect_server, start_worker
from services.processes import free_port
from tasks.curation import pending_batches
from tests.faults.conftest import Trial
from tests.faults.test_kill_curation import spool

# They outlive the command that starts them, by design; here that command is this test.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

VICTIMS = ("worker and flow", "flow", "worker")
PATIENCE_S = 240.0


class LiveFlows:
    """Prefect's server with the deployment `land`, and its worker."""

    def __init__(self, trial: Trial) -> None:
        self._settings = trial.settings
        make_home(trial.settings)
        environment = prefect_environment(trial.settings) | {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}
        self.server, url = start_prefect_server(trial.settings, free_port())
        self._environment = environment | {"PREFECT_API_URL": f"{url}/api"}
        try:
            deploy(self._environment, "--name", "land")
        except BaseException:
            self.server.stop()
            raise
        self.worker = self.start_worker()
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            self.client: SyncPrefectClient = get_client(sync_client=True).__enter__()
        self._deployment_id: UUID = self.client.read_deployment_by_name("land/land").id
        self.client.pause_deployment(self._deployment_id)  # its five minutes are too long to wait for

    def start_worker(self) -> Process:
        self.worker = start_worker(self._settings, self._environment)
        return self.worker

    def schedule(self) -> UUID:
        """A run that is due now, as the schedule would make one."""
        return self.client.create_flow_run_from_deployment(self._deployment_id).id

    def wait_for(self, run_id: UUID, *states: str) -> FlowRun:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            run = self.client.read_flow_run(run_id)
            assert run.state is not None
            if run.state.name in states:
                return run
            assert time.monotonic() < deadline_s, f"the run is {run.state.name}, not {' or '.join(states)}"
            time.sleep(0.05)

    def is_over(self, run_id: UUID) -> bool:
        state = self.client.read_flow_run(run_id).state
        return state is not None and state.is_final()

    def process_of(self, run_id: UUID) -> psutil.Process:
        """The process that the worker has started for this run."""
        deadline_s = time.monotonic() + PATIENCE_S
        while (pid := self.client.read_flow_run(run_id).infrastructure_pid) is None:
            assert time.monotonic() < deadline_s, "the worker started no process"
            time.sleep(0.02)
        return psutil.Process(int(pid))

    def stop(self) -> None:
        self.client.__exit__(None, None, None)
        self.worker.stop()
        self.server.stop()


@pytest.fixture
def live(trial: Trial) -> Iterator[LiveFlows]:
    system = LiveFlows(trial)
    yield system
    system.stop()


def strike(trial: Trial, live: LiveFlows, victims: str) -> bool:
    """SIGKILL for `victims` at a random point of a run; whether it came before the run's end."""
    run_id = live.schedule()
    flow = live.process_of(run_id)
    if trial.chance.random() < 0.8:  # else while it starts
        live.wait_for(run_id, "Running", "Completed")
    time.sleep(trial.chance.uniform(0.0, 3.0))
    is_early = not live.is_over(run_id)
    if "worker" in victims:
        psutil.Process(live.worker.pid).kill()
    if "flow" in victims:
        with suppress(psutil.NoSuchProcess):
            flow.kill()
    if "worker" in victims:
        live.start_worker()
    deadline_s = time.monotonic() + PATIENCE_S
    while not live.is_over(run_id):  # closed by the worker, or the flow has outlived its worker
        assert time.monotonic() < deadline_s, "the run stays open"
        time.sleep(0.05)
    return is_early


@pytest.mark.timeout(1_200)
def test_a_killed_worker_or_flow_costs_one_run_and_no_observation(trial: Trial, live: LiveFlows) -> None:
    n_killed, wanted = 0, len(trial.runs(2, 24))
    while n_killed < wanted:
        items = trial.ledger.items(40)
        for begin in range(0, 40, 10):
            spool(trial, items[begin : begin + 15])  # neighbours share five
        n_killed += strike(trial, live, VICTIMS[n_killed % len(VICTIMS)])
        live.wait_for(live.schedule(), "Completed")
        assert pending_batches(trial.settings) == []
        verdict = trial.ledger.check(trial.settings)  # by the flow alone
        assert (verdict.lost, verdict.doubled) == (frozenset(), frozenset())
    trial.conclude("kill -9 of Prefect's worker and the flow", n_killed)
