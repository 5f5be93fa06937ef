"""Whether the processes of the system run, and what listens answers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from tasks.health.finding import Finding, Level
from tasks.metrics.state import resident_bytes, system_processes
from tasks.process_identity import find_process
from tasks.settings import Settings

TIMEOUT_S = 5.0
MEMORY_BYTES = 2e9
FREE_MEMORY_SHARE = 0.05


def check_processes(settings: Settings, _now: datetime) -> Iterator[Finding]:
    """Each process that `autonvis up` started."""
    processes = system_processes(settings)
    if not processes and settings.endpoints:
        yield Finding("processes", Level.OK, "others than `autonvis up` start them")
        return
    if not processes:
        yield Finding(
            *("processes", Level.FAULT, f"nothing of {settings.home} was started"),
            "start it: make up",
            "nvisprocessdown",
        )
        return
    ended = [one["name"] for one in processes if find_process(one["pid"], one["start_s"]) is None]
    for name in ended:
        log = settings.home / "broker" if name == "broker" else settings.log_root / f"{name}.log"
        yield Finding(
            *("processes", Level.FAULT, f"{name} has ended"),
            f"see the end of {log}, then start all of it again: make down up",
            "nvisprocessdown",
        )
    if not ended:
        yield Finding("processes", Level.OK, f"{len(processes)} processes run")


def check_endpoints(settings: Settings, _now: datetime) -> Iterator[Finding]:
    """Every address of the system, asked as a user would."""
    addresses = endpoints(settings)
    if not addresses:
        yield Finding(
            "endpoints", Level.WARNING, "no address is known, since the system is not up", "start it: make up"
        )
    for name, url in addresses.items():
        fault = _ask(url)
        if fault is None:
            yield Finding("endpoints", Level.OK, f"{name} answers at {_shown(url)}")
        else:
            log = settings.log_root / f"{name}.log"
            yield Finding(
                *("endpoints", Level.FAULT, f"{name} at {_shown(url)} {fault}"),
                f"see {log}; if it hangs, start it again: make down up",
                "nvisservicedown",
            )


def check_memory(settings: Settings, _now: datetime) -> Iterator[Finding]:
    """What the processes hold, and what the machine has left."""
    memory = psutil.virtual_memory()
    large = []
    for one in system_processes(settings):
        process = find_process(one["pid"], one["start_s"])
        n_bytes = 0 if process is None else resident_bytes(process)
        if n_bytes > MEMORY_BYTES:
            large.append((one["name"], n_bytes))
    for name, n_bytes in large:
        yield Finding(
            *("memory", Level.WARNING, f"{name} holds {n_bytes / 1e9:.1f} GB of memory"),
            "see which of its processes grows: ps -o rss,cmd --sort=-rss",
            "nvismemoryhigh",
        )
    free = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB of memory are available"
    if memory.available < FREE_MEMORY_SHARE * memory.total:
        step = "end what else runs here, or move learn and backfill to another worker"
        yield Finding("memory", Level.FAULT, free, step, "nvismemoryhigh")
    elif not large:
        yield Finding("memory", Level.OK, free)


def endpoints(settings: Settings) -> dict[str, str]:
    """Addresses of the live system by the name of the process that serves each; empty when it is not up."""
    try:
        state: dict[str, Any] = json.loads((settings.home / "run" / "system.json").read_text())
    except FileNotFoundError:
        if not settings.endpoints:
            return {}
        state = {"environment": {}}
    found = {**settings.endpoint_urls, **state.get("addresses", {})}
    prefect = state["environment"].get("PREFECT_API_URL") or os.environ.get("PREFECT_API_URL")
    if prefect:
        found["prefect-server"] = f"{prefect}/health"
    broker = state["environment"].get("AUTONVIS_MQTT_URL") or settings.mqtt_url
    if broker:
        found["broker"] = broker
    return found


def up_since(settings: Settings) -> datetime | None:
    """When the oldest process of the system that runs was started; None when none does."""
    started = [
        one["start_s"]
        for one in system_processes(settings)
        if find_process(one["pid"], one["start_s"]) is not None
    ]
    return datetime.fromtimestamp(min(started), UTC) if started else None


def _ask(url: str) -> str | None:
    """What is wrong with an address's answer; None when nothing is."""
    parts = urlsplit(url)
    try:
        if parts.scheme not in ("http", "https"):
            default = 8883 if parts.scheme == "mqtts" else 1883
            socket.create_connection((parts.hostname or "", parts.port or default), TIMEOUT_S).close()
            return None
        answer = httpx.get(url, timeout=TIMEOUT_S)
    except (httpx.HTTPError, OSError) as error:
        return f"does not answer: {str(error) or type(error).__name__}"
    if answer.is_success:
        return None
    is_problem = answer.headers.get("content-type", "").startswith("application/problem+json")
    return f"answers {answer.status_code}" + (f": {answer.json()['detail']}" if is_problem else "")


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}"
