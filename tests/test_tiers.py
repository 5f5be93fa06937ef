"""Tiers: where an estimated error falls, steady at a boundary, with a reason; and the quality that comes before."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.kernel_config import load_kernel_config
from tasks.sounder_error import prior_error
from tasks.sounder_quality import CALIBRATION, EQUIPMENT, SounderQuality, assess
from tasks.tiers import boundaries, next_tier, reason, tier_of, weight

CONFIG = load_kernel_config().tiers
NOW = pd.Timestamp("2026-03-21T00:00Z")


def measurements(n: int = 24, **columns: Any) -> pd.DataFrame:
    hours = pd.to_timedelta(np.arange(n) + 0.5, unit="h")
    frame = pd.DataFrame(
        {
            "observed_at": NOW - hours,
            "latitude_deg": 48.0,
            "longitude_deg": 11.0,
            "snr_db": 30.0,
            "outcome": "usable",
        }
    )
    return frame.assign(**columns)


def test_platinum_weighs_56_times_bronze_in_signal_and_2500_times_in_delay() -> None:
    assert weight("PLATINUM", CONFIG.signal.sd) == 56.25
    assert weight("BRONZE", CONFIG.signal.sd) == 1.0
    assert weight("PLATINUM", CONFIG.delay.sd) == pytest.approx(2500.0, rel=1e-12)
    assert [round(weight(t, CONFIG.signal.sd), 1) for t in ("GOLD", "SILVER")] == [14.1, 3.5]


@pytest.mark.parametrize("scale", [CONFIG.delay, CONFIG.signal])
def test_every_tier_holds_the_error_it_stands_for_and_ends_halfway_to_the_next(scale: Any) -> None:
    tiers = ("PLATINUM", "GOLD", "SILVER", "BRONZE")
    assert [tier_of(getattr(scale.sd, tier), scale.sd) for tier in tiers] == list(tiers)
    for limit, (better, worse) in zip(boundaries(scale.sd), itertools.pairwise(tiers), strict=True):
        assert tier_of(limit * 0.999, scale.sd) == better
        assert tier_of(limit * 1.001, scale.sd) == worse


def test_an_error_that_wanders_about_a_boundary_does_not_flicker() -> None:
    sd, limit = CONFIG.delay.sd, boundaries(CONFIG.delay.sd)[1]
    random = np.random.default_rng(1)
    tier, changes = "GOLD", 0
    for _ in range(200):
        new = next_tier(limit * random.uniform(0.9, 1.1), sd, tier, CONFIG)
        changes, tier = changes + (new != tier), new
    assert changes == 0
    assert next_tier(limit * 1.2, sd, "GOLD", CONFIG) == "SILVER"
    assert next_tier(0.1, sd, "BRONZE", CONFIG) == "PLATINUM"


def test_the_reason_says_what_was_found() -> None:
    error = prior_error(0.7, CONFIG.delay, CONFIG)
    say = {"observable": "delay", "unit": "ms", "score": 0.6}
    text = reason("GOLD", None, error, CONFIG.delay, CONFIG, **say)
    assert "0.7 ms" in text
    assert "no innovation yet" in text
    covariance = tuple(tuple(0.01 * (i == j) for j in range(5)) for i in range(5))
    off = replace(error, state=(1.0, 0.0, 0.0, 0.0, 0.0), covariance=covariance, n_obs=80.0)
    text = reason("GOLD", "SILVER", off, CONFIG.delay, CONFIG, **say)
    assert "from 80 innovations" in text
    assert "it was SILVER" in text
    assert "off by +1" in text


def test_undeclared_never_scores_above_the_worst_honest_answer() -> None:
    rows = measurements()
    count: dict[str, Any] = {"valid_at": NOW, "n_good": 10.0, "n_bad": 1.0}
    for unknown in ({}, {"equipment": "marvellous", "calibration": "yes"}, {"equipment": None}):
        undeclared = assess(rows, unknown, **count).score
        for equipment, calibration in itertools.product(EQUIPMENT, CALIBRATION):
            honest = assess(rows, {"equipment": equipment, "calibration": calibration}, **count).score
            assert undeclared <= honest
    silent = assess(rows.assign(snr_db=np.nan), {}, **count)
    poor = assess(rows.assign(snr_db=-10.0), {}, **count)
    assert silent.signal <= poor.signal


def test_an_old_calibration_counts_less_but_not_less_than_a_self_made_one() -> None:
    def score(**declared: Any) -> float:
        return assess(measurements(), declared, valid_at=NOW, n_good=0, n_bad=0).calibration

    fresh = score(calibration="calibrated", calibrated_at="2026-03-01")
    old = score(calibration="calibrated", calibrated_at="2024-03-20T00:00:00+01:00")
    undated, wrong = (
        score(calibration="calibrated", **more) for more in ({}, {"calibrated_at": "2031-01-01"})
    )
    assert 0.98 < fresh <= 1.0
    assert old == pytest.approx(0.5, abs=0.01)
    assert undated == wrong == pytest.approx(0.5**0.5)
    assert score(calibration="calibrated", calibrated_at="1999-01-01") == score(calibration="self_calibrated")


def test_parts_follow_what_was_observed() -> None:
    def parts(rows: pd.DataFrame, **counts: float) -> SounderQuality:
        return assess(rows, {}, valid_at=NOW, **{"n_good": 0.0, "n_bad": 0.0, **counts})

    assert parts(measurements()).temporal == 1.0
    assert parts(measurements(12)).temporal == 0.5
    assert parts(measurements(snr_db=15.0)).signal == 0.5
    assert parts(measurements(longitude_deg=np.where(np.arange(24) < 6, 13.0, 11.0))).spatial == 0.75
    assert parts(measurements(outcome="path_too_long")).spatial == 0.0
    assert parts(measurements()).historical == 0.25
    assert parts(measurements(), n_good=96.0).historical == 0.97
    nothing = parts(measurements(0))
    assert (nothing.signal, nothing.temporal, nothing.spatial) == (0.0, 0.0, 0.0)


def test_the_quality_spans_the_errors_of_the_tiers() -> None:
    best = SounderQuality(*[1.0] * 6)
    worst = SounderQuality(*[0.0] * 6)
    assert best.prior_sd(CONFIG.delay.sd) == pytest.approx(0.1)
    assert worst.prior_sd(CONFIG.delay.sd) == pytest.approx(5.0)
    assert sum(SounderQuality.WEIGHTS) == pytest.approx(1.0)
    for part in fields(SounderQuality):
        assert replace(worst, **{part.name: 1.0}).prior_sd(CONFIG.delay.sd) < 5.0
