"""Processes that outlive the command that started them: who they are, and how to stop exactly them."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import time

import psutil

from tasks.process_identity import find_process

LISTENING_PORTS = range(20_000, 32_768)
"""Below what the kernel gives to outgoing connections, which could take the port of a service that is restarting."""


def stop_process(pid: int, start_s: float, *, grace_s: float = 20.0) -> bool:
    """Asks the process to end (SIGTERM), then kills it after `grace_s`; returns whether it was running.

    What it had started and left behind is killed too. A process of the same id with another start time is somebody
    else's and is left alone.
    """
    process = find_process(pid, start_s)
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


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether `port` of an address of this host can be listened on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
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
            if find_process(process.pid, start_s) is None:
                return
            time.sleep(0.05)
    raise TimeoutError(f"process {process.pid} does not end, not even when killed")
