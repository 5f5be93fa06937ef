"""Batches curated together give, byte for byte, what each gives alone; a refused one spares its neighbours."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks import catalog, curation, validation
from tasks.contracts import SUBMITTED_DATASETS, load_contract
from tasks.curation import curate_batches, groups, pending_batches
from tasks.landing.spool import Record, SpoolWriter, hand_off
from tasks.settings import Settings
from tasks.validation import build_frame, validate_batch

RECEIVED = datetime(2022, 10, 24, 12, tzinfo=UTC)


def item(minute: float, **changes: Any) -> dict[str, Any]:
    moment = RECEIVED + timedelta(minutes=minute - 60)
    return {
        "sounder_id": "RO041",
        "observed_at": moment.isoformat(),
        "latitude_deg": 41.8,
        "longitude_deg": 12.5,
        "fof2_mhz": 7.5,
        **changes,
    }


def land(settings: Settings, minute: float, items: Sequence[Any], dataset: str = "ionograms") -> Path:
    """One batch of one record, received this many minutes after the first."""
    writer = SpoolWriter(settings.spool_root / "http")
    received_at = RECEIVED + timedelta(minutes=minute)
    payload = json.dumps(list(items)).encode()
    writer.append_many([Record("http", dataset, None, received_at, "application/json", payload, "http")])
    sealed = writer.seal()
    assert sealed is not None
    return hand_off(sealed, settings.lake_root)


def land_all(settings: Settings) -> list[Path]:
    """Good, repeated, contradicting, bad, wholly old and damaged batches, and an item that is early for one and not for another."""
    batches = [
        land(settings, 0, [item(0), item(15)]),
        land(settings, 1, [item(15), item(30, fof2_mhz=99.0), item(66.2)]),
        land(settings, 2, [item(0, fof2_mhz=8.0), item(66.2)]),
        land(settings, 3, [item(-900 * 24 * 60), item(-901 * 24 * 60)]),
        land(settings, 4, [item(40), item(-900 * 24 * 60), 7, {}]),
        land(settings, 5, [item(45, fof2_mhz=-1)]),
        land(settings, 6, [item(50, fof2_mhz=None, frequency_mhz=5.0)], "measurements"),
        land(settings, 7, []),
        land(settings, 8, [item(55)], "cheese"),
        land(settings, 9, [item(57), item(58)]),
    ]
    with batches[-1].open("ab") as file:
        file.write(struct.pack("<III", 1, 1, 0) + b"damaged, not torn")
    return batches


def digests(settings: Settings) -> dict[str, str]:
    return {
        path.relative_to(settings.lake_root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in settings.lake_root.rglob("*.parquet")
    }


def relative(results: Sequence[curation.CurationResult], settings: Settings) -> list[dict[str, Any]]:
    return [
        {
            **vars(result),
            "files": [path.relative_to(settings.lake_root) for path in result.files],
            "fault": (result.fault or "").replace(str(settings.lake_root), ""),
        }
        for result in results
    ]


def test_batches_give_together_what_each_gives_alone(tmp_path: Path) -> None:
    alone, together = (Settings(home=tmp_path / name, max_age_d=365) for name in ("alone", "together"))
    one_by_one = [curate_batches([path], settings=alone)[0] for path in land_all(alone)]
    at_once = curate_batches(land_all(together), settings=together)
    assert relative(at_once, together) == relative(one_by_one, alone)
    assert digests(together) == digests(alone)
    assert pending_batches(together) == []
    by_state = [
        [batch.counts for batch in catalog.batches(catalog.open_catalog(s))] for s in (alone, together)
    ]
    assert by_state[0] == by_state[1]
    assert [result.fault is not None for result in at_once] == [False] * 3 + [True] + [False] * 5 + [True]
    assert (sum(r.n_accepted for r in at_once), sum(r.n_duplicates for r in at_once)) == (6, 1)


def test_a_batch_that_cannot_be_published_keeps_only_later_ones_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    batches = [land(settings, minute, [item(minute)]) for minute in range(3)]
    publish = curation.lake.publish

    def refuse(dataset: str, rows: Any, name: str, **more: Any) -> list[Path]:
        if name == batches[1].stem:
            raise curation.lake.LakeError("the disk is full")
        return publish(dataset, rows, name, **more)

    monkeypatch.setattr(curation.lake, "publish", refuse)
    with pytest.raises(curation.lake.LakeError, match="full"):
        curate_batches(batches, settings=settings)
    assert pending_batches(settings) == batches[1:]


def test_groups_keep_the_order_and_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [5, 5, 1, 20, 3, 3, 3]
    paths = [tmp_path / f"{number}.seg" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    monkeypatch.setattr(curation, "GROUP_BYTES", 10)
    found = list(groups(paths))
    assert [path for group in found for path in group] == paths
    assert [[int(path.stem) for path in group] for group in found] == [[0, 1], [2], [3], [4, 5, 6]]


@pytest.mark.parametrize("dataset", SUBMITTED_DATASETS)
def test_rules_left_out_where_a_column_is_null_would_have_failed_nowhere(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [column.name for column in load_contract(dataset).columns if column.physical_type == "double"]
    items = [{"observed_at": RECEIVED, "received_at": RECEIVED}, *({name: 1e9} for name in names[::2])]
    frame, failures = build_frame(dataset, items)
    short = validate_batch(dataset, frame, now=RECEIVED, cast_failures=failures)
    monkeypatch.setattr(validation, "HOLDS_OF_NULLS", frozenset())
    full = validate_batch(dataset, frame, now=RECEIVED, cast_failures=failures)
    assert short.reasons == full.reasons
    assert full.reasons


def test_the_engine_brings_no_module_that_no_rule_uses() -> None:
    script = """
import sys
from tasks.validation import build_frame, validate_batch
from datetime import UTC, datetime
now = datetime(2022, 10, 24, tzinfo=UTC)
frame, failures = build_frame("indices", [{"observed_at": now}])
validate_batch("indices", frame, now=now, cast_failures=failures)
found = [name for name in ("scipy.stats._stats_py", "altair.vegalite") if name in sys.modules]
assert not found, found
from scipy.stats import norm
assert norm.cdf(0) == 0.5
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=300)
