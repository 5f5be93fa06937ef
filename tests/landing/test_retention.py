"""What landed may be curated again, and goes only when nothing is lost with it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks import catalog, lake
from tasks.curation import curate_batch, pending_batches, replay_landing
from tasks.landing.retention import expire_landing
from tasks.landing.spool import Record, SpoolWriter, collect
from tasks.settings import Settings
from tasks.validation import BatchRejected

RECEIVED = datetime(2022, 10, 25, 0, 20, tzinfo=UTC)
LATER = datetime.now(UTC) + timedelta(days=31)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    yield Settings(home=tmp_path / "var", landing_retention_d=30)
    catalog._open.cache_clear()


def land(settings: Settings, day: int, *items: dict[str, Any]) -> Path:
    """A batch with an ionogram of its own day, one shared by all batches, one the contract refuses, and `items`."""
    received_at = RECEIVED + timedelta(days=day)
    described = {"sounder_id": "RO041", "latitude_deg": 41.9, "longitude_deg": 12.5, "hmf2_km": 310.0}
    moments = [received_at - timedelta(minutes=5), RECEIVED - timedelta(days=1), RECEIVED - timedelta(days=2)]
    sent = [
        {**described, "fof2_mhz": fof2_mhz, "observed_at": moment.isoformat()}
        for moment, fof2_mhz in zip(moments, (4.1, 4.2, 99.0), strict=True)
    ]
    payload = json.dumps([*sent, *items]).encode()
    with SpoolWriter(settings.spool_root / "test") as writer:
        writer.append_many(
            [Record("http", "ionograms", None, received_at, "application/json", payload, "http")]
        )
    (path,) = collect(settings.spool_root, settings.lake_root)
    return path


def published(settings: Settings) -> dict[str, str]:
    return {
        path.relative_to(settings.lake_root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(settings.lake_root.rglob("*.parquet"))
    }


def test_a_replay_of_a_span_changes_nothing_and_restores_what_was_lost(settings: Settings) -> None:
    for path in [land(settings, day) for day in range(4)]:
        curate_batch(path, settings=settings)
    before = published(settings)
    assert len(lake.read("ionograms", settings=settings)) == 5
    lost = lake.files("ionograms", settings=settings, start=RECEIVED + timedelta(days=2))
    assert len(lost) == 2
    for path in lost:
        path.unlink()
    since, until = RECEIVED + timedelta(days=1), RECEIVED + timedelta(days=3)
    result = replay_landing(settings=settings, since=since, until=until)
    assert (result.n_batches, result.n_accepted, result.n_quarantined, result.faults) == (2, 2, 2, [])
    assert published(settings).keys() == before.keys() - {lost[1].relative_to(settings.lake_root).as_posix()}
    assert replay_landing(settings=settings, since=None, until=None).n_batches == 4
    assert published(settings) == before
    with pytest.raises(ValueError, match="no landed batch between 2022-10-29"):
        replay_landing(settings=settings, since=RECEIVED + timedelta(days=4), until=None)
    with pytest.raises(ValueError, match="is not before until"):
        replay_landing(settings=settings, since=until, until=since)


def test_curated_segments_go_after_their_time_and_the_lake_stays(settings: Settings) -> None:
    curated = [land(settings, day) for day in range(2)]
    for path in curated:
        curate_batch(path, settings=settings)
    pending = land(settings, 2)
    before = published(settings)
    assert expire_landing(settings) == []  # curated just now
    keeping = settings.model_copy(update={"landing_retention_d": None})
    assert expire_landing(keeping, now=LATER) == []
    assert expire_landing(settings, now=LATER) == curated
    assert [path.exists() for path in (*curated, pending)] == [False, False, True]
    assert pending_batches(settings) == [pending]
    assert published(settings) == before
    assert expire_landing(settings, now=LATER) == []
    result = replay_landing(settings=settings, since=None, until=None)
    assert (result.n_batches, result.n_expired) == (1, 2)
    assert published(settings).items() >= before.items()


def test_a_segment_stays_while_its_rows_are_not_in_the_lake(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    path = land(settings, 0)
    curate_batch(path, settings=settings)
    lake.files("ionograms", settings=settings)[0].unlink()
    with caplog.at_level(logging.WARNING):
        assert expire_landing(settings, now=LATER) == []
    assert "that was published from it is not in the lake" in caplog.text
    replay_landing(settings=settings, since=None, until=None)
    assert expire_landing(settings, now=LATER) == [path]


def test_a_damaged_segment_stays(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with SpoolWriter(settings.spool_root / "test") as writer:
        writer.append_many(
            [
                Record(
                    "http", "ionograms", None, RECEIVED, "application/json", b'{"sounder_id": "X"}', "http"
                )
                for _ in range(3)
            ]
        )
    (path,) = collect(settings.spool_root, settings.lake_root)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(BatchRejected, match="damaged"):
        curate_batch(path, settings=settings)
    with caplog.at_level(logging.WARNING):
        assert expire_landing(settings, now=LATER) == []
    assert "was not curated whole" in caplog.text
    assert path.exists()
