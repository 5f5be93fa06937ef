"""The worker: closes the runs that an earlier one of its name left behind, skips what was missed, then polls for new ones.

A worker that is killed, by the kernel or a power cut, cannot tell the server. Its runs stay RUNNING there, and as each
deployment allows one run at a time, every later one would be cancelled: for five minutes until the lease of the dead
run expires, and for good where the leases were lost with it.

While no worker runs, each schedule goes on: after a night there are hundreds of late runs. One of each deployment does what
all of them would have done.

Where there are several workers, each begins again what another had begun that is not heard any more.

A server that is away is waited for. Prefect's worker gives up after some minutes and ends; ours then begins anew. What could not be
told meanwhile, that a run has ended, is told when the server is back.
"""

from __future__ import annotations

import argparse
import os
import runpy
import socket
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
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
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Crashed

from autonvis.system import WORK_POOL

PAGE = 200
"""Runs that the server gives at once."""
UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
WORKER = "prefect.worker.name"
"""Label of a run: who started it."""
BEGUN_AT_MOST = 3
"""A run that was begun so often is closed, not begun again: it may be what its workers died of."""
SETTLED = timedelta(minutes=1)
"""A run that has been in its state for so long has its process, or has lost it."""
HEARTBEATS = 3
"""Without as many a worker counts as lost."""
SERVER_POLL_S = 1.0
GAVE_UP = 1
"""Exit code of Prefect's worker when the server was away for too long."""


def close_abandoned_runs(
    client: SyncPrefectClient, worker_name: str, before: datetime | None = None
) -> list[FlowRun]:
    """Sets to CRASHED the unfinished runs that worker `worker_name` of this host started and whose process is gone.

    Runs of other workers are left alone, and so is one that has outlived its worker: it ends by itself.

    Args:
        before: only runs that were in their state by then: a worker may be about to start the others.
    """
    alive = _runs_alive()
    abandoned = [
        run
        for run in _unfinished_runs(client)
        if run.labels.get(WORKER) == worker_name
        and str(run.id) not in alive
        and (before is None or (run.state is not None and run.state.timestamp < before))
    ]
    for run in abandoned:
        state: State[Any] = Crashed(message="the process of this run is gone, and nobody could say so")
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


def take_over(client: SyncPrefectClient, worker_name: str, now: datetime) -> list[FlowRun]:
    """Schedules again, for whoever is there, the unfinished runs of workers that have missed three heartbeats.

    One that is only cut off may still compute its run: that twice is one result, by the rules of lake and catalog.
    """
    lost = {
        worker.name
        for worker in client.read_workers_for_work_pool(WORK_POOL)
        if worker.name != worker_name and worker.status == WorkerStatus.OFFLINE
    }
    taken = [run for run in _unfinished_runs(client) if run.labels.get(WORKER) in lost] if lost else []
    for run in taken:
        said = f"worker {run.labels[WORKER]} is not heard any more"
        state: State[Any]
        if run.state_type == StateType.CANCELLING:
            state = Cancelled(message=said)
        elif run.run_count < BEGUN_AT_MOST:
            state = AwaitingRetry(message=f"{said}: another begins it again", scheduled_time=now)
        else:
            state = Crashed(message=f"{said}, and this run was begun {run.run_count} times")
        client.set_flow_run_state(run.id, state, force=True)
    return taken


def _unfinished_runs(client: SyncPrefectClient) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL])),
    )


def _runs_alive() -> set[str]:
    """Ids of the flow runs that processes of this host say they are."""
    alive = set()
    for process in psutil.process_iter():
        try:
            alive.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return alive


def _close(client: SyncPrefectClient, worker_name: str, before: datetime | None = None) -> None:
    for run in close_abandoned_runs(client, worker_name, before):
        print(f"run {run.name} {run.id} had lost its process: now CRASHED", flush=True)


def _skip(client: SyncPrefectClient) -> None:
    skipped = skip_missed_runs(client, datetime.now(UTC))
    if skipped:
        print(
            f"{len(skipped)} runs were missed while no worker ran: now CANCELLED, the newest of each deployment runs",
            flush=True,
        )


def _keep_watch(worker_name: str) -> None:
    """With every heartbeat closes the runs that have lost their process, and takes over those of other workers that are lost.

    When the server has been away, what was missed is skipped as at a start, and other workers are given time to be heard again.
    """
    heartbeat_s = get_current_settings().worker.heartbeat_seconds
    back_s, is_away = -float("inf"), False
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        while True:
            time.sleep(SERVER_POLL_S if is_away else heartbeat_s)
            try:
                _close(client, worker_name, datetime.now(UTC) - SETTLED)
                if is_away:
                    _skip(client)
                    is_away, back_s = False, time.monotonic()
                    print("Prefect's server is back", flush=True)
                if time.monotonic() - back_s > HEARTBEATS * heartbeat_s:
                    for run in take_over(client, worker_name, datetime.now(UTC)):
                        print(f"run {run.name} {run.id} has lost its worker {run.labels[WORKER]}", flush=True)
            except (httpx.HTTPError, PrefectException) as error:
                if not is_away:
                    print(f"Prefect's server does not answer: {error}", flush=True)
                is_away = True


def _wait_for_server(client: SyncPrefectClient) -> None:
    is_told = False
    while (error := client.api_healthcheck()) is not None:
        if not is_told:
            print(f"waiting for Prefect's server: {error}", flush=True)
        is_told = True
        time.sleep(SERVER_POLL_S)


def main() -> None:
    """Runs what Prefect's server at PREFECT_API_URL schedules."""
    parser = argparse.ArgumentParser(prog="python -m autonvis.worker", description=main.__doc__)
    parser.add_argument("--name", default=f"{WORK_POOL}-{socket.gethostname()}", help="its own, which stays")
    parser.add_argument(
        "--with-healthcheck",
        action="store_true",
        help="answer /health on PREFECT_WORKER_WEBSERVER_PORT (8080)",
    )
    options = parser.parse_args()
    arguments = sys.argv[1:]
    for child in (
        psutil.Process().children()
    ):  # runs that the worker before started as this process: they end by themselves
        threading.Thread(target=child.wait, daemon=True).start()
    with get_client(sync_client=True) as client:
        _wait_for_server(client)
        _close(client, options.name)
        _skip(client)
    threading.Thread(target=_keep_watch, args=[options.name], daemon=True).start()
    sys.argv = [
        "prefect",
        "worker",
        "start",
        "--pool",
        WORK_POOL,
        "--type",
        "process",
        "--name",
        options.name,
    ]
    if options.with_healthcheck:
        sys.argv.append("--with-healthcheck")
    try:
        runpy.run_module("prefect", run_name="__main__")
    except SystemExit as end:
        if end.code != GAVE_UP:
            raise
        print("Prefect's worker gave up: beginning anew, as the same process", flush=True)
        time.sleep(SERVER_POLL_S)
        os.execv(sys.executable, [sys.executable, "-m", "autonvis.worker", *arguments])


if __name__ == "__main__":
    main()
