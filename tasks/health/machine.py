"""The disk, the backup, and what was logged as an error."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from tasks import disk_forecast
from tasks.health.finding import Finding, Level, duration
from tasks.health.services import endpoints
from tasks.metrics.state import backups
from tasks.settings import Settings

FULL_SHARE, NEARLY_FULL_SHARE = 0.05, 0.10
FULL_WITHIN = timedelta(days=7)
BACKUP_LATE = timedelta(hours=26)
RECENT = timedelta(hours=1)
TAIL_BYTES = 1_000_000
LOGGED_ERROR = re.compile(r"^(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)[,.]\d+ (?:ERROR|CRITICAL) (.*)$")
TIMEOUT_S = 5.0
SHOWN = 3


def check_disk(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Free space of the home and the lake."""
    folders = {"home": settings.home, "lake": settings.lake_root}
    seen = set()
    for name, folder in folders.items():
        if not folder.is_dir() or folder.stat().st_dev in seen:
            continue
        seen.add(folder.stat().st_dev)
        usage = shutil.disk_usage(folder)
        share = usage.free / usage.total
        sentence = f"{usage.free / 1e9:.1f} GB ({share:.0%}) of the disk of {name} are free"
        step = f"see what grew: du -xh --max-depth=2 {folder} | sort -h | tail"
        if share < FULL_SHARE or usage.free < settings.min_free_disk_mb * 1e6:
            yield Finding("disk", Level.FAULT, sentence, step, "nvisdisk")
        elif share < NEARLY_FULL_SHARE:
            yield Finding("disk", Level.WARNING, sentence, step, "nvisdisk")
        else:
            yield Finding("disk", Level.OK, sentence)

    full_in = _time_until_full(settings, now)
    if full_in is not None and full_in < FULL_WITHIN:
        yield Finding(
            "disk",
            Level.FAULT if full_in < timedelta(days=1) else Level.WARNING,
            f"at its pace the disk is full in {duration(max(full_in.total_seconds(), 0.0))}",
            f"see what grows: the folders in {settings.home / disk_forecast.STATUS}",
            "nvisdisk",
        )


def _time_until_full(settings: Settings, now: datetime) -> timedelta | None:
    """By the forecast of the flow `maintain`; None where there is none, or the disk does not fill."""
    try:
        said = json.loads((settings.home / disk_forecast.STATUS).read_text())["disk"]["full_at"]
    except FileNotFoundError:
        return None
    return None if said is None else datetime.fromisoformat(said) - now


def check_backup(settings: Settings, now: datetime) -> Iterator[Finding]:
    """When the last full backup was taken."""
    taken = backups(settings).get("full")
    step = "see the runs of backup in the Prefect UI, and run it from there"
    if taken is None:
        yield Finding("backup", Level.WARNING, "there is no full backup yet", step, "nvisbackupold")
        return
    sentence = f"the last full backup is {duration((now - taken).total_seconds())} old"
    if now - taken > BACKUP_LATE:
        yield Finding("backup", Level.FAULT, sentence, step, "nvisbackupold")
    else:
        yield Finding("backup", Level.OK, sentence)


def check_errors(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Errors that services logged, and runs that failed, within the last hour."""
    since = now - RECENT
    logged = {path.stem: _logged_errors(path, since) for path in sorted(settings.log_root.glob("*.log"))}
    for process, lines in logged.items():
        if lines:
            yield Finding(
                *(
                    "errors",
                    Level.WARNING,
                    f"{process} logged {len(lines)} errors in the last hour, the last: {lines[-1][:200]}",
                ),
                f"see {settings.log_root / (process + '.log')}",
                "nviserrorrate",
            )
    try:
        failed = _failed_runs(settings, since)
    except httpx.HTTPStatusError as error:
        refusal = f"Prefect's server does not list the runs that failed: {error.response.status_code} {error.response.reason_phrase}"
        yield Finding(
            *("errors", Level.WARNING, refusal), "is AUTONVIS_PREFECT_AUTH what the server was started with?"
        )
        return
    for run in failed[:SHOWN]:
        message = " ".join(str((run.get("state") or {}).get("message") or "").split())
        yield Finding(
            *("errors", Level.WARNING, f"run {run['name']} {run['state_name'].lower()}: {message[:300]}"),
            "see its log in the Prefect UI",
            "nviserrorrate",
        )
    if not failed and not any(logged.values()):
        yield Finding("errors", Level.OK, "no error in the last hour")


def _logged_errors(path: Path, since: datetime) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    begins = f"{since.astimezone():%Y-%m-%d %H:%M:%S}"  # logs have the time of the machine
    found = (LOGGED_ERROR.match(line) for line in lines)
    return [one[2] for one in found if one and one[1].replace("T", " ") >= begins]


def _failed_runs(settings: Settings, since: datetime) -> list[dict[str, Any]]:
    """Runs that failed or crashed, newest first; none where no Prefect server answers, which is said elsewhere.

    Raises:
        httpx.HTTPStatusError: the server answers something else.
    """
    health = endpoints(settings).get("prefect-server")
    if health is None:
        return []
    question = {
        "sort": "END_TIME_DESC",
        "limit": 50,
        "flow_runs": {
            "state": {"type": {"any_": ["FAILED", "CRASHED"]}},
            "end_time": {"after_": since.isoformat()},
        },
    }
    try:
        answer = httpx.post(
            f"{health.removesuffix('/health')}/flow_runs/filter",
            json=question,
            auth=settings.prefect_login,
            timeout=TIMEOUT_S,
        )
    except httpx.RequestError:
        return []
    runs: list[dict[str, Any]] = answer.raise_for_status().json()
    return runs
