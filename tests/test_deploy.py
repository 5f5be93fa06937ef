"""`autonvis deploy` on a real system: from nothing, again, after a part died, after prefect.yaml changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from autonvis.deploy import load_environment
from autonvis.environment import STATE_FILE
from autonvis.system import PROJECT_ROOT, down
from tasks.settings import Settings, SettingsError


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    down(Settings(home=tmp_path / "home"), say=lambda _: None)


def run(home: Path, *arguments: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AUTONVIS_", "PREFECT_"))} | {
        "AUTONVIS_HOME": str(home), "AUTONVIS_GATEWAY_PORT": "0", "AUTONVIS_TCP_PORT": "0", "AUTONVIS_WEB_PORT": "0",
        "AUTONVIS_PREFECT_PORT": "0", "AUTONVIS_PREFECT_AUTH": "operator:a-long-password",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "autonvis", *arguments],
        env=environment,
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def pids(home: Path) -> dict[str, int]:
    return {one["name"]: one["pid"] for one in json.loads((home / STATE_FILE).read_text())["processes"]}


@pytest.mark.slow
def test_a_system_is_deployed_and_again_and_mended(home: Path) -> None:
    first = run(home, "deploy")
    assert "running  nothing" in first
    assert "new or changed: backfill, backup," in first
    before = pids(home)
    assert set(before) == {"gateway", "web", "prefect-server", "prefect-worker"}
    assert (home / STATE_FILE).stat().st_mode & 0o777 == 0o600
    api = json.loads((home / STATE_FILE).read_text())["environment"]["PREFECT_API_URL"]
    assert httpx.post(f"{api}/deployments/filter", json={}).status_code == 401

    again = run(home, "deploy")
    assert again.splitlines()[-1] == "nothing changed", again
    assert pids(home) == before

    psutil.Process(before["web"]).kill()
    auth = ("operator", "a-long-password")
    found = httpx.get(f"{api}/deployments/name/land/land", auth=auth).json()
    httpx.patch(
        f"{api}/deployments/{found['id']}", auth=auth, json={"description": "by hand"}
    ).raise_for_status()
    mended = run(home, "deploy")
    assert "new or changed: land\n" in mended
    assert "started web" in mended
    after = pids(home)
    assert {name for name in after if after[name] != before[name]} == {"web"}

    assert "is up already" in run(home, "up", code=2)
    run(home, "land")  # joins the live system, password included
    assert "stopped  web" in run(home, "down")


def test_an_environment_has_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"AUTONVIS_WEB_PORT": "1"})
    assert load_environment(None, tmp_path) is None
    (tmp_path / "staging.env").write_text(
        "# ports\nAUTONVIS_WEB_PORT=2\nexport AUTONVIS_TCP_PORT=3\nAUTONVIS_MQTT_URL='mqtts://a:$b@c'\n"
    )
    assert load_environment("staging", tmp_path) == tmp_path / "staging.env"
    assert os.environ == {
        "AUTONVIS_WEB_PORT": "1", "AUTONVIS_TCP_PORT": "3", "AUTONVIS_MQTT_URL": "mqtts://a:$b@c", "AUTONVIS_ENVIRONMENT": "staging",
    }  # fmt: skip
    with pytest.raises(SettingsError, match=r"no .*production\.env.*there are staging"):
        load_environment("production", tmp_path)
