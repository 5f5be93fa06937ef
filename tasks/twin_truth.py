"""Truths for twin experiments: how a simulated ionosphere departs from the climatology, at every place and time asked for.

One is drawn from the covariance that the analysis assumes, so that its errors must be what it says they are; the other
is the increment field of another assimilation, which knows nothing of that covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.kernel_config import KernelConfig, Term
from tasks.window import EARTH_RADIUS_KM

Array: TypeAlias = NDArray[np.float64]

HOURS_PER_DAY = 24.0
DEGREES_PER_HOUR = 15.0
DIAGONAL_SHARE = 1e-9
"""Added to the diagonal of a correlation before its Cholesky factor: smooth ones are singular to rounding."""


# --- a draw from the analysis' own covariance ---------------------------------------------------------------------


def correlation_in_space(term: Term, latitude_deg: Array, longitude_deg: Array) -> Array:
    """Correlation (P, P) of a term's field between P quasi-dipole places; formulas of `rust_core`'s covariance.

    Raises:
        ValueError: the term is no field but a station's.
    """
    if term.zonal_km is None or term.meridional_km is None:
        raise ValueError(f"a {term.spatial} term has no correlation between places")
    phi, lam = np.radians(latitude_deg), np.radians(longitude_deg)
    chord = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)]) / term.zonal_km
    stretch = phi * np.sqrt(term.meridional_km**-2 - term.zonal_km**-2)
    place = EARTH_RADIUS_KM * np.vstack([chord, stretch])
    norm = (place**2).sum(axis=0)
    squared = np.maximum(norm[:, None] + norm[None, :] - 2.0 * place.T @ place, 0.0)
    if term.spatial == "gaussian":
        return np.asarray(np.exp(-0.5 * squared))
    scaled = np.sqrt((3.0 if term.spatial == "matern32" else 5.0) * squared)
    rise = 1.0 + scaled + (scaled**2 / 3.0 if term.spatial == "matern52" else 0.0)
    return np.asarray(rise * np.exp(-scaled))


def correlation_in_time(term: Term, time_h: Array) -> Array:
    """Correlation (T, T) of a term between T times in hours."""
    lag = np.abs(time_h[:, None] - time_h[None, :])
    scaled = lag / term.time_scale_h
    if term.temporal == "gaussian":
        return np.asarray(np.exp(-0.5 * scaled**2))
    if term.temporal == "matern32":
        return np.asarray((1.0 + np.sqrt(3.0) * scaled) * np.exp(-np.sqrt(3.0) * scaled))
    if term.temporal == "ou" or term.phase_scale_h is None:
        return np.asarray(np.exp(-scaled))
    phase = np.sin(np.pi * lag / HOURS_PER_DAY) * HOURS_PER_DAY / (2.0 * np.pi * term.phase_scale_h)
    return np.asarray(np.exp(-2.0 * phase**2 - scaled))


def draw_field(
    kernel: KernelConfig,
    name: str,
    latitude_deg: Array,
    longitude_deg: Array,
    time_h: Array,
    amplitude: Array,
    random: np.random.Generator,
) -> Array:
    """The mapped terms of one quantity at P places and T times, drawn jointly from their prior: shape (P, T).

    A term is separable, so with the Cholesky factors of its correlations in space and time, L_s Z L_t' with independent
    normal Z has exactly its covariance: no expansion is cut off. The cost is P^3 + T^3.

    Args:
        name: the quantity; the draw is in the unit of its innovations.
        latitude_deg, longitude_deg: quasi-dipole coordinates, shape (P,).
        amplitude: factor of modulated terms, shape (P, T).
    """
    total = np.zeros((latitude_deg.size, time_h.size))
    for term in kernel.terms:
        if term.spatial == "station":
            continue
        independent = random.standard_normal(total.shape)
        in_space = _factor(correlation_in_space(term, latitude_deg, longitude_deg))
        drawn = in_space @ independent @ _factor(correlation_in_time(term, time_h)).T
        total += getattr(term.sd, name) * drawn * (amplitude if term.is_modulated else 1.0)
    return total


def draw_station_bias(
    kernel: KernelConfig,
    name: str,
    time_h: Array,
    amplitude: Array,
    random: np.random.Generator,
) -> Array:
    """What S stations add to the truth by themselves, drawn from the station terms: shape (S, T) as `amplitude`."""
    total = np.zeros_like(amplitude)
    for term in kernel.terms:
        if term.spatial != "station":
            continue
        drawn = random.standard_normal(total.shape) @ _factor(correlation_in_time(term, time_h)).T
        total += getattr(term.sd, name) * drawn * (amplitude if term.is_modulated else 1.0)
    return total


def _factor(correlation: Array) -> Array:
    return np.asarray(
        np.linalg.cholesky(correlation + DIAGONAL_SHARE * np.eye(len(correlation))), dtype=np.float64
    )


# --- the increments of another assimilation -----------------------------------------------------------------------


@dataclass(frozen=True)
class IncrementField:
    """ln foF2 of an AIDA analysis over its own background (Elvidge et al.), as harmonics in modified dip and longitude.

    Peak densities are in 1e11 m^-3; of foF2, which goes with their square root, the increment is half the logarithm.
    """

    analysed: Array
    """Coefficients ((order + 1)^2,): degree by degree, order 0, then cosine and sine of each."""
    background: Array
    valid_at: datetime

    @classmethod
    def read(cls, path: Path) -> IncrementField:
        """The field of an AIDA output file (HDF5, group `Parameters/NmF2`).

        Raises:
            OSError: the file cannot be read.
            ValueError: it has no NmF2 by modified dip on a linear scale, or its coefficients are not a whole order's.
        """
        import netCDF4

        with netCDF4.Dataset(path) as file:
            if "NmF2" not in getattr(file.groups.get("Parameters"), "groups", {}):
                raise ValueError(f"{path}: it has no group Parameters/NmF2, so it is no AIDA output")
            group = file["Parameters/NmF2"]
            for name, expected in (("coords", "modip"), ("scale", "abs")):
                if (found := str(group[name][...])) != expected:
                    raise ValueError(f"{path}: Parameters/NmF2/{name} is {found!r}, not {expected!r}")
            analysed, background = (
                np.asarray(group[name][...], dtype=np.float64).reshape(-1)
                for name in ("parameters", "bkgparameters")
            )
            valid_at = datetime.fromtimestamp(float(file["Time"][...]), UTC)
        if analysed.size != background.size or math.isqrt(analysed.size) ** 2 != analysed.size:
            raise ValueError(
                f"{path}: {analysed.size} and {background.size} coefficients of NmF2 are not one whole order's"
            )
        return cls(analysed, background, valid_at)

    def at(self, modip_deg: Array, longitude_deg: Array, hours_later: Array) -> Array:
        """Departure of ln foF2 at n places, each so many hours after the analysis; arguments and result of shape (n,).

        The file has one moment. The field is taken to stand still in modified dip and local time: seen from a station it
        moves by 15 degrees an hour, as fast as weather does, and is back a day later.
        """
        basis = harmonics(modip_deg, longitude_deg + DEGREES_PER_HOUR * hours_later, self.order)
        analysed, background = basis @ self.analysed, basis @ self.background
        if not (analysed > 0).all() or not (background > 0).all():
            raise ValueError("the field has peak densities of zero or less, whose logarithm does not exist")
        return np.asarray(0.5 * np.log(analysed / background))

    @property
    def order(self) -> int:
        return math.isqrt(self.analysed.size) - 1


def harmonics(latitude_deg: Array, longitude_deg: Array, order: int) -> Array:
    """Real spherical harmonics (n, (order + 1)^2) in AIDA's arrangement and normalization.

    Degree by degree: order 0, then cosine and sine of orders 1, 2, ... Legendre functions are orthonormal over the sine of
    the latitude and positive near the equator (no Condon-Shortley phase), by the recurrences of Holmes and Featherstone
    (2002), equations 11 and 12; the trigonometric factors have amplitude 1.
    """
    phi, lam = np.radians(latitude_deg), np.radians(longitude_deg)
    sine, cosine = np.sin(phi), np.cos(phi)
    legendre = {(0, 0): np.full(phi.shape, np.sqrt(0.5))}
    for degree in range(1, order + 1):
        legendre[degree, degree] = np.sqrt(1.0 + 0.5 / degree) * cosine * legendre[degree - 1, degree - 1]
        for m in range(degree):
            slope = np.sqrt((4.0 * degree**2 - 1.0) / (degree**2 - m**2))
            lower = 0.0
            if degree - 2 >= m:
                share = ((degree - 1.0) ** 2 - m**2) / (4.0 * (degree - 1.0) ** 2 - 1.0)
                lower = np.sqrt(share) * legendre[degree - 2, m]
            legendre[degree, m] = slope * (sine * legendre[degree - 1, m] - lower)
    columns = []
    for degree in range(order + 1):
        columns.append(legendre[degree, 0])
        for m in range(1, degree + 1):
            columns += [legendre[degree, m] * np.cos(m * lam), legendre[degree, m] * np.sin(m * lam)]
    return np.stack(columns, axis=-1)
