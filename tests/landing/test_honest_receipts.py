"""What a receipt says is what curation does: accepted rows reach the lake, rejected ones the quarantine, for one reason."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import catalog, lake
from tasks.curation import curate_batch
from tasks.landing.door import Door, Problem, read, split
from tasks.landing.group_commit import GroupCommit
from tasks.landing.receipts import REASON_CHARACTERS, Judge, Sent, known_dataset
from tasks.landing.spool import Record, collect
from tasks.settings import Settings
from tasks.validation import BatchRejected
from tests.test_validation import PROVENANCE, mutations, valid_items

NOW = datetime(2022, 10, 25, 12, tzinfo=UTC)
IONOGRAM = {
    "sounder_id": "TST01", "observed_at": "2022-10-25T11:45:00Z", "latitude_deg": 50.0, "longitude_deg": 8.0,
    "fof2_mhz": 5.5,
}  # fmt: skip
MEASUREMENT = {
    "sounder_id": "TST01", "observed_at": "2022-10-25T11:45:00Z", "tx_latitude_deg": 50.0, "tx_longitude_deg": 10.0,
    "rx_latitude_deg": 50.5, "rx_longitude_deg": 10.0, "frequency_mhz": 5.123, "snr_db": 10,
}  # fmt: skip
GOOD: Mapping[str, Mapping[str, Any]] = {"ionograms": IONOGRAM, "measurements": MEASUREMENT}

Delivery = tuple[str | None, str | None, str | None, float, bytes]
"""Dataset of the path, sounder of the credential, licence of the batch, seconds after `NOW`, body."""


def judged_and_curated(deliveries: Sequence[Delivery], **changed: Any) -> None:
    """Sends the deliveries through a door and curation, and holds every receipt to what became of its item."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), **changed)
        receipts = asyncio.run(_send(settings, deliveries))
        batches = collect(settings.spool_root, settings.lake_root)
        assert len(batches) == (1 if receipts else 0)
        for batch in batches:
            _compare(settings, batch, receipts)
        catalog._open.cache_clear()


async def _send(settings: Settings, deliveries: Sequence[Delivery]) -> dict[tuple[int, int], dict[str, Any]]:
    commit = GroupCommit(settings.spool_root / "http", seal_idle_s=600, seal_age_s=600)
    commit.start()
    door = Door(settings, commit)
    receipts: dict[tuple[int, int], dict[str, Any]] = {}
    n_records = 0
    for path, sounder_id, licence, late_s, body in deliveries:
        try:
            delivery = read(body)
        except Problem:  # it is not stored
            continue
        items = [
            Sent(known_dataset(value, None) if path is None else path, value, delivery.faults.get(position))
            for position, value in enumerate(delivery.values)
        ]
        if not items:
            continue
        now = NOW + timedelta(seconds=late_s)
        judge = Judge(settings, sounder_id=sounder_id, licence=licence, received_at=now)
        records = [
            Record("http", dataset, sounder_id, now, "application/json", payload, "http", licence)
            for dataset, payload in split(body, delivery, items)
        ]
        answers = await door.land(records, [(judge, sent) for sent in items])
        positions = {record.dataset: 0 for record in records}
        for sent, answer in zip(items, answers, strict=True):
            index = n_records + [record.dataset for record in records].index(sent.dataset)
            receipts[index, positions[sent.dataset]] = answer
            positions[sent.dataset] += 1
        n_records += len(records)
    await asyncio.to_thread(commit.stop)
    return receipts


