"""The Earth's main magnetic field at any place, height and time: dip, modified dip, gyrofrequency.

IGRF-13 (Alken et al. 2021, doi:10.1186/s40623-020-01288-x) from the coefficient file that the package PyIRI distributes; the maths
is in ``rust_core``. After 2025 the last secular variation goes on: some 20 nT, or 0.0006 MHz, of error a year.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

import rust_core
from tasks.background import Array, Times, coefficient_folder, points_of

if TYPE_CHECKING:
    from pathlib import Path

#: Height of the F layer's field, as in IRI.
DEFAULT_HEIGHT_KM = 300.0


@dataclass(frozen=True)
class MagneticField:
    """The field at n points: arrays of shape (n,)."""

    north_nt: Array
    east_nt: Array
    down_nt: Array
    intensity_nt: Array
    inclination_deg: Array
    """Dip below the horizon, -90..90."""
    declination_deg: Array
    """East of north, -180..180."""
    modip_deg: Array
    """Modified dip (Rawer 1963)."""
    dip_latitude_deg: Array
    gyrofrequency_mhz: Array
    """fH of electrons."""


def magnetic_field(
    times: Times,
    latitude_deg: ArrayLike,
    longitude_deg: ArrayLike,
    height_km: ArrayLike = DEFAULT_HEIGHT_KM,
    *,
    n_threads: int | None = None,
) -> MagneticField:
    """The main field at n points, each at its own UTC time; arguments broadcast against each other.

    ``times`` as in :meth:`tasks.background.Background.at`; ``latitude_deg`` -90..90 geodetic, ``longitude_deg`` -360..360,
    ``height_km`` -1..50,000 above the ellipsoid. Raises ValueError otherwise.
    """
    time_us, latitude, longitude, height = points_of(times, latitude_deg, longitude_deg, height_km=height_km)
    threads = len(os.sched_getaffinity(0)) if n_threads is None else n_threads
    return MagneticField(*_main_field().evaluate(time_us, latitude, longitude, height, n_threads=threads))


def gyrofrequency_mhz(
    times: Times,
    latitude_deg: ArrayLike,
    longitude_deg: ArrayLike,
    height_km: ArrayLike = DEFAULT_HEIGHT_KM,
) -> Array:
    """Electron gyrofrequency fH in MHz, shape (n,); arguments as in :func:`magnetic_field`."""
    return magnetic_field(times, latitude_deg, longitude_deg, height_km).gyrofrequency_mhz


def extraordinary_mhz(fof2_mhz: ArrayLike, gyrofrequency_mhz: ArrayLike) -> Array:
    """Critical frequency fxF2 of the extraordinary wave: where its refractive index ends, X = 1 - Y (Budden 1985), exactly.

    NVIS works up to it. It lies about fH/2 above foF2. Arguments broadcast; MHz.
    """
    half = np.asarray(gyrofrequency_mhz, dtype=np.float64) / 2.0
    return half + np.hypot(fof2_mhz, half)


def ordinary_mhz(fxf2_mhz: ArrayLike, gyrofrequency_mhz: ArrayLike) -> Array:
    """Critical frequency foF2 whose extraordinary wave ends at fxF2: the inverse of :func:`extraordinary_mhz`.

    0 where fxF2 is below the gyrofrequency, which no plasma makes. Arguments broadcast; MHz.
    """
    fx, gyrofrequency = (np.asarray(value, dtype=np.float64) for value in (fxf2_mhz, gyrofrequency_mhz))
    return np.asarray(np.sqrt(np.maximum(fx * (fx - gyrofrequency), 0.0)))


@cache
def _main_field() -> rust_core.MainField:
    epochs, coefficients = read_igrf(coefficient_folder() / "IGRF" / "IGRF13.shc")
    return rust_core.MainField(epochs, coefficients)


def read_igrf(path: Path) -> tuple[Array, Array]:
    """Epochs (n,) in years and coefficients (n, 195) in nT of an IGRF file in SHC format.

    Raises ValueError that names the file when its rows are not degree 1..13, order 0, 1, -1, 2, -2, ...
    """
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
    epochs = np.array(lines[1], dtype=np.float64)
    expected = [
        (degree, order)
        for degree in range(1, 14)
        for order in [0, *(sign * m for m in range(1, degree + 1) for sign in (1, -1))]
    ]
    rows = np.array([line for line in lines[2:] if len(line) == epochs.size + 2], dtype=np.float64)
    if [tuple(row) for row in rows[:, :2].astype(int)] != expected:
        raise ValueError(
            f"{path}: its rows are not the {len(expected)} coefficients of degree 1 to 13 in order"
        )
    return epochs, np.ascontiguousarray(rows[:, 2:].T)
