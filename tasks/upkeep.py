"""What works on a whole root takes turns: a backup reads it while nothing is compacted or expired, one at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.settings import Settings


class Busy(RuntimeError):  # noqa: N818 - a state of the root
    """Another upkeep of the same root runs; the message says which."""


@contextmanager
def turn(settings: Settings, who: str, *, wait_s: float = 60.0) -> Iterator[None]:
    """Holds the root's upkeep for `who`; it goes with the process that holds it, however that ends.

    Raises:
        Busy: another holds it still after `wait_s`.
    """
    path = settings.home / "run" / "upkeep.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline_s = time.monotonic() + wait_s
        while not _take(descriptor):
            if time.monotonic() > deadline_s:
                raise Busy(f"{_holder(path)} of {settings.home} is running: wait for its end, then run again")
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{who} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    return path.read_text() or "another upkeep"