def _compare(settings: Settings, batch: Path, receipts: dict[tuple[int, int], dict[str, Any]]) -> None:
    fault = "batch_freshness"
    try:
        result = curate_batch(batch, settings=settings)
    except BatchRejected as error:
        fault = str(error)
    else:
        assert result.n_duplicates == sum(answer["status"] == "duplicate" for answer in receipts.values())
    assert "batch_freshness" in fault, "each row is too old, or none is refused for others"
    rows = lake.read("quarantine", settings=settings)
    kept = {
        (int(row.record_index), -1 if math.isnan(row.item_index) else int(row.item_index)): row
        for row in rows.itertuples(index=False)
    }
    for (record, position), answer in receipts.items():
        row: Any = kept.get((record, position), kept.get((record, -1)))
        assert (answer["status"] == "rejected") == (row is not None), (answer, row)
        if row is not None and row.stage in ("contract", "schema", "decode") and row.item_index >= 0:
            reasons = [reason[:REASON_CHARACTERS] for reason in json.loads(row.reasons)]
            assert answer["reasons"] == reasons[: len(answer["reasons"])]
            assert len(answer["reasons"]) == min(len(reasons), 10)
        elif row is not None and row.stage == "conflict":
            assert answer["codes"] == ["observation_id_conflict"]
    accepted = sorted(
        answer["observation_id"] for answer in receipts.values() if answer["status"].startswith("accepted")
    )
    stored = [row for name in GOOD for row in lake.read(name, settings=settings)["observation_id"]]
    assert sorted(stored) == accepted


DAMAGE = [
    ("ionograms", '{"fof2_mhz": 5, "fof2_mhz": 6, "sounder_id": "A"}'),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "2016-12-31T23:59:60Z"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "0000-01-01T00:00:00Z"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "0001-01-01T00:00:00+05:00"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "9999-12-31T23:59:59-05:00"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "1921-01-01T00:00:00Z"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "2022-W43-2T11:00:00Z"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "2022-10-25x11:00:00Z"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "2022-10-25T11:00:00+01:30:15"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": "20221025T110000z"})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": (NOW + timedelta(seconds=301)).isoformat()})),
    ("ionograms", json.dumps({**IONOGRAM, "observed_at": (NOW + timedelta(seconds=300)).isoformat()})),
    *(("ionograms", json.dumps({**IONOGRAM, "confidence_score": n})) for n in (101, 999, 5.0, 5.5, 2**40, -1)),
    ("ionograms", json.dumps({**IONOGRAM, "fof1_mhz": 6})),
    ("ionograms", json.dumps({**IONOGRAM, "fof2_mhz": None})),
    ("ionograms", json.dumps({**IONOGRAM, "fof2_mhz": "5.5", "hmf2_km": None})),
    ("ionograms", json.dumps({**IONOGRAM, "longitude_deg": 360})),
    ("ionograms", json.dumps({**IONOGRAM, "note\ud800": "\ud800", "deep": [[[[]]]]})),
    ("ionograms", json.dumps({**IONOGRAM, "licence": "\u00e9"})),
    ("ionograms", json.dumps({**IONOGRAM, "observation_id": "mine", "fof2_mhz": 7})),
    *(("ionograms", json.dumps({**IONOGRAM, "fof2_mhz": 6, "revision": n})) for n in (1, None, 0, -1, 1.5, 1.0, "1", 2)),
    ("ionograms", json.dumps({**IONOGRAM, "observation_id": "mine", "sounder_id": "TST02", "fof2_mhz": 8})),
    ("ionograms", json.dumps({**IONOGRAM, "observation_id": "mine", "observed_at": "2022-10-24T01:00:00Z"})),
    ("measurements", json.dumps({**MEASUREMENT, "snr_db": None})),
    ("measurements", json.dumps({**MEASUREMENT, "signal": {"frequency_mhz": 5.123}})),
    ("measurements", json.dumps({**MEASUREMENT, "signal": {"frequency_mhz": 6}})),
    ("measurements", json.dumps({**MEASUREMENT, "frequency_mhz": None, "signal": {"frequency_mhz": 7}})),
    ("measurements", json.dumps({**MEASUREMENT, "receiver": None, "signal": 5})),
    ("measurements", '{"signal": {"mode": "O", "mode": "X"}}'),
    ("ionograms", "7"),
    ("ionograms", "null"),
    (None, json.dumps({**IONOGRAM, "dataset": "indices"})),
]  # fmt: skip


