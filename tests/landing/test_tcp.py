"""JSON lines over TCP against a real server: one line back per line, in order, and only when it is on disk."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services import tcp
from services.tcp import LINE_BYTES
from tasks import catalog
from tasks.landing import spool
from tasks.landing.spool import collect, read_segment
from tests.landing.door_server import IONOGRAM, MEASUREMENT, Lines, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def lines(server: Server) -> Iterator[Lines]:
    sender = Lines(server)
    yield sender
    sender.close()


def test_every_line_has_its_answer_in_order_and_lands_as_sent(server: Server, lines: Lines) -> None:
    spaced = json.dumps(IONOGRAM, separators=(" , ", " : ")).encode()
    lines.send(
        spaced, MEASUREMENT, b"", b"{not json", {**IONOGRAM, "fof2_mhz": 99}, [IONOGRAM, MEASUREMENT], []
    )
    assert lines.statuses(6) == [
        ["accepted"],
        ["accepted"],
        400,
        ["rejected"],
        ["duplicate", "duplicate"],
        400,
    ]
    records = server.landed()
    assert [(record.dataset, record.payload) for record in records[:2]] == [
        ("ionograms", spaced),
        ("measurements", json.dumps(MEASUREMENT).encode()),
    ]
    assert [record.dataset for record in records[2:]] == ["ionograms", "ionograms", "measurements"]
    assert {(record.channel, record.source, record.sounder_id) for record in records} == {
        ("tcp", "tcp", None)
    }


def test_receipts_are_those_of_http(server: Server, lines: Lines) -> None:
    items: list[Any] = [IONOGRAM, {**MEASUREMENT, "snr_db": 1e9}, {**IONOGRAM, "fof2_mhz": float("nan")}, 7]
    lines.send(*items)
    over_tcp = [lines.answer()["receipts"][0] for _ in items]
    over_http = httpx.post(f"{server.url}/batch", content=json.dumps({"items": items})).json()["receipts"]
    assert [receipt["status"] for receipt in over_tcp] == ["accepted", "rejected", "rejected", "rejected"]
    assert over_http[0]["status"] == "duplicate"
    over_tcp[0]["status"] = "duplicate"
    for receipt in (*over_tcp, *over_http):
        del receipt["server_time"]
    assert over_tcp == over_http


def test_an_opening_line_authenticates_and_names_the_dataset(server: Server, lines: Lines) -> None:
    engine = catalog.open_catalog(server.settings)
    credential = catalog.register_sounder(engine, "TST01", kind="ionosonde", now=datetime.now(UTC))
    unnamed = {name: value for name, value in IONOGRAM.items() if name not in ("dataset", "sounder_id")}
    lines.send(
        {**IONOGRAM, "sounder_id": "OPEN1"},
        {"credential": credential, "dataset": "ionograms"},
        unnamed,
        {**IONOGRAM, "sounder_id": "X"},
    )
    lines.send({"dataset": "weather"})
    assert lines.statuses(1) == [["accepted"]]
    assert lines.answer() == {"sounder_id": "TST01", "dataset": "ionograms"}
    assert lines.statuses(3) == [["accepted"], ["rejected"], 400]
    assert [record.sounder_id for record in server.landed()] == [None, "TST01", "TST01"]


def test_a_wrong_credential_ends_the_connection(server: Server, lines: Lines) -> None:
    lines.send(IONOGRAM, {"credential": "wrong"}, IONOGRAM)
    assert lines.statuses(2) == [["accepted"], 401]
    assert lines.is_closed()
    assert len(server.landed()) == 1


def test_a_line_without_end_is_not_stored(server: Server, lines: Lines) -> None:
    lines.socket.sendall(json.dumps(IONOGRAM).encode())
    lines.socket.shutdown(socket.SHUT_WR)
    assert lines.answer()["status"] == 400
    assert lines.is_closed()
    assert server.landed() == []


def test_a_line_too_long_ends_the_connection(server: Server, lines: Lines) -> None:
    lines.send({**IONOGRAM, "padding": "x" * (LINE_BYTES - 1000)})
    assert lines.statuses(1) == [["accepted_with_warnings"]]
    lines.socket.sendall(b"x" * (LINE_BYTES + 1))
    assert lines.statuses(1) == [413]
    assert lines.is_closed()
    assert len(server.landed()) == 1


@pytest.mark.parametrize(("limit", "begun"), [("IDLE_TIMEOUT_S", b""), ("LINE_TIMEOUT_S", b'{"a"')])
def test_who_says_nothing_and_who_does_not_end_a_line_is_cut(
    server: Server, lines: Lines, monkeypatch: pytest.MonkeyPatch, limit: str, begun: bytes
) -> None:
    monkeypatch.setattr(tcp, limit, 0.3)
    lines.send(IONOGRAM)
    assert lines.statuses(1) == [["accepted"]]
    lines.socket.sendall(begun)
    begin_s = time.monotonic()
    for _ in range(3 if begun else 0):  # dripping does not help
        time.sleep(0.05)
        lines.socket.sendall(b" ")
    assert lines.statuses(1) == [408]
    assert lines.is_closed()
    assert time.monotonic() - begin_s < 5


def test_who_does_not_read_is_cut(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "LINE_TIMEOUT_S", 0.3)
    sender = Lines(server)
    sender.socket.settimeout(20)
    with pytest.raises(ConnectionError):  # noqa: PT012 - it takes many sends to fill the buffers
        for _ in range(10_000):
            sender.send(*[b"?"] * 5000)
    sender.close()
    other = Lines(server)
    other.send(IONOGRAM)
    assert other.statuses(1) == [["accepted"]]
    other.close()


def test_a_failing_sync_refuses_the_lines_and_keeps_the_connection(
    server: Server, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "fdatasync", fail)
        lines.send(IONOGRAM, b"?", IONOGRAM)
        assert lines.statuses(3) == [503, 400, 503]
    lines.send({**IONOGRAM, "fof2_mhz": 6})
    assert lines.statuses(1) == [["accepted"]]
    assert [json.loads(record.payload)["fof2_mhz"] for record in server.landed()] == [6]


def test_stopping_under_load_keeps_every_acknowledged_line(server: Server, tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    sent: set[str] = set()

    def send(thread: int) -> None:
        sender = Lines(server)
        try:
            for round_ in range(10_000):
                names = [f"{thread}-{round_}-{number}" for number in range(20)]
                sent.update(names)
                sender.send(*({**IONOGRAM, "observation_id": name} for name in names))
                for _ in names:
                    (receipt,) = sender.answer()["receipts"]
                    acknowledged.add(receipt["observation_id"])
        except (ConnectionError, AssertionError):
            pass
        finally:
            sender.close()

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(send, thread) for thread in range(4)]
        while len(acknowledged) < 500:
            time.sleep(0.01)
        server.stop()
        for future in futures:
            future.result(20)
    stored = [
        json.loads(record.payload)["observation_id"]
        for batch in collect(tmp_path / "spool", tmp_path / "lake")
        for record in read_segment(batch)
    ]
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored) <= sent


def test_thousands_of_connections(server: Server) -> None:
    n_connections = 2000

    async def converse() -> int:
        pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(n_connections)]
        line = json.dumps(IONOGRAM).encode() + b"\n"
        for number, (_, writer) in enumerate(pairs):
            writer.write(line.replace(b"TST01", b"S%d" % number))
        answers = [json.loads(await reader.readline()) for reader, _ in pairs]
        for _, writer in pairs:
            writer.close()
        return sum(answer["receipts"][0]["status"] == "accepted" for answer in answers)

    assert asyncio.run(asyncio.wait_for(converse(), 60)) == n_connections
    assert len(server.landed()) == n_connections
