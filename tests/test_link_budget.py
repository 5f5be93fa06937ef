"""The link budget of an NVIS hop: limits, and the order of magnitude that operators know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.link_budget import LIGHT_KM_PER_MS, absorption_db, noise_dbm, received_dbm, secant

PATH: dict[str, Any] = {
    "distance_km": 100.0,
    "virtual_height_km": 300.0,
    "r12": 50.0,
    "longitudinal_gyrofrequency_mhz": 1.2,
}


def test_absorption_is_by_day_and_falls_with_frequency() -> None:
    frequency = np.array([2.0, 3.5, 7.0, 10.0])
    day = absorption_db(frequency, False, solar_zenith_deg=30.0, **PATH)
    night = absorption_db(frequency, False, solar_zenith_deg=130.0, **PATH)
    assert (np.diff(day) < 0).all()
    assert (night < 0.2 * day).all()
    assert night[0] < 5.0  # dB on 160 m at night
    assert 15.0 < day[1] < 40.0  # dB on 80 m at noon


def test_the_extraordinary_wave_loses_more() -> None:
    o, x = (absorption_db(5.0, is_x, solar_zenith_deg=40.0, **PATH) for is_x in (False, True))
    assert x > o
    at_gyro = absorption_db(1.2, True, solar_zenith_deg=0.0, **PATH)
    assert np.isfinite(at_gyro)


def test_the_secant_is_one_overhead_and_grows_with_distance() -> None:
    assert secant(0.0, 300.0) == pytest.approx(1.0)
    values = secant(np.array([0.0, 100.0, 300.0, 500.0]), 300.0)
    assert (np.diff(values) > 0).all()
    # Flat Earth at short distance: the angle at a mirror.
    assert secant(20.0, 300.0) == pytest.approx(np.hypot(10.0, 300.0) / 300.0, rel=1e-3)


def test_power_is_free_space_along_the_virtual_path() -> None:
    delay_ms = 2.0 * 300.0 / LIGHT_KM_PER_MS
    power = received_dbm(5.0, delay_ms, 0.0, tx_power_w=100.0)
    assert power == pytest.approx(50.0 - (32.45 + 20 * np.log10(5.0 * 600.0)))
    assert received_dbm(5.0, delay_ms, 10.0, tx_power_w=100.0) == pytest.approx(power - 10.0)
    assert received_dbm(5.0, delay_ms, 0.0, tx_power_w=100.0, rx_antenna_gain_dbi=3.0) == pytest.approx(
        power + 3
    )
    assert np.isnan(received_dbm(5.0, delay_ms, 0.0, tx_power_w=np.nan))


def test_noise_falls_with_frequency_and_grows_with_bandwidth() -> None:
    assert noise_dbm(3.0, 1.0) > noise_dbm(10.0, 1.0)
    assert noise_dbm(5.0, 10.0) == pytest.approx(noise_dbm(5.0, 1.0) + 10.0)
    assert noise_dbm(1.0, 1.0) == pytest.approx(-76.8)
