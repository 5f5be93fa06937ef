"""The climatological background of the analysis: IRI by spherical harmonics, at a given solar index.

The maths is in ``rust_core``; this module loads the coefficient files that the package PyIRI distributes
(Servan-Schreiber et al. 2026, doi:10.1029/2025SW004853) and speaks in times and arrays. Maps used: URSI (or CCIR) foF2,
SHU-2015 hmF2, M(3000)F2, ABT-2009 B0 and B1; foE after NeQuick.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

import rust_core

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

Array: TypeAlias = NDArray[np.float64]
Times: TypeAlias = "ArrayLike | datetime | Sequence[datetime] | pd.DatetimeIndex | pd.Series[Any]"

Fof2Map: TypeAlias = Literal["URSI", "CCIR"]

MAP_FILES = {
    "hmf2": "hmF2_SHU2015.nc",
    "m3000f2": "M3000F2.nc",
    "b0": "B0.nc",
    "b1": "B1.nc",
}


@dataclass(frozen=True)
class BackgroundState:
    """Climatology at n points: arrays of shape (n,)."""

    fof2_mhz: Array
    hmf2_km: Array
    m3000f2: Array
    b0_km: Array
    b1: Array
    foe_mhz: Array
    solar_zenith_deg: Array


@dataclass(frozen=True)
class SolarLevels:
    """Mapped parameters at n points for solar index 0 and 100: arrays of shape (2, n), to be drawn out by a line.

    foF2 and hmF2 are linear in IG12, the others in R12.
    """

    fof2_mhz: Array
    hmf2_km: Array
    m3000f2: Array
    b0_km: Array
    b1: Array
    floors: tuple[float, float, float, float, float]

    def fof2_at(self, ig12: float) -> Array:
        """foF2 in MHz, shape (n,), for an IG12, as :meth:`Background.at` gives it (to rounding)."""
        return _along_index(self.fof2_mhz, ig12, self.floors[0])

    def hmf2_at(self, ig12: float) -> Array:
        """hmF2 in km, shape (n,), for an IG12."""
        return _along_index(self.hmf2_km, ig12, self.floors[1])

    def m3000f2_at(self, ig12: float) -> Array:
        """M(3000)F2, shape (n,), for an IG12."""
        return _along_index(self.m3000f2, ig12_to_r12(ig12), self.floors[2])

    def b0_at(self, ig12: float) -> Array:
        """B0 in km, shape (n,), for an IG12."""
        return _along_index(self.b0_km, ig12_to_r12(ig12), self.floors[3])

    def b1_at(self, ig12: float) -> Array:
        """B1, shape (n,), for an IG12."""
        return _along_index(self.b1, ig12_to_r12(ig12), self.floors[4])


class Background:
    """IRI at any time and place. One instance may be shared by threads; building one reads 10 MB of coefficients (0.1 s).

    ``n_threads``: cores to use, default all that this process may run on. Results do not depend on it.
    ``fof2_map``: the foF2 map of URSI (1989) or of CCIR (1966). Raises ValueError for another map or threads that are not
    positive, FileNotFoundError when PyIRI's coefficient files are missing.
    """

    def __init__(self, n_threads: int | None = None, *, fof2_map: Fof2Map = "URSI") -> None:
        if n_threads is not None and n_threads < 1:
            raise ValueError(f"n_threads = {n_threads}: at least 1 is needed")
        self.n_threads = len(os.sched_getaffinity(0)) if n_threads is None else n_threads
        if fof2_map not in get_args(Fof2Map):
            raise ValueError(f"fof2_map {fof2_map!r} is neither 'URSI' nor 'CCIR'")
        self._climatology = _load_climatology(fof2_map)
        #: Smallest foF2 (MHz), hmF2 (km), M(3000)F2, B0 (km), B1: the maps are extrapolated beyond index 0 and 100.
        self.floors: tuple[float, float, float, float, float] = self._climatology.floors

    def at(
        self, times: Times, latitude_deg: ArrayLike, longitude_deg: ArrayLike, ig12: ArrayLike
    ) -> BackgroundState:
        """Climatology at n points, each at its own UTC time; arguments broadcast against each other.

        ``times``: datetime64, aware datetimes or a pandas time index or series; those without a zone are UTC. Years
        1900-2099. ``latitude_deg`` -90..90, ``longitude_deg`` -360..360, ``ig12`` -20..200. Raises ValueError otherwise.
        """
        time_us, latitude, longitude, index = points_of(times, latitude_deg, longitude_deg, ig12=ig12)
        return BackgroundState(
            *self._climatology.evaluate(time_us, latitude, longitude, index, n_threads=self.n_threads)
        )

    def on_grid(
        self, time: datetime | np.datetime64, latitude_deg: ArrayLike, longitude_deg: ArrayLike, ig12: float
    ) -> BackgroundState:
        """Climatology at n points at one time: :meth:`at` with a single time, 65,160 points in about 0.04 s on two cores."""
        return self.at(time, latitude_deg, longitude_deg, ig12)

    def solar_levels(self, times: Times, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> SolarLevels:
        """The mapped parameters at solar index 0 and 100, from which any index is cheap; arguments as in :meth:`at`."""
        time_us, latitude, longitude = points_of(times, latitude_deg, longitude_deg)
        levels = self._climatology.levels(time_us, latitude, longitude, n_threads=self.n_threads)
        return SolarLevels(levels[0], levels[1], levels[2], levels[3], levels[4], self.floors)

    def quasi_dipole(
        self, latitude_deg: ArrayLike, longitude_deg: ArrayLike, year: int
    ) -> tuple[Array, Array]:
        """Quasi-dipole latitude and longitude (-180..180) in degrees, shape (n,), of geographic points."""
        latitude, longitude = np.broadcast_arrays(_column(latitude_deg), _column(longitude_deg))
        return self._climatology.quasi_dipole(
            np.ascontiguousarray(latitude), np.ascontiguousarray(longitude), year, n_threads=self.n_threads
        )

    def magnetic_local_time(
        self, times: Times, latitude_deg: ArrayLike, longitude_deg: ArrayLike
    ) -> tuple[Array, Array, Array]:
        """Quasi-dipole latitude and longitude (-180..180) in degrees and magnetic local time in hours (0..24), shape (n,).

        Each point at its own UTC time, with the apex coordinates of its year (1900-2030, else the nearest); arguments as in
        :meth:`at`. Magnetic noon lies on the quasi-dipole meridian of the subsolar point.
        """
        time_us, latitude, longitude = points_of(times, latitude_deg, longitude_deg)
        return self._climatology.magnetic_local_time(time_us, latitude, longitude, n_threads=self.n_threads)


def f107_to_ig12(f107_sfu: float) -> float:
    """IG12 for a 10.7 cm solar flux in sfu (relations of IRI-2020), within -20..200. Raises ValueError unless positive."""
    return rust_core.f107_to_ig12(f107_sfu)


def ig12_to_r12(ig12: float) -> float:
    """Sunspot number R12 for an IG12 (IRI-2020); it stays at 247.3 above IG12 = 178.0, where the relation has its top."""
    return rust_core.ig12_to_r12(ig12)


def coefficient_folder() -> Path:
    """Where the package PyIRI keeps its coefficient files, found without importing it. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("PyIRI")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the package PyIRI, whose coefficient files the background reads, is not installed"
        )
    return Path(spec.origin).parent / "coefficients"


