"""Prefect's server behind a password, and its worker after an outage: real ones."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import AwaitingRetry, Cancelled, Cancelling, Failed, Running
from pydantic import SecretStr, ValidationError

from autonvis.environment import make_home, prefect_environment
from autonvis.system import WORK_POOL, deploy, start_prefect_server, start_worker
from autonvis.worker import BEGUN_AT_MOST, WORKER, skip_missed_runs, take_over
from services.processes import free_port
from tasks.health.machine import check_errors
from tasks.settings import Settings

AUTH = "operator:a long password: with a colon"
MISSED = 210
"""Runs, a minute apart: more than the server lists at once."""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Settings, dict[str, str], SyncPrefectClient]]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), prefect_auth=SecretStr(AUTH))
    make_home(settings)
    environment = prefect_environment(settings) | {"PREFECT_WORKER_QUERY_SECONDS": "0.5"}
    process, url = start_prefect_server(settings, free_port())
    environment["PREFECT_API_URL"] = f"{url}/api"
    try:
        with (
            temporary_settings({PREFECT_API_URL: f"{url}/api", PREFECT_API_AUTH_STRING: AUTH}),
            get_client(sync_client=True) as client,
        ):
            yield settings, environment, client
    finally:
        process.stop()


def runs_of(client: SyncPrefectClient, deployment_id: UUID) -> list[FlowRun]:
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
    runs: list[FlowRun] = []
    while page := client.read_flow_runs(deployment_filter=only, limit=200, offset=len(runs)):
        runs += page
    return runs


def test_nobody_comes_in_without_the_password(
    server: tuple[Settings, dict[str, str], SyncPrefectClient],
) -> None:
    _, environment, client = server
    api = environment["PREFECT_API_URL"]
    for auth in (None, ("operator", "wrong"), ("x", "")):
        for method, path in (
            ("POST", "/flow_runs/filter"),
            ("POST", "/deployments/filter"),
            ("GET", "/admin/version"),
        ):
            assert httpx.request(method, f"{api}{path}", json={}, auth=auth).status_code == 401
    assert httpx.get(f"{api}/health").status_code == 200  # says no more than that it lives
    user, _, password = AUTH.partition(":")
    assert httpx.post(f"{api}/deployments/filter", json={}, auth=(user, password)).status_code == 200
    assert client.read_deployments() == []  # as the commands ask, with the password of the settings


def test_the_flight_check_sees_failed_runs_behind_the_password(
    server: tuple[Settings, dict[str, str], SyncPrefectClient],
) -> None:
    settings, environment, client = server
    run = client.create_flow_run(flow(name="broken")(lambda: None), state=Failed(message="the disk is gone"))
    known = settings.model_copy(
        update={"endpoints": f"prefect-server={environment['PREFECT_API_URL']}/health"}
    )
    (seen,) = check_errors(known, datetime.now(UTC))
    assert seen.sentence == f"run {run.name} failed: the disk is gone"
    (refused,) = check_errors(known.model_copy(update={"prefect_auth": None}), datetime.now(UTC))
    assert "401 Unauthorized" in refused.sentence
    client.delete_flow_run(run.id)


def test_runs_of_a_lost_worker_are_begun_again_within_bounds(
    server: tuple[Settings, dict[str, str], SyncPrefectClient],
) -> None:
    _, environment, client = server
    deploy(environment, "--name", "land")
    deployment = client.read_deployment_by_name("land/land")
    client.pause_deployment(deployment.id)

    def run_of(worker: str, *states: State[Any]) -> UUID:
        run_id = client.create_flow_run_from_deployment(deployment.id).id
        client.update_flow_run_labels(run_id, {WORKER: worker})
        for state in states:
            client.set_flow_run_state(run_id, state, force=True)
        return run_id

    again = (Running(), AwaitingRetry()) * (BEGUN_AT_MOST - 1)
    expected = {
        run_of("lost", Running()): "AwaitingRetry",
        run_of("lost", *again, Running()): "Crashed",
        run_of("lost", Running(), Cancelling()): "Cancelled",
    }
    of_another = run_of("there", Running())
    client.send_worker_heartbeat(WORK_POOL, "there", heartbeat_interval_seconds=600)
    client.send_worker_heartbeat(WORK_POOL, "lost", heartbeat_interval_seconds=1)
    deadline_s = time.monotonic() + 60
    while not (taken := take_over(client, "third", datetime.now(UTC))):
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
    assert {run.id for run in taken} == set(expected)
    assert {run_id: client.read_flow_run(run_id).state_name for run_id in expected} == expected
    assert client.read_flow_run(of_another).state_name == "Running"
    client.set_flow_run_state(of_another, Cancelled(), force=True)


@pytest.mark.slow
def test_after_an_outage_one_run_covers_the_gap(
    server: tuple[Settings, dict[str, str], SyncPrefectClient],
) -> None:
    settings, environment, client = server
    deploy(environment, "--name", "land")
    deployment = client.read_deployment_by_name("land/land")
    client.pause_deployment(deployment.id)  # what falls due while this test looks
    for run in runs_of(client, deployment.id):
        client.delete_flow_run(run.id)
    now = datetime.now(UTC)
    # What the server's scheduler leaves behind while no worker comes: a run a minute, marked as its own.
    statement = "UPDATE flow_run SET auto_scheduled = 1, expected_start_time = ?, next_scheduled_start_time = ? WHERE id = ?"
    ids = [client.create_flow_run_from_deployment(deployment.id).id for _ in range(MISSED)]
    with sqlite3.connect(settings.home / "prefect" / "prefect.db", timeout=30) as database:
        for minutes, run_id in enumerate(reversed(ids), start=1):
            at = (now - timedelta(minutes=minutes)).strftime("%Y-%m-%d %H:%M:%S.%f")
            assert database.execute(statement, (at, at, str(run_id))).rowcount == 1
    database.close()
    asked_for = client.create_flow_run_from_deployment(deployment.id).id

    worker = start_worker(settings, environment)
    try:
        deadline_s = time.monotonic() + 180
        while not all(
            run.state is not None and run.state.is_final() for run in runs_of(client, deployment.id)
        ):
            assert time.monotonic() < deadline_s
            time.sleep(1)
    finally:
        worker.stop()
    found = runs_of(client, deployment.id)
    states = {run.id: run.state_name for run in found}
    # A run that is cancelled before it starts has a start time too, but was never counted as running.
    started = [run.id for run in found if run.run_count]
    assert len(states) == MISSED + 1
    assert set(started) <= {ids[-1], asked_for}  # the newest, and what somebody asked for
    assert [states[run_id] for run_id in started].count("Completed") >= 1
    log = (settings.log_root / "prefect-worker.log").read_text()
    assert f"{MISSED - 1} runs were missed" in log
    assert skip_missed_runs(client, datetime.now(UTC)) == []


def test_a_password_that_is_none_is_refused() -> None:
    for wrong in ("operator", ":password-long-enough", "operator:short"):
        with pytest.raises(ValidationError, match="must be user:password"):
            Settings(prefect_auth=SecretStr(wrong))
