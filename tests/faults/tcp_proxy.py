"""A network in front of a port of the loopback address that can be cut, or go silent without a word (half-open)."""

from __future__ import annotations

import random
import select
import socket
import threading
from types import TracebackType


class BadNetwork:
    """Forwards TCP to `port`; the first `n_bad` connections end after some bytes by a cut or by silence."""

    def __init__(
        self,
        port: int,
        chance: random.Random,
        *,
        mean_bytes: int = 1,
        n_bad: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self._target, self._chance, self._mean_bytes = port, chance, mean_bytes
        self.n_left = n_bad
        """Connections still to fail; after them the network is good."""
        self._is_closing = threading.Event()
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve)]

    def __enter__(self) -> BadNetwork:
        self._threads[0].start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._is_closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)

    def _serve(self) -> None:
        while not self._is_closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            limit = None
            if self.n_left:
                self.n_left -= 1
                limit = int(self._chance.expovariate(1 / self._mean_bytes)) + 1
            thread = threading.Thread(target=self._forward, args=(client, limit, self._chance.random() < 0.3))
            self._threads.append(thread)
            thread.start()

    def _forward(self, client: socket.socket, limit: int | None, falls_silent: bool) -> None:
        n_bytes = 0
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            while not self._is_closing.is_set():
                for source in select.select([client, server], [], [], 0.2)[0]:
                    try:
                        data = source.recv(4096 if limit is None else max(1, min(4096, limit - n_bytes)))
                        (client if source is server else server).sendall(data)
                    except OSError:
                        return
                    if not data:
                        return
                    n_bytes += len(data)
                if limit is not None and n_bytes >= limit:
                    if falls_silent:
                        self._is_closing.wait(30)
                    return
