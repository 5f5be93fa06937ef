"""The worker: closes the runs that an earlier one of this host left behind, then polls for new ones.

A worker that is killed, by the kernel or a power cut, cannot tell the server. Its runs stay RUNNING there, and as each
deployment allows one run at a time, every later one would be cancelled: for five minutes until the lease of the dead
run expires, and for good where the leases were lost with it.
"""

from __future__ import annotations

import runpy
import socket
import sys
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Crashed

from autonvis.system import WORK_POOL

UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def close_abandoned_runs(client: SyncPrefectClient, worker_name: str) -> list[FlowRun]:
    """Sets to CRASHED the unfinished runs that worker `worker_name` of this host started and whose process is gone.

    Runs of other workers are left alone, and so is one that has outlived its worker: it ends by itself.
    """
    unfinished = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
    )
    alive = _runs_alive()
    abandoned = [
        run
        for run in unfinished
        if run.labels.get("prefect.worker.name") == worker_name and str(run.id) not in alive
    ]
    for run in abandoned:
        state: State[Any] = Crashed(message=f"worker {worker_name} and the process of this run were killed")
        client.set_flow_run_state(run.id, state, force=True)
    return abandoned


def _runs_alive() -> set[str]:
    """Ids of the flow runs that processes of this host say they are."""
    alive = set()
    for process in psutil.process_iter():
        try:
            alive.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return alive


def main() -> None:
    name = f"{WORK_POOL}-{socket.gethostname()}"
    with get_client(sync_client=True) as client:
        for run in close_abandoned_runs(client, name):
            print(f"run {run.name} {run.id} had lost its process: now CRASHED", flush=True)
    sys.argv = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", name]
    runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    main()
