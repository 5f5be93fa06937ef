"""Gzipped bodies: inflated within the same bounds as plain ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.requests import BODY_BYTES
from tests.landing.door_server import IONOGRAM, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path)
    yield started
    started.stop()


def post(server: Server, body: bytes) -> httpx.Response:
    return httpx.post(f"{server.url}/ionogram", content=body, headers={"content-encoding": "gzip"})


def test_what_lands_is_the_plain_body(server: Server) -> None:
    plain = json.dumps([IONOGRAM] * 3, indent=2).encode()
    answer = post(server, gzip.compress(plain))
    assert [receipt["status"] for receipt in answer.json()["receipts"]] == [
        "accepted",
        "duplicate",
        "duplicate",
    ]
    (record,) = server.landed()
    assert (record.payload, record.content_type) == (plain, "application/json")


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (lambda: gzip.compress(b" " * (BODY_BYTES + 1)), 413, "inflated"),
        (lambda: gzip.compress(b" " * 2**30, 1), 413, "inflated"),
        (lambda: gzip.compress(b"[]")[:-3], 400, "cut off"),
        (lambda: gzip.compress(b"{}") + gzip.compress(b"{}"), 400, "follows"),
        (lambda: gzip.compress(b"{}")[:-8] + b"\0" * 8, 400, "incorrect data check"),
        (lambda: b"{}", 400, "header"),
        (lambda: b"", 400, "cut off"),
    ],
    ids=["too large", "far too large", "cut", "two", "wrong sum", "plain", "empty"],
)
def test_other_bodies_are_refused(
    server: Server, body: Callable[[], bytes], status: int, detail: str
) -> None:
    answer = post(server, body())
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert server.landed() == []


def test_a_body_of_exactly_the_limit_is_taken(server: Server) -> None:
    item = json.dumps(IONOGRAM).encode()
    assert post(server, gzip.compress(item + b" " * (BODY_BYTES - len(item)))).status_code == 202
