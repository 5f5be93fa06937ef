"""Landed batches to lake: nothing lost, nothing doubled, whatever is sent twice, contradicts, fails or is killed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import catalog, curation, lake, submissions
from tasks.curation import CurationResult, curate_batch, pending_batches, replay_quarantine
from tasks.landing.spool import Record, SpoolWriter, hand_off
from tasks.settings import Settings
from tasks.validation import BatchRejected, Validation, validate_batch

RECEIVED = datetime(2022, 10, 25, 0, 20, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    yield Settings(home=tmp_path / "var")
    catalog._open.cache_clear()


def item(minute: int = 0, **changes: Any) -> dict[str, Any]:
    """An ionogram of Rome, `minute` minutes before and after a midnight."""
    observed_at = datetime(2022, 10, 24, 23, 45, tzinfo=UTC) + timedelta(minutes=minute)
    described = {
        "sounder_id": "RO041",
        "observed_at": observed_at.isoformat(),
        "latitude_deg": 41.9,
        "longitude_deg": 12.5,
        "fof2_mhz": 4.1,
        "hmf2_km": 310.0,
    }
    return {name: value for name, value in {**described, **changes}.items() if value is not ...}


def record(payload: Any, **changes: Any) -> Record:
    described: dict[str, Any] = {
        "channel": "http",
        "dataset": "ionograms",
        "sounder_id": None,
        "received_at": RECEIVED,
        "content_type": "application/json",
        "payload": payload if isinstance(payload, bytes) else json.dumps(payload).encode(),
        "source": "http",
        "licence": "CC BY 4.0",
    }
    return Record(**{**described, **changes})


def land(settings: Settings, records: Sequence[Record]) -> Path:
    writer = SpoolWriter(settings.spool_root / "test")
    writer.append_many(records)
    sealed = writer.seal()
    assert sealed is not None
    return hand_off(sealed, settings.lake_root)


def published(settings: Settings) -> dict[str, str]:
    """Every published file with the hash of its bytes."""
    return {
        path.relative_to(settings.lake_root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(settings.lake_root.rglob("*.parquet"))
    }


def reasons(settings: Settings) -> list[tuple[str, str, bytes]]:
    """Stage, reasons and raw bytes of the quarantine, in order of arrival."""
    rows = lake.read("quarantine", settings=settings).sort_values(["record_index", "item_index"])
    return [
        (row.stage, " | ".join(json.loads(row.reasons)), row.raw)
        for row in rows.itertuples(index=False)  # type: ignore[arg-type]
    ]


def test_good_rows_reach_the_lake_with_the_landings_provenance(settings: Settings) -> None:
    lying = item(0, received_at="2000-01-01T00:00:00Z", source="giro", batch_id="mine", licence="none")
    batch = land(
        settings, [record([lying, item(15)]), record({"items": [item(30, longitude_deg=12.5 + 360)]})]
    )
    west = land(settings, [record(item(0, sounder_id="MHJ45", longitude_deg=288.5))])
    result = curate_batch(batch, settings=settings)
    curate_batch(west, settings=settings)
    assert (result.n_records, result.n_items, result.n_accepted, result.n_quarantined) == (2, 3, 2, 1)
    rows = lake.read("ionograms", settings=settings)
    assert set(rows["received_at"]) == set(rows["available_at"]) == {RECEIVED}
    assert set(rows["source"]) == {"http"}
    assert set(rows["licence"]) == {"CC BY 4.0"}
    assert set(rows["batch_id"]) == {batch.stem, west.stem}
    assert dict(zip(rows["sounder_id"], rows["longitude_deg"], strict=True)) == {
        "RO041": 12.5,
        "MHJ45": -71.5,
    }
    assert [path.parent.name for path in result.files] == [
        "date=2022-10-24",
        "date=2022-10-25",
        "date=2022-10-25",
    ]


def test_what_fails_is_kept_with_every_reason_and_its_bytes(settings: Settings) -> None:
    bad: list[tuple[Record, str, str, bytes | None]] = [
        (record(item(0, fof2_mhz=9999, hmf2_km=-5)), "contract", "fof2_mhz_range", None),
        (record(item(0, fof2_mhz=float("nan"))), "contract", "fof2_mhz_finite", None),
        (record(item(60 * 24 * 365)), "contract", "observed_at_future", None),
        (record(item(0, observed_at="2022-10-24T23:45:00")), "contract", "observed_at_zone", None),
        (record(item(0, latitude_deg=...)), "contract", "latitude_deg_missing", None),
        (record(item(0, fof2_mhz=..., hmf2_km=...)), "contract", "ionogram_empty", None),
        (record(b"\xff{}"), "decode", "not UTF-8", None),
        (record(b'{"a": 1, "a": 2}'), "decode", "names a key twice", None),
        (record(b"[" * 100_000), "decode", "nested too deeply", None),
        (record(b"null"), "contract", "item_type", None),
        (record(item(0), sounder_id="AT138"), "schema", "sounder_id_mismatch", None),
        (record(item(0), dataset="weather"), "decode", "dataset 'weather' is unknown", None),
        (record(item(0), dataset=None), "decode", "dataset None is unknown", None),
        (record(b'[ {"x" :1} ]'), "contract", "sounder_id_missing", b'{"x" :1}'),
    ]
    batch = land(settings, [*(entry[0] for entry in bad), record(item(0))])
    result = curate_batch(batch, settings=settings)
    assert (result.n_accepted, result.n_quarantined, result.n_items) == (1, len(bad), len(bad) + 1)
    for (sent, stage, reason, raw), (found_stage, found_reasons, found_raw) in zip(
        bad, reasons(settings), strict=True
    ):
        assert (found_stage, found_raw) == (stage, raw if raw is not None else sent.payload)
        assert reason in found_reasons
    assert "hmf2_km_range" in reasons(settings)[0][1]


def test_simulated_is_the_only_word_on_its_source_that_a_sender_has(settings: Settings) -> None:
    batch = land(
        settings, [record([item(0, source="simulated"), item(15, source="giro"), item(30)], source="mqtt")]
    )
    curate_batch(batch, settings=settings, now=RECEIVED + timedelta(days=1))
    rows = lake.read("ionograms", settings=settings).sort_values("observed_at")
    assert list(rows["source"]) == ["simulated", "mqtt", "mqtt"]


def test_nothing_a_sender_writes_into_the_landings_columns_matters(settings: Settings) -> None:
    lying = item(0, received_at=17, available_at="?", source=[], licence={}, batch_id=17)
    result = curate_batch(land(settings, [record(lying)]), settings=settings)
    assert (result.n_accepted, result.n_quarantined) == (1, 0)


def test_the_general_way_of_decoding_publishes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        record([item(0), item(15, longitude_deg=288.5), item(30, fof2_mhz=99), item(0, fof2_mhz=4)]),
        record(item(45, sounder_id=...), sounder_id="RO041"),
        record(item(60), sounder_id="AT138"),
        record(item(75, source="simulated", note="x"), licence=None),
        record(b'{"sounder_id": "RO041", "sounder_id": "AT138"}'),
        record([item(90, fof2_mhz=float("nan")), item(90, qualifier="\u00e9"), 5]),
    ]

    def run(home: Path) -> dict[str, str]:
        settings = Settings(home=home)
        result = curate_batch(land(settings, records), settings=settings)
        assert result.n_accepted > 0
        assert result.n_quarantined > 0
        return published(settings)

    fast = run(tmp_path / "fast")
    monkeypatch.setattr(submissions, "_plain_delivery", lambda _: None)
    assert run(tmp_path / "general") == fast


def test_pulled_text_and_indices_reach_their_datasets(settings: Settings) -> None:
    giro = (
        "# Global Ionospheric Radio Observatory\n"
        "# Location: GEO 42.6N 288.5E, URSI-Code MHJ45 MILLSTONE HILL\n"
        "#Time                     CS   foF2 QD\n"
        "2022-10-24T00:00:00.000Z  50  2.250 //\n"
        "2022-10-24T00:15:00.000Z  50\n"
    )
    pulled = record(
        giro.encode(), content_type="text/plain", sounder_id="MHJ45", channel="pull", source="giro"
    )
    kp = b'[["time_tag", "Kp"], ["2022-10-24 00:00:00", "2.33"]]'
    index = record(
        kp, content_type="application/vnd.swpc.kp+json", dataset="indices", sounder_id="swpc", source="swpc"
    )
    result = curate_batch(land(settings, [pulled, index]), settings=settings)
    assert (result.n_items, result.n_accepted, result.n_quarantined) == (3, 2, 1)
    assert list(lake.read("ionograms", settings=settings)["fof2_mhz"]) == [2.25]
    assert list(lake.read("indices", settings=settings)["value"]) == [2.33]
    assert reasons(settings)[0][2] == b"2022-10-24T00:15:00.000Z  50"


def test_topic_names_the_sounder_when_the_payload_does_not(settings: Settings) -> None:
    batch = land(
        settings, [record(item(0, sounder_id=...), sounder_id="RO041", channel="mqtt", source="mqtt")]
    )
    assert curate_batch(batch, settings=settings).n_accepted == 1
    assert list(lake.read("ionograms", settings=settings)["sounder_id"]) == ["RO041"]


def test_a_rerun_rewrites_the_same_bytes_and_restores_what_was_deleted(settings: Settings) -> None:
    batch = land(settings, [record([item(0), item(15), item(15), item(30, fof2_mhz=99)])])
    first = curate_batch(batch, settings=settings)
    before = published(settings)
    assert curate_batch(batch, settings=settings) == first
    assert published(settings) == before
    first.files[0].unlink()
    curate_batch(batch, settings=settings)
    assert published(settings) == before
    (row,) = catalog.batches(catalog.open_catalog(settings))
    assert row.counts["n_duplicates"] == 1
    assert sorted(row.files) == sorted(before)


def test_files_an_earlier_run_left_under_other_rules_are_withdrawn(settings: Settings) -> None:
    batch = land(settings, [record([item(0), item(15)])])
    result = curate_batch(batch, settings=settings, now=RECEIVED)
    assert result.n_accepted == 2
    earlier = curate_batch(batch, settings=settings, now=RECEIVED - timedelta(minutes=30))
    assert (earlier.n_accepted, earlier.n_quarantined) == (1, 1)
    assert set(published(settings)) == {
        path.relative_to(settings.lake_root).as_posix() for path in earlier.files
    }


def test_redelivery_is_dropped_and_a_contradiction_kept_apart(settings: Settings) -> None:
    curate_batch(land(settings, [record([item(0), item(15)])]), settings=settings)
    later = RECEIVED + timedelta(hours=1)
    again = land(settings, [record([item(0), item(15, fof2_mhz=4.2), item(30)], received_at=later)])
    result = curate_batch(again, settings=settings)
    assert (result.n_accepted, result.n_duplicates, result.n_conflicts, result.n_quarantined) == (1, 1, 1, 1)
    rows = lake.read("ionograms", settings=settings)
    assert rows["observation_id"].is_unique
    assert len(rows) == 3
    ((stage, reason, raw),) = reasons(settings)
    assert stage == "conflict"
    assert "fof2_mhz 4.2 (first 4.1)" in reason
    assert json.loads(raw)["fof2_mhz"] == 4.2


def test_pending_batches_are_those_not_committed_in_order(settings: Settings) -> None:
    assert pending_batches(settings) == []
    second = land(settings, [record(item(15), received_at=RECEIVED + timedelta(days=1))])
    first = land(settings, [record(item(0))])
    assert pending_batches(settings) == [first, second]
    curate_batch(first, settings=settings)
    assert pending_batches(settings) == [second]


def test_a_refused_batch_fails_with_a_sentence_after_it_is_kept(settings: Settings) -> None:
    strict = settings.model_copy(update={"max_age_d": 1.0})
    batch = land(settings, [record([item(0), item(15)], received_at=RECEIVED + timedelta(days=30))])
    with pytest.raises(BatchRejected, match=r"ionograms: batch refused: .*newest of 2 observations"):
        curate_batch(batch, settings=strict)
    assert [stage for stage, _, _ in reasons(settings)] == ["batch", "batch"]
    assert pending_batches(settings) == []
    assert len(lake.read("ionograms", settings=settings)) == 0


def test_a_damaged_segment_gives_what_is_before_the_damage_and_a_sentence(settings: Settings) -> None:
    batch = land(settings, [record(item(minute)) for minute in (0, 15, 30)])
    data = bytearray(batch.read_bytes())
    data[len(data) // 2] ^= 0xFF
    batch.write_bytes(bytes(data))
    with pytest.raises(BatchRejected, match=r"damaged at byte .* 1 records before it were used"):
        curate_batch(batch, settings=settings)
    assert len(lake.read("ionograms", settings=settings)) == 1
    assert pending_batches(settings) == []


def test_replay_accepts_what_passes_now_once_and_never_a_false_sender(settings: Settings) -> None:
    early = item(60 * 24)
    batch = land(
        settings,
        [
            record(early),
            record(item(0), sounder_id="AT138"),
            record(item(0, sounder_id=..., fof2_mhz=99), sounder_id="AT138"),
        ],
    )
    assert curate_batch(batch, settings=settings).n_accepted == 0
    later = RECEIVED + timedelta(days=2)
    assert replay_quarantine(settings=settings, now=later).n_published == 1
    assert replay_quarantine(settings=settings, now=later).n_published == 0
    curate_batch(batch, settings=settings, now=later)
    rows = lake.read("ionograms", settings=settings)
    assert list(rows["sounder_id"]) == ["RO041"]
    marks = lake.read("quarantine", settings=settings).sort_values("record_index")["replayed_at"]
    assert marks.notna().sum() <= 1


def test_a_full_disk_leaves_the_batch_pending_and_a_rerun_completes_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = land(settings, [record([item(0), item(15), item(30, fof2_mhz=99)])])

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(lake.LakeError, match="the disk is full"):
            curate_batch(batch, settings=settings)
    assert published(settings) == {}
    assert pending_batches(settings) == [batch]
    assert curate_batch(batch, settings=settings).n_accepted == 2


@pytest.fixture
def judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's verdict on a frame seen before is remembered: it takes most of the time of a small batch."""
    verdicts: dict[bytes, Validation] = {}

    def judge(dataset: str, frame: pd.DataFrame, **arguments: Any) -> Validation:
        key = pickle.dumps((dataset, frame.to_dict("list"), arguments))
        if key not in verdicts:
            verdicts[key] = validate_batch(dataset, frame, **arguments)
        return verdicts[key]

    monkeypatch.setattr(curation, "validate_batch", judge)


