"""The commands of the README, run as a new user would type them: the demo, and the live system up and down."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from services.processes import free_port

ROOT = Path(__file__).resolve().parents[1]
RUN_ELSEWHERE = re.compile(r"^(git clone|cd |make test$|make demo DATA=)")
"""`make test` is what runs this; real observations have their own test."""


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shell(command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        shell=True,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_readme_is_short_and_names_the_two_commands() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 140
    assert {"make demo", "make test", "make up", "make down"} <= set(commands())


@pytest.mark.timeout(600)
def test_readme_commands_run(tmp_path: Path) -> None:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AUTONVIS_", "PREFECT_"))
    }
    gateway_port, web_port, prefect_port = free_port(), free_port(), free_port()
    environment = {
        **kept,
        "AUTONVIS_HOME": str(tmp_path / "var"),
        "AUTONVIS_GATEWAY_PORT": str(gateway_port),
        "AUTONVIS_TCP_PORT": "0",
        "AUTONVIS_WEB_PORT": str(web_port),
        "AUTONVIS_PREFECT_PORT": str(prefect_port),
        "MAKEFLAGS": "",
    }
    to_run = [command for command in commands() if not RUN_ELSEWHERE.match(command)]
    assert to_run.index("make up") < to_run.index("make down")
    output = {}
    try:
        for command in to_run:
            output[command] = shell(command.replace("var/", f"{tmp_path}/var/"), environment)
            if command == "make up":
                assert httpx.get(f"http://127.0.0.1:{gateway_port}/health", timeout=5).status_code == 200
                assert "AutoNVIS" in httpx.get(f"http://127.0.0.1:{web_port}/", timeout=5).text
                pages = httpx.get(f"http://127.0.0.1:{prefect_port}/ui-settings", timeout=5).json()
                assert pages["api_url"] == "/api"  # the server that they come from
                answer = httpx.post(
                    f"http://127.0.0.1:{prefect_port}/api/deployments/filter", json={}, timeout=10
                )
                deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
                assert {one["name"] for one in answer.json()} == {one["name"] for one in deployments}
                automations = httpx.post(
                    f"http://127.0.0.1:{prefect_port}/api/automations/filter", json={}, timeout=10
                )
                assert "autonvis-nowcast-late" in {one["name"] for one in automations.json()}
    finally:
        subprocess.run(
            "make down", shell=True, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=False
        )

    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{gateway_port}/health", timeout=2)

    demo = output["make demo"]
    assert "SIMULATED" in demo
    map_path = Path(re.search(r"^map +(.+)$", demo, re.MULTILINE).group(1))  # type: ignore[union-attr]
    assert map_path.read_bytes().startswith(b"\x89PNG")
    one_liner = re.search(r"^duckdb +(.+)$", demo, re.MULTILINE).group(1)  # type: ignore[union-attr]
    assert "SIM01" in shell(one_liner, environment)
