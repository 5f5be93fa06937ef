"""The real gateway in a process of its own, and stations that send to it until they are answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import httpx

from tests.faults.ledger import Ledger


class GatewayProcess:
    """The gateway in a process of its own, ready to answer."""

    def __init__(self, process: BaseProcess, port: int) -> None:
        self.process, self.port = process, port
        self.url = f"http://127.0.0.1:{port}"
        deadline_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                return
            except ConnectionRefusedError:
                assert process.is_alive()
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
    """Threads that post new items and send again what was not answered 202, as stations do."""

    def __init__(self, ledger: Ledger, url: str, timeout_s: float) -> None:
        self.answers: Counter[int | str] = Counter()
        self._ledger, self._url, self._timeout_s = ledger, url, timeout_s
        self.is_ending = threading.Event()

    def run(self, n_items: int) -> None:
        client = httpx.Client(timeout=self._timeout_s)
        items = self._ledger.items(n_items)
        while not self.is_ending.is_set():
            body = json.dumps({"dataset": "ionograms", "items": items} if n_items > 1 else items[0])
            path = "/batch" if n_items > 1 else "/ionogram"
            try:
                answer = client.post(self._url + path, content=body)
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
            else:
                self.is_ending.wait(0.02)
        client.close()

    def wait_for(self, answer: int | str, n: int, timeout_s: float = 60.0) -> None:
        """Returns when `n` more of this answer have come."""
        wanted, deadline_s = self.answers[answer] + n, time.monotonic() + timeout_s
        while self.answers[answer] < wanted:
            assert time.monotonic() < deadline_s, f"no {answer}: {self.answers}"
            time.sleep(0.01)


@contextmanager
def sending(ledger: Ledger, url: str, *, timeout_s: float = 20.0) -> Iterator[Stations]:
    """Three stations, of single observations and of batches, for as long as the block lasts."""
    stations = Stations(ledger, url, timeout_s)
    threads = [threading.Thread(target=stations.run, args=(n_items,)) for n_items in (1, 1, 25)]
    for thread in threads:
        thread.start()
    try:
        yield stations
    finally:
        stations.is_ending.set()
        for thread in threads:
            thread.join(60)
