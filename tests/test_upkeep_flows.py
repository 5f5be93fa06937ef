"""The flows that keep a root, on a real Prefect server: runs, artifacts, forms."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from autonvis.environment import prefect_environment
from flows.backup import backup
from flows.maintain import maintain
from flows.nowcast import nowcast
from flows.restore import restore
from flows.verify_backup import verify_backup
from tasks.settings import Settings, load_settings
from tests.small_root import checksums, make_root, observations, spool


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    made = make_root(tmp_path / "var")
    for name in [name for name in os.environ if name.startswith("AUTONVIS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AUTONVIS_HOME", str(made.home))
    monkeypatch.setenv("AUTONVIS_BACKUP_TO", made.backup_address)
    monkeypatch.setenv("AUTONVIS_GRID_STEP_DEG", f"{made.grid_step_deg}")
    monkeypatch.setenv("AUTONVIS_LEADS_H", made.leads_h)
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


def test_a_root_is_kept_by_its_flows(prefect_server: None, settings: Settings, tmp_path: Path) -> None:
    full = backup(return_state=True)
    assert full.is_completed(), full.message
    assert "-full.tar.zst in " in str(full.message)
    spool(settings, observations()[-5:], datetime.now(UTC), seal=False).close()
    increment = backup("increment", return_state=True)
    assert increment.is_completed(), increment.message
    assert " 1 of them new" in str(increment.message)

    verified = verify_backup(return_state=True)
    assert verified.is_completed(), verified.message
    assert "is the same to the bit" in str(verified.message)
    kept = maintain(return_state=True)
    assert kept.is_completed(), kept.message

    drill = restore(tmp_path / "drill", return_state=True)
    assert drill.is_completed(), drill.message
    assert checksums(tmp_path / "drill" / "lake") == checksums(settings.lake_root)
    refused = restore(settings.home, return_state=True)
    assert refused.is_failed()
    assert "is the live root" in str(refused.message)

    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: str(artifact.data) for artifact in client.read_artifacts()}
    assert {"backup", "verify-backup", "restore", "maintenance"} <= artifacts.keys()
    assert "time to restore (RTO)" in artifacts["verify-backup"]
    assert "GB free" in artifacts["maintenance"]


def test_prefect_keeps_runs_and_events_as_long_as_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, run_retention_d=20.0, event_retention_d=3.0)
    environment = {**os.environ, **prefect_environment(settings)}
    program = (
        "from prefect.settings import get_current_settings\n"
        "server = get_current_settings().server\n"
        "vacuum = server.services.db_vacuum\n"
        "print(server.events.retention_period.days, vacuum.retention_period.days, sorted(vacuum.enabled_vacuum_types))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "3 20 ['events', 'flow_runs', 'orphans']"


def test_the_forms_name_the_kinds_and_say_what_they_are() -> None:
    from prefect.utilities.callables import parameter_schema

    kind = parameter_schema(backup).properties["kind"]
    assert kind["enum"] == ["full", "increment", "whole"]
    assert "carried away" in kind["description"]
    into = parameter_schema(restore).properties["into"]
    assert "AUTONVIS_HOME" in into["description"]
    step = parameter_schema(nowcast).properties["grid_step_deg"]["anyOf"][0]
    assert (step["exclusiveMinimum"], step["maximum"]) == (0, 90)
