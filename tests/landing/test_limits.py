"""What the doors refuse: slow clients, too many of them, too much at once, and others' names."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services import http_limits
from tasks import catalog
from tasks.landing import door
from tasks.landing.door import Door, Problem
from tasks.landing.group_commit import GroupCommit
from tasks.landing.receipts import Sent
from tasks.settings import Settings
from tests.landing.door_server import IONOGRAM, Lines, Server


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(**settings: Any) -> Server:
        servers.append(Server(tmp_path, **settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


def connect(server: Server) -> socket.socket:
    url = httpx.URL(server.url)
    return socket.create_connection((url.host, url.port or 0), 20)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while chunk := connection.recv(65536):
        answer += chunk
    return answer


def read_until(connection: socket.socket, end: bytes) -> bytes:
    answer = b""
    while not answer.endswith(end):
        answer += connection.recv(1)
    return answer


@pytest.mark.parametrize("begun", [b"", b"POST /ionogram HTTP/1.1\r\nHost"])
def test_headers_that_do_not_arrive_are_cut(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_TIMEOUT_S", 0.4)
    server = start()
    with connect(server) as slow:
        begin_s = time.monotonic()
        slow.sendall(begun)
        for _ in range(3 if begun else 0):  # dripping does not help
            time.sleep(0.05)
            slow.sendall(b"x")
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begin_s < 5


def test_headers_of_a_later_request_are_cut_too(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_TIMEOUT_S", 0.3)
    server = start()
    with connect(server) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_until(slow, b'"ok"}').startswith(b"HTTP/1.1 200 ")
        time.sleep(0.5)  # being silent between requests is what keep-alive is for
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_until(slow, b'"ok"}').startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"GET")
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


def test_a_body_dripping_on_after_its_refusal_is_cut(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "HEADER_TIMEOUT_S", 0.3)
    server = start()
    with connect(server) as slow:
        slow.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n{")
        with pytest.raises(ConnectionError):  # noqa: PT012 - the cut shows at a later send
            for _ in range(200):
                time.sleep(0.02)
                slow.sendall(b" ")


def test_an_answer_that_is_not_read_is_given_up(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_limits, "ANSWER_TIMEOUT_S", 0.3)
    server = start()
    body = json.dumps({"items": [7] * 9000}).encode()
    request = b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with connect(server) as greedy:
        greedy.settimeout(20)
        with pytest.raises(ConnectionError):  # noqa: PT012 - it takes several answers to fill the buffers
            for _ in range(5000):
                greedy.sendall(request)
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_connections_are_counted(start: Callable[..., Server]) -> None:
    server = start(max_connections=3)
    held = [connect(server) for _ in range(3)]
    time.sleep(0.2)
    with connect(server) as fourth:
        answer = read_all(fourth)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in answer
    held.pop().close()
    time.sleep(0.2)
    assert httpx.get(f"{server.url}/health").status_code == 200
    senders = [Lines(server) for _ in range(4)]
    assert senders[-1].answer()["retry_after_s"] == 5
    assert senders[-1].is_closed()
    senders[0].send(IONOGRAM)
    assert senders[0].statuses(1) == [["accepted"]]
    for open_one in (*held, *senders):
        open_one.close()


def test_a_registered_sounder_needs_its_credential(start: Callable[..., Server]) -> None:
    server = start()
    post = f"{server.url}/ionogram"
    assert httpx.post(post, json=IONOGRAM).status_code == 202
    credential = httpx.post(f"{server.url}/register", json={"sounder_id": "TST01"}).json()["credential"]
    refused = httpx.post(post, json=[{**IONOGRAM, "sounder_id": "OPEN1"}, IONOGRAM])
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="autonvis"')
    assert httpx.post(post, json={**IONOGRAM, "sounder_id": "OPEN1"}).status_code == 202
    assert (
        httpx.post(post, json=IONOGRAM, headers={"authorization": f"Bearer {credential}"}).status_code == 202
    )
    lines = Lines(server)
    lines.send(IONOGRAM, {"credential": credential}, IONOGRAM)
    assert lines.statuses(1) == [401]
    assert lines.answer() == {"sounder_id": "TST01", "dataset": None}
    assert lines.statuses(1) == [["duplicate"]]
    lines.close()
    assert sorted((record.sounder_id or "", record.channel) for record in server.landed()) == [
        ("", "http"), ("", "http"), ("TST01", "http"), ("TST01", "tcp"),
    ]  # fmt: skip


def test_a_registration_elsewhere_is_noticed(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "REGISTERED_CACHE_S", 0.1)
    server = start()
    assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM).status_code == 202
    engine = catalog.open_catalog(server.settings)
    catalog.register_sounder(engine, "TST01", kind="ionosonde", now=datetime.now(UTC))
    time.sleep(0.2)
    assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM).status_code == 401


def test_unregistered_sounders_may_be_shut_out(start: Callable[..., Server]) -> None:
    server = start(accept_unregistered=False)
    refused = httpx.post(f"{server.url}/ionogram", json=IONOGRAM)
    assert refused.status_code == 403
    assert "register" in refused.json()["detail"]
    assert server.landed() == []


def test_a_sounder_that_sends_too_much_waits(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "BURST_S", 4.0)
    server = start(sounder_items_per_s=5.0)  # 20 items at once
    post = f"{server.url}/ionogram"
    assert httpx.post(post, json=[IONOGRAM] * 20).status_code == 202
    refused = httpx.post(post, json=[{**IONOGRAM, "sounder_id": "OTHER"}, *[IONOGRAM] * 5])
    assert refused.status_code == 429
    wait_s = int(refused.headers["retry-after"])
    assert wait_s == 1
    lines = Lines(server)
    lines.send([IONOGRAM] * 20, {**IONOGRAM, "sounder_id": "OTHER"})
    assert lines.statuses(2) == [429, ["accepted"]]
    lines.close()
    time.sleep(wait_s)
    assert httpx.post(post, json=[IONOGRAM] * 5).status_code == 202


def test_more_than_a_full_bucket_passes_and_is_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "BURST_S", 2.0)
    commit = GroupCommit(tmp_path)
    one = Door(Settings(home=tmp_path, sounder_items_per_s=10.0), commit)
    one.admit([Sent("ionograms", IONOGRAM)] * 100, None)
    with pytest.raises(Problem) as refused:
        one.admit([Sent("ionograms", IONOGRAM)], None)
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) == 9  # (100 - 20 + 1) / 10


def test_a_disk_nearly_full_refuses_before_it_is(start: Callable[..., Server]) -> None:
    server = start(min_free_disk_mb=10**9)
    refused = httpx.post(f"{server.url}/ionogram", json=IONOGRAM)
    assert (refused.status_code, int(refused.headers["retry-after"])) == (503, 30)
    assert httpx.get(f"{server.url}/health").status_code == 503
    lines = Lines(server)
    lines.send(IONOGRAM)
    answer = lines.answer()
    assert (answer["status"], answer["retry_after_s"]) == (503, 30)
    lines.close()
    assert server.landed() == []


def test_memory_is_bounded(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HELD_BYTES", 50_000)
    server = start()
    post = f"{server.url}/ionogram"
    big = json.dumps({**IONOGRAM, "padding": "x" * 60_000})
    refused = httpx.post(post, content=big)
    assert (refused.status_code, int(refused.headers["retry-after"])) == (503, 1)
    for _ in range(5):  # what is answered is no longer held
        assert httpx.post(post, content=big[:-30_000] + '"}').status_code == 202
    lines = Lines(server)
    lines.socket.sendall(b"x" * 100_000)
    assert lines.statuses(1) == [503]
    lines.close()
    other = Lines(server)
    for _ in range(5):
        other.send({**IONOGRAM, "padding": "x" * 30_000})
        assert other.statuses(1) == [["duplicate"]]
    other.close()


def test_the_clock_offset_is_by_the_nearest_claim_of_a_time_of_sending(start: Callable[..., Server]) -> None:
    server = start()
    now = datetime.now(UTC)

    def ago(seconds: int) -> str:
        return (now - timedelta(seconds=seconds)).isoformat()

    date = format_datetime(now - timedelta(seconds=60), usegmt=True)
    own = {**IONOGRAM, "sent_at": ago(300)}
    cases: list[tuple[object, dict[str, str], list[int | None]]] = [
        ([IONOGRAM, own], {"date": date}, [60, 300]),
        ({"sent_at": ago(900), "items": [IONOGRAM, own]}, {"date": date}, [900, 300]),
        (IONOGRAM, {"date": "yesterday"}, [None]),
        (IONOGRAM, {}, [None]),  # when it observed says nothing of its clock now
        ({**IONOGRAM, "sent_at": ago(-120)}, {}, [-120]),
        ({**IONOGRAM, "sent_at": "yesterday"}, {}, [None]),
    ]
    lines = Lines(server)
    for body, headers, expected in cases:
        answers = [httpx.post(f"{server.url}/ionogram", json=body, headers=headers).json()["receipts"]]
        if "date" not in headers:
            lines.send({**body, "dataset": "ionograms"} if isinstance(body, dict) else body)
            answers.append(lines.answer()["receipts"])
        for receipts in answers:
            offsets = [receipt["clock_offset_s"] for receipt in receipts]
            for receipt, offset, wanted in zip(receipts, offsets, expected, strict=True):
                assert (offset is None) == (wanted is None)
                assert wanted is None or wanted - 1 < offset < wanted + 60
                assert any("clock: " in text for text in receipt["warnings"]) == (wanted is not None)
    lines.send({"sent_at": ago(900), "dataset": "ionograms", "items": [IONOGRAM, own]})
    assert [receipt["clock_offset_s"] // 100 for receipt in lines.answer()["receipts"]] == [9, 3]
    lines.send({**IONOGRAM, "sent_at": "yesterday"})
    assert lines.answer()["receipts"][0]["warnings"][0].startswith('sent_at_format: "yesterday"')
    lines.close()
    record = server.landed()[0]
    assert json.loads(record.payload)[1]["sent_at"] == own["sent_at"]
