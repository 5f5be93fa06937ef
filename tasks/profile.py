"""Electron density above places, and its vertical content, from the peaks of the layers.

The construction of PyIRI (Servan-Schreiber et al. 2026, doi:10.1029/2025SW004853): IRI's bottomside with B0 and B1, Epstein layers for E and
F1, NeQuick's topside. The maths is in ``rust_core``. The peak is exactly 1.24e10 foF2^2 at hmF2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

import rust_core
from tasks.background import Array, BackgroundState, ig12_to_r12

#: Heights of vertical total electron content: the foot of the E layer to the orbit of navigation satellites.
TEC_HEIGHTS_KM = (80.0, 20_200.0)


@dataclass(frozen=True)
class Layers:
    """Derived layers at n points: arrays of shape (n,)."""

    fof1_mhz: Array
    """Plasma frequency at hmF1; whether there is an F1 layer says its probability."""
    hmf1_km: Array
    f1_probability: Array
    """0..1, by the solar zenith angle (Bilitza et al. 2022)."""
    f1_thickness_km: Array
    """Of the bottomside; 0 at a probability of 0.1 or less."""
    f2_top_km: Array
    """NeQuick's thickness of the topside (Nava et al. 2008)."""
    f2_bottom_km: Array
    """NeQuick's thickness of the bottomside; the profile takes B0 and B1 instead."""


@dataclass(frozen=True)
class Peaks:
    """What a profile is made of at n points: arrays of shape (n,), or one value for all.

    foF2 0.05..60 MHz, hmF2 120..2000 km, M(3000)F2 0.5..8, B0 1..1000 km, B1 0.1..20, foE 0.01..30 MHz, zenith 0..180 deg, sunspot
    number R12 (for the topside). The E peak lies at 110 km. Values outside raise ValueError in the methods, which name them.
    """

    fof2_mhz: ArrayLike
    hmf2_km: ArrayLike
    m3000f2: ArrayLike
    b0_km: ArrayLike
    b1: ArrayLike
    foe_mhz: ArrayLike
    solar_zenith_deg: ArrayLike
    r12: ArrayLike

    @classmethod
    def of_background(cls, state: BackgroundState, ig12: float) -> Peaks:
        """The climatology's own, at the index that it was asked for."""
        return cls(**vars(state), r12=ig12_to_r12(ig12))

    def layers(self) -> Layers:
        """F1 layer and thicknesses."""
        return Layers(*rust_core.layers(self.columns()))

    def density(self, heights_km: ArrayLike, *, n_threads: int | None = None) -> Array:
        """Electron density in m^-3, shape (heights, n); heights 0..50,000 km. Never below 1 m^-3."""
        heights = np.atleast_1d(np.ascontiguousarray(heights_km, dtype=np.float64)).ravel()
        return rust_core.density(self.columns(), heights, n_threads=_threads(n_threads))

    def vertical_tec(
        self,
        low_km: float = TEC_HEIGHTS_KM[0],
        high_km: float = TEC_HEIGHTS_KM[1],
        *,
        n_threads: int | None = None,
    ) -> Array:
        """Electrons in a vertical column between two heights in TECU (1e16 m^-2), shape (n,); good to 1e-4."""
        columns = self.columns()
        return rust_core.electron_content(
            columns, low_km=low_km, high_km=high_km, n_threads=_threads(n_threads)
        )

    def columns(self) -> list[NDArray[np.float64]]:
        """The eight columns as arrays of one shape (n,). Raises ValueError for one with neither 1 nor n values."""
        given = {
            field.name: np.atleast_1d(np.asarray(getattr(self, field.name), dtype=np.float64)).ravel()
            for field in fields(self)
        }
        n_points = (
            0 if any(column.size == 0 for column in given.values()) else max(c.size for c in given.values())
        )
        for name, column in given.items():
            if column.size not in (1, n_points):
                raise ValueError(f"{name} has {column.size} values where 1 or {n_points} are needed")
        return [np.ascontiguousarray(np.broadcast_to(column, n_points)) for column in given.values()]


def _threads(n_threads: int | None) -> int:
    return len(os.sched_getaffinity(0)) if n_threads is None else n_threads
