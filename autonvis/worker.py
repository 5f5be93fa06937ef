"""The worker: closes the runs that an earlier one of this host left behind, skips what was missed, then polls for new ones.

A worker that is killed, by the kernel or a power cut, cannot tell the server. Its runs stay RUNNING there, and as each
deployment allows one run at a time, every later one would be cancelled: for five minutes until the lease of the dead
run expires, and for good where the leases were lost with it.

While no worker runs, each schedule goes on: after a night there are hundreds of late runs. One of each deployment does what
all of them would have done.
"""

from __future__ import annotations

import runpy
import socket
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled, Crashed

from autonvis.system import WORK_POOL

PAGE = 200
"""Runs that the server gives at once."""
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


def skip_missed_runs(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """Cancels the runs that schedules made for times before `now`, but the newest of each deployment; runs that people asked for stay."""
    kept: set[UUID | None] = set()
    skipped: list[FlowRun] = []
    while True:
        due = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
                expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": now}),
            ),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
            offset=len(kept),
        )
        missed = []
        for run in due:
            if not run.auto_scheduled or run.deployment_id not in kept:
                kept.add(run.deployment_id if run.auto_scheduled else run.id)
            else:
                missed.append(run)
        for run in missed:
            state: State[Any] = Cancelled(
                message="missed while no worker ran: the newest run that is due does its work"
            )
            client.set_flow_run_state(run.id, state, force=True)
        skipped += missed
        if len(due) < PAGE:
            return skipped


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
        skipped = skip_missed_runs(client, datetime.now(UTC))
        if skipped:
            print(
                f"{len(skipped)} runs were missed while no worker ran: now CANCELLED, the newest of each deployment runs",
                flush=True,
            )
    sys.argv = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process", "--name", name]
    runpy.run_module("prefect", run_name="__main__")


if __name__ == "__main__":
    main()
