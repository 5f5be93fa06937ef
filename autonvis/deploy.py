"""`autonvis deploy`: the live system as its settings and prefect.yaml say, from whatever it is now. Again, it changes nothing and says so."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from dotenv import dotenv_values

from autonvis.environment import running_system
from autonvis.system import PROJECT_ROOT, WORK_POOL, StartError, down, start_missing, status
from services.broker import installed_kinds
from tasks import catalog
from tasks.settings import Settings, SettingsError

FOLDER = PROJECT_ROOT / "deployments"
DEFAULT = "autonvis"
"""`deployments/autonvis.env` is read where it is there and no other is named."""
HEALTH_TIMEOUT_S = 120.0
ASK_TIMEOUT_S = 10.0
COMPARED = (
    "description", "tags", "parameters", "entrypoint", "path", "work_pool_name", "work_queue_name", "concurrency_options",
    "parameter_openapi_schema", "enforce_parameter_schema",
)  # fmt: skip
"""Of a deployment, beside its schedules and its limit."""


def load_environment(name: str | None, folder: Path = FOLDER) -> Path | None:
    """Puts `deployments/<name>.env` into this process's environment, what is set there already excepted; returns the file.

    Raises:
        SettingsError: there is no such file.
    """
    path = folder / f"{name or DEFAULT}.env"
    if not path.is_file():
        if name is None:
            return None
        known = sorted(one.stem for one in folder.glob("*.env"))
        raise SettingsError(
            f"there is no {path}: copy autonvis.env.example to it and set what differs"
            + (f"; there are {', '.join(known)}" if known else "")
        )
    for key, value in dotenv_values(path, interpolate=False).items():
        os.environ.setdefault(key, value or "")
    if name is not None:
        os.environ.setdefault("AUTONVIS_ENVIRONMENT", name)
    return path


def deploy_system(
    settings: Settings, file: Path | None, *, is_restarted: bool, say: Callable[[str], None] = print
) -> None:
    """Detects, migrates, starts what is missing, applies deployments and automations, waits until all of it is well.

    Raises:
        StartError: a part does not start or does not become well; what runs already is left running.
    """
    say(
        f"settings {file or 'of the environment'}, home {settings.home.resolve()}, environment {settings.environment!r}"
    )
    if file is not None and file.stat().st_mode & 0o077:
        say(f"         others may read {file}: chmod 600 it, it is the place for passwords")
    say(
        f"brokers  {', '.join(installed_kinds())}"
        + (", and AUTONVIS_MQTT_URL names one" if settings.mqtt_url else "")
    )
    if is_restarted:
        down(settings, say)
    before = {process.name: process.pid for process in status(settings)}
    say(f"running  {', '.join(before) or 'nothing'}")
    engine = catalog.open_catalog(settings)
    say(
        f"catalog  {catalog.revision(engine)} is its newest schema, {engine.url.render_as_string(hide_password=True)}"
    )

    known = _deployments(settings, running_system(settings)) if "prefect-server" in before else {}
    addresses = start_missing(settings, say)
    applied = _deployments(settings, running_system(settings))
    changed = [name for name in sorted(applied) if applied[name] != known.get(name)]
    say(
        f"applied  {len(applied)} deployments"
        + (f", new or changed: {', '.join(changed)}" if changed else ", none changed")
    )

    _wait_until_well(settings)
    started = [process.name for process in status(settings) if before.get(process.name) != process.pid]
    say(f"well     {'started ' + ', '.join(started) if started else 'nothing was to be started'}")
    for name in ("web", "gateway", "prefect"):
        say(f"{name:8s} {addresses[name]}")
    if not started and not changed:
        say("nothing changed")


def _ask(settings: Settings, api: str, method: str, path: str, **more: Any) -> Any:
    """What Prefect's server answers."""
    try:
        answer = httpx.request(
            method, f"{api}{path}", auth=settings.prefect_login, timeout=ASK_TIMEOUT_S, **more
        )
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise StartError(
            f"Prefect's server at {api} does not answer as it should ({error}); if AUTONVIS_PREFECT_AUTH has changed, use --restart"
        ) from error
    return answer.json()


def _deployments(settings: Settings, environment: dict[str, str]) -> dict[str, str]:
    """What the server has of each deployment, without times and ids."""
    found = {}
    for one in _ask(
        settings, environment["PREFECT_API_URL"], "POST", "/deployments/filter", json={"limit": 200}
    ):
        fields = {name: one.get(name) for name in COMPARED}
        fields["limit"] = (one.get("global_concurrency_limit") or {}).get("limit")
        fields["schedules"] = [
            (schedule["schedule"], schedule["active"]) for schedule in one.get("schedules", [])
        ]
        found[one["name"]] = json.dumps(fields, sort_keys=True)
    return found


def _wait_until_well(settings: Settings) -> None:
    """Waits until every process runs and answers, and the worker has been heard."""
    deadline_s = time.monotonic() + HEALTH_TIMEOUT_S
    api = running_system(settings)["PREFECT_API_URL"]
    while True:
        alive = {process.name for process in status(settings)}
        missing = {"gateway", "web", "prefect-server", "prefect-worker"} - alive
        if missing:
            raise StartError(
                f"{', '.join(sorted(missing))} ended right after the start; see {settings.log_root}"
            )
        workers = _ask(settings, api, "POST", f"/work_pools/{WORK_POOL}/workers/filter", json={})
        if any(worker["status"] == "ONLINE" for worker in workers):
            return
        if time.monotonic() > deadline_s:
            raise StartError(
                f"no worker was heard within {HEALTH_TIMEOUT_S:g} s; see {settings.log_root / 'prefect-worker.log'}"
            )
        time.sleep(0.5)
