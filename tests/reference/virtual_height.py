"""The slow oracle of virtual heights: the textbook's index, its derivative by a complex step, many nodes by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Density = Callable[[Array], Array]
LEAST_COS2 = 1e-6


def group_index(
    plasma_mhz2: Array, frequency_mhz: float, gyrofrequency_mhz: float, dip_deg: float, is_extraordinary: bool
) -> Array:
    """mu + f dmu/df of Appleton and Hartree's formula without collisions, as printed."""
    f = frequency_mhz + 1e-30j
    x, y = plasma_mhz2 / f**2, gyrofrequency_mhz / f
    cos2 = max(np.cos(np.radians(dip_deg)) ** 2, LEAST_COS2)
    across2, along2 = y**2 * cos2, y**2 * (1 - cos2)
    root = np.sqrt(across2**2 + 4 * (1 - x) ** 2 * along2)
    # -across2 + root = 4 e^2 along2 / (across2 + root): as printed it cancels where the ordinary wave is reflected.
    rest = -across2 - root if is_extraordinary else 4 * (1 - x) ** 2 * along2 / (across2 + root)
    below = 2 * (1 - x) + rest
    index = np.sqrt(1 - 2 * x * (1 - x) / below)
    return np.asarray(index.real + frequency_mhz * index.imag / 1e-30)


def virtual_height_km(
    density: Density,
    hmf2_km: float,
    frequency_mhz: float,
    gyrofrequency_mhz: float,
    dip_deg: float,
    is_extraordinary: bool,
) -> float:
    """NaN where nothing reflects. At least 400 nodes below reflection, panels halving towards it and towards the E peak."""

    def plasma(height: Array) -> Array:
        return density(np.atleast_1d(height)) / 1.24e10

    level = frequency_mhz**2 - (gyrofrequency_mhz * frequency_mhz if is_extraordinary else 0.0)
    grid = np.append(np.arange(20.0, hmf2_km, 0.02), hmf2_km)
    above = np.flatnonzero(plasma(grid) >= level)
    if level <= 0 or above.size == 0 or level >= plasma(np.array(hmf2_km))[0] * (1 - 1e-12):
        return float("nan")
    low, high = grid[above[0] - 1], grid[above[0]]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if plasma(middle)[0] < level else (low, middle)
    halving = 60 * 0.5 ** np.arange(25)
    edges = np.concatenate(
        [[20.0, high], np.arange(20.0, high, 2.0), high - halving, 110 - halving, 110 + halving]
    )
    edges = np.unique(edges[(edges >= 20) & (edges <= high)])
    node, weight = np.polynomial.legendre.leggauss(12)
    total = 20.0
    # The last panel as h_r - L s^2.
    last = edges[-1] - edges[-2]
    s = (node + 1) / 2
    heights = [edges[-1] - last * s**2]
    weights = [last * 2 * s * weight / 2]
    for a, b in itertools.pairwise(edges[:-1]):
        heights.append((a + b) / 2 + (b - a) / 2 * node)
        weights.append((b - a) / 2 * weight)
    at = np.concatenate(heights)
    assert at.size >= 400
    index = group_index(
        np.minimum(plasma(at), level * (1 - 1e-16)),
        frequency_mhz,
        gyrofrequency_mhz,
        dip_deg,
        is_extraordinary,
    )
    return total + float(np.concatenate(weights) @ np.where(np.isfinite(index), index, 0.0))
