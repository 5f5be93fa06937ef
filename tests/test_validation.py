"""From items to judged rows: casts, rules, reasons, refusals, and how the engine behaves."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tasks import validation
from tasks.contracts import (
    CONTRACT_FOLDER,
    SUBMITTED_DATASETS,
    Column,
    load_contract,
    parse_contract,
    submission_schema,
)
from tasks.item_check import reason_code
from tasks.validation import (
    BatchRejected,
    build_frame,
    find_duplicates,
    meaning_ids,
    validate_batch,
)

ROOT = Path(__file__).resolve().parents[1]
NOW = datetime(2022, 10, 25, 12, tzinfo=UTC)
PROVENANCE = {
    "received_at": NOW,
    "available_at": NOW,
    "source": "http",
    "licence": None,
    "batch_id": "20221025T120000Z-0123456789abcdef",
}
ENGINE_SETTINGS = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def ionogram(**fields: Any) -> dict[str, Any]:
    item = {
        "sounder_id": "RO041",
        "observed_at": "2022-10-25T11:45:00Z",
        "latitude_deg": 41.9,
        "longitude_deg": 12.5,
    }
    return {**item, "fof2_mhz": 5.5, "hmf2_km": 250, **fields, **PROVENANCE}


def measurement(**fields: Any) -> dict[str, Any]:
    item = {"sounder_id": "RX1", "observed_at": "2022-10-25T11:45:00Z", "frequency_mhz": 5.25, "snr_db": 12}
    place = {
        "tx_latitude_deg": 41.9,
        "tx_longitude_deg": 12.5,
        "rx_latitude_deg": 38.0,
        "rx_longitude_deg": 23.5,
    }
    return {**item, **place, **fields, **PROVENANCE}


def judged(dataset: str, items: list[Any], **options: Any) -> tuple[pd.DataFrame, dict[int, list[str]]]:
    frame, failures = build_frame(dataset, items)
    outcome = validate_batch(dataset, frame, now=NOW, cast_failures=failures, **options)
    assert set(outcome.accepted.index) | set(outcome.reasons) == set(range(len(items)))
    assert not set(outcome.accepted.index) & set(outcome.reasons)
    return outcome.accepted, outcome.reasons


def codes(reasons: dict[int, list[str]]) -> dict[int, list[str]]:
    return {index: [reason_code(text) for text in texts] for index, texts in reasons.items()}


# ---- strategies built from the contracts


def values_of(column: Column) -> st.SearchStrategy[Any]:
    if column.enum:
        return st.sampled_from(column.enum)
    if column.physical_type.startswith("timestamp"):
        zones = st.sampled_from(
            [UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=3))]
        )
        times = st.datetimes(datetime(2022, 9, 1), datetime(2022, 10, 24), timezones=zones)  # noqa: DTZ001
        return times.map(datetime.isoformat)
    if column.name == "confidence_score":
        return st.sampled_from([-1, 999, *range(101)])
    if column.physical_type == "int32":
        return st.integers(int(column.minimum or 0), int(column.maximum or 9))
    if column.physical_type == "double":
        low, high = column.minimum, 360 if column.is_longitude else column.maximum
        return st.floats(low, high, allow_nan=False) | st.integers(
            int(np.ceil(low or 0)), int(np.floor(high or 9))
        )
    assert column.pattern is not None
    return st.from_regex(column.pattern[:-1] + r"\Z", fullmatch=True, alphabet=st.characters(codec="ascii"))


@st.composite
def valid_items(draw: st.DrawFn, dataset: str) -> dict[str, Any]:
    """An item that keeps every rule of the contract of `dataset`."""
    item: dict[str, Any] = {}
    for column in load_contract(dataset).columns:
        if column.filled_by == "landing":
            continue
        is_optional = column.nullable or column.filled_by == "sender_or_landing"
        value = draw(st.none() | values_of(column)) if is_optional else draw(values_of(column))
        if value is not None or draw(st.booleans()):
            item[column.name] = value
    if dataset == "ionograms":
        if all(item.get(name) is None for name in ("fof2_mhz", "hmf2_km", "m3000f2")):
            item["hmf2_km"] = 250.0
        if item.get("fof1_mhz") is not None and item.get("fof2_mhz") is not None:
            item["fof2_mhz"] = max(item["fof1_mhz"], item["fof2_mhz"])
    elif dataset == "measurements" and item.get("signal_strength_dbm") is None:
        item["snr_db"] = 3
    elif dataset == "indices":
        limits = {"kp": (0.0, 9.0), "f107_sfu": (50.0, 500.0), "xray_wm2": (1e-10, 0.1)}
        item["value"] = draw(st.floats(*limits[item["index_name"]]))
    return {**item, **PROVENANCE}


def mutations(dataset: str, base: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """One field of `base` made wrong at a time, with the one reason code that must come of it."""
    found: list[tuple[str, dict[str, Any]]] = []

    def wrong(code: str, name: str, value: Any) -> None:
        found.append((code, {**base, name: value}))

    for column in load_contract(dataset).columns:
        if column.filled_by != "sender":
            continue
        name = column.name
        if not column.nullable:
            wrong(f"{name}_missing", name, None)
        if column.maximum is not None:
            wrong(f"{name}_range", name, 361 if column.is_longitude else column.maximum + 1)
            far = 1e300 if column.physical_type == "double" else 2**31 - 1
            wrong(f"{name}_range", name, 9999 if column.maximum < 9999 else far)
        if column.minimum is not None:
            wrong(f"{name}_range", name, column.minimum - (0.01 if column.physical_type == "double" else 1))
        if column.physical_type in ("double", "int32"):
            wrong(f"{name}_type", name, "5.5")
            wrong(f"{name}_type", name, True)
            wrong(f"{name}_type", name, [1.0])
            wrong(f"{name}_finite", name, float("nan"))
            wrong(f"{name}_finite", name, json.loads("1e999"))
            wrong(f"{name}_finite", name, 10**5000)
        elif column.physical_type == "string":
            wrong(f"{name}_type", name, 12)
            wrong(f"{name}_type", name, "\ud800")
            wrong(f"{name}_{'enum' if column.enum else 'pattern'}", name, "ö\n")
            if column.pattern:
                wrong(f"{name}_pattern", name, "RO041\n")
                wrong(f"{name}_pattern", name, "RO٠٤١")  # digits, but not ASCII ones
        else:
            wrong(f"{name}_zone", name, "2022-10-25T11:45:00")
            wrong(f"{name}_format", name, "25.10.2022 11:45Z")
            wrong(f"{name}_format", name, "2022-10-25")
            wrong(f"{name}_format", name, "2022-10-25T11:45:00Z\n")
            wrong(f"{name}_type", name, 1666698300)
            wrong(f"{name}_future", name, (NOW + timedelta(hours=1)).isoformat())
            wrong(f"{name}_format", name, "2022-10-24T23:59:60Z")
            wrong(f"{name}_format", name, "0000-01-01T00:00:00Z")
            wrong(f"{name}_format", name, "0001-01-01T00:00:00+05:00")
            wrong(f"{name}_stale", name, "0001-01-02T00:00:00+05:00")
    return found


@pytest.mark.parametrize("dataset", SUBMITTED_DATASETS)
@ENGINE_SETTINGS
@given(data=st.data())
def test_items_that_keep_the_contract_pass(dataset: str, data: st.DataObject) -> None:
    items = data.draw(st.lists(valid_items(dataset), min_size=1, max_size=10))
    accepted, reasons = judged(dataset, items)
    assert reasons == {}
    assert len(accepted) == len(items)
    check = jsonschema_rs.validator_for(submission_schema(dataset))
    for item in items:
        check.validate({name: value for name, value in item.items() if name not in PROVENANCE})


@pytest.mark.parametrize("dataset", SUBMITTED_DATASETS)
@settings(ENGINE_SETTINGS, max_examples=5, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(data=st.data())
def test_one_wrong_field_gives_exactly_its_reason(dataset: str, data: st.DataObject) -> None:
    base = data.draw(valid_items(dataset))
    if dataset == "ionograms":
        base |= {"fof2_mhz": None, "fof1_mhz": None, "hmf2_km": 250.0}  # so that no pair rule speaks as well
    elif dataset == "measurements":
        base |= {"signal_strength_dbm": -90.0, "snr_db": 10}
    cases = mutations(dataset, base)
    accepted, reasons = judged(dataset, [base, *(item for _, item in cases)])
    assert list(accepted.index) == [0]
    assert codes(reasons) == {row: [code] for row, (code, _) in enumerate(cases, start=1)}


# ---- casts


def test_frame_has_the_columns_and_types_of_the_contract() -> None:
    frame, failures = build_frame(
        "ionograms", [ionogram(qualifier="//"), ionogram(observed_at="2022-10-25T13:00+02:00")]
    )
    assert failures == {}
    assert list(frame.columns) == list(load_contract("ionograms").column_names)
    assert frame["fof2_mhz"].dtype == np.float64
    assert str(frame["observed_at"].dtype) == "datetime64[us, UTC]"
    assert frame["observed_at"][1] == pd.Timestamp("2022-10-25T11:00Z")
    assert frame["sounder_id"].dtype == object
    assert frame["qualifier"].tolist() == ["//", None]


@pytest.mark.parametrize(
    ("given_deg", "kept_deg"), [(0, 0), (180, 180), (180.5, -179.5), (350, -10), (360, 0), (-180, -180)]
)
def test_longitudes_are_brought_to_180(given_deg: float, kept_deg: float) -> None:
    accepted, reasons = judged("ionograms", [ionogram(longitude_deg=given_deg)])
    assert reasons == {}
    assert accepted["longitude_deg"][0] == kept_deg


def test_all_reasons_of_a_row_are_kept() -> None:
    _, reasons = judged(
        "ionograms",
        [
            ionogram(),
            ionogram(
                fof2_mhz=9999, hmf2_km=float("nan"), longitude_deg=361, observed_at="2022-10-25T11:45:00"
            ),
            ionogram(fof2_mhz="x", hmf2_km=None),
            17,
        ],
    )
    assert codes(reasons) == {
        1: ["observed_at_zone", "hmf2_km_finite", "longitude_deg_range", "fof2_mhz_range"],
        2: ["fof2_mhz_type"],  # not also "nothing is given": something was, but could not be read
        3: ["item_type"],
    }
    assert reasons[1][-1] == "fof2_mhz_range: 9999.0 is outside 0.5..30 MHz"


def test_reasons_speak_to_a_stranger() -> None:
    _, reasons = judged(
        "ionograms",
        [
            ionogram(fof2_mhz=99.0),
            ionogram(observed_at="2022-10-25T11:45:00"),
            ionogram(fof1_mhz=7.25),
            ionogram(fof2_mhz=None, hmf2_km=None),
            ionogram(observed_at="2022-10-25T13:00:00Z"),
            ionogram(confidence_score=7.5),
        ],
    )
    assert [texts[0] for texts in reasons.values()] == [
        "fof2_mhz_range: 99.0 is outside 0.5..30 MHz",
        'observed_at_zone: "2022-10-25T11:45:00" has no zone; add Z or an offset',
        "fof1_above_fof2: fof1_mhz 7.25 is above fof2_mhz, which URSI rules exclude (fof2_mhz 5.5)",
        "ionogram_empty: none of fof2_mhz, hmf2_km, m3000f2 is given: at least one is needed",
        "observed_at_future: 2022-10-25T13:00:00Z lies in the future beyond the clock tolerance "
        "(latest accepted is 2022-10-25T12:05:00Z)",
        "confidence_score_type: 7.5 is not a whole number of type int32",
    ]


def test_unknown_fields_are_counted_not_refused() -> None:
    items = [ionogram(colour="red"), ionogram(colour="blue", **{"x" * 500: 1})]
    frame, failures = build_frame("ionograms", items)
    assert failures == {}
    assert frame.attrs["unknown_fields"] == {"colour": 2, "x" * 64: 1}
    many, _ = build_frame("ionograms", [ionogram(**{f"x{i}": 1 for i in range(1000)})])
    assert sum(many.attrs["unknown_fields"].values()) == 1000
    assert len(many.attrs["unknown_fields"]) <= 21


@settings(max_examples=30, deadline=None)
@given(item=valid_items("measurements"))
def test_nested_measurement_is_the_flat_one(item: dict[str, Any]) -> None:
    nested: dict[str, Any] = {}
    for column in load_contract("measurements").columns:
        if column.name in item and column.nested_path:
            group, name = column.nested_path
            nested.setdefault(group, {})[name] = item[column.name]
        elif column.name in item:
            nested[column.name] = item[column.name]
    flat_frame, _ = build_frame("measurements", [item])
    nested_frame, failures = build_frame("measurements", [nested])
    assert failures == {}
    pd.testing.assert_frame_equal(nested_frame, flat_frame)
    check = jsonschema_rs.validator_for(submission_schema("measurements"))
    assert check.is_valid({name: value for name, value in nested.items() if name not in PROVENANCE})
    broken = {**nested, "signal": {**nested["signal"], "frequency_mhz": "5"}}
    assert not check.is_valid({name: value for name, value in broken.items() if name not in PROVENANCE})


def test_nested_fields_that_cannot_be_used() -> None:
    items = [
        measurement(transmitter={"power_w": 100, "colour": 1}),
        measurement(transmitter=5),
        measurement(transmitter={"latitude_deg": 10}),  # contradicts tx_latitude_deg
        measurement(transmitter={"latitude_deg": 41.9}),
        measurement(tx_latitude_deg=None, tx_longitude_deg=None, transmitter="here"),
    ]
    frame, failures = build_frame("measurements", items)
    assert frame["tx_power_w"][0] == 100
    assert frame.attrs["unknown_fields"] == {"transmitter.colour": 1}
    assert codes(failures) == {
        1: ["transmitter_type"],
        2: ["tx_latitude_deg_ambiguous"],
        4: ["transmitter_type"],
    }
    _, reasons = judged("measurements", items)
    assert codes(reasons) == codes(failures)


# ---- identity


def test_identity_is_the_meaning_of_the_row() -> None:
    items = [
        measurement(),
        measurement(snr_db=99),  # same sounding, other content
        measurement(observed_at="2022-10-25T13:45:00+02:00"),  # the same instant
        measurement(frequency_mhz=5.2502),  # the same kHz
        measurement(frequency_mhz=5.251),
        measurement(mode="O"),
        measurement(observed_at="2022-10-25T11:45:00.000001Z"),
        measurement(sounder_id="RX2"),
        measurement(observation_id="mine-7"),
    ]
    frame, _ = build_frame("measurements", items)
    ids = frame["observation_id"].tolist()
    assert len(set(ids[:4])) == 1
    assert len(set(ids)) == 6
    assert ids[8] == "mine-7"
    instant_us = 1_666_698_300_000_000
    text = f"measurements|RX1|{instant_us}|5250|"
    assert ids[0] == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert meaning_ids("measurements", frame)[8] == ids[0]


def test_identical_repeats_and_contradictions_are_told_apart() -> None:
    items = [
        ionogram(),
        ionogram(received_at=NOW),
        ionogram(fof2_mhz=5.6),
        ionogram(fof1_mhz=4.0),
        ionogram(sounder_id="AT138"),
        ionogram(fof2_mhz=5.6),
    ]
    frame, _ = build_frame("ionograms", items)
    frame.loc[1, "batch_id"] = "another"
    accepted = validate_batch("ionograms", frame, now=NOW).accepted
    assert len(accepted) == 6  # repeats are no fault of a row
    found = find_duplicates("ionograms", accepted)
    assert found.identical == [1]
    assert codes(found.conflicts) == {i: ["observation_id_conflict"] for i in (2, 3, 5)}
    assert "fof2_mhz 5.6 (first 5.5)" in found.conflicts[2][0]
    assert "fof1_mhz 4.0 (first nan)" in found.conflicts[3][0]


def test_rows_of_the_lake_come_first() -> None:
    frame, _ = build_frame(
        "ionograms", [ionogram(), ionogram(sounder_id="AT138"), ionogram(sounder_id="FF051")]
    )
    known, _ = build_frame("ionograms", [ionogram(), ionogram(sounder_id="AT138", fof2_mhz=9.0)])
    found = find_duplicates("ionograms", frame.set_index(pd.Index([10, 20, 30])), known)
    assert found.identical == [10]
    assert list(found.conflicts) == [20]
    nothing = find_duplicates("ionograms", frame, known.iloc[:0])
    assert nothing.identical == []
    assert nothing.conflicts == {}


# ---- whole batches


def test_batch_with_other_columns_is_refused() -> None:
    frame, _ = build_frame("ionograms", [ionogram()])
    with pytest.raises(BatchRejected, match=r"batch_schema: column hmf2_km, b1 is missing \(version 1\."):
        validate_batch("ionograms", frame.drop(columns=["hmf2_km", "b1"]), now=NOW)
    with pytest.raises(BatchRejected, match="column colour is not in the contract"):
        validate_batch("ionograms", frame.assign(colour=1.0), now=NOW)
    with pytest.raises(BatchRejected, match="column fof2_mhz holds object, the contract asks for float64"):
        validate_batch("ionograms", frame.astype({"fof2_mhz": object}), now=NOW)


def test_batch_without_rows_is_refused() -> None:
    frame, _ = build_frame("ionograms", [])
    with pytest.raises(BatchRejected, match="batch_volume: 0 rows, accepted are 1 to 1000000"):
        validate_batch("ionograms", frame, now=NOW)


def test_stale_batch_is_refused_stale_row_is_not() -> None:
    old = ionogram(observed_at="2022-10-01T00:00:00Z")
    frame, _ = build_frame("ionograms", [old, old])
    with pytest.raises(
        BatchRejected, match=r"newest of 2 observations is of 2022-10-01T00:00:00Z.*feed stands still"
    ):
        validate_batch("ionograms", frame, now=NOW, max_age_d=7)
    accepted, reasons = judged("ionograms", [old, ionogram()], max_age_d=7)
    assert codes(reasons) == {0: ["observed_at_stale"]}
    assert list(accepted.index) == [1]


def test_batch_without_one_readable_time_is_quarantined_row_by_row() -> None:
    _, reasons = judged("ionograms", [ionogram(observed_at="yesterday"), ionogram(observed_at=None)])
    assert codes(reasons) == {0: ["observed_at_format"], 1: ["observed_at_missing"]}


def test_clock_without_zone_is_an_error_of_the_caller() -> None:
    frame, _ = build_frame("ionograms", [ionogram()])
    with pytest.raises(ValueError, match=r"now: .* has no time zone"):
        validate_batch("ionograms", frame, now=datetime(2022, 10, 25))  # noqa: DTZ001


def test_rule_that_cannot_be_evaluated_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    document = yaml.safe_load((CONTRACT_FOLDER / "ionograms.yaml").read_text(encoding="utf-8"))
    rule = next(item for item in document["schema"][0]["quality"] if item["name"] == "confidence_score_enum")
    rule["implementation"] = {
        "type": "expect_column_values_to_be_between",
        "kwargs": {"column": "sounder_id", "min_value": 5},
    }
    contract = parse_contract(yaml.safe_dump(document), "ionograms")
    frame, _ = build_frame("ionograms", [ionogram(), ionogram()])
    validation._suite.cache_clear()
    monkeypatch.setattr(validation, "load_contract", lambda dataset: contract)
    try:
        with pytest.raises(
            RuntimeError, match="ionograms: rule confidence_score_enum could not be evaluated"
        ):
            validate_batch("ionograms", frame, now=NOW)
    finally:
        validation._suite.cache_clear()


def test_outputs_of_a_cycle_are_judged_too() -> None:
    base = {column.name: None for column in load_contract("analysis").columns}
    base |= {
        "cycle_id": "20221025T1200Z",
        "valid_time": NOW,
        "lead_h": 0,
        "latitude_deg": 1,
        "longitude_deg": 2,
    }
    base |= {"fof2_mhz": 5, "fof2_mhz_sd": 0.5, "hmf2_km": 250, "hmf2_km_sd": 20, "fof2_background_mhz": 5}
    base["hmf2_background_km"] = 250
    _, reasons = judged(
        "analysis", [base, {**base, "latitude_deg": 2}, {**base, "longitude_deg": 3}, dict(base)]
    )
    assert codes(reasons) == {0: ["key_unique"], 3: ["key_unique"]}


# ---- the engine


def test_threads_do_not_get_each_others_results() -> None:
    jobs: list[tuple[str, list[Any], set[int]]] = []
    for job in range(12):
        bad = {index for index in range(60) if (index * 7 + job) % 5 == 0}
        if job % 2:
            items = [ionogram(fof2_mhz=99.0 if index in bad else 5.0) for index in range(60)]
            jobs.append(("ionograms", items, bad))
        else:
            items = [measurement(frequency_mhz=0.0 if index in bad else 5.0) for index in range(60)]
            jobs.append(("measurements", items, bad))
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda job: judged(job[0], job[1])[1], jobs))
    for (dataset, _, bad), reasons in zip(jobs, outcomes, strict=True):
        expected = "fof2_mhz_range" if dataset == "ionograms" else "frequency_mhz_range"
        assert codes(reasons) == {index: [expected] for index in bad}


def test_frames_keep_their_labels_and_are_not_changed() -> None:
    frame, _ = build_frame("ionograms", [ionogram(fof2_mhz=value) for value in (5, 99, 6, 98)])
    frame.index = pd.Index([40, 30, 20, 10])
    before = copy.deepcopy(frame)
    outcome = validate_batch("ionograms", frame, now=NOW)
    assert list(outcome.accepted.index) == [40, 20]
    assert list(outcome.reasons) == [10, 30]
    pd.testing.assert_frame_equal(frame, before)


ALONE = """
import json, socket, sys

def refuse(self, address, *rest):
    raise AssertionError(f"a connection to {address} was tried")

def no_lookup(host, *rest, **more):
    raise AssertionError(f"a look-up of {host} was tried")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.gethostbyname = no_lookup

from datetime import UTC, datetime
import tasks.validation
assert "great_expectations" not in sys.modules, "imported too early"
now = datetime(2022, 10, 25, 12, tzinfo=UTC)
item = json.loads(sys.argv[1]) | {"received_at": now, "available_at": now, "source": "http", "batch_id": "b"}
frame, failures = tasks.validation.build_frame("ionograms", [item, item | {"fof2_mhz": 99}])
assert "great_expectations" not in sys.modules, "imported too early"
outcome = tasks.validation.validate_batch("ionograms", frame, now=now, cast_failures=failures)
assert "great_expectations" in sys.modules, "who judged?"
print(json.dumps(outcome.reasons))
"""


def test_engine_is_late_silent_and_offline(tmp_path: Path) -> None:
    """In a fresh process: imported only to judge, no connection, no look-up, no output, no file in the home directory."""
    item = {name: value for name, value in ionogram().items() if name not in PROVENANCE}
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(item)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"1": ["fof2_mhz_range: 99.0 is outside 0.5..30 MHz"]}
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
