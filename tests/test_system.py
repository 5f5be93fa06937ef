"""What a command takes for the live system of its home."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from autonvis import system
from autonvis.environment import STATE_FILE, running_system
from autonvis.system import Process, StartError, choose_port, status
from tasks.process_identity import started_s
from tasks.settings import Settings

ADDRESSES = {"AUTONVIS_MQTT_URL": "mqtt://127.0.0.1:1", "PREFECT_API_URL": "http://127.0.0.1:2/api"}


def write_state(home: Path, process: Process) -> None:
    (home / STATE_FILE).parent.mkdir(parents=True)
    (home / STATE_FILE).write_text(json.dumps({"processes": [asdict(process)], "environment": ADDRESSES}))


def test_a_running_system_is_joined(tmp_path: Path) -> None:
    write_state(tmp_path, Process("gateway", os.getpid(), started_s(os.getpid())))
    assert running_system(Settings(home=tmp_path)) == ADDRESSES


def test_what_a_power_cut_left_behind_is_not_joined(tmp_path: Path) -> None:
    write_state(
        tmp_path, Process("gateway", os.getpid(), started_s(os.getpid()) - 3600)
    )  # the id is used again
    settings = Settings(home=tmp_path)
    assert running_system(settings) == {}
    assert status(settings) == []


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} is taken; set AUTONVIS_TCP_PORT"):
            choose_port(port, "AUTONVIS_TCP_PORT")
    assert choose_port(0, "AUTONVIS_TCP_PORT") > 0


def test_a_command_that_takes_too_long_is_ended_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "COMMAND_TIMEOUT_S", 1.0)
    hanging = "import time; print('half way', flush=True); time.sleep(60)"
    with pytest.raises(StartError, match=r"took more than 1 s, and was ended(?s:.*)half way"):
        system.run_python(["-c", hanging], {})
