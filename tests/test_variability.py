"""Day-to-day variability of foF2: nodes of ITU-R P.1239, symmetry, periodicity, limits, continuity, bad arguments."""

from __future__ import annotations

from math import log

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.variability import TABLE, sd_ln_fof2

WINTER, SPRING, SUMMER, AUTUMN = (
    355.0,
    81.0625,
    172.375,
    263.6875,
)  # days of year, a quarter of 365.25 d apart
HALF_YEAR_D = 182.625

latitudes = st.floats(-90, 90)
hours = st.floats(0, 24)
days = st.floats(1, 367)
sunspots = st.floats(-20, 200)
fast = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("latitude", "hour", "day", "r12", "lower", "upper"),
    [
        (80, 20, SPRING, 25, 0.65, 1.48),
        (80, 20, AUTUMN, 25, 0.65, 1.48),
        (20, 12, AUTUMN, 125, 0.92, 1.11),
        (10, 4, SUMMER, 75, 0.63, 1.44),
        (40, 8, SUMMER, 125, 0.75, 1.30),
        (50, 16, WINTER, 125, 0.84, 1.09),
        (60, 0, WINTER, 75, 0.82, 1.33),
        (90, 17.3, WINTER, 25, 0.67, 1.38),
        (0, 0, SUMMER, 125, 0.82, 1.22),
        (-50, 16, SUMMER, 125, 0.84, 1.09),  # southern winter
        (-10, 4, WINTER, 75, 0.63, 1.44),  # southern summer
    ],
)
def test_nodes_are_those_of_the_recommendation(
    latitude: float, hour: float, day: float, r12: float, lower: float, upper: float
) -> None:
    expected = log(upper / lower) / (2 * 1.28155)
    assert sd_ln_fof2(latitude, hour, day, r12) == pytest.approx(expected, rel=1e-5)


def test_table_is_complete_and_plausible() -> None:
    table = pd.read_csv(TABLE, comment="#")
    keys = ["decile", "season", "r12", "latitude_deg"]
    assert len(table) == 2 * 3 * 3 * 10
    assert not table.duplicated(keys).any()
    factors = table.set_index(keys)
    assert factors.loc["lower"].stack().between(0.6, 0.95).all()
    assert factors.loc["upper"].stack().between(1.05, 1.5).all()
    assert (factors.xs(90, level="latitude_deg").nunique(axis=1) == 1).all()  # no local time at a pole
    equator = factors.xs(0, level="latitude_deg")
    assert (equator.xs("winter", level="season") == equator.xs("summer", level="season")).all(axis=None)


@pytest.mark.parametrize(
    ("axis", "one", "other"), [(0, 30.0, 40.0), (1, 20.0, 24.0), (2, SPRING, SUMMER), (3, 75.0, 125.0)]
)
def test_halfway_between_nodes_lies_their_mean(axis: int, one: float, other: float) -> None:
    point = [50.0, 8.0, WINTER, 25.0]
    ends = [sd_ln_fof2(*point[:axis], end, *point[axis + 1 :]) for end in (one, other)]
    assert ends[0] != ends[1]
    middle = sd_ln_fof2(*point[:axis], (one + other) / 2, *point[axis + 1 :])
    assert middle == pytest.approx(np.mean(ends), rel=1e-12)


@given(latitudes, hours, st.floats(1, 367 - HALF_YEAR_D), sunspots)
@fast
def test_hemispheres_are_alike_half_a_year_apart(
    latitude: float, hour: float, day: float, r12: float
) -> None:
    assert sd_ln_fof2(-latitude, hour, day + HALF_YEAR_D, r12) == pytest.approx(
        sd_ln_fof2(latitude, hour, day, r12), rel=1e-9
    )


@given(latitudes, st.floats(0, 24), st.integers(-3, 3), st.floats(1, 1.75), sunspots)
@fast
def test_day_and_year_close(latitude: float, hour: float, turns: int, day: float, r12: float) -> None:
    here = sd_ln_fof2(latitude, hour, day, r12)
    assert sd_ln_fof2(latitude, hour + 24 * turns, day, r12) == pytest.approx(here, rel=1e-9)
    assert sd_ln_fof2(latitude, hour, day + 365.25, r12) == pytest.approx(here, rel=1e-9)


@given(latitudes, hours, days, sunspots, st.tuples(*[st.floats(-1e-3, 1e-3)] * 4))
@fast
def test_continuous(
    latitude: float, hour: float, day: float, r12: float, step: tuple[float, float, float, float]
) -> None:
    # The table's steepest: 0.12 in 10 degrees, 0.22 in 4 h, 0.17 in a quarter of a year, 0.16 in 50 of R12.
    slopes = (0.12 / 10, 0.22 / 4, 0.17 / 91.3125, 0.16 / 50)
    moved = (
        np.clip(latitude + step[0], -90, 90),
        hour + step[1],
        np.clip(day + step[2], 1, 367),
        r12 + step[3],
    )
    bound = sum(slope * abs(length) for slope, length in zip(slopes, step, strict=True))
    assert abs(sd_ln_fof2(*moved) - sd_ln_fof2(latitude, hour, day, r12)) <= bound + 1e-12


def test_no_step_at_the_equator_on_any_day() -> None:
    hour, day = np.meshgrid(np.arange(0, 24, 0.5), np.arange(1, 366))
    for r12 in (25.0, 60.0, 125.0):
        north, south = sd_ln_fof2(1e-9, hour, day, r12), sd_ln_fof2(-1e-9, hour, day, r12)
        np.testing.assert_allclose(north, south, atol=1e-9)


def test_range_and_shape() -> None:
    sd = sd_ln_fof2(
        np.arange(-90, 91, 5)[:, None, None, None],
        np.arange(24)[:, None, None],
        np.arange(1, 367, 5)[:, None],
        [0.0, 25.0, 75.0, 125.0, 180.0],
    )
    assert sd.shape == (37, 24, 74, 5)
    assert 0.07 < sd.min() < 0.09
    assert 0.30 < sd.max() < 0.35
    np.testing.assert_array_equal(sd[..., 0], sd[..., 1])  # held outside the centres of the classes
    np.testing.assert_array_equal(sd[..., 4], sd[..., 3])
    assert sd_ln_fof2([], [], [], []).shape == (0,)
    assert isinstance(sd_ln_fof2(50, 12, 100, 70), np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((90.5, 0, 1, 70), r"latitude_deg must lie in -90\.\.90, got 90\.5"),
        ((0, 0, 0, 70), r"day_of_year must lie in 1\.\.367, got 0"),
        ((0, 0, 367.5, 70), r"day_of_year must lie in 1\.\.367, got 367\.5"),
        ((np.nan, 0, 1, 70), "latitude_deg must be finite, got nan"),
        ((0, [1, np.inf], 1, 70), "local_time_h must be finite, got inf"),
        ((0, 0, np.nan, 70), "day_of_year must be finite"),
        ((0, 0, 1, np.nan), "r12 must be finite"),
        (([1, 2], [1, 2, 3], 1, 70), "broadcast"),
        (([1, 2], 0, [1, 2, 3], 70), "broadcast"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sd_ln_fof2(*arguments)  # type: ignore[arg-type]
