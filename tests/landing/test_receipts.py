"""Receipts: the identity is the one curation computes, and every reason names field and value."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks.landing.receipts import Judge, Sent
from tasks.settings import Settings
from tasks.validation import build_frame

NOW = datetime(2031, 1, 2, 12, tzinfo=UTC)
IONOGRAM = {
    "sounder_id": "TST01", "observed_at": "2031-01-02T11:00:00Z", "latitude_deg": 50.0, "longitude_deg": 358.5,
    "fof2_mhz": 5.5,
}  # fmt: skip
MEASUREMENT = {
    "sounder_id": "TST01", "observed_at": "2031-01-02T11:00:00Z", "tx_latitude_deg": 50.0, "tx_longitude_deg": 10.0,
    "rx_latitude_deg": 50.5, "rx_longitude_deg": 10.0, "frequency_mhz": 5.123,
    "snr_db": 12.5,
}  # fmt: skip


def judged(dataset: str | None, item: Any, sounder_id: str | None = None) -> dict[str, Any]:
    judge = Judge(
        Settings.model_validate({"max_future_s": 0}), sounder_id=sounder_id, licence=None, received_at=NOW
    )
    said: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(judge.receipt(Sent(dataset, item))[0]))
    return said


times = st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)).flatmap(  # noqa: DTZ001
    lambda naive: st.integers(-840, 840).map(
        lambda minutes: naive.replace(tzinfo=timezone(timedelta(minutes=minutes))).isoformat()
    )
)
sounders = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@hypothesis_settings(deadline=None)
@given(sounders, times, st.floats(1.6, 30), st.sampled_from(["O", "X", "U", None]))
def test_identity_is_curations(
    sounder_id: str, observed_at: str, frequency_mhz: float, mode: str | None
) -> None:
    common = {"sounder_id": sounder_id, "observed_at": observed_at}
    items: list[tuple[str, dict[str, Any]]] = [
        ("ionograms", {**IONOGRAM, **common}),
        ("measurements", {**MEASUREMENT, **common, "frequency_mhz": frequency_mhz, "mode": mode}),
    ]
    for dataset, item in items:
        frame, _ = build_frame(dataset, [item])
        assert judged(dataset, item)["observation_id"] == frame["observation_id"].iloc[0]


def test_an_item_without_sounder_gets_the_senders() -> None:
    item = {name: value for name, value in IONOGRAM.items() if name != "sounder_id"}
    sent, whole = judged("ionograms", item, "TST01"), judged("ionograms", IONOGRAM)
    assert sent["observation_id"] == whole["observation_id"]
    assert judged("ionograms", item)["observation_id"] is None


def test_good_items_are_accepted() -> None:
    for dataset, item in (("ionograms", IONOGRAM), ("measurements", MEASUREMENT)):
        answer = judged(dataset, item)
        assert answer["reasons"] == []
        assert answer["status"] == "accepted"
        assert len(answer["observation_id"]) == 32
    assert judged("ionograms", {**IONOGRAM, "observation_id": "mine-7"})["observation_id"] == "mine-7"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fof2_mhz": 99}, "fof2_mhz_range: 99"),
        (
            {"fof2_mhz": math.nan},
            "fof2_mhz_finite: nan is not a finite number; write null for a missing value",
        ),
        ({"fof2_mhz": -math.inf}, "fof2_mhz_finite: -inf is not a finite number"),
        ({"fof2_mhz": 10**400}, "fof2_mhz_finite: 1000"),
        ({"fof2_mhz": "5.5"}, "fof2_mhz_type: "),
        ({"longitude_deg": 400}, "longitude_deg_range: 400"),
        ({"observed_at": "2031-01-02T11:00:00"}, "observed_at_zone: "),
        ({"observed_at": "2031-01-02T13:00:00Z"}, "observed_at_future: "),
        ({"observed_at": None}, "observed_at_missing: "),
        ({"sounder_id": "\ud800"}, "sounder_id_type: "),
    ],
)
def test_bad_items_are_rejected_with_a_reason(change: dict[str, Any], reason: str) -> None:
    answer = judged("ionograms", {**IONOGRAM, **change})
    assert answer["status"] == "rejected"
    assert any(reason in text for text in answer["reasons"]), answer["reasons"]
    assert all(len(text) <= 300 for text in answer["reasons"])


def test_what_is_no_item_is_rejected() -> None:
    for value in (None, 5, "text", [], [[]]):
        assert judged("ionograms", value)["status"] == "rejected"
    assert "unknown" in judged(None, IONOGRAM)["reasons"][0]
    assert 'it was sent as "OTHER"' in judged("ionograms", IONOGRAM, "OTHER")["reasons"][0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["ionograms", "measurements"]),
    st.sampled_from([*IONOGRAM, *MEASUREMENT, "tx"]),
    json_values,
)
def test_any_value_gets_a_receipt(dataset: str, name: str, value: Any) -> None:
    for item in (value, {**IONOGRAM, name: value}, {**MEASUREMENT, name: value}):
        answer = judged(dataset, item)
        assert answer["status"] in ("accepted", "accepted_with_warnings", "rejected")
        assert (answer["status"] == "rejected") == (answer["reasons"] != [])
        assert (answer["status"] == "accepted") == (answer["reasons"] == answer["warnings"] == [])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fof2_mhz": 99}, "fof2_mhz_range"),
        ({"fof2_mhz": math.nan}, "fof2_mhz_finite"),
        ({"fof2_mhz": "5"}, "fof2_mhz_type"),
        ({"sounder_id": "/"}, "sounder_id_pattern"),
        ({"observed_at": "2031-01-02T13:00:00Z"}, "observed_at_future"),
    ],
)
def test_each_reason_has_its_code(change: dict[str, Any], code: str) -> None:
    answer = judged("ionograms", {**IONOGRAM, **change})
    assert code in answer["codes"]
    assert len(answer["codes"]) == len(answer["reasons"])
    without = {name: value for name, value in IONOGRAM.items() if name != "latitude_deg"}
    assert judged("ionograms", without)["codes"] == ["latitude_deg_missing"]
    assert judged("ionograms", IONOGRAM, "OTHER")["codes"] == ["sounder_id_mismatch"]
    assert judged(None, IONOGRAM)["codes"] == ["dataset_unknown"]


def test_unknown_fields_and_a_wrong_clock_are_warnings() -> None:
    answer = judged("ionograms", {**IONOGRAM, "foF2": 5.5, "dataset": "ionograms", "source": "simulated"})
    assert answer["status"] == "accepted_with_warnings"
    assert answer["warnings"] == ["foF2: the contract does not know it; it stays in the raw bytes only"]
    for offset_s, n_warnings in ((-9.0, 0), (61.0, 1), (-61.0, 1)):
        answer = judged("ionograms", {**IONOGRAM, "sent_at": (NOW - timedelta(seconds=offset_s)).isoformat()})
        assert (len(answer["warnings"]), answer["clock_offset_s"]) == (n_warnings, offset_s)
