"""The dead-man's switch: a sign of life after each nowcast that came by itself, for whoever watches from outside this host.

Two kinds: `products/heartbeat.json`, which is published with the products and says until when to expect the next, and a
request to `AUTONVIS_HEARTBEAT_URL`, a service that raises the alarm when none comes.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import datetime, timedelta

import httpx

from tasks.metrics.runs import count_error
from tasks.settings import Settings

log = logging.getLogger(__name__)

FILE = "heartbeat.json"
TIMEOUT_S = 5.0
MISSED_CYCLES = 2
"""Cycles that may fail before the file calls itself late."""


def beat(settings: Settings, now: datetime) -> None:
    """Gives both signs. One that fails costs no nowcast: it is logged and counted."""
    _write(settings, now)
    if settings.heartbeat_url is None:
        return
    try:
        httpx.get(settings.heartbeat_url.get_secret_value(), timeout=TIMEOUT_S).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The address is a secret: it alone lets one feign life.
        reason = (
            error.response.status_code if isinstance(error, httpx.HTTPStatusError) else type(error).__name__
        )
        log.error("the address of AUTONVIS_HEARTBEAT_URL does not take the sign of life (%s)", reason)
        count_error(settings, "heartbeat")


def _write(settings: Settings, now: datetime) -> None:
    path = settings.products_root / FILE
    expected = now + timedelta(minutes=(MISSED_CYCLES + 1) * settings.cycle_minutes)
    content = {"alive_at": now.isoformat(), "late_after": expected.isoformat()}
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content) + "\n")
        os.replace(partial, path)
    except OSError as error:
        log.error("the sign of life cannot be written: %s", error)
        count_error(settings, "heartbeat")
