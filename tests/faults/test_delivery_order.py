"""Any interleaving of originals, corrections, redelivery, crash and rerun gives the same lake: one history, one view."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import catalog, curation, lake
from tasks.curation import curate_batch, pending_batches
from tasks.landing.spool import Record, SpoolWriter, hand_off
from tasks.revisions import known_at
from tasks.settings import Settings
from tasks.validation import Validation, validate_batch
from tests.faults.conftest import Trial
from tests.faults.ledger import FIRST_OBSERVED_AT, Ledger

N_OBSERVATIONS = 4
N_ITEMS = 7  # the others are corrections of the first two observations
PROVENANCE = ["received_at", "available_at", "batch_id", "source"]
CHANNELS = ("http", "mqtt", "file")


class Killed(BaseException):
    """As if the process ended at this call."""


@pytest.fixture
def verdicts_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's verdict on items seen before is remembered; by it alone a run takes seconds."""
    known: dict[str, Validation] = {}

    def judge(dataset: str, frame: pd.DataFrame, **arguments: Any) -> Validation:
        key = frame["observation_id"].str.cat(frame["revision"].astype(str)).str.cat(sep=" ")
        if key not in known:
            known[key] = validate_batch(dataset, frame, **arguments)
        same = known[key]
        accepted = frame.loc[same.accepted.index]
        return replace(same, accepted=accepted)

    monkeypatch.setattr(curation, "validate_batch", judge)


@contextmanager
def killed_at_step(survive: int | None) -> Iterator[None]:
    """The process dies at durable step number `survive`, counted from here."""
    n_steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal n_steps
            n_steps += 1
            if survive is not None and n_steps > survive:
                raise Killed
            return function(*args, **kwargs)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((os, "replace"), (os, "fsync"), (os, "rename"), (catalog, "record_batch")):
            patch.setattr(place, name, counted(getattr(place, name)))
        with suppress(Killed):
            yield


def land(settings: Settings, items: list[dict[str, Any]], channel: Any, received_at: datetime) -> None:
    payload = json.dumps(items).encode()
    record = Record(channel, "ionograms", None, received_at, "application/json", payload, channel)
    with SpoolWriter(settings.spool_root / channel) as writer:
        writer.append_many([record])


deliveries = st.lists(
    st.tuples(st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=5), st.sampled_from(CHANNELS)),
    min_size=1,
    max_size=3,
)
crashes = st.lists(st.none() | st.integers(0, 25), max_size=2)


@pytest.mark.usefixtures("verdicts_kept")
def test_any_interleaving_gives_the_same_lake(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> None:
    ledger = Ledger()
    items = ledger.items(N_OBSERVATIONS)
    items += [corrected(items[0], 1), corrected(items[0], 2), corrected(items[1], 1)]
    expected: dict[frozenset[int], Any] = {}

    @hypothesis_settings(
        max_examples=100 if trial.is_long else 3,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data(), sent=deliveries)
    def check(data: st.DataObject, sent: list[tuple[list[int], str]]) -> None:
        settings = Settings(home=tmp_path_factory.mktemp("lake"))
        for hour, (numbers, channel) in enumerate(sent, 1):
            received_at = FIRST_OBSERVED_AT + timedelta(hours=data.draw(st.integers(1, 48)), seconds=hour)
            land(settings, [items[number] for number in numbers], channel, received_at)
            for survive in data.draw(crashes):
                with killed_at_step(survive):
                    run(settings, data)
        run(settings, data)
        rows = lake.read("ionograms", settings=settings).drop(columns=PROVENANCE)
        stored = rows.sort_values(["observation_id", "revision"]).to_csv(index=False)
        delivered = frozenset(number for numbers, _ in sent for number in numbers)
        assert len(rows) == len(delivered)
        assert expected.setdefault(delivered, stored) == stored
        wanted: dict[str, dict[str, Any]] = {}
        for item in sorted((items[number] for number in delivered), key=lambda item: item.get("revision", 0)):
            wanted[item["observation_id"]] = item
        view = known_at(lake.read("ionograms", settings=settings), FIRST_OBSERVED_AT + timedelta(days=3))
        assert dict(zip(view["observation_id"], view["fof2_mhz"], strict=True)) == {
            name: item["fof2_mhz"] for name, item in wanted.items()
        }
        assert not lake.files("quarantine", settings=settings)
        assert pending_batches(settings) == []
        catalog._open.cache_clear()

    check()


def corrected(item: dict[str, Any], revision: int) -> dict[str, Any]:
    """A correction of an item, of its time too; received an hour after the first at the earliest, so never from the future."""
    observed_at = FIRST_OBSERVED_AT + timedelta(minutes=10 * revision)
    return {**item, "revision": revision, "fof2_mhz": 6.0 + revision, "observed_at": observed_at.isoformat()}


def run(settings: Settings, data: st.DataObject) -> None:
    """A run of the flow, its batches in any order."""
    for path in sorted(settings.spool_root.glob("*/*.seg")):
        hand_off(path, settings.lake_root)
    for batch in data.draw(st.permutations(pending_batches(settings))):
        curate_batch(batch, settings=settings)
