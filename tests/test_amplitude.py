"""The table of amplitudes: its knots, its smoothness around the clock and across the equator, and magnetic local time."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from tasks.amplitude import amplitudes, factor
from tasks.background import Background
from tasks.kernel_config import QUANTITIES, Amplitude, Factors, load_kernel_config

LATITUDES = (0.0, 20.0, 60.0, 90.0)
HOURS = (2.0, 8.0, 17.0)
ROWS = ((1.0, 1.2, 0.8), (0.9, 1.1, 1.3), (1.6, 1.4, 0.7), (1.1, 1.1, 1.1))
TABLE = Amplitude(
    latitude_deg=LATITUDES,
    local_time_h=HOURS,
    factor=Factors(fof2_mhz=ROWS, hmf2_km=ROWS, m3000f2=ROWS, b0_km=ROWS),
)


def at(latitude_deg: float, local_time_h: float) -> float:
    return float(factor(TABLE, "fof2_mhz", np.array([latitude_deg]), np.array([local_time_h]))[0])


def test_the_knots_have_the_values_of_the_table() -> None:
    for latitude, row in zip(LATITUDES, ROWS, strict=True):
        for hour, value in zip(HOURS, row, strict=True):
            assert at(latitude, hour) == pytest.approx(value)
            assert at(-latitude, hour) == pytest.approx(value)


def test_midnight_is_no_border_and_the_pole_no_star() -> None:
    for latitude in (0.0, 35.0, 75.0):
        assert at(latitude, 23.999999) == pytest.approx(at(latitude, 0.0), abs=1e-5)
    assert {round(at(90.0, hour), 12) for hour in np.linspace(0, 23.9, 25)} == {1.1}


def test_between_knots_it_is_smooth_and_never_beyond_them() -> None:
    hours, latitudes = np.linspace(0, 24, 4801)[:-1], np.linspace(-90, 90, 3601)
    for values in (
        factor(TABLE, "fof2_mhz", np.full(hours.size, 35.0), hours),
        factor(TABLE, "fof2_mhz", latitudes, np.full(latitudes.size, 21.0)),
    ):
        assert values.min() >= 0.7
        assert values.max() <= 1.6
        slope = np.diff(values)
        # No kink: the slope changes by little from step to step, at the knots too.
        assert np.abs(np.diff(slope)).max() < 0.05 * np.abs(slope).max()


def test_without_modulated_terms_and_without_points_there_is_nothing_to_scale() -> None:
    kernel, background = load_kernel_config(), Background()
    now = datetime(2022, 10, 24, tzinfo=UTC)
    ones = amplitudes(kernel, background, now, np.array([10.0, 50.0]), np.array([0.0, 20.0]))
    np.testing.assert_array_equal(ones, np.ones((len(QUANTITIES), 2)))
    modulated = kernel.model_copy(
        update={"terms": (kernel.terms[0].model_copy(update={"is_modulated": True}),), "amplitude": TABLE}
    )
    nowhere = amplitudes(modulated, background, [], np.zeros(0), np.zeros(0))
    assert nowhere.shape == (len(QUANTITIES), 0)


def test_amplitudes_are_of_the_magnetic_latitude_and_local_time() -> None:
    kernel, background = load_kernel_config(), Background()
    modulated = kernel.model_copy(
        update={"terms": (kernel.terms[0].model_copy(update={"is_modulated": True}),), "amplitude": TABLE}
    )
    now = datetime(2022, 10, 24, 12, tzinfo=UTC)
    latitude, longitude = np.array([40.0, -30.0]), np.array([-4.0, 120.0])
    qd_latitude, _, local_time_h = background.magnetic_local_time(now, latitude, longitude)
    found = amplitudes(modulated, background, now, latitude, longitude)
    expected = [at(*place) for place in zip(qd_latitude, local_time_h, strict=True)]
    np.testing.assert_allclose(found, np.tile(expected, (len(QUANTITIES), 1)))
