"""The gateway within the test's process, and a sender of lines: what the tests of the doors share."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from services.gateway import http_config
from tasks.landing.spool import Record, read_segment, sealed_segments
from tasks.settings import Settings

IONOGRAM = {
    "dataset": "ionograms", "sounder_id": "TST01", "observed_at": "2026-01-02T11:00:00Z", "latitude_deg": 50.0,
    "longitude_deg": 8.0, "fof2_mhz": 5.5,
}  # fmt: skip
MEASUREMENT = {
    "dataset": "measurements", "sounder_id": "TST01", "observed_at": "2026-01-02T11:00:00Z", "tx_latitude_deg": 50.0,
    "tx_longitude_deg": 10.0, "rx_latitude_deg": 50.5, "rx_longitude_deg": 10.0, "frequency_mhz": 5.123,
    "snr_db": 12.5,
}  # fmt: skip


class Server:
    """The gateway in a thread of this process, so that its surroundings can be made to fail."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.settings = Settings(home=home, **settings)
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port = listener.getsockname()[1]
        config = http_config(self.settings, listener)
        config.port = 0
        self.routes = config.app.routes  # type: ignore[union-attr]
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def landed(self) -> list[Record]:
        self.stop()
        paths = sealed_segments(self.home / "spool" / "http")
        return [record for path in paths for record in read_segment(path)]


class Lines:
    """A sender of lines."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), 20)
        self.file = self.socket.makefile("rb")

    def send(self, *lines: object) -> None:
        self.socket.sendall(
            b"".join(
                (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
            )
        )

    def answer(self) -> dict[str, Any]:
        line = self.file.readline()
        assert line.endswith(b"\n"), "the connection was closed without an answer"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def statuses(self, n_lines: int) -> list[object]:
        answers = [self.answer() for _ in range(n_lines)]
        return [
            [receipt["status"] for receipt in answer["receipts"]]
            if "receipts" in answer
            else answer["status"]
            for answer in answers
        ]

    def is_closed(self) -> bool:
        return self.file.readline() == b""

    def close(self) -> None:
        self.file.close()
        self.socket.close()