@cache
def _load_climatology(fof2_map: Fof2Map) -> rust_core.Climatology:
    folder = coefficient_folder()
    files = {"fof2": f"foF2_{fof2_map}.nc", **MAP_FILES}
    maps = {name: _read(folder / "SH" / file)["Coefficients"] for name, file in files.items()}
    apex = _read(folder / "Apex" / "Apex.nc")
    years = apex["Year"].astype(int)
    if not np.array_equal(years, np.arange(years[0], years[0] + years.size)):
        raise ValueError(f"{folder / 'Apex' / 'Apex.nc'}: its years do not follow one another")
    return rust_core.Climatology(
        **maps,
        first_year=int(years[0]),
        qd_latitude=apex["QDLat"],
        qd_longitude_cos=apex["QDLon_cos"],
        qd_longitude_sin=apex["QDLon_sin"],
    )


def _read(path: Path) -> Mapping[str, Any]:
    import netCDF4

    with netCDF4.Dataset(path) as dataset:
        dataset.set_auto_mask(False)
        return {
            name: np.asarray(variable[:], dtype=np.float64) for name, variable in dataset.variables.items()
        }


def points_of(
    times: Times, latitude_deg: ArrayLike, longitude_deg: ArrayLike, **others: ArrayLike
) -> tuple[Any, ...]:
    """UTC microseconds since 1970, latitude, longitude and the other arguments as contiguous arrays of one shape (n,).

    Raises ValueError when an argument has neither one value nor as many as the longest.
    """
    columns = {
        "times": _microseconds(times),
        "latitude_deg": _column(latitude_deg),
        "longitude_deg": _column(longitude_deg),
        **{name: _column(values) for name, values in others.items()},
    }
    n_points = max(column.size for column in columns.values()) if all(c.size for c in columns.values()) else 0
    for name, column in columns.items():
        if column.size not in (1, n_points):
            raise ValueError(f"{name} has {column.size} values where 1 or {n_points} are needed")
    return tuple(np.ascontiguousarray(np.broadcast_to(column, n_points)) for column in columns.values())


def _column(values: ArrayLike) -> Array:
    return np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()


def universal_times(times: Times) -> pd.DatetimeIndex:
    """Times as :meth:`Background.at` takes them, in UTC, shape (n,). Raises ValueError for what is no time."""
    import pandas as pd

    values: Any = times if hasattr(times, "__len__") and not isinstance(times, str) else [times]
    if np.asarray(values).dtype.kind in "biuf" and np.size(values):
        raise ValueError(f"times[0] = {np.asarray(values).flat[0]} is a number, not a time")
    try:
        index = pd.DatetimeIndex(pd.to_datetime(values, utc=True)).as_unit("us")
    except (TypeError, ValueError) as error:
        raise ValueError(f"times: {error}") from error
    if index.hasnans:
        raise ValueError(f"times[{int(np.flatnonzero(index.isna())[0])}] is not a time")
    return index


def _microseconds(times: Times) -> NDArray[np.int64]:
    """UTC microseconds since 1970, shape (n,)."""
    return np.asarray(universal_times(times).asi8)


def _along_index(levels: Array, index: float, floor: float) -> Array:
    weight = index / 100.0
    return np.asarray(np.maximum(levels[0] * (1.0 - weight) + levels[1] * weight, floor))
