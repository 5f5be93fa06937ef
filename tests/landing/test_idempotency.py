"""Idempotency keys: one landing and one answer per key, whoever repeats it and however often."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tasks.landing import idempotency, spool
from tasks.landing.door import Problem
from tasks.landing.idempotency import Answers
from tests.landing.door_server import IONOGRAM, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.stop()


def post(server: Server, key: str, item: object = IONOGRAM, path: str = "/ionogram") -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=item, headers={"idempotency-key": key}, timeout=30)


def test_a_repeated_request_lands_once_with_the_same_receipts(server: Server) -> None:
    first, again = post(server, "a"), post(server, "a")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert post(server, "a", {**IONOGRAM, "fof2_mhz": 6}).status_code == 422
    assert post(server, "b").status_code == 202
    assert post(server, "a", {"items": [IONOGRAM]}, "/batch").status_code == 202  # of another path
    assert post(server, "x" * 256).status_code == 400
    assert len(server.landed()) == 3


def test_under_the_credential_of_another_it_is_another_key(server: Server) -> None:
    credential = httpx.post(f"{server.url}/register", json={"sounder_id": "TST01"}).json()["credential"]
    other = {**IONOGRAM, "sounder_id": "OPEN1"}
    assert post(server, "a", other).status_code == 202
    headers = {"idempotency-key": "a", "authorization": f"Bearer {credential}"}
    assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM, headers=headers).status_code == 202
    assert len(server.landed()) == 2


def test_what_was_not_stored_may_be_sent_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "fdatasync", fail)
        assert post(server, "a").status_code == 503
    assert post(server, "a").status_code == 202
    assert len(server.landed()) == 1


def test_of_two_at_once_one_waits_its_turn(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = threading.Event(), threading.Event()
    sync = os.fdatasync

    def slow(fd: int) -> None:
        begun.set()
        release.wait(20)
        sync(fd)

    monkeypatch.setattr(spool.os, "fdatasync", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server, "a")
        assert begun.wait(20)
        second = post(server, "a")
        assert (second.status_code, second.headers["retry-after"]) == (409, "1")
        release.set()
        assert first.result(20).status_code == 202
    assert post(server, "a").content == first.result().content
    assert len(server.landed()) == 1


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "KEYS", 3)
    monkeypatch.setattr(idempotency, "KEPT_BYTES", 1000)
    answers = Answers()
    assert answers.begin(("under way",), b"1") is None
    for name in "abc":
        assert answers.begin((name,), b"1") is None
        answers.keep((name,), b"x" * 10)
    assert answers.begin(("b",), b"1") == b"x" * 10
    assert answers.begin(("a",), b"2") is None  # it has given way, so it is new
    answers.forget(("a",))
    answers.begin(("big",), b"1")
    answers.keep(("big",), b"x" * 995)
    assert answers.begin(("b",), b"2") is None
    with pytest.raises(Problem) as refused:
        answers.begin(("under way",), b"1")
    assert refused.value.status == 409
    monkeypatch.setattr(idempotency.time, "monotonic", lambda: 1e12)
    assert answers.begin(("big",), b"2") is None  # a day is over
