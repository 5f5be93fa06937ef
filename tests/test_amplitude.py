"""The amplitude of the modulated terms: P.1239 at each place's own local time, one factor for every quantity."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from tasks.amplitude import amplitudes
from tasks.background import f107_to_ig12, ig12_to_r12
from tasks.kernel_config import QUANTITIES, KernelConfig, load_kernel_config
from tasks.variability import sd_ln_fof2

NOON = datetime(2022, 6, 21, 12, tzinfo=UTC)


def modulated(is_modulated: bool = True) -> KernelConfig:
    kernel = load_kernel_config()
    return kernel.model_copy(
        update={"terms": tuple(t.model_copy(update={"is_modulated": is_modulated}) for t in kernel.terms)}
    )


def test_the_factor_is_the_variability_over_the_reference() -> None:
    kernel = modulated()
    latitude, longitude = np.array([55.0, -20.0]), np.array([0.0, 90.0])
    found = amplitudes(kernel, NOON, latitude, longitude, 90.0)
    expected = sd_ln_fof2(latitude, np.array([12.0, 18.0]), 172, ig12_to_r12(f107_to_ig12(90.0)))
    np.testing.assert_allclose(found, np.tile(expected / kernel.amplitude.reference_sd, (len(QUANTITIES), 1)))


def test_every_point_has_its_own_time() -> None:
    kernel = modulated()
    times = pd.date_range(NOON, periods=24, freq="60min")
    together = amplitudes(kernel, times, np.full(24, 45.0), np.full(24, -75.0), 100.0)
    single = [amplitudes(kernel, t, np.array([45.0]), np.array([-75.0]), 100.0)[0, 0] for t in times]
    np.testing.assert_array_equal(together[0], single)
    assert together[0].max() > 1.1 * together[0].min()


def test_the_date_line_is_no_border() -> None:
    kernel = modulated()
    east, west = (
        amplitudes(kernel, NOON, np.array([50.0]), np.array([longitude]), 100.0)
        for longitude in (180.0, -180.0)
    )
    np.testing.assert_allclose(east, west)


def test_without_modulated_terms_and_without_points_there_is_nothing_to_scale() -> None:
    plain = amplitudes(modulated(False), NOON, np.array([10.0, 50.0]), np.array([0.0, 20.0]), 100.0)
    np.testing.assert_array_equal(plain, np.ones((len(QUANTITIES), 2)))
    assert amplitudes(modulated(), [], np.zeros(0), np.zeros(0), 100.0).shape == (len(QUANTITIES), 0)


def test_a_factor_outside_the_years_of_the_sun_is_still_one(recwarn: pytest.WarningsRecorder) -> None:
    """The extremes of the index are held, not extrapolated."""
    low, unknown, high = (
        amplitudes(modulated(), NOON, np.array([40.0]), np.array([0.0]), flux)[0, 0]
        for flux in (60.0, None, 400.0)
    )
    assert unknown == pytest.approx(0.95, abs=0.2)
    assert 0.4 < high < 2.2
    assert 0.4 < low < 2.2
    assert not recwarn
