"""Prefect's server, as `autonvis up` starts it, removes its own old runs with their logs, and keeps the young."""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from autonvis.environment import make_home
from autonvis.system import start_prefect_server
from services.processes import free_port
from tasks.prefect_vacuum import vacuum_prefect
from tasks.settings import Settings


def create_run(url: str, flow_id: str) -> str:
    run = httpx.post(
        f"{url}/api/flow_runs/", json={"flow_id": flow_id, "state": {"type": "COMPLETED"}}
    ).json()["id"]
    log = {
        "name": "x", "level": 20, "message": f"of {run}", "timestamp": datetime.now(UTC).isoformat(), "flow_run_id": run,
    }  # fmt: skip
    httpx.post(f"{url}/api/logs/", json=[log]).raise_for_status()
    return str(run)


@pytest.mark.slow
def test_old_runs_go_with_their_logs(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", run_retention_d=30.0)
    make_home(settings)
    server, url = start_prefect_server(settings, free_port())
    try:
        flow_id = httpx.post(f"{url}/api/flows/", json={"name": "nowcast"}).json()["id"]
        old, young = create_run(url, flow_id), create_run(url, flow_id)
    finally:
        server.stop()
    path = settings.home / "prefect" / "prefect.db"
    past = (datetime.now(UTC) - timedelta(days=31)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with sqlite3.connect(path) as database:
        changed = database.execute(
            "UPDATE flow_run SET start_time = ?, end_time = ? WHERE replace(id, '-', '') = ?",
            (past, past, old.replace("-", "")),
        )
        assert changed.rowcount == 1
    database.close()

    server, url = start_prefect_server(settings, free_port())
    try:
        deadline_s = time.monotonic() + 120
        while httpx.get(f"{url}/api/flow_runs/{old}").status_code != 404:
            assert time.monotonic() < deadline_s, "the old run is still there"
            time.sleep(0.5)
        assert httpx.get(f"{url}/api/flow_runs/{young}").status_code == 200
        time.sleep(2.0)
        messages = [log["message"] for log in httpx.post(f"{url}/api/logs/filter", json={}).json()]
        assert messages == [f"of {young}"]
        vacuum_prefect(settings)  # with the server up
        assert httpx.get(f"{url}/api/flow_runs/{young}").status_code == 200
    finally:
        server.stop()
