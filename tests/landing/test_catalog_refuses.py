"""A catalog that is locked or full: one error with a plain sentence, the batch stays pending, the gateway says 503."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event

from tasks import catalog, lake
from tasks.catalog import CatalogError, open_catalog
from tasks.curation import curate_batch, pending_batches
from tasks.landing.spool import Record, SpoolWriter, hand_off
from tasks.settings import Settings
from tests.landing.door_server import IONOGRAM, Lines, Server


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    yield Settings(home=tmp_path)
    catalog._open.cache_clear()


@contextmanager
def locked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another program writes, and does not end."""
    monkeypatch.setattr(catalog, "BUSY_TIMEOUT_MS", 200)
    open_catalog(settings)
    other = sqlite3.connect(settings.home / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield "locked"
    other.close()


@contextmanager
def full(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The file may not grow by one page, which SQLite says as it says it of a full disk."""
    monkeypatch.setattr(catalog, "BUSY_TIMEOUT_MS", 200)
    engine = open_catalog(settings)
    with sqlite3.connect(settings.home / "catalog.db") as connection:
        (n_pages,) = connection.execute("PRAGMA page_count").fetchone()

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {n_pages}")

    event.listen(engine, "connect", limit)
    yield "is full"
    event.remove(engine, "connect", limit)


def fill(settings: Settings, length: int) -> None:
    for number in range(1000):
        catalog.record_batch(
            open_catalog(settings), f"{length}-{number}", state="landed", path="x" * length, counts={}, files=[],
            contract_versions={}, now=datetime.now(UTC),
        )  # fmt: skip


@pytest.mark.parametrize("refusing", [locked, full])
def test_a_batch_stays_pending_and_is_curated_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, refusing: object
) -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    body = json.dumps([{**IONOGRAM, "observed_at": f"2026-01-02T{hour:02}:00:00Z"} for hour in range(12)])
    with SpoolWriter(settings.spool_root / "http") as writer:
        writer.append_many([Record("http", "ionograms", None, now, "", body.encode(), "http")])
        sealed = writer.seal()
    assert sealed is not None
    batch = hand_off(sealed, settings.lake_root)
    assert callable(refusing)
    with refusing(settings, monkeypatch) as sign:
        for length in (500, 100, 10):  # a full file has room in its last page yet
            with pytest.raises(CatalogError, match=sign) as refused:
                fill(settings, length)
        assert "then run again" in str(refused.value)
        assert "catalog.db" in str(refused.value)
        assert "catalog.db" not in refused.value.reason
        with pytest.raises(CatalogError, match=sign):
            curate_batch(batch, settings=settings)
        assert pending_batches(settings) == [batch]
    assert curate_batch(batch, settings=settings).n_accepted == 12
    assert pending_batches(settings) == []
    assert len(lake.read("ionograms", settings=settings)) == 12


@pytest.mark.parametrize("refusing", [locked, full])
def test_the_gateway_lands_on_and_asks_to_register_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, refusing: object
) -> None:
    assert callable(refusing)
    with refusing(settings, monkeypatch) as sign:
        server = Server(settings.home, registrations_per_min=0)
        assert httpx.post(f"{server.url}/ionogram", json=IONOGRAM, timeout=30).status_code == 202
        answers = [
            httpx.post(f"{server.url}/register", json={"sounder_id": f"S{n}", "name": "x" * 190}, timeout=30)
            for n in range(1 if refusing is locked else 60)
        ]
        assert answers[-1].status_code == 503
        assert answers[-1].headers["retry-after"] == "30"
        assert sign in answers[-1].json()["detail"]
        assert str(settings.home) not in answers[-1].text
    server.stop()


def test_a_damaged_catalog_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    open_catalog(settings)
    server = Server(settings.home)
    path = settings.home / "catalog.db"
    for name in (path, path.with_name("catalog.db-wal"), path.with_name("catalog.db-shm")):
        name.unlink(missing_ok=True)
    path.write_bytes(b"not a database at all" * 400)
    with pytest.raises(CatalogError, match="file is not a database"):
        catalog.credential_owner(open_catalog(settings), "x", now=datetime.now(UTC))
    refused = httpx.post(f"{server.url}/ionogram", json=IONOGRAM, headers={"authorization": "Bearer x"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
    lines = Lines(server)
    lines.send({"credential": "x"}, IONOGRAM)
    answer = lines.answer()
    assert (answer["status"], answer["retry_after_s"]) == (503, 30)
    lines.close()
    server.stop()
