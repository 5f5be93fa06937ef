"""The HTTP gateway as a real process on a free port: an answer 202 means on disk, anything else means not stored."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from services import gateway, requests
from services.gateway import create_app
from services.requests import BODY_BYTES
from tasks import catalog
from tasks.landing import spool
from tasks.landing.door import BATCH_ITEMS
from tasks.landing.group_commit import GroupCommit, Overloaded
from tasks.landing.spool import Record, collect, read_segment, recover, sealed_segments
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
IONOGRAM = {
    "sounder_id": "TST01", "observed_at": "2026-01-02T11:00:00Z", "latitude_deg": 50.0, "longitude_deg": 8.0,
    "fof2_mhz": 5.5,
}  # fmt: skip
MEASUREMENT = {
    "sounder_id": "TST01", "observed_at": "2026-01-02T11:00:00Z", "tx_latitude_deg": 50.0, "tx_longitude_deg": 10.0,
    "rx_latitude_deg": 50.5, "rx_longitude_deg": 10.0, "frequency_mhz": 5.123,
    "snr_db": 12.5,
}  # fmt: skip


def landed(home: Path) -> list[Record]:
    return [record for path in sealed_segments(home / "spool" / "http") for record in read_segment(path)]


def wait_for_landed(home: Path, n_records: int) -> list[Record]:
    deadline_s = time.monotonic() + 15
    while len(records := landed(home)) < n_records:
        assert time.monotonic() < deadline_s, f"{len(records)} of {n_records} records are in sealed segments"
        time.sleep(0.05)
    return records


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a gateway that runs in a thread of this process, so that its surroundings can be made to fail."""
    server = uvicorn.Server(uvicorn.Config(create_app(Settings(home=tmp_path)), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        yield http
    server.should_exit = True
    thread.join(20)


class Gateway:
    """A gateway process."""

    def __init__(self, home: Path, *, file_bytes: int | None = None) -> None:
        def limit() -> None:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        self.log = home / "gateway.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway", "--port", "0", "--tcp-port", "0"],
                cwd=ROOT, env={**os.environ, "AUTONVIS_HOME": str(home)}, stderr=output, preexec_fn=limit,
            )  # fmt: skip
        deadline_s = time.monotonic() + 30
        while "url=" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.05)
        self.url = self.log.read_text().split("url=")[1].split()[0]

    def end(self, number: int) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    started: list[Gateway] = []

    def start(**options: Any) -> Gateway:
        started.append(Gateway(tmp_path, **options))
        return started[-1]

    yield start
    for one in started:
        one.end(signal.SIGKILL)


def test_single_observations_land_as_sent(client: httpx.Client, tmp_path: Path) -> None:
    bodies = []
    for path, item in (("/ionogram", IONOGRAM), ("/measurement", MEASUREMENT)):
        body = json.dumps(item, indent=3).encode()
        bodies.append(body)
        answer = client.post(path, content=body)
        assert answer.status_code == 202
        (receipt,) = answer.json()["receipts"]
        assert receipt["status"] == "accepted"
        assert len(receipt["observation_id"]) == 32
        assert receipt["server_time"].endswith("Z")
    records = wait_for_landed(tmp_path, 2)
    assert [(record.dataset, record.payload) for record in records] == [
        ("ionograms", bodies[0]),
        ("measurements", bodies[1]),
    ]
    assert {(record.channel, record.source, record.sounder_id) for record in records} == {
        ("http", "http", None)
    }


def test_rejected_items_land_too(client: httpx.Client, tmp_path: Path) -> None:
    body = json.dumps(
        {"dataset": "ionograms", "source": "file", "items": [IONOGRAM, {**IONOGRAM, "fof2_mhz": 99}]}
    )
    receipts = client.post("/batch", content=body).json()["receipts"]
    assert [receipt["status"] for receipt in receipts] == ["accepted", "rejected"]
    assert "fof2_mhz_range: 99" in receipts[1]["reasons"][0]
    (record,) = wait_for_landed(tmp_path, 1)
    assert (record.payload, record.dataset, record.source) == (body.encode(), "ionograms", "file")


def test_a_mixed_batch_keeps_each_items_bytes(client: httpx.Client, tmp_path: Path) -> None:
    first = '{ "dataset":"ionograms", "fof2_mhz": 5.50e0 }'
    second = '{"dataset" : "measurements", "snr_db": NaN}'
    body = f'{{"items": [{first}, {second}, 7 ,{first}]}}'
    receipts = client.post("/batch", content=body).json()["receipts"]
    assert [receipt["status"] for receipt in receipts] == ["rejected"] * 4
    records = wait_for_landed(tmp_path, 3)
    assert {(record.dataset, record.payload.decode()) for record in records} == {
        ("ionograms", f"[{first},{first}]"),
        ("measurements", f"[{second}]"),
        (None, "[7]"),
    }


