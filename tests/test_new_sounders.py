"""Placement: limits that anyone can check, masks, the greedy choice against all choices, and what a tried sounder changes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.gaps import closed_shares, find_gaps, regions
from tasks.grid import Grid
from tasks.kernel_config import QUANTITIES, KernelConfig, load_kernel_config
from tasks.masks import box_mask
from tasks.placement import (
    NewSounder,
    PlacementError,
    add_sounder,
    expected_weight,
    gain_at,
    gain_map,
    place,
    replace_variance,
    series_of,
    what_if,
)
from tasks.posterior import FOF2, Posterior, Targets
from tasks.superobservations import Rows
from tasks.target_area import Area, area_of
from tasks.tier_errors import ASSUMED, TierError

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"AAA01": (52.0, 0.0), "BBB02": (41.9, 12.5)}
SELDOM = NewSounder("GOLD", TierError(0.02, 20.0, 0.25))
"""Reports every four hours: few rows, so that many refits are quick."""


@pytest.fixture(scope="module", autouse=True)
def benchmarks_are_importable() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield


@cache
def world() -> Any:
    return importlib.import_module("placement").World.of(1, threads=1)


@cache
def posterior(*names: str) -> Posterior:
    """Of the stations named, of none without."""
    parts = [world().soundings(name, *PLACES[name], "ionosonde", 1) for name in names]
    nothing = world().soundings("AAA01", *PLACES["AAA01"], "ionosonde", 1).iloc[:0]
    result: Posterior = world().posterior([*parts, nothing])
    return result


def box(points: int = 80) -> Area:
    return area_of(lambda step: Grid.box(35.0, -10.0, 65.0, 30.0, step), points)


def gain(at: Posterior, targets: Targets, sounder: NewSounder, *places: tuple[float, float]) -> Any:
    latitude, longitude = (np.array(axis, dtype=float) for axis in zip(*places, strict=True))
    return gain_at(at, targets, sounder, latitude, longitude)


def without_station_terms(kernel: KernelConfig) -> KernelConfig:
    return kernel.model_copy(
        update={"terms": tuple(term for term in kernel.terms if term.spatial != "station")}
    )


def test_on_top_of_a_perfect_station_a_sounder_buys_nothing() -> None:
    nobody = replace(posterior(), kernel=without_station_terms(load_kernel_config()))
    nobody = nobody.with_station(0.0, 0.0, empty_rows())  # solved again without station terms
    perfect = NewSounder("PLATINUM", TierError(1e-4, 1.0, 4.0))
    there = add_sounder(nobody, perfect, 50.0, 10.0)
    targets = nobody.over(box())
    before, again = (gain(at, targets, NewSounder.of_tier("GOLD"), (50.0, 10.0))[0] for at in (nobody, there))
    assert before > 0.3 * targets.variance_mhz2
    assert 0.0 <= again < 1e-4 * before


def empty_rows() -> Rows:
    none = np.zeros(0)
    numbers = np.zeros(0, dtype=np.int64)
    return Rows(numbers, numbers, none, none, none, none, none)


def test_far_from_all_a_sounder_buys_its_prior() -> None:
    area = area_of(lambda step: Grid.box(-50.0, -180.0, -35.0, -160.0, step), 80)  # the antipodes of Europe
    alone, among = posterior(), posterior("AAA01", "BBB02")
    # One area, one foF2 and one factor for both.
    targets = alone.over(area)
    place = (-42.0, -170.0)
    expected = gain(alone, targets, NewSounder.of_tier("GOLD"), place)
    found = gain(among, targets, NewSounder.of_tier("GOLD"), place)
    np.testing.assert_allclose(found, expected, rtol=0.03)
    # Alone, a perfect sounder that has sounded for ever leaves at its place what its own bias hides.
    assert 0.5 * targets.variance_mhz2 < expected[0] < targets.variance_mhz2


def test_the_gain_is_what_adding_it_gives() -> None:
    known = posterior("AAA01", "BBB02")
    targets = known.over(box())
    for sounder in (NewSounder.of_tier("GOLD"), NewSounder.of_tier("SILVER")):
        predicted = gain(known, targets, sounder, (57.0, 20.0))[0]
        tried = what_if(known, targets, sounder, 57.0, 20.0)
        assert tried.gain_mhz2 == pytest.approx(predicted, rel=1e-8)
        assert 0 < tried.sd_after_mhz < tried.sd_before_mhz
        assert tried.gain_percent == pytest.approx(100.0 * predicted / targets.variance_mhz2)
    order = [(57.0, 20.0), (40.0, -5.0), (50.0, 5.0)]
    one_by_one = [gain(known, targets, SELDOM, place)[0] for place in order]
    np.testing.assert_allclose(gain(known, targets, SELDOM, *order), one_by_one, rtol=1e-12)


def test_a_better_tier_and_more_reports_never_gain_less() -> None:
    known = posterior("AAA01", "BBB02")
    targets = known.over(box())
    by_tier = [gain(known, targets, NewSounder.of_tier(tier), (57.0, 20.0))[0] for tier in ASSUMED]
    assert by_tier == sorted(by_tier, reverse=True)
    assert by_tier[-1] == 0.0  # its echoes alone tell no foF2
    often = NewSounder("GOLD", replace(SELDOM.error, per_h=4.0))
    assert gain(known, targets, often, (57.0, 20.0))[0] > gain(known, targets, SELDOM, (57.0, 20.0))[0]


def test_greedy_is_near_the_best_of_all_choices() -> None:
    known = posterior("BBB02")
    targets = known.over(box())
    candidates = area_of(lambda _: Grid.box(40.0, -5.0, 60.0, 25.0, 10.0))
    n_sounders = 2
    placed, first = place(known, targets, SELDOM, n_sounders, candidates)
    reached = sum(one.gain_mhz2 for one in placed)
    assert placed[0].gain_mhz2 == np.nanmax(first.gain_mhz2)
    best = 0.0
    places = list(zip(candidates.latitude_deg, candidates.longitude_deg, strict=True))
    alone = dict(zip(places, gain(known, targets, SELDOM, *places), strict=True))
    for one in places:
        with_one = add_sounder(known, SELDOM, *one)
        besides = gain(with_one, targets, SELDOM, *places)
        best = max(best, alone[one] + float(besides.max()))
    assert (1.0 - 1.0 / np.e) * best <= reached <= best * (1.0 + 1e-9)
    assert reached > 0.95 * best  # on a field as smooth as this
    assert placed[-1].variance_after_mhz2 == pytest.approx(targets.variance_mhz2 - reached)
    with_all = known
    for one in placed:
        with_all = add_sounder(with_all, SELDOM, one.latitude_deg, one.longitude_deg)
    after = replace_variance(targets, with_all.ln_variance(targets))
    assert after.variance_mhz2 == pytest.approx(placed[-1].variance_after_mhz2, rel=1e-8)


@pytest.mark.parametrize(
    "edges", [(-20.0, 160.0, 20.0, -160.0), (60.0, -180.0, 90.0, 170.0), (-90.0, -180.0, -60.0, 170.0)]
)
def test_masks_are_respected_over_the_date_line_and_at_the_poles(
    edges: tuple[float, float, float, float],
) -> None:
    known = posterior("AAA01")
    area = area_of(lambda _: Grid.box(*edges, 10.0))
    south, _, north, _ = edges
    mask = box_mask(south + 10.0, 175.0, north, -165.0)
    found = gain_map(known, known.over(area), SELDOM, area, mask)
    allowed = mask(area.latitude_deg, area.longitude_deg)
    assert 0 < allowed.sum() < allowed.size
    np.testing.assert_array_equal(np.isfinite(found.gain_mhz2), allowed)
    assert allowed[found.best]
    assert (found.gain_mhz2[allowed] > 0).all()


def test_a_sounder_is_taken_to_report_as_the_analysis_would_use_it() -> None:
    kernel, at = load_kernel_config(), pd.Timestamp("2022-10-25T12:00Z")
    age_h = NewSounder.of_tier("PLATINUM").ages_h(kernel, at)
    recent = age_h[age_h <= kernel.window.full_rate_h]
    np.testing.assert_allclose(recent[::-1], 0.125 + 0.25 * np.arange(8))
    older = age_h[age_h > kernel.window.full_rate_h]
    assert (np.diff(age_h) < 0).all()
    assert older.size == pytest.approx((kernel.window.window_h - 2.0) / 2.0, abs=1)
    seldom = NewSounder("SILVER", TierError(0.1, None, 2.0)).ages_h(kernel, at)
    np.testing.assert_allclose(seldom[seldom <= 2.0][::-1], [0.25, 0.75, 1.25, 1.75])
    assert SELDOM.ages_h(kernel, at).size == 7
    assert NewSounder.of_tier("BRONZE").ages_h(kernel, at).size == 0


def test_errors_are_relative_and_heights_count_where_they_are_correlated() -> None:
    known = posterior("AAA01")
    latitude, longitude = np.array([50.0, -10.0]), np.array([10.0, -60.0])
    series = series_of(SELDOM, known, latitude, longitude)
    assert np.isinf(series.error[:, 1:]).all()
    weight = expected_weight(known.kernel.quality.full_weight_sd)
    np.testing.assert_allclose(series.error[:, FOF2], 0.02 / np.sqrt(weight))
    newest = (known.valid_at + pd.Timedelta(hours=float(series.time_h[-1]))).to_pydatetime()
    state = known.background.on_grid(newest, latitude, longitude, known.ig12)
    in_mhz = NewSounder("GOLD", TierError(0.02, 20.0, 0.25, fof2_mhz=0.2))
    np.testing.assert_allclose(
        series_of(in_mhz, known, latitude, longitude).error[-1, FOF2],
        np.hypot(0.02, 0.2 / state.fof2_mhz) / np.sqrt(weight),
    )
    term = known.kernel.terms[0].model_copy(update={"correlation": {"fof2_mhz hmf2_km": -0.3}})
    kernel = known.kernel.model_copy(update={"terms": (term, *known.kernel.terms[1:])})
    both = series_of(SELDOM, replace(known, kernel=kernel), latitude, longitude)
    height = QUANTITIES.index("hmf2_km")
    np.testing.assert_allclose(both.error[:, height], 20.0 / np.sqrt(weight))
    assert both.rows(1).station.size == 2 * series.rows(1).station.size
    lower = replace(SELDOM, error=ASSUMED["SILVER"])
    assert np.isinf(
        series_of(lower, replace(known, kernel=kernel), latitude, longitude).error[:, height]
    ).all()


def test_the_expected_robust_weight() -> None:
    z = np.abs(np.random.default_rng(1).standard_normal(400_000))
    for c in (0.5, 1.0, 2.0):
        assert expected_weight(c) == pytest.approx(np.minimum(1.0, c / z).mean(), abs=2e-3)


def test_gaps_are_connected_over_the_date_line_and_the_pole() -> None:
    area = area_of(lambda _: Grid.globe(10.0))
    latitude, longitude = area.latitude_deg, area.longitude_deg
    over_the_line = (np.abs(latitude) <= 10) & (np.abs(longitude) >= 160)
    pole = latitude >= 80
    lone = (latitude == -50) & (longitude == 0)
    label = regions(over_the_line | lone, area)
    assert set(label) == {0, *np.unique(label[over_the_line | lone])}
    assert np.unique(label[over_the_line]).size == np.unique(label[lone]).size == 1
    two_sides = pole & ((latitude == 90) | (np.abs(longitude) % 180 == 0))
    assert np.unique(regions(two_sides, area)[two_sides]).size == 1

    share = np.where(over_the_line | lone | pole, 1.0, 0.5)
    prior = np.full(latitude.size, 0.04)
    targets = Targets(
        area, latitude, longitude, np.ones((len(QUANTITIES), latitude.size)), np.full(latitude.size, 5.0),
        np.full(latitude.size, 25.0), share**2 * prior, prior,
    )  # fmt: skip
    gaps = find_gaps(targets)
    assert [gap.n_points for gap in gaps] == [int(over_the_line.sum()), int(pole.sum()), 1]
    line, north, _ = gaps
    assert (abs(line.longitude_deg), line.latitude_deg) == pytest.approx((180.0, 0.0), abs=3.0)
    assert north.latitude_deg == pytest.approx(90.0, abs=1.0)
    assert line.sd_mhz == pytest.approx(1.0)
    assert line.sd_share == pytest.approx(1.0)
    assert sum(gap.surface_km2 for gap in gaps) == pytest.approx(area.surface_km2[share == 1].sum())
    closed = replace(targets, ln_variance=np.where(pole | (longitude == 170), 0.01, targets.ln_variance))
    shares = closed_shares(targets, closed)
    assert shares == [pytest.approx(0.2), 1.0, 0.0]
    assert find_gaps(replace(targets, ln_variance=0.01 * prior)) == []


def test_a_sounder_closes_the_gap_around_it() -> None:
    known = posterior()
    targets = known.over(box())
    tried = what_if(known, targets, NewSounder.of_tier("PLATINUM"), 50.0, 10.0)
    assert [gap.sd_share for gap in tried.gaps_before] == [pytest.approx(1.0)]
    assert tried.closed_share[0] > 0.5
    left = sum(gap.surface_km2 for gap in tried.gaps_after)
    assert left == pytest.approx((1 - tried.closed_share[0]) * tried.gaps_before[0].surface_km2)


def test_what_cannot_be_placed_is_named() -> None:
    known = posterior()
    targets = known.over(box(20))
    with pytest.raises(PlacementError, match="tier 'WOODEN' is none of PLATINUM, GOLD, SILVER, BRONZE"):
        NewSounder.of_tier("WOODEN")
    with pytest.raises(PlacementError, match="0 sounders cannot be placed"):
        place(known, targets, SELDOM, 0, targets.area)
    with pytest.raises(PlacementError, match=r"no point of the grid of .* degrees lies within the mask"):
        gain_map(known, targets, SELDOM, targets.area, box_mask(-10.0, -10.0, -5.0, -5.0))
    with pytest.raises(PlacementError, match=r"latitude and longitude must lie in .* got 91, 0"):
        what_if(known, targets, SELDOM, 91.0, 0.0)


def small_cases() -> tuple[Any, list[Any]]:
    benchmark = importlib.import_module("placement")
    return benchmark, benchmark.run(1, n_stations=3, points=120, threads=1)


def test_predicted_gains_are_what_the_cycle_gives() -> None:
    """Sums over a kind of change: of one small upgrade the robust weights of all rows, drawn anew, are as large."""
    benchmark, cases = small_cases()
    for kind, found in benchmark.summary(cases).items():
        assert found["ratio"] == pytest.approx(1.0, abs=0.1), kind
    assert len({case.kind for case in cases}) == 6


@pytest.mark.slow
def test_predicted_gains_are_what_the_cycle_gives_in_many_networks() -> None:
    benchmark = importlib.import_module("placement")
    for kind, found in benchmark.summary(benchmark.run(8)).items():
        assert found["ratio"] == pytest.approx(1.0, abs=0.1), kind
        assert found["median"] == pytest.approx(1.0, abs=0.1), kind
