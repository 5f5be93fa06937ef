"""What fails is kept whole, and a changed contract brings it back exactly once."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tasks import lake, quarantine, validation
from tasks.contracts import CONTRACT_FOLDER, load_contract, parse_contract
from tasks.quarantine import Rejected, judge_again, quarantine_rows, replay
from tasks.settings import Settings
from tasks.validation import validate_batch

NOW = datetime(2022, 10, 25, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=30)
BATCH = "20221025T120000Z-0123456789abcdef"


def raw_item(**fields: Any) -> bytes:
    item = {
        "sounder_id": "RO041",
        "observed_at": "2022-10-25T11:45:00Z",
        "latitude_deg": 41.9,
        "longitude_deg": 12.5,
    }
    return json.dumps({**item, "fof2_mhz": 5.5, **fields}).encode()


def rejected(index: int, raw: bytes, **fields: Any) -> Rejected:
    facts: dict[str, Any] = {
        "item_index": 0,
        "stage": "contract",
        "reasons": ["fof2_mhz_range: ...", "second: ..."],
    }
    facts |= {"received_at": NOW, "sounder_id": "RO041", "source": "mqtt", "licence": "CC BY 4.0"}
    return Rejected(record_index=index, raw=raw, **{**facts, **fields})


def rows_of(*raws: bytes) -> pd.DataFrame:
    return quarantine_rows("ionograms", BATCH, [rejected(index, raw) for index, raw in enumerate(raws)])


def nothing_known(candidates: pd.DataFrame) -> None:
    return None


@pytest.fixture
def wider_contract(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A newer contract of ionograms that accepts foF2 up to 40 MHz."""
    document = yaml.safe_load((CONTRACT_FOLDER / "ionograms.yaml").read_text(encoding="utf-8"))
    column = next(item for item in document["schema"][0]["properties"] if item["name"] == "fof2_mhz")
    column["logicalTypeOptions"]["maximum"] = 40
    document["version"] = "1.0.1"
    newer = parse_contract(yaml.safe_dump(document), "ionograms")

    def load(dataset: str) -> Any:
        return newer if dataset == "ionograms" else load_contract(dataset)

    def change() -> None:
        validation._suite.cache_clear()
        monkeypatch.setattr(validation, "load_contract", load)
        monkeypatch.setattr(quarantine, "load_contract", load)

    yield change
    validation._suite.cache_clear()


def test_rows_keep_every_reason_and_every_byte() -> None:
    raw = b'{"fof2_mhz": 99, "note": "\xff\x00"}'
    broken = rejected(1, b"\x00\xff", item_index=None, stage="decode", sounder_id="no\nname", licence=None)
    rows = quarantine_rows("ionograms", BATCH, [rejected(0, raw), broken])
    assert rows["raw"].tolist() == [raw, b"\x00\xff"]
    assert rows["raw_sha256"][0] == hashlib.sha256(raw).hexdigest()
    assert json.loads(rows["reasons"][0]) == ["fof2_mhz_range: ...", "second: ..."]
    assert rows["sounder_id"].tolist() == ["RO041", None]
    assert rows["contract_version"].tolist() == [load_contract("ionograms").version] * 2
    assert validate_batch("quarantine", rows, now=NOW).reasons == {}
    pd.testing.assert_frame_equal(rows, quarantine_rows("ionograms", BATCH, [rejected(0, raw), broken]))
    assert rows["quarantine_id"].is_unique


def test_rejection_without_a_reason_is_refused() -> None:
    with pytest.raises(ValueError, match=f"record 7 of {BATCH} has no reason"):
        quarantine_rows("ionograms", BATCH, [rejected(7, b"{}", reasons=[])])


def test_unchanged_contract_accepts_nothing() -> None:
    rows = rows_of(raw_item(fof2_mhz=35), b"{", b"\xff", b"[]", b"[" * 100_000)
    outcome = judge_again("ionograms", rows, now=LATER, known=nothing_known)
    assert outcome.accepted.empty
    assert outcome.batch_name is None
    pd.testing.assert_frame_equal(outcome.quarantine, rows)
    texts = [outcome.reasons[name] for name in rows["quarantine_id"]]
    assert texts[0] == ["fof2_mhz_range: 35.0 is outside 0.5..30 MHz"]
    assert [text[0].split(":")[0] for text in texts[1:]] == ["decode"] * 4