class Killed(BaseException):
    """As if the process ended at this call."""


def steps_until_killed(monkeypatch: pytest.MonkeyPatch, survive: int) -> Callable[[], int]:
    """Make the process die at durable step number `survive`; returns how many steps were begun."""
    n_steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_steps
            n_steps += 1
            if n_steps > survive:
                raise Killed
            return function(*args, **kwargs)

        return step

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(catalog, "record_batch", counted(catalog.record_batch))
    return lambda: n_steps


@pytest.mark.usefixtures("judged_once")
def test_killed_before_any_durable_step_a_rerun_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record([item(0), item(15), item(15), item(30, fof2_mhz=99)]), record(b"\xff")]

    def run(home: Path, survive: int) -> tuple[dict[str, str], int]:
        settings = Settings(home=home)
        batch = land(settings, records)
        with monkeypatch.context() as patch:
            begun = steps_until_killed(patch, survive)
            try:
                curate_batch(batch, settings=settings)
            except Killed:
                assert pending_batches(settings) == [batch]
            n_steps = begun()
        curate_batch(batch, settings=settings)
        assert pending_batches(settings) == []
        return published(settings), n_steps

    whole, n_steps = run(tmp_path / "whole", 1_000)
    assert n_steps > 8
    for survive in range(n_steps):
        assert run(tmp_path / str(survive), survive) == (whole, survive + 1)


