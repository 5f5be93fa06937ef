"""Group delay, virtual height and ceiling of radio waves that the ionosphere sends back, for any profile and field.

A vertical wave is slowed by the plasma (Appleton and Hartree's group index without collisions; Budden 1985) up to where it is
reflected: the ordinary wave where the plasma frequency is its own, X = 1, the extraordinary one at X = 1 - Y; at the first
height that reaches the level, so below the E peak when E reaches it. The virtual height integrates the index from the ground.
An oblique path over a ground distance has the group path of the triangle over the virtual height of its equivalent
vertical frequency f cos(phi) (Breit and Tuve; Martyn; Davies 1990, chapter 6), phi the angle at the apex over a curved Earth;
of the two rays of one frequency it is the low one. The theorems hold exactly for a flat ionosphere without field.

The field is one per wave: take gyrofrequency and dip of :mod:`tasks.magnetic_field` at 300 km over the middle of the path. An
extraordinary wave at or below the gyrofrequency has no reflection here. The maths is in ``rust_core``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import rust_core
from tasks.background import Array
from tasks.profile import Peaks

#: What derivatives are taken by, in the order of their last axis.
PARAMETERS = ("ln_fof2", "hmf2_km", "ln_b0")


@dataclass(frozen=True)
class Echoes:
    """What comes back of n waves: arrays of shape (n,), NaN above the ceiling."""

    delay_ms: Array
    """Of the group, from sender to receiver."""
    virtual_height_km: Array
    equivalent_mhz: Array
    """Frequency of the vertical wave with the same virtual height."""
    delay_by: Array
    """(n, 3), ms by each of :data:`PARAMETERS`."""
    height_by: Array
    """(n, 3), km by each of them."""


@dataclass(frozen=True)
class Ceilings:
    """The highest frequency that comes back on n paths: the MUF of the mode. NaN where none does."""

    mhz: Array
    """(n,); over a distance of 0 foF2, or fxF2."""
    by: Array
    """(n, 3), MHz by each of :data:`PARAMETERS`."""


def echoes(
    peaks: Peaks,
    which: ArrayLike,
    frequency_mhz: ArrayLike,
    is_extraordinary: ArrayLike,
    distance_km: ArrayLike,
    gyrofrequency_mhz: ArrayLike,
    dip_deg: ArrayLike,
    *,
    n_threads: int | None = None,
) -> Echoes:
    """Echoes of n waves with their derivatives; all but ``peaks`` broadcast against each other.

    ``peaks``: profiles; ``which``: the index of each wave's profile in them; ``frequency_mhz`` 0.1..100; ``distance_km`` 0..1500
    along the ground, 0 is vertical; ``gyrofrequency_mhz`` 0..5; ``dip_deg`` -90..90. Raises ValueError that names the value out
    of range. 10 m of virtual height against a fine quadrature.
    """
    waves = _waves(which, is_extraordinary, gyrofrequency_mhz, dip_deg, distance_km, frequency_mhz)
    delay, height, equivalent, derivatives = rust_core.group_delays(
        peaks.columns(), *waves, with_derivatives=True, n_threads=_threads(n_threads)
    )
    if derivatives is None:
        raise AssertionError("derivatives were asked for")
    return Echoes(delay, height, equivalent, *derivatives)


def delays_ms(
    peaks: Peaks,
    which: ArrayLike,
    frequency_mhz: ArrayLike,
    is_extraordinary: ArrayLike,
    distance_km: ArrayLike,
    gyrofrequency_mhz: ArrayLike,
    dip_deg: ArrayLike,
    *,
    n_threads: int | None = None,
) -> Array:
    """Group delays in ms of n waves, NaN above the ceiling; arguments as of :func:`echoes`, in a third of its time."""
    waves = _waves(which, is_extraordinary, gyrofrequency_mhz, dip_deg, distance_km, frequency_mhz)
    return rust_core.group_delays(
        peaks.columns(), *waves, with_derivatives=False, n_threads=_threads(n_threads)
    )[0]


def virtual_heights_km(
    peaks: Peaks,
    which: ArrayLike,
    frequency_mhz: ArrayLike,
    is_extraordinary: ArrayLike,
    gyrofrequency_mhz: ArrayLike,
    dip_deg: ArrayLike,
    *,
    n_threads: int | None = None,
) -> Array:
    """Virtual heights in km of n vertical waves, NaN above the ceiling; arguments as of :func:`echoes`."""
    waves = _waves(which, is_extraordinary, gyrofrequency_mhz, dip_deg, 0.0, frequency_mhz)
    return rust_core.group_delays(
        peaks.columns(), *waves, with_derivatives=False, n_threads=_threads(n_threads)
    )[1]


def ceilings(
    peaks: Peaks,
    which: ArrayLike,
    is_extraordinary: ArrayLike,
    distance_km: ArrayLike,
    gyrofrequency_mhz: ArrayLike,
    dip_deg: ArrayLike,
    *,
    n_threads: int | None = None,
) -> Ceilings:
    """The highest frequencies that come back on n paths, with derivatives; arguments as of :func:`echoes`."""
    profile, is_x, paths, _ = _waves(which, is_extraordinary, gyrofrequency_mhz, dip_deg, distance_km, 1.0)
    return Ceilings(*rust_core.ceilings(peaks.columns(), profile, is_x, paths, n_threads=_threads(n_threads)))


def ceilings_mhz(
    peaks: Peaks,
    which: ArrayLike,
    is_extraordinary: ArrayLike,
    distance_km: ArrayLike,
    gyrofrequency_mhz: ArrayLike,
    dip_deg: ArrayLike,
    *,
    n_threads: int | None = None,
) -> Array:
    """The highest frequencies in MHz that come back on n paths, (n,); arguments as of :func:`echoes`."""
    return ceilings(
        peaks, which, is_extraordinary, distance_km, gyrofrequency_mhz, dip_deg, n_threads=n_threads
    ).mhz


def _waves(
    which: ArrayLike,
    is_extraordinary: ArrayLike,
    gyrofrequency_mhz: ArrayLike,
    dip_deg: ArrayLike,
    distance_km: ArrayLike,
    frequency_mhz: ArrayLike,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], list[Array], Array]:
    given: dict[str, NDArray[Any]] = {
        "which": np.atleast_1d(np.asarray(which)).ravel(),
        "is_extraordinary": np.atleast_1d(np.asarray(is_extraordinary)).ravel(),
        "gyrofrequency_mhz": np.atleast_1d(np.asarray(gyrofrequency_mhz, dtype=np.float64)).ravel(),
        "dip_deg": np.atleast_1d(np.asarray(dip_deg, dtype=np.float64)).ravel(),
        "distance_km": np.atleast_1d(np.asarray(distance_km, dtype=np.float64)).ravel(),
        "frequency_mhz": np.atleast_1d(np.asarray(frequency_mhz, dtype=np.float64)).ravel(),
    }
    for name, kinds in (("which", "iu"), ("is_extraordinary", "b")):
        if given[name].size and given[name].dtype.kind not in kinds:
            raise ValueError(
                f"{name} is {given[name].dtype}, not {'whole numbers' if kinds == 'iu' else 'true or false'}"
            )
    n = 0 if any(column.size == 0 for column in given.values()) else max(c.size for c in given.values())
    for name, column in given.items():
        if column.size not in (1, n):
            raise ValueError(f"{name} has {column.size} values where 1 or {n} are needed")
    index, is_x, *columns = (np.broadcast_to(column, n) for column in given.values())
    gyrofrequency, dip, distance, frequency = (np.ascontiguousarray(column) for column in columns)
    return (
        np.ascontiguousarray(index, dtype=np.int64),
        np.ascontiguousarray(is_x, dtype=np.bool_),
        [gyrofrequency, dip, distance],
        frequency,
    )


def _threads(n_threads: int | None) -> int:
    return len(os.sched_getaffinity(0)) if n_threads is None else n_threads