def test_changed_contract_accepts_what_it_now_allows(wider_contract: Any) -> None:
    rows = rows_of(raw_item(fof2_mhz=35), raw_item(fof2_mhz=99))
    wider_contract()
    outcome = judge_again("ionograms", rows, now=LATER, known=nothing_known)
    assert outcome.accepted["fof2_mhz"].tolist() == [35.0]
    accepted = outcome.accepted.iloc[0]
    assert accepted["received_at"] == NOW
    assert accepted["available_at"] == LATER  # no cycle before could have used it
    assert (accepted["source"], accepted["licence"], accepted["batch_id"]) == ("mqtt", "CC BY 4.0", BATCH)
    assert outcome.quarantine["replayed_at"].tolist() == [pd.Timestamp(LATER), pd.NaT]
    assert outcome.quarantine["replay_batch_id"].tolist()[0] == outcome.batch_name
    assert list(outcome.reasons) == [rows["quarantine_id"][1]]
    again = judge_again("ionograms", outcome.quarantine, now=LATER, known=nothing_known)
    assert again.accepted.empty
    assert list(again.reasons) == list(outcome.reasons)


def test_a_licence_that_the_owner_states_stands_when_the_source_has_none(wider_contract: Any) -> None:
    rows = quarantine_rows(
        "ionograms", BATCH, [rejected(0, raw_item(fof2_mhz=35, licence="CC0"), licence=None)]
    )
    wider_contract()
    outcome = judge_again("ionograms", rows, now=LATER, known=nothing_known)
    assert outcome.accepted["licence"].tolist() == ["CC0"]


def test_sender_of_the_record_stands(wider_contract: Any) -> None:
    rows = rows_of(
        raw_item(fof2_mhz=35, sounder_id=None), raw_item(fof2_mhz=35, sounder_id="AT138", source="giro")
    )
    wider_contract()
    outcome = judge_again("ionograms", rows, now=LATER, known=nothing_known)
    assert outcome.accepted["sounder_id"].tolist() == ["RO041"]
    assert outcome.accepted["source"].tolist() == ["mqtt"]
    assert "sounder_id_mismatch" in outcome.reasons[rows["quarantine_id"][1]][0]


def test_record_of_many_items_is_done_when_all_pass(wider_contract: Any) -> None:
    first, second = json.loads(raw_item(fof2_mhz=35)), json.loads(raw_item(fof2_mhz=99, latitude_deg=1))
    second["observed_at"] = "2022-10-25T11:30:00Z"
    rows = rows_of(json.dumps([first, second]).encode())
    wider_contract()
    outcome = judge_again("ionograms", rows, now=LATER, known=nothing_known)
    assert len(outcome.accepted) == 1
    assert outcome.quarantine["replayed_at"].isna().all()
    again = judge_again("ionograms", rows, now=LATER, known=lambda candidates: outcome.accepted)
    assert again.accepted.empty


def test_whole_batch_that_is_still_stale_stays() -> None:
    rows = rows_of(raw_item())
    outcome = judge_again("ionograms", rows, now=LATER, known=nothing_known, max_age_d=7)
    assert outcome.accepted.empty
    assert "batch_freshness" in outcome.reasons[rows["quarantine_id"][0]][0]


def test_replay_over_a_lake_never_doubles(
    tmp_path: Path, wider_contract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    rows = rows_of(
        raw_item(fof2_mhz=35), raw_item(fof2_mhz=36, sounder_id="RO041", observed_at="2022-10-24T00:00:00Z")
    )
    lake.publish("quarantine", rows, BATCH, settings=settings)
    assert replay(settings=settings, now=LATER).n_published == 0
    wider_contract()

    publish = lake.publish

    def killed_before_marking(dataset: str, *arguments: Any, **options: Any) -> Any:
        if dataset == "quarantine":
            raise KeyboardInterrupt
        return publish(dataset, *arguments, **options)

    monkeypatch.setattr(lake, "publish", killed_before_marking)
    with pytest.raises(KeyboardInterrupt):
        replay(settings=settings, now=LATER)
    monkeypatch.setattr(lake, "publish", publish)
    published = lake.read("ionograms", settings=settings)
    assert sorted(published["fof2_mhz"]) == [35.0, 36.0]

    second = replay(settings=settings, now=LATER + timedelta(hours=1))
    assert (second.n_published, second.n_marked, second.n_failing) == (0, 2, 0)
    third = replay(settings=settings, now=LATER + timedelta(hours=2))
    assert (third.n_published, third.n_marked, third.n_failing, third.files) == (0, 0, 0, [])
    pd.testing.assert_frame_equal(lake.read("ionograms", settings=settings), published)
    kept = lake.read("quarantine", settings=settings)
    assert kept["replayed_at"].notna().all()
    assert sorted(kept["raw"]) == sorted(rows["raw"])
