"""The environment in which Prefect runs here: its own home, no analytics, no telemetry, our loggers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tasks.at_work import is_traced
from tasks.process_identity import is_running
from tasks.settings import Settings, SettingsError

STATE_FILE = Path("run/system.json")
"""Where `autonvis up` writes what it started, relative to the home folder."""


LEAST_FREE_MB = 64

JSON_LOGS = {
    "PREFECT_LOGGING_FORMATTERS_JSON_CLASS": "tasks.log_format.JsonFormatter",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
}
"""Of what Prefect writes to the terminal, or the worker's log; what it keeps for its pages stays text."""


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
        # In memory, its default, leases are lost with the server, and the slots of runs then under way are never freed.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Its database would grow for ever: by default runs, logs and artifacts are never removed.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": f"{settings.run_retention_d * 86_400:.0f}",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{settings.event_retention_d * 86_400:.0f}S",
        # Its pages would ask the default port, whatever port they came from.
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # With it runs and tasks are spans of OpenTelemetry; they go to our own endpoint and to nobody else's.
        "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": str(is_traced()).lower(),
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,services",
        "TQDM_DISABLE": "1",
        **(JSON_LOGS if settings.log_format == "json" else {}),
        **_prefect_auth(settings),
        # rayon's threads and BLAS's must not fight over the same cores.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
    }


def _prefect_auth(settings: Settings) -> dict[str, str]:
    """For the server, and for those who call it; a process's environment is read by its own user alone."""
    if settings.prefect_auth is None:
        return {}
    auth = settings.prefect_auth.get_secret_value()
    return {"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth}


def make_home(settings: Settings) -> None:
    """The home folder with Prefect's in it, which Prefect itself does not make below a folder that is not there.

    Raises:
        SettingsError: it cannot be made, or its disk is full, on which neither broker nor Prefect would start.
    """
    try:
        (settings.home / "prefect").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"AUTONVIS_HOME: {settings.home} cannot be made or written ({error.strerror}): name another folder"
        ) from error
    free_mb = shutil.disk_usage(settings.home).free / 1e6
    if free_mb < LEAST_FREE_MB:
        raise SettingsError(
            f"AUTONVIS_HOME: the disk of {settings.home} is full ({free_mb:.1f} MB free, {LEAST_FREE_MB} MB needed): "
            "free space or name another folder"
        )


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