@pytest.mark.usefixtures("judged_once")
@hypothesis_settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.data(),
    deliveries=st.lists(
        st.lists(st.integers(0, 5), min_size=1, max_size=5), min_size=2, max_size=3, unique_by=tuple
    ),
)
def test_any_order_of_redelivery_and_rerun_gives_each_observation_once(
    data: st.DataObject, deliveries: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(home=tmp_path_factory.mktemp("lake"))
    batches = [
        land(
            settings, [record([item(15 * n) for n in numbers], received_at=RECEIVED + timedelta(hours=index))]
        )
        for index, numbers in enumerate(deliveries)
    ]
    later = RECEIVED + timedelta(days=1)
    for batch in data.draw(st.lists(st.sampled_from(batches), max_size=2)):
        curate_batch(batch, settings=settings, now=later)
    results: list[CurationResult] = []
    for batch in data.draw(st.permutations(batches)):
        results.append(curate_batch(batch, settings=settings, now=later))
    rows = lake.read("ionograms", settings=settings)
    expected = {
        datetime.fromisoformat(item(15 * n)["observed_at"]) for numbers in deliveries for n in numbers
    }
    assert rows["observation_id"].is_unique
    assert set(rows["observed_at"]) == expected
    assert len(rows) == len(expected)
    assert all(result.n_accepted + result.n_duplicates == result.n_items for result in results)
    catalog._open.cache_clear()


def curate_all(home: str) -> None:
    settings = Settings(home=Path(home))
    for batch in pending_batches(settings):
        curate_batch(batch, settings=settings)


def test_killed_at_random_moments_nothing_is_lost_or_doubled(settings: Settings) -> None:
    """Real SIGKILLs of a forked process (which has Great Expectations loaded) at random moments."""
    chance = random.Random(20221025)
    for index in range(6):
        payload = [item(15 * n) for n in range(index * 10, index * 10 + 14)]
        land(settings, [record(payload, received_at=RECEIVED + timedelta(hours=index))])
    warm = Settings(home=settings.home / "warm")
    curate_batch(land(warm, [record(item(0))]), settings=warm)
    context = multiprocessing.get_context("fork")
    n_killed = 0
    for _ in range(8):
        process = context.Process(target=curate_all, args=(str(settings.home),))
        process.start()
        time.sleep(chance.uniform(0.0, 0.8))
        process.kill()
        process.join()
        n_killed += process.exitcode == -signal.SIGKILL
    assert n_killed > 0
    later = RECEIVED + timedelta(days=2)
    for batch in pending_batches(settings):
        curate_batch(batch, settings=settings, now=later)
    rows = lake.read("ionograms", settings=settings)
    kept = lake.read("quarantine", settings=settings)
    assert rows["observation_id"].is_unique
    counts = [batch.counts for batch in catalog.batches(catalog.open_catalog(settings))]
    assert sum(count["n_items"] for count in counts) == 6 * 14
    assert len(rows) == sum(count["n_accepted"] for count in counts)
    assert len(kept) == sum(count["n_quarantined"] for count in counts)
    assert list((settings.home / "staging").iterdir()) == []
