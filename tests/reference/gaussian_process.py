"""The slow oracle of the analysis: the textbook Gaussian process in plain NumPy, one line per formula."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EARTH_RADIUS_KM = 6371.0088


def distance(a: tuple[Array, Array], b: tuple[Array, Array], zonal_km: float, meridional_km: float) -> Array:
    """Distance of places (latitude, longitude in degrees) in units of the length scale, shape (a, b)."""

    def embed(latitude_deg: Array, longitude_deg: Array) -> Array:
        phi, lam = np.radians(latitude_deg), np.radians(longitude_deg)
        chord = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)]) / zonal_km
        stretch = phi * np.sqrt(meridional_km**-2 - zonal_km**-2)
        return EARTH_RADIUS_KM * np.vstack([chord, stretch])

    return np.asarray(np.linalg.norm(embed(*a)[:, :, None] - embed(*b)[:, None, :], axis=0))


def correlation(kind: str, scaled: Array) -> Array:
    if kind == "matern32":
        return (1 + np.sqrt(3) * scaled) * np.exp(-np.sqrt(3) * scaled)
    if kind == "matern52":
        return (1 + np.sqrt(5) * scaled + 5 * scaled**2 / 3) * np.exp(-np.sqrt(5) * scaled)
    return np.exp(-0.5 * scaled**2) if kind == "gaussian" else np.exp(-scaled)


def posterior(
    prior: Array, cross: Array, points_prior: Array, innovation: Array, noise: Array
) -> tuple[Array, Array]:
    """Mean (n,) and covariance (n, n) at n points; prior, noise (m, m), cross (m, n), points_prior (n, n)."""
    inverse = np.linalg.inv(prior + noise)
    return cross.T @ inverse @ innovation, points_prior - cross.T @ inverse @ cross


def against_others(total: Array, innovation: Array, own: NDArray[np.int64]) -> tuple[Array, Array]:
    """Residual (n,) of the rows `own` against the prediction of all others, and its covariance (n, n)."""
    others = np.setdiff1d(np.arange(innovation.size), own)
    gain = np.linalg.solve(total[np.ix_(others, others)], total[np.ix_(others, own)])
    return innovation[own] - gain.T @ innovation[others], total[np.ix_(own, own)] - gain.T @ total[
        np.ix_(others, own)
    ]