def test_nan_is_refused_with_a_receipt_and_not_with_an_error(client: httpx.Client) -> None:
    answer = client.post("/ionogram", content=json.dumps([IONOGRAM, {**IONOGRAM, "fof2_mhz": float("nan")}]))
    assert answer.status_code == 202
    assert [receipt["status"] for receipt in answer.json()["receipts"]] == ["accepted", "rejected"]


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/ionogram", b"", 400, "Expecting value"),
        ("/ionogram", b"{not json", 400, "Expecting property name"),
        ("/ionogram", b'"\xff"', 400, "byte 1 (0xff) is not UTF-8"),
        ("/ionogram", b"[" * 200_000, 400, "nested too deeply"),
        ("/ionogram", b"[]", 400, "no item"),
        ("/batch", b"[]", 400, "items"),
        ("/batch", b'{"dataset": "weather", "items": [1]}', 400, "'weather'"),
        ("/batch", b'{"source": "giro", "dataset": "ionograms", "items": [1]}', 400, "'giro'"),
        (
            "/batch",
            b'{"dataset": "ionograms", "items": [' + b"1," * BATCH_ITEMS + b"1]}",
            413,
            "at most 10000",
        ),
        ("/ionogram", b" " * (BODY_BYTES + 1), 413, "bytes"),
        ("/nowhere", b"{}", 404, "POST /nowhere"),
        ("/health", b"{}", 405, "POST /health"),
        ("/register", b'{"name": "X"}', 400, "sounder_id"),
        ("/register", b'{"sounder_id": "../x"}', 400, "sounder_id must be"),
        (
            "/register",
            b'{"sounder_id": "X", "latitude_deg": 99}',
            400,
            "latitude_deg must be between -90 and 90",
        ),
    ],
)
def test_errors_are_problems_and_store_nothing(
    client: httpx.Client, tmp_path: Path, path: str, body: bytes, status: int, detail: str
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert detail in answer.json()["detail"]
    assert not list((tmp_path / "spool" / "http").glob("*"))


def test_a_body_without_length_is_bounded_too(client: httpx.Client) -> None:
    assert client.post("/ionogram", content=iter([b" " * 2**20] * 9)).status_code == 413
    assert client.post("/ionogram", content=b"{}", headers={"content-encoding": "br"}).status_code == 415


def test_registration_and_credentials(client: httpx.Client, tmp_path: Path) -> None:
    metadata = {
        "sounder_id": "TST01",
        "name": "Test",
        "latitude_deg": 50.0,
        "longitude_deg": 350.0,
        "antenna": "delta",
    }
    answer = client.post("/register", json=metadata)
    assert answer.status_code == 201
    credential = answer.json()["credential"]
    engine = catalog.open_catalog(Settings(home=tmp_path))
    sounder = catalog.get_sounder(engine, "TST01")
    assert sounder is not None
    assert (sounder.longitude_deg, sounder.details) == (-10.0, {"antenna": "delta"})
    assert credential not in (tmp_path / "catalog.db").read_bytes().decode("latin-1")

    assert (
        client.post("/register", json=metadata).status_code == 409
    )  # whoever knows an id cannot take it over
    mine = {"authorization": f"Bearer {credential}"}
    assert client.post("/register", json={**metadata, "name": "Moved"}, headers=mine).json() == {
        "sounder_id": "TST01",
        "version": 2,
    }
    assert client.post("/register", json={**metadata, "sounder_id": "OTHER"}, headers=mine).status_code == 403
    assert len(catalog.sounder_history(engine, "TST01")) == 2

    receipts = client.post(
        "/ionogram", json=[IONOGRAM, {**IONOGRAM, "sounder_id": "OTHER"}], headers=mine
    ).json()
    assert [receipt["status"] for receipt in receipts["receipts"]] == ["accepted", "rejected"]
    assert wait_for_landed(tmp_path, 1)[0].sounder_id == "TST01"

    for header in ("Bearer wrong", "Bearer", "Basic abc", credential):
        refused = client.post("/ionogram", json=IONOGRAM, headers={"authorization": header})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
    assert len(landed(tmp_path)) == 1


def test_killed_right_after_the_answer_the_record_is_there(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    process = start_gateway()
    answers = []
    with httpx.Client(base_url=process.url) as http:
        for number in range(20):
            answers.append(http.post("/ionogram", json={**IONOGRAM, "fof2_mhz": 5 + number / 100}))
    process.end(signal.SIGKILL)
    assert [answer.status_code for answer in answers] == [202] * 20
    recover(tmp_path / "spool" / "http")
    assert [json.loads(record.payload)["fof2_mhz"] for record in landed(tmp_path)] == [
        5 + n / 100 for n in range(20)
    ]


def test_killed_under_load_nothing_acknowledged_is_missing(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    sent: set[str] = set()
    process = start_gateway()

    def send(thread: int) -> None:
        with httpx.Client(base_url=process.url) as http:
            for number in range(1000):
                name = f"{thread}-{number}"
                sent.add(name)
                try:
                    answer = http.post("/ionogram", json={**IONOGRAM, "observation_id": name})
                except httpx.HTTPError:
                    return
                if answer.status_code == 202:
                    acknowledged.append(name)

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(send, thread) for thread in range(8)]
        while len(acknowledged) < 100:
            time.sleep(0.01)
        process.end(signal.SIGKILL)
        for future in futures:
            future.result()
    batches = collect(tmp_path / "spool", tmp_path / "lake")
    stored = [
        json.loads(record.payload)["observation_id"] for batch in batches for record in read_segment(batch)
    ]
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored) <= sent


def test_sigterm_answers_what_is_under_way_and_seals(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    process = start_gateway()
    assert httpx.get(f"{process.url}/health").json() == {"status": "ok"}
    assert httpx.post(f"{process.url}/ionogram", json=IONOGRAM).status_code == 202
    assert process.end(signal.SIGTERM) == 0
    assert len(landed(tmp_path)) == 1
    assert "event=stopped" in process.log.read_text()


def test_full_disk_answers_503_and_keeps_what_it_acknowledged(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    catalog.open_catalog(Settings(home=tmp_path))
    process = start_gateway(file_bytes=200_000)  # no file may grow beyond this
    statuses = []
    with httpx.Client(base_url=process.url) as http:
        assert http.post("/ionogram", json=IONOGRAM).status_code == 202
        answer = http.post("/ionogram", json={**IONOGRAM, "padding": "x" * 300_000})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert "File too large" in answer.json()["detail"]
        statuses.append(http.post("/ionogram", json={**IONOGRAM, "fof2_mhz": 6}).status_code)
    assert statuses == [202]
    assert process.end(signal.SIGTERM) == 0
    assert sorted(json.loads(record.payload)["fof2_mhz"] for record in landed(tmp_path)) == [5.5, 6]


def test_health_says_when_the_spool_cannot_be_written(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/health").status_code == 200

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "fsync", fail)
        answer = client.get("/health")
    assert answer.status_code == 503
    assert "No space left" in answer.json()["detail"]
    assert not list((tmp_path / "spool" / "http").iterdir())


def test_a_failing_sync_is_never_answered_202(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "fdatasync", fail)
        assert client.post("/ionogram", json=IONOGRAM).status_code == 503
    assert client.post("/ionogram", json={**IONOGRAM, "fof2_mhz": 6}).status_code == 202
    assert [json.loads(record.payload)["fof2_mhz"] for record in wait_for_landed(tmp_path, 1)] == [6]


def test_more_than_may_wait_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    sync = os.fdatasync

    def slow(fd: int) -> None:
        release.wait(10)
        sync(fd)

    monkeypatch.setattr(spool.os, "fdatasync", slow)
    commit = GroupCommit(tmp_path, waiting_bytes=1000)
    commit.start()
    record = Record("http", None, None, gateway.datetime.now(gateway.UTC), "", b"x" * 600, "http")
    first = commit.submit([record])
    with pytest.raises(Overloaded, match="600 bytes wait"):
        commit.submit([record])
    release.set()
    first.result(10)
    commit.stop()
    with pytest.raises(Overloaded, match="stopping"):
        commit.submit([record])
    (path,) = sealed_segments(tmp_path)
    assert [item.payload for item in read_segment(path)] == [record.payload]


def test_many_requests_share_an_fsync(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    n_syncs = 0
    sync = os.fdatasync

    def count(fd: int) -> None:
        nonlocal n_syncs
        n_syncs += 1
        time.sleep(0.01)
        sync(fd)

    monkeypatch.setattr(spool.os, "fdatasync", count)
    app = create_app(Settings(home=tmp_path))

    async def post_many() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://t") as http,
        ):
            answers = await asyncio.gather(*(http.post("/ionogram", json=IONOGRAM) for _ in range(200)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(post_many()) == [202] * 200
    assert n_syncs < 50


def test_segments_are_sealed_when_idle_and_under_steady_traffic(tmp_path: Path) -> None:
    commit = GroupCommit(tmp_path, seal_idle_s=60, seal_age_s=0.2)
    commit.start()
    begin_s = time.monotonic()
    while not sealed_segments(tmp_path):
        assert time.monotonic() - begin_s < 10
        commit.submit(
            [Record("http", None, None, gateway.datetime.now(gateway.UTC), "", b"x", "http")]
        ).result(5)
    commit.stop()


def test_a_taken_port_and_a_bad_setting_are_named(tmp_path: Path) -> None:
    environment = {**os.environ, "AUTONVIS_HOME": str(tmp_path)}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "services.gateway", "--port", port, "--tcp-port", "0"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    environment["AUTONVIS_GATEWAY_PORT"] = "many"
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "AUTONVIS_GATEWAY_PORT" in done.stderr


def test_a_body_that_does_not_arrive_is_cut_off(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), 10) as slow:
        slow.sendall(b"POST /ionogram HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = b""
        while chunk := slow.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert client.post("/ionogram", json=IONOGRAM).status_code == 202
