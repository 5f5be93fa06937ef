"""The real gateway in a process of its own, and stations that send to it by HTTP and TCP until they are answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import httpx

from tests.faults.ledger import Ledger

PACE_S = 0.002
"""Pause of a station per observation: what is sent is landed too, and that takes longer."""


class Address(NamedTuple):
    """Where the landing zones listen."""

    host: str
    http_port: int
    tcp_port: int


class GatewayDiedError(RuntimeError):
    """The process ended before it answered."""


class GatewayProcess:
    """The gateway in a process of its own, ready to answer."""

    def __init__(self, process: BaseProcess, address: Address) -> None:
        self.process, self.address = process, address
        self.url = f"http://{address.host}:{address.http_port}"
        deadline_s = time.monotonic() + 60
        while True:
            try:
                for port in (address.tcp_port, address.http_port):
                    socket.create_connection((address.host, port), timeout=10).close()
                return
            except ConnectionRefusedError:
                if not process.is_alive():
                    raise GatewayDiedError(f"exit code {process.exitcode}") from None
                assert time.monotonic() < deadline_s
                time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.join(20)

    def stop(self) -> None:
        """In good order; what it has spooled is sealed."""
        self.process.terminate()
        self.process.join(30)
        assert self.process.exitcode == 0


class Stations:
    """Threads that send new items, and again what was not answered as stored, as stations do."""

    def __init__(self, ledger: Ledger, address: Address, timeout_s: float, enter: Callable[[], None]) -> None:
        self.answers: Counter[int | str] = Counter()
        """HTTP's status codes and, as `tcp 202`, what the lines of TCP say; names of errors."""
        self._ledger, self._address, self._timeout_s, self._enter = ledger, address, timeout_s, enter
        self.is_ending = threading.Event()

    def post(self, n_items: int) -> None:
        """HTTP, until the end."""
        self._enter()
        host, port, _ = self._address
        client = httpx.Client(timeout=self._timeout_s)
        items = self._ledger.items(n_items)
        while not self.is_ending.is_set():
            body = json.dumps({"dataset": "ionograms", "items": items} if n_items > 1 else items[0])
            path = "batch" if n_items > 1 else "ionogram"
            try:
                answer = client.post(f"http://{host}:{port}/{path}", content=body)
            except httpx.HTTPError as error:
                self.answers[type(error).__name__] += 1
                client.close()  # whatever has become of its connections
                client = httpx.Client(timeout=self._timeout_s)
                self.is_ending.wait(0.02)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code == 202:
                self._ledger.acknowledge(items)
                items = self._ledger.items(n_items)
                self.is_ending.wait(n_items * PACE_S)
            else:
                self.is_ending.wait(0.02)
        client.close()

    def write_lines(self, n_lines: int) -> None:
        """TCP, `n_lines` sent at once and then their answers awaited, until the end."""
        self._enter()
        host, _, port = self._address
        items = self._ledger.items(n_lines)
        while not self.is_ending.is_set():
            try:
                with (
                    socket.create_connection((host, port), self._timeout_s) as connection,
                    connection.makefile("rb") as answers,
                ):
                    connection.sendall(b'{"dataset": "ionograms"}\n')
                    opened = json.loads(answers.readline())
                    if "status" in opened:
                        self.answers[f"tcp {opened['status']}"] += 1
                        self.is_ending.wait(0.02)
                        continue
                    while not self.is_ending.is_set():
                        connection.sendall(b"".join(json.dumps(item).encode() + b"\n" for item in items))
                        items = [item for item in items if not self._is_stored(item, answers.readline())]
                        items += self._ledger.items(n_lines - len(items))
                        self.is_ending.wait(n_lines * PACE_S)
            except (OSError, EOFError, json.JSONDecodeError) as error:  # the end may come within an answer
                self.answers[f"tcp {type(error).__name__}"] += 1
                self.is_ending.wait(0.02)

    def _is_stored(self, item: dict[str, Any], line: bytes) -> bool:
        if not line:
            raise EOFError
        answer = json.loads(line)
        if "receipts" not in answer:
            self.answers[f"tcp {answer['status']}"] += 1
            return False
        (receipt,) = answer["receipts"]
        assert receipt["observation_id"] == item["observation_id"]
        self.answers["tcp 202"] += 1
        self._ledger.acknowledge([item])
        return True

    def wait_for(self, answer: int | str, n: int, timeout_s: float = 60.0) -> None:
        """Returns when `n` more of this answer have come."""
        wanted, deadline_s = self.answers[answer] + n, time.monotonic() + timeout_s
        while self.answers[answer] < wanted:
            assert time.monotonic() < deadline_s, f"no {answer}: {self.answers}"
            time.sleep(0.01)


@contextmanager
def sending(
    ledger: Ledger,
    address: Address,
    *,
    timeout_s: float = 20.0,
    enter: Callable[[], None] = lambda: None,
) -> Iterator[Stations]:
    """Stations of single observations, of batches and of lines, for as long as the block lasts.

    `enter` is called in each of their threads first.
    """
    stations = Stations(ledger, address, timeout_s, enter)
    threads = [threading.Thread(target=stations.post, args=(n_items,)) for n_items in (1, 25)]
    threads += [threading.Thread(target=stations.write_lines, args=(n_lines,)) for n_lines in (1, 10)]
    for thread in threads:
        thread.start()
    try:
        yield stations
    finally:
        stations.is_ending.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
