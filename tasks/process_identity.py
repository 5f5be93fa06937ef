"""Which process is which: an id alone is used again, an id and a start time name one for good."""

from __future__ import annotations

import psutil

START_TOLERANCE_S = 5.0
"""Start times of one process may be read a little apart when the clock is stepped; ids are not reused that fast."""


def started_s(pid: int) -> float:
    """Start of process `pid`, seconds since 1970: with the id it names a process for good.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"no process {pid}") from None


def find_process(pid: int, start_s: float) -> psutil.Process | None:
    """The process that was started at `start_s` with id `pid`; None when it has ended."""
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - start_s) < START_TOLERANCE_S
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def is_running(pid: int, start_s: float) -> bool:
    """Whether the process that was started at `start_s` with id `pid` still runs."""
    return find_process(pid, start_s) is not None
