"""Processes that outlive the command that started them: who they are, and how to stop exactly them."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import time

import psutil

START_TOLERANCE_S = 5.0
"""Start times of one process may be read a little apart when the clock is stepped; ids are not reused that fast."""

LISTENING_PORTS = range(20_000, 32_768)
"""Below what the kernel gives to outgoing connections, which could take the port of a service that is restarting."""


def started_s(pid: int) -> float:
    """Start of process `pid`, seconds since 1970: with the id it names a process for good.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"no process {pid}") from None


def is_running(pid: int, start_s: float) -> bool:
    """Whether the process that was started at `start_s` with id `pid` still runs."""
    return _find(pid, start_s) is not None


def stop_process(pid: int, start_s: float, *, grace_s: float = 20.0) -> bool:
    """Asks the process to end (SIGTERM), then kills it after `grace_s`; returns whether it was running.

    What it had started and left behind is killed too. A process of the same id with another start time is somebody
    else's and is left alone.
    """
    process = _find(pid, start_s)
    if process is None:
        return False
    try:
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return True
    _end(process, start_s, grace_s)
    kill_all(children)
    return True


def kill_all(processes: list[psutil.Process]) -> None:
    """Kills those that still run; psutil itself sees to it that an id used again is left alone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now, nor takes by chance before it is listened on.

    Raises:
        OSError: there is none.
    """
    for port in random.SystemRandom().sample(LISTENING_PORTS, 1000):
        if is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, "no port of the loopback address is free")


def is_free(port: int) -> bool:
    """Whether `port` of the loopback address can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _end(process: psutil.Process, start_s: float, grace_s: float) -> None:
    for end, wait_s in ((process.terminate, grace_s), (process.kill, 10.0)):
        try:
            end()
        except psutil.NoSuchProcess:
            return
        deadline_s = time.monotonic() + wait_s
        while time.monotonic() < deadline_s:
            if _find(process.pid, start_s) is None:
                return
            time.sleep(0.05)
    raise TimeoutError(f"process {process.pid} does not end, not even when killed")


def _find(pid: int, start_s: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - start_s) < START_TOLERANCE_S
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
