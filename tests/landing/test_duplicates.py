"""The status duplicate: the same observation again, told from a contradiction, over both doors and over a restart."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.curation import curate_batch
from tasks.item_check import Verdict
from tasks.landing import recent, spool
from tasks.landing.door import Door, Problem
from tasks.landing.group_commit import GroupCommit
from tasks.landing.receipts import Judge, Sent
from tasks.landing.recent import RecentObservations, Standing, recall
from tasks.landing.spool import Record, collect
from tasks.settings import Settings
from tests.landing.door_server import IONOGRAM, MEASUREMENT, Lines, Server

OTHER = {**IONOGRAM, "fof2_mhz": 6.0}
"""The same observation with other content."""
AGAIN = {
    **IONOGRAM,
    "longitude_deg": 368.0 - 360,
    "observed_at": "2026-01-02T12:00:00+01:00",
    "sent_at": "2026-01-02T11:00:01Z",
}
"""The same observation in other words."""
NESTED = {
    "dataset": "measurements", "sounder_id": "TST01", "observed_at": "2026-01-02T11:00:00Z",
    "transmitter": {"latitude_deg": 50, "longitude_deg": 10}, "receiver": {"latitude_deg": 50.5, "longitude_deg": 10},
    "signal": {"frequency_mhz": 5.123, "snr_db": 12.5},
}  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def begin() -> Server:
        servers.append(Server(tmp_path))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


def send(server: Server, *items: object) -> list[str]:
    body = json.dumps({"items": items})
    receipts = httpx.post(f"{server.url}/batch", content=body, timeout=30).json()["receipts"]
    return [receipt["status"] for receipt in receipts]


def test_within_a_batch_and_across_both_doors(start: Callable[[], Server]) -> None:
    server = start()
    assert send(server, IONOGRAM, IONOGRAM, OTHER, {**IONOGRAM, "fof2_mhz": 99}, MEASUREMENT) == [
        "accepted", "duplicate", "rejected", "rejected", "accepted",
    ]  # fmt: skip
    lines = Lines(server)
    lines.send(AGAIN, NESTED, OTHER, [IONOGRAM, {**IONOGRAM, "sounder_id": "TST02"}])
    receipts = [receipt for _ in range(4) for receipt in lines.answer()["receipts"]]
    assert [receipt["status"] for receipt in receipts] == [
        "duplicate", "duplicate", "rejected", "duplicate", "accepted",
    ]  # fmt: skip
    assert receipts[2]["codes"] == ["observation_id_conflict"]
    assert len({receipt["observation_id"] for receipt in receipts}) == 3
    lines.close()
    assert send(server, {**IONOGRAM, "sounder_id": "TST02"}) == ["duplicate"]


def test_a_correction_is_accepted_at_both_doors_and_after_a_restart(start: Callable[[], Server]) -> None:
    server = start()
    first, second = (
        {**OTHER, "revision": 1},
        {**NESTED, "revision": 1, "receiver": {"latitude_deg": 51, "longitude_deg": 10}},
    )
    assert send(server, first, IONOGRAM, OTHER, first, {**first, "fof2_mhz": 7}) == [
        "accepted", "accepted", "rejected", "duplicate", "rejected",
    ]  # fmt: skip
    lines = Lines(server)
    lines.send(NESTED, second, second, {**first, "fof2_mhz": 7})
    receipts = [receipt for _ in range(4) for receipt in lines.answer()["receipts"]]
    assert [receipt["status"] for receipt in receipts] == ["accepted", "accepted", "duplicate", "rejected"]
    assert receipts[3]["reasons"][0].endswith(
        "a correction is sent with the same observation_id and revision 2"
    )
    assert receipts[0]["observation_id"] == receipts[1]["observation_id"]
    lines.close()
    server.stop()
    assert send(start(), first, {**first, "revision": 2, "fof2_mhz": 7}) == ["duplicate", "accepted"]


def test_a_dry_run_takes_nothing(start: Callable[[], Server]) -> None:
    server = start()
    for _ in range(2):
        dry = httpx.post(f"{server.url}/ionogram?dry_run=true", json=[IONOGRAM, IONOGRAM]).json()
        assert [receipt["status"] for receipt in dry["receipts"]] == ["accepted", "duplicate"]
    assert send(server, IONOGRAM) == ["accepted"]


def test_a_restart_knows_what_landed_last(start: Callable[[], Server], tmp_path: Path) -> None:
    server = start()
    assert send(server, IONOGRAM, MEASUREMENT) == ["accepted", "accepted"]
    server.stop()
    again = start()
    assert send(again, IONOGRAM, {**MEASUREMENT, "snr_db": 3}) == ["duplicate", "rejected"]
    again.stop()
    settings = Settings(home=tmp_path)
    for batch in collect(settings.spool_root, settings.lake_root):
        curate_batch(batch, settings=settings)
    assert send(start(), IONOGRAM, {**MEASUREMENT, "snr_db": 3}) == ["duplicate", "rejected"]


def test_what_is_reread_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    for minute in range(3):
        now = datetime(2026, 1, 2, 12, minute, tzinfo=UTC)
        body = json.dumps({**IONOGRAM, "sounder_id": f"S{minute}"}).encode()
        with spool.SpoolWriter(settings.spool_root / "mqtt") as writer:
            writer.append_many([Record("mqtt", "ionograms", None, now, "application/json", body, "mqtt")])
    spool.recover(settings.spool_root / "mqtt")
    assert recall(settings, RecentObservations()) == 3
    size = max(path.stat().st_size for path in spool.sealed_segments(settings.spool_root / "mqtt"))
    monkeypatch.setattr(recent, "RELOAD_BYTES", 2 * size)
    few = RecentObservations()
    assert recall(settings, few) == 2
    judge = Judge(settings, sounder_id=None, licence=None, received_at=now)
    verdicts = [judge.verdict(Sent("ionograms", {**IONOGRAM, "sounder_id": f"S{n}"})) for n in range(3)]
    assert few.claim(verdicts) == [Standing.NEW, Standing.REPEATED, Standing.REPEATED]
    monkeypatch.setattr(recent, "RELOAD_S", -1.0)
    assert recall(settings, RecentObservations()) == 0


def test_memory_is_bounded_and_keeps_the_newest() -> None:
    known = RecentObservations(n_kept=10)
    verdicts = [Verdict([], str(n), n, 0) for n in range(1000)]
    assert known.claim(verdicts) == [Standing.NEW] * 1000
    assert 5 <= len(known) <= 10
    assert known.claim(verdicts[-5:]) == [Standing.REPEATED] * 5
    assert known.claim([verdicts[0], Verdict(["x: bad"], None)]) == [Standing.NEW, None]


def test_what_was_not_stored_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that contradict each other the second is right when the first, still under way, fails to be stored."""
    settings = Settings(home=tmp_path)
    release = threading.Event()
    syncs: list[bool] = []
    sync = spool.os.fdatasync

    def first_fails(fd: int) -> None:
        syncs.append(True)
        if len(syncs) == 1:
            release.wait(20)
            raise OSError(5, "Input/output error")
        sync(fd)

    monkeypatch.setattr(spool.os, "fdatasync", first_fails)

    async def run() -> tuple[object, list[dict[str, Any]], list[dict[str, Any]]]:
        commit = GroupCommit(settings.spool_root / "http")
        commit.start()
        door = Door(settings, commit)

        def land(item: dict[str, Any]) -> asyncio.Task[list[dict[str, Any]]]:
            now = datetime.now(UTC)
            record = Record(
                "http", "ionograms", None, now, "application/json", json.dumps(item).encode(), "http"
            )
            judge = Judge(settings, sounder_id=None, licence=None, received_at=now)
            return asyncio.ensure_future(door.land([record], [(judge, Sent("ionograms", item))]))

        first = land(IONOGRAM)
        while not syncs:
            await asyncio.sleep(0.01)
        second, third = land(OTHER), land(OTHER)
        await asyncio.sleep(0.05)
        release.set()
        with pytest.raises(Problem) as refused:
            await first
        answers = await second, await third
        await asyncio.to_thread(commit.stop)
        return refused.value.status, *answers

    status, second, third = asyncio.run(run())
    assert status == 503
    assert [second[0]["status"], third[0]["status"]] == ["accepted", "duplicate"]
