"""The deployment `land` under a Prefect server and a worker of its own, as `make up` starts them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from autonvis.environment import make_home, prefect_environment
from autonvis.system import Process, deploy, start_prefect_server, start_worker
from services.processes import free_port
from tasks.settings import Settings
from tests.faults.ledger import Ledger

PATIENCE_S = 240.0


class LiveFlows:
    """Prefect's server with the deployment `land`, and its worker."""

    def __init__(self, home: Path, **environment: str) -> None:
        """`environment`: variables beside those of the home."""
        self.settings = Settings(home=home)
        self.ledger = Ledger()
        """Of all tests that send to this system."""
        make_home(self.settings)
        quick = {"PREFECT_WORKER_QUERY_SECONDS": "0.5", "PREFECT_WORKER_HEARTBEAT_SECONDS": "1"}
        self._port = free_port()
        self.server, url = start_prefect_server(self.settings, self._port)
        self._environment = {
            **prefect_environment(self.settings), **quick, **environment, "PREFECT_API_URL": f"{url}/api"
        }  # fmt: skip
        try:
            deploy(self._environment, "--name", "land")
        except BaseException:
            self.server.stop()
            raise
        self.worker = self.start_worker()
        with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
            self.client = get_client(sync_client=True).__enter__()
        self._deployment_id: UUID = self.client.read_deployment_by_name("land/land").id
        self.client.pause_deployment(self._deployment_id)  # its five minutes are too long to wait for

    def start_worker(self) -> Process:
        self.worker = start_worker(self.settings, self._environment)
        return self.worker

    def start_server(self) -> None:
        """The server again, where it was, after it was killed."""
        self.server, _ = start_prefect_server(self.settings, self._port)

    @contextlib.contextmanager
    def another_worker(self, name: str) -> Iterator[str]:
        """One more on the same pool; gives where it says that it is well."""
        port = free_port()
        environment = {**self._environment, "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
        worker = start_worker(self.settings, environment, "--name", name, "--with-healthcheck")
        try:
            yield f"http://127.0.0.1:{port}/health"
        finally:
            worker.stop()

    def schedule(self) -> UUID:
        """A run that is due now, as the schedule would make one."""
        return self.client.create_flow_run_from_deployment(self._deployment_id).id

    def resume(self) -> None:
        """The schedule of the deployment goes on."""
        self.client.resume_deployment(self._deployment_id)

    def pause(self) -> None:
        self.client.pause_deployment(self._deployment_id)

    def runs(self) -> list[FlowRun]:
        """What was begun, cancelled or fell due."""
        return [
            run
            for run in self.client.read_flow_runs(limit=200)
            if run.run_count or run.expected_start_time <= datetime.now(UTC)
        ]

    def wait_for(self, run_id: UUID, *states: str) -> FlowRun:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            run = self.client.read_flow_run(run_id)
            assert run.state is not None
            if run.state.name in states:
                return run
            assert not run.state.is_final(), f"the run is {run.state.name}: {run.state.message}"
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
