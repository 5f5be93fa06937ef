"""Corrections: told from repetitions and conflicts, counted from when they came, and never anybody else's."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks import cycles, lake
from tasks.curation import curate_batch, replay_quarantine
from tasks.kernel_config import load_kernel_config
from tasks.landing.giro_text import parse_giro_text
from tasks.landing.spool import Record, SpoolWriter, collect
from tasks.revisions import known_at
from tasks.series import read_ionograms
from tasks.settings import Settings
from tasks.validation import build_frame, find_duplicates, validate_batch
from tasks.window import known_rows

OBSERVED_AT = datetime(2022, 10, 25, 11, 45, tzinfo=UTC)
NOON = OBSERVED_AT + timedelta(minutes=15)
IONOGRAM = {
    "sounder_id": "TST01", "observed_at": OBSERVED_AT.isoformat(), "latitude_deg": 50.0, "longitude_deg": 8.0,
    "fof2_mhz": 5.5,
}  # fmt: skip
MEASUREMENT = {
    "sounder_id": "TST01", "observed_at": OBSERVED_AT.isoformat(), "tx_latitude_deg": 50.0, "tx_longitude_deg": 10.0,
    "rx_latitude_deg": 50.5, "rx_longitude_deg": 10.0, "frequency_mhz": 5.123, "snr_db": 10,
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def deliver(settings: Settings, received_at: datetime, *items: Any, dataset: str = "ionograms") -> None:
    """Lands and curates the items as one batch."""
    payload = json.dumps(items).encode()
    with SpoolWriter(settings.spool_root / "http") as writer:
        writer.append_many([Record("http", dataset, None, received_at, "application/json", payload, "http")])
    for batch in collect(settings.spool_root, settings.lake_root):
        curate_batch(batch, settings=settings)


def seen(settings: Settings, valid_time: datetime, available_until: datetime) -> pd.DataFrame:
    """What a cycle sees of the lake."""
    (plan,) = cycles.plan_span(settings, valid_time, valid_time, available_until)
    rows = cycles.read_window(settings, [plan])
    moments = (pd.Timestamp(valid_time), pd.Timestamp(available_until))
    return known_rows(rows, *moments, load_kernel_config().lookback_h)


def test_a_correction_counts_from_when_it_came_and_the_original_stays(settings: Settings) -> None:
    deliver(settings, NOON, IONOGRAM)
    before = seen(settings, NOON, NOON)
    month_later = NOON + timedelta(days=30)
    deliver(settings, month_later, {**IONOGRAM, "revision": 1, "fof2_mhz": 6.0})
    deliver(settings, month_later, {**IONOGRAM, "revision": 2, "hmf2_km": 250.0, "fof2_mhz": 6.25})
    pd.testing.assert_frame_equal(seen(settings, NOON, month_later - timedelta(seconds=1)), before)
    assert before["fof2_mhz"].tolist() == [5.5]
    assert seen(settings, NOON, month_later)["fof2_mhz"].tolist() == [6.25]
    history = lake.read("ionograms", settings=settings)
    assert sorted(history["revision"]) == [0, 1, 2]
    assert history["observation_id"].nunique() == 1


@pytest.mark.parametrize(("wrong", "right"), [("11:45", "23:30"), ("23:30", "00:30")])
def test_a_correction_of_the_time_moves_the_observation(settings: Settings, wrong: str, right: str) -> None:
    """A cycle whose window has the wrong time but not the right one, after its end or before its beginning, sees nothing."""
    item = {**IONOGRAM, "observation_id": "mine", "observed_at": f"2022-10-25T{wrong}:00Z"}
    until = OBSERVED_AT + timedelta(days=20)
    lookback = timedelta(hours=load_kernel_config().lookback_h)
    valid_time = NOON if wrong < right else NOON + lookback
    deliver(settings, until, item)
    assert len(seen(settings, valid_time, until)) == 1
    deliver(settings, until, {**item, "revision": 1, "observed_at": f"2022-10-25T{right}:00Z"})
    assert seen(settings, valid_time, until).empty
    evening = datetime(2022, 10, 25, 23, 45, tzinfo=UTC)
    assert seen(settings, evening, until)["observed_at"].tolist() == [pd.Timestamp(f"2022-10-25T{right}:00Z")]


def test_an_accident_is_a_conflict_that_says_how_to_correct(settings: Settings) -> None:
    deliver(settings, NOON, MEASUREMENT, dataset="measurements")
    deliver(settings, NOON, {**MEASUREMENT, "snr_db": 11}, dataset="measurements")
    deliver(settings, NOON, {**MEASUREMENT, "snr_db": 11, "revision": 1}, dataset="measurements")
    deliver(settings, NOON, {**MEASUREMENT, "snr_db": 12, "revision": 1}, dataset="measurements")
    rows = lake.read("measurements", settings=settings)
    assert sorted(rows["snr_db"]) == [10, 11]
    reasons = sorted(json.loads(text)[0] for text in lake.read("quarantine", settings=settings)["reasons"])
    assert [reason.split(":")[0] for reason in reasons] == ["observation_id_conflict"] * 2
    assert reasons[0].endswith("a correction is sent with the same observation_id and revision 1")
    assert reasons[1].endswith("a correction is sent with the same observation_id and revision 2")


def test_nobody_corrects_or_forestalls_what_another_observed(settings: Settings) -> None:
    deliver(settings, NOON, {**IONOGRAM, "sounder_id": "EARLY", "observation_id": "mine"})
    deliver(settings, NOON, {**IONOGRAM, "observation_id": "mine", "fof2_mhz": 6.0})
    deliver(
        settings,
        NOON,
        {**IONOGRAM, "sounder_id": "THIEF", "observation_id": "mine", "revision": 9, "fof2_mhz": 1.0},
    )
    rows = seen(settings, NOON, NOON)
    assert dict(zip(rows["sounder_id"], rows["fof2_mhz"], strict=True)) == {
        "EARLY": 5.5,
        "TST01": 6.0,
        "THIEF": 1.0,
    }
    assert lake.files("quarantine", settings=settings) == []


def test_no_revision_is_revision_0() -> None:
    items = [
        IONOGRAM,
        {**IONOGRAM, "revision": 0},
        {**IONOGRAM, "revision": None},
        {**IONOGRAM, "revision": 1},
    ]
    frame, failures = build_frame("ionograms", items)
    assert failures == {}
    assert frame["revision"].tolist() == [0, 0, 0, 1]
    found = find_duplicates("ionograms", frame)
    assert (found.identical, found.conflicts) == ([1, 2], {})


@pytest.mark.parametrize(
    ("revision", "code"),
    [(-1, "revision_range"), (1_000_000, "revision_range"), (1.5, "revision_type"), ("1", "revision_type")],
)
def test_what_is_no_revision(revision: object, code: str) -> None:
    whole = {**IONOGRAM, "received_at": NOON, "available_at": NOON, "source": "http", "batch_id": "b"}
    frame, failures = build_frame("ionograms", [{**whole, "revision": revision}])
    reasons = validate_batch("ionograms", frame, now=NOON, cast_failures=failures).reasons
    assert [reason.split(":")[0] for reason in reasons[0]] == [code]


def test_files_from_before_revisions_hold_originals(settings: Settings) -> None:
    deliver(settings, NOON, IONOGRAM)
    (path,) = lake.files("ionograms", settings=settings)
    pq.write_table(pq.read_table(path).drop_columns(["revision"]), path)
    assert lake.read("ionograms", settings=settings)["revision"].tolist() == [0]
    assert lake.read_file("ionograms", path)["revision"].tolist() == [0]
    deliver(settings, NOON + timedelta(hours=1), IONOGRAM)  # still a repetition
    deliver(settings, NOON + timedelta(hours=2), {**IONOGRAM, "revision": 1, "fof2_mhz": 6.0})
    assert lake.read("ionograms", settings=settings)["revision"].tolist() == [0, 1]


def test_replays_of_original_and_correction_keep_both(settings: Settings) -> None:
    """Both were quarantined and pass one after the other: the second replay must not take the place of the first."""
    strict = settings.model_copy(update={"max_age_d": 1.0})
    stale = OBSERVED_AT + timedelta(days=2)
    for revision in (0, 1):
        deliver(
            strict,
            stale,
            {**IONOGRAM, "revision": revision, "fof2_mhz": 5.5 + revision},
            {**IONOGRAM, "observed_at": stale.isoformat()},
        )
        replay_quarantine(settings=settings, now=stale)
    rows = lake.read("ionograms", settings=settings, end=NOON)
    assert sorted(rows["revision"]) == [0, 1]


def test_scaled_by_hand_corrects_the_autoscaling(tmp_path: Path) -> None:
    header = "# Location: GEO ( 51.7 N   358.5 E ), URSI-Code {}, PLACE\n# Time CS foF2 QD\n"
    first = (
        header.format("FF051") + "2022-10-25T11:45:00.000Z 90 5.713 //\n2022-10-25T12:00:00.000Z -1 5.8 //\n"
    )
    again = header.format("FF051") + "2022-10-25T11:45:00.000Z 999 5.9 //\n"
    assert [item["revision"] for item in parse_giro_text(first + again).items] == [0, 0, 1]
    (tmp_path / "a.txt").write_text(first + again)
    (tmp_path / "b.txt").write_text(header.format("DB049") + "2022-10-25T11:45:00.000Z 80 6.0 //\n")
    rows = read_ionograms([tmp_path])
    assert rows[rows["sounder_id"] == "FF051"]["fof2_mhz"].tolist() == [5.9, 5.8]


def test_without_corrections_nothing_is_touched() -> None:
    frame, _ = build_frame(
        "ionograms", [{**IONOGRAM, "available_at": NOON}, {**IONOGRAM, "available_at": NOON}]
    )
    pd.testing.assert_frame_equal(known_at(frame, NOON), frame)
    assert known_at(frame, NOON - timedelta(seconds=1)).empty
