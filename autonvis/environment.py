"""The environment in which Prefect runs here: its own home, no analytics, no telemetry, our loggers."""

from __future__ import annotations

import json
import os
from pathlib import Path

from services.processes import is_running
from tasks.settings import Settings

STATE_FILE = Path("run/system.json")
"""Where `autonvis up` writes what it started, relative to the home folder."""


def prefect_environment(settings: Settings) -> dict[str, str]:
    """Environment variables for every Prefect process of this system.

    There is no network on many of the machines this runs on, and none is needed: analytics, telemetry and
    update checks are off. Prefect keeps its files under the one home, so two systems never share a server.
    """
    home = settings.home.resolve()
    return {
        "AUTONVIS_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_PROFILES_PATH": str(home / "prefect" / "profiles.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,services",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "TQDM_DISABLE": "1",
        # rayon's threads and BLAS's must not fight over the same cores.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
    }


def running_system(settings: Settings) -> dict[str, str]:
    """Addresses of the live system of this home as environment variables; empty when it is down.

    After a power cut the file is still there, and nothing that it names is.
    """
    path = settings.home / STATE_FILE
    if not path.is_file():
        return {}
    state = json.loads(path.read_text())
    is_up = any(is_running(process["pid"], process["start_s"]) for process in state["processes"])
    addresses: dict[str, str] = state["environment"] if is_up else {}
    return addresses


def adopt(settings: Settings) -> None:
    """Make this process part of the system: must run before Prefect is imported."""
    os.environ.update(prefect_environment(settings))
    for name, value in running_system(settings).items():
        os.environ.setdefault(name, value)
