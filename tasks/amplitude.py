"""How much the modulated terms of the covariance count at a place and time: a table over latitude and local time.

The day-to-day variability of the F2 layer depends on where the sun and the magnetic field are (ITU-R P.1239 tabulates
it). The table's knots are |quasi-dipole latitude| and magnetic local time; between knots the factor goes smoothly and
never beyond its neighbours. Multiplying a covariance by a factor at each end keeps it positive definite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.background import Background, Times
from tasks.kernel_config import QUANTITIES, Amplitude, KernelConfig

Array = NDArray[np.float64]

HOURS_PER_DAY = 24.0


def amplitudes(
    kernel: KernelConfig,
    background: Background,
    times: Times,
    latitude_deg: Array,
    longitude_deg: Array,
) -> Array:
    """The factor of every quantity at n geographic points, shape (Q, n), each at its own UTC time or all at one."""
    if not any(term.is_modulated for term in kernel.terms):
        return np.ones((len(QUANTITIES), latitude_deg.size))
    qd_latitude, _, local_time_h = background.magnetic_local_time(times, latitude_deg, longitude_deg)
    return np.stack([factor(kernel.amplitude, name, qd_latitude, local_time_h) for name in QUANTITIES])


def factor(table: Amplitude, name: str, qd_latitude_deg: Array, local_time_h: Array) -> Array:
    """The factor of one quantity at n places, shape (n,)."""
    values = np.array(table.table(name))
    latitude = np.array(table.latitude_deg)
    row = np.clip(np.searchsorted(latitude, np.abs(qd_latitude_deg), side="right") - 1, 0, latitude.size - 2)
    north = _smooth((np.abs(qd_latitude_deg) - latitude[row]) / (latitude[row + 1] - latitude[row]))
    hours = np.array([*table.local_time_h, table.local_time_h[0] + HOURS_PER_DAY])
    # Before the first knot of the day, the interval is the one that crosses midnight.
    local = np.where(local_time_h < hours[0], local_time_h + HOURS_PER_DAY, local_time_h)
    column = np.clip(np.searchsorted(hours, local, side="right") - 1, 0, hours.size - 2)
    later = _smooth((local - hours[column]) / (hours[column + 1] - hours[column]))
    following = (column + 1) % len(table.local_time_h)
    south = values[row, column] * (1 - later) + values[row, following] * later
    return np.asarray(
        south * (1 - north)
        + (values[row + 1, column] * (1 - later) + values[row + 1, following] * later) * north
    )


def _smooth(fraction: Array) -> Array:
    """From 0 to 1 without a kink at either end."""
    return fraction * fraction * (3.0 - 2.0 * fraction)
