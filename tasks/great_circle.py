"""Great circles between the ends of radio paths."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.window import EARTH_RADIUS_KM

Array: TypeAlias = NDArray[np.float64]


def unit_vectors(latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Array:
    """Places on the unit sphere, shape (n, 3)."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)],
        axis=-1,
    )


def distance_km(
    latitude1_deg: ArrayLike, longitude1_deg: ArrayLike, latitude2_deg: ArrayLike, longitude2_deg: ArrayLike
) -> Array:
    """Along the ground between n pairs of places, shape (n,); exact for short and long paths (Vincenty's formula)."""
    one, other = unit_vectors(latitude1_deg, longitude1_deg), unit_vectors(latitude2_deg, longitude2_deg)
    across = np.linalg.norm(np.cross(one, other), axis=-1)
    return np.asarray(EARTH_RADIUS_KM * np.arctan2(across, (one * other).sum(axis=-1)))


def midpoint(
    latitude1_deg: ArrayLike, longitude1_deg: ArrayLike, latitude2_deg: ArrayLike, longitude2_deg: ArrayLike
) -> tuple[Array, Array]:
    """Latitude and longitude (-180..180) in degrees of the middle of n great circles, each of shape (n,).

    Right over the date line and the poles. Of two antipodes every place of a circle is the middle: the first end is given.
    """
    one, other = unit_vectors(latitude1_deg, longitude1_deg), unit_vectors(latitude2_deg, longitude2_deg)
    middle = one + other
    length = np.linalg.norm(middle, axis=-1, keepdims=True)
    middle = np.where(length > 1e-9, middle, one)
    latitude = np.degrees(np.arctan2(middle[..., 2], np.hypot(middle[..., 0], middle[..., 1])))
    longitude = np.degrees(np.arctan2(middle[..., 1], middle[..., 0]))
    return np.asarray(latitude), np.asarray(longitude)
