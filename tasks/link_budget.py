"""What a receiver should hear by NVIS: free-space loss along the virtual path, and absorption in the D region.

Absorption of one hop after IONCAP (Teters et al. 1983, NTIA report 83-127, from Lucas and Haydon 1966):
``L = 677.2 I sec(phi) / ((f ± fH)^1.98 + 10.2)`` dB with ``I = (1 + 0.0037 R12) cos(0.881 chi)^1.3``, at least 0.1; plus for
the ordinary and minus for the extraordinary wave, fH the longitudinal part of the gyrofrequency.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.window import EARTH_RADIUS_KM

Array: TypeAlias = NDArray[np.float64]

LIGHT_KM_PER_MS = 299.792458
ABSORBING_HEIGHT_KM = 100.0
LEAST_INDEX = 0.1
LARGEST_ABSORPTION_DB = 120.0
"""Beyond this nothing is heard; it bounds what the formula gives near the gyrofrequency."""
RURAL_NOISE_DB = (67.2, 27.7)
"""Fam = 67.2 - 27.7 lg f above kT0b (ITU-R P.372, rural)."""
THERMAL_DBM_PER_KHZ = -144.0


def absorption_db(
    frequency_mhz: ArrayLike,
    is_extraordinary: ArrayLike,
    *,
    distance_km: ArrayLike,
    virtual_height_km: ArrayLike,
    solar_zenith_deg: ArrayLike,
    r12: ArrayLike,
    longitudinal_gyrofrequency_mhz: ArrayLike,
) -> Array:
    """Absorption of one hop in dB, shape (n,); arguments broadcast."""
    chi = np.minimum(np.asarray(solar_zenith_deg, dtype=np.float64), 102.0)  # 0.881 chi is 90 deg there
    index = (1.0 + 0.0037 * np.maximum(r12, 0.0)) * np.maximum(np.cos(np.radians(0.881 * chi)), 0.0) ** 1.3
    sign = np.where(is_extraordinary, -1.0, 1.0)
    apart = np.abs(np.asarray(frequency_mhz) + sign * np.abs(longitudinal_gyrofrequency_mhz))
    loss = 677.2 * np.maximum(index, LEAST_INDEX) * secant(distance_km, virtual_height_km)
    return np.asarray(np.minimum(loss / (apart**1.98 + 10.2), LARGEST_ABSORPTION_DB))


def secant(distance_km: ArrayLike, virtual_height_km: ArrayLike) -> Array:
    """Secant of the angle to the vertical at the absorbing height, for a hop over a mirror at the virtual height."""
    half = np.asarray(distance_km, dtype=np.float64) / (2.0 * EARTH_RADIUS_KM)
    top = EARTH_RADIUS_KM + np.asarray(virtual_height_km, dtype=np.float64)
    elevation = np.arctan2(top * np.cos(half) - EARTH_RADIUS_KM, top * np.sin(half))
    sine = EARTH_RADIUS_KM * np.cos(elevation) / (EARTH_RADIUS_KM + ABSORBING_HEIGHT_KM)
    return np.asarray(1.0 / np.sqrt(1.0 - sine**2))


def received_dbm(
    frequency_mhz: ArrayLike,
    group_delay_ms: ArrayLike,
    absorption_of_path_db: ArrayLike,
    *,
    tx_power_w: ArrayLike,
    tx_antenna_gain_dbi: ArrayLike = 0.0,
    rx_antenna_gain_dbi: ArrayLike = 0.0,
) -> Array:
    """Power in dBm at the antenna terminals, shape (n,); NaN where power or delay are not known."""
    path_km = np.asarray(group_delay_ms, dtype=np.float64) * LIGHT_KM_PER_MS
    spreading_db = 32.45 + 20.0 * np.log10(np.asarray(frequency_mhz) * path_km)
    power_dbm = 30.0 + 10.0 * np.log10(np.asarray(tx_power_w, dtype=np.float64))
    gains = np.asarray(tx_antenna_gain_dbi) + np.asarray(rx_antenna_gain_dbi)
    return np.asarray(power_dbm + gains - spreading_db - np.asarray(absorption_of_path_db))


def noise_dbm(frequency_mhz: ArrayLike, bandwidth_khz: ArrayLike) -> Array:
    """Rural noise power in dBm in a bandwidth, shape (n,)."""
    level, fall = RURAL_NOISE_DB
    above_thermal_db = level - fall * np.log10(frequency_mhz)
    return np.asarray(THERMAL_DBM_PER_KHZ + above_thermal_db + 10.0 * np.log10(bandwidth_khz))