@pytest.mark.parametrize("max_age_d", [36_500.0, 30.0])
def test_what_was_called_accepted_and_quarantined(max_age_d: float) -> None:
    deliveries: list[Delivery] = [(path, None, None, 0.0, text.encode()) for path, text in DAMAGE]
    deliveries += [(name, None, None, 1.0, json.dumps(item).encode()) for name, item in GOOD.items()]
    deliveries += [
        ("ionograms", "TST01", "CC0-1.0", 2.0, json.dumps({"licence": "\u00e9", **IONOGRAM}).encode())
    ]
    deliveries += [("ionograms", "OTHER", None, 3.0, json.dumps(IONOGRAM).encode())]
    judged_and_curated(deliveries, max_age_d=max_age_d)


def test_each_item_is_judged_at_its_own_reception() -> None:
    early = {**IONOGRAM, "observed_at": (NOW + timedelta(seconds=303)).isoformat()}
    old = {**IONOGRAM, "observed_at": (NOW - timedelta(days=30) + timedelta(seconds=3)).isoformat()}
    deliveries: list[Delivery] = [
        ("ionograms", None, None, late_s, json.dumps([early, old, IONOGRAM]).encode()) for late_s in (0, 10)
    ]
    judged_and_curated(deliveries, max_age_d=30.0)


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    dataset = draw(st.sampled_from(sorted(GOOD)))
    items = []
    for _ in range(draw(st.integers(1, 6))):
        drawn = draw(valid_items(dataset)) if draw(st.booleans()) else dict(GOOD[dataset])
        item = {name: value for name, value in drawn.items() if name not in PROVENANCE or name == "licence"}
        kind = draw(st.sampled_from(["whole", "whole", "wrong", "odd", "again", "twice"]))
        if kind == "wrong":
            item = draw(st.sampled_from([wrong for _, wrong in mutations(dataset, item)]))
            item = {
                name: None if isinstance(value, int) and value > 10**4000 else value
                for name, value in item.items()
            }
        elif kind == "odd":
            name = draw(st.sampled_from([*item, "tx", "signal", "receiver", "sent_at", "source"]))
            item[name] = draw(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
                | st.dictionaries(st.sampled_from(["mode", "snr_db", "x"]), st.integers(0, 9), max_size=2)
            )  # fmt: skip
        elif kind == "again":
            item = {**GOOD[dataset], "observation_id": draw(st.sampled_from(["a", "b"]))}
            item["observed_at"] = f"2022-10-{draw(st.sampled_from([23, 24]))}T12:00:00Z"
            item["revision"] = draw(st.sampled_from([None, 0, 1]))
            item["licence"] = draw(st.sampled_from([None, "CC0-1.0"]))
        text = json.dumps(item, ensure_ascii=draw(st.booleans()))
        items.append(text[:-1] + ', "sounder_id": "X"}' if kind == "twice" else text)
    shape = draw(st.sampled_from(["one", "list", "envelope"]))
    text = items[0] if shape == "one" else f"[{','.join(items)}]"
    if shape == "envelope":
        text = f'{{"note": {draw(st.sampled_from(["1", "[]", "{}"]))}, "items": {text}}}'
    sounder_id = draw(st.sampled_from([None, None, "TST01"]))
    licence = draw(st.sampled_from([None, None, "CC0-1.0"]))
    path = draw(st.sampled_from([dataset, dataset, dataset, None]))
    return path, sounder_id, licence, draw(st.floats(0, 100)), text.encode("utf-8", "replace")


@hypothesis_settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(deliveries(), min_size=15, max_size=40))
def test_a_receipt_says_where_curation_puts_the_row(sent: list[Delivery]) -> None:
    judged_and_curated(sent)
