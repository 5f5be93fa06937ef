"""Connections by the thousand that say nothing, or say it a byte at a time: they are cut, and nobody waits for them."""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending

SLOW_REQUEST = b"POST /ionogram HTTP/1.1\r\nHost: slow\r\nX-Slow: "
SLOW_LINE = b'{"sounder_id": "'


@contextmanager
def descriptors(n_wanted: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(n_wanted, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def outlast(connections: list[socket.socket], timeout_s: float) -> int:
    """Keeps every second one dripping until the server has ended all; returns how many it has not."""
    deadline_s = time.monotonic() + timeout_s
    poll = select.poll()
    living = {connection.fileno(): connection for connection in connections}
    for number in living:
        poll.register(number, select.POLLIN)
    while living and time.monotonic() < deadline_s:
        for number, _ in poll.poll(200):
            try:
                is_open = bool(living[number].recv(65_536))  # an answer 408, then the end
            except ConnectionError:
                is_open = False
            if not is_open:
                poll.unregister(number)
                del living[number]
        for connection in list(living.values())[::2]:
            try:
                connection.send(b"x")
            except OSError:
                continue
    return len(living)


def test_idle_and_dripping_connections_are_cut_and_nobody_waits(
    trial: Trial, start_gateway: Callable[..., GatewayProcess]
) -> None:
    n_connections = len(trial.runs(1_000, 10_000))
    gateway = start_gateway(fault="impatience", max_connections=n_connections)
    host, http_port, tcp_port = gateway.address
    beginnings = ((http_port, b""), (http_port, SLOW_REQUEST), (tcp_port, b""), (tcp_port, SLOW_LINE))
    connections: list[socket.socket] = []
    with descriptors(n_connections + 500), sending(trial.ledger, gateway.address) as stations:
        stations.wait_for(202, 1)
        stations.wait_for("tcp 202", 1)
        try:
            for _ in range(0, n_connections, len(beginnings)):
                for port, beginning in beginnings:
                    connections.append(socket.create_connection((host, port), timeout=60))
                    connections[-1].setblocking(False)
                    connections[-1].send(beginning)
            stations.wait_for(202, 10, 120)
            stations.wait_for("tcp 202", 10, 120)
            assert outlast(connections, 120) == 0
        finally:
            for connection in connections:
                connection.close()
        stations.wait_for(202, 10, 120)
    assert set(stations.answers) <= {202, 503, "tcp 202", "tcp 503"}
    gateway.stop()
    trial.conclude("idle and dripping, HTTP and TCP", n_connections)
