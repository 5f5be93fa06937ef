"""What runs in the processes that faults fall on: the product's own functions, some with a fault built in."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services import gateway, http_limits, tcp
from services.http_server import allow_connections
from tasks.landing.mqtt import BrokerUnavailable, drain
from tasks.landing.spool import make_durable_directory
from tasks.settings import Settings
from tests.faults.ledger import land_everything


def land_for_ever(home: Path) -> None:
    while True:
        land_everything(Settings(home=home))


def land_once(home: Path) -> None:
    land_everything(Settings(home=home))


def drain_for_ever(settings: Settings) -> None:
    while True:
        try:
            drain(settings, idle_s=0.5)
        except BrokerUnavailable:  # it is the one that was killed
            time.sleep(0.1)


def serve(settings: Settings, fault: str | None, seed: float) -> None:
    """The gateway."""
    # One whose disk fails as it starts does not start; here it is to run.
    make_durable_directory(settings.spool_root / "http")
    if fault is not None:
        FAULTS[fault](random.Random(seed))
    allow_connections(settings.max_connections)
    gateway.serve(settings, lambda *_: None)


def land_with_failing_syncs(home: Path, seed: float) -> None:
    fail_syncs(random.Random(seed))
    land_everything(Settings(home=home))


def fail_syncs(chance: random.Random) -> None:
    """One fsync in ten fails, and half of those take the file's unsynced end with them, as dropped pages do."""
    synced: dict[int, int] = {}

    def failing(sync: Any) -> Any:
        def call(fd: int) -> None:
            status = os.fstat(fd)
            if chance.random() >= 0.1:
                sync(fd)
                synced[status.st_ino] = status.st_size
                return
            begin = synced.get(status.st_ino, 0)
            if chance.random() < 0.5 and os.path.isfile(f"/proc/self/fd/{fd}"):
                with contextlib.suppress(OSError):  # opened to read
                    os.pwrite(fd, bytes(max(0, status.st_size - begin)), begin)
            raise OSError(errno.EIO, "Input/output error")

        return call

    os.fsync, os.fdatasync = failing(os.fsync), failing(os.fdatasync)


def step_clock(chance: random.Random) -> None:
    """The clock the gateway reads jumps by up to a month, back and forth; at times it stands in the year 2000."""

    class SteppedClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            if chance.random() < 0.2:
                return datetime(2000, 1, 1, tzinfo=UTC)
            return datetime.now(tz) + timedelta(seconds=chance.uniform(-2.6e6, 2.6e6))

    gateway.datetime = SteppedClock  # type: ignore[misc]


def lose_patience(_: random.Random) -> None:
    """Slow headers and lines are cut after three seconds, so that a test need not wait for the real limits."""
    http_limits.HEADER_TIMEOUT_S = tcp.LINE_TIMEOUT_S = tcp.IDLE_TIMEOUT_S = 3.0


FAULTS = {"fsync": fail_syncs, "clock": step_clock, "impatience": lose_patience}
