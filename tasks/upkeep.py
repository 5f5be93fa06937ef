"""What works on a whole root takes turns: backups read it while nothing is compacted, and of each kind of backup one is made at a time.

An increment does not wait for a full backup, which may take longer than a disaster may cost.
"""

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
def turn(
    settings: Settings, who: str, *, of: str = "upkeep", is_shared: bool = False, wait_s: float = 60.0
) -> Iterator[None]:
    """Holds the root's upkeep for `who`; it goes with the process that holds it, however that ends.

    Args:
        of: what is taken turns at.
        is_shared: with others who share it.

    Raises:
        Busy: another holds it still after `wait_s`.
    """
    path = settings.home / "run" / f"{of}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline_s = time.monotonic() + wait_s
        while not _take(descriptor, is_shared=is_shared):
            if time.monotonic() > deadline_s:
                raise Busy(f"{_holder(path)} of {settings.home} is running: wait for its end, then run again")
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{who} (process {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, *, is_shared: bool) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(path: Path) -> str:
    return path.read_text() or "another upkeep"
