"""What is known of sounders goes from cycle to cycle by the rows of `sounders` alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tasks.contracts import arrow_schema, load_contract
from tasks.kernel_config import load_kernel_config
from tasks.lake import to_frame
from tasks.sounder_error import update
from tasks.sounder_record import Known, describe, know, learned, newest_before
from tasks.sounder_rows import sounder_rows

KERNEL = load_kernel_config()
CONFIG = KERNEL.tiers
START = pd.Timestamp("2026-03-20T12:00Z")
NO_RECORD = to_frame(arrow_schema("sounders").empty_table())
NO_ECHOES = pd.DataFrame({"sounder_id": pd.Series(dtype=object), "n_combined": pd.Series(dtype=int)})


def measurements(sounder_id: str, at: pd.Timestamp, n: int = 5, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sounder_id": sounder_id,
            "observed_at": at - pd.to_timedelta(np.arange(n)[::-1], unit="min"),
            "latitude_deg": 48.0,
            "longitude_deg": 11.0,
            "snr_db": 20.0,
            "group_delay_ms": 2.0,
            "outcome": "usable",
            **columns,
        }
    )


def rows_of(known: dict[str, Known], at: pd.Timestamp) -> pd.DataFrame:
    """As the next cycle reads them."""
    frame = sounder_rows(NO_ECHOES, known, KERNEL).assign(cycle_id="c", valid_time=at)
    return to_frame(pa.Table.from_pandas(frame, schema=arrow_schema("sounders"), preserve_index=False))


def observe(known: dict[str, Known], innovation: float, noise: float, n: int, seed: int) -> dict[str, Known]:
    after = {}
    for name, one in known.items():
        e = innovation + noise * np.random.default_rng(seed).standard_normal(n)
        error = update(one.errors["delay"], e, np.full((n, 3), 0.1), np.ones(n), CONFIG.delay, CONFIG)
        after[name] = learned(one, {**one.errors, "delay": error}, float(n), 0.0, CONFIG)
    return after


def test_the_rows_hold_everything_that_the_next_cycle_needs() -> None:
    before, at = NO_RECORD, START
    for number in range(3):
        known = know(before, measurements("A", at), {}, valid_at=at, config=CONFIG)
        after = observe(known, 0.3, 0.2, 20, number)
        before = newest_before(rows_of(after, at), at + pd.Timedelta(minutes=15))
        again = know(before, measurements("A", at), {}, valid_at=at, config=CONFIG)["A"]
        # Nothing was forgotten, because no time has passed.
        error, read = after["A"].errors["delay"], again.errors["delay"]
        assert (read.shape, read.scale, read.bias, read.n_obs) == (
            pytest.approx(error.shape, rel=1e-15),
            pytest.approx(error.scale, rel=1e-15),
            error.bias,
            error.n_obs,
        )
        assert again.tiers == after["A"].tiers
        assert again.n_good == after["A"].n_good
        at += pd.Timedelta(minutes=15)


def test_a_good_amateur_rises_and_says_so() -> None:
    declared = {"A": {"equipment": "amateur_basic", "calibration": "uncalibrated"}}
    before, at = NO_RECORD, START
    tiers: list[str] = []
    for number in range(24):
        rows = measurements("A", at, snr_db=10.0)
        known = know(before, rows, declared, valid_at=at, config=CONFIG)
        tiers = tiers or [known["A"].tier]
        after = observe(known, 0.0, 0.3, 1, number)
        tiers.append(after["A"].tier)
        reason = describe(after["A"], CONFIG)["reason"]
        before, at = newest_before(rows_of(after, at), at + pd.Timedelta(hours=1)), at + pd.Timedelta(hours=1)
    assert known["A"].quality.score < 0.6
    assert tiers[0] in ("SILVER", "BRONZE")
    assert tiers[-1] == "GOLD"
    assert "innovations" in reason
    # Each tier once: it does not flicker on its way.
    assert len({*tiers}) == sum(a != b for a, b in itertools.pairwise(tiers)) + 1


def test_a_silent_sounder_is_remembered_for_a_month_and_fades() -> None:
    known = know(NO_RECORD, measurements("A", START), {}, valid_at=START, config=CONFIG)
    rows = rows_of(observe(known, 0.0, 0.1, 50, 1), START)
    none = measurements("A", START, n=0)
    later = {
        days: know(
            newest_before(rows, START + pd.Timedelta(days=days)),
            none,
            {},
            valid_at=START + pd.Timedelta(days=days),
            config=CONFIG,
        )
        for days in (1, 10, 31)
    }
    assert later[31] == {}
    assert later[1]["A"].errors["delay"].n_obs > later[10]["A"].errors["delay"].n_obs > 0
    assert later[10]["A"].errors["delay"].sd > later[1]["A"].errors["delay"].sd
    assert later[10]["A"].has_delays
    assert (later[10]["A"].latitude_deg, later[10]["A"].longitude_deg) == (48.0, 11.0)


def test_only_the_cycle_before_counts() -> None:
    known = know(NO_RECORD, measurements("A", START), {}, valid_at=START, config=CONFIG)
    first, second = (
        rows_of(known, START),
        rows_of(observe(known, 1.0, 0.1, 50, 1), START + pd.Timedelta("15min")),
    )
    both = pd.concat([first, second])
    assert newest_before(both, START + pd.Timedelta("15min")).equals(first.reset_index(drop=True))
    assert newest_before(both, START + pd.Timedelta("30min")).equals(second.reset_index(drop=True))
    assert newest_before(both, START).empty


def test_a_sounder_without_delays_has_the_tier_of_its_signal() -> None:
    rows = measurements("A", START, group_delay_ms=np.nan)
    one = know(NO_RECORD, rows, {}, valid_at=START, config=CONFIG)["A"]
    good = replace(one, errors={**one.errors}, tiers={"delay": "BRONZE", "signal": "GOLD"})
    assert (one.has_delays, good.tier) == (False, "GOLD")


def test_the_rows_keep_their_contract() -> None:
    known = know(NO_RECORD, measurements("A", START), {}, valid_at=START, config=CONFIG)
    rows = rows_of(known, START)
    assert list(rows.columns) == [column.name for column in load_contract("sounders").columns]
    required = [column.name for column in load_contract("sounders").columns if not column.nullable]
    assert not rows[required].isna().any().any()
