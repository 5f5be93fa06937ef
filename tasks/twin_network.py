"""A network for twin experiments: where stations stand, when they sound, and what their instruments make of the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.kernel_config import MANUAL_CONFIDENCE, KernelConfig
from tasks.magnetic_field import extraordinary_mhz

Array: TypeAlias = NDArray[np.float64]

NEWEST_H, NEWEST_MINUTES = 2.0, 15.0  # as most digisondes sound
OLDER_MINUTES = 60.0  # the analysis thins what is older: more rows would be read and not used
GAP_SHARE = 0.05  # of soundings without a value
CONFIDENCE_SHARES = {  # of the soundings by score; chosen: most are autoscaled well, a tenth is not
    MANUAL_CONFIDENCE: 0.05,
    85.0: 0.60,
    -1.0: 0.10,
    50.0: 0.15,
    10.0: 0.10,
}
GROSS_KINDS = ("x_trace", "slip", "random", "stuck")
"""Kinds of gross errors, a quarter each: extraordinary trace read as the ordinary, half or twice the frequency, anything
in `RANDOM_MHZ`, and a station that repeats its oldest value."""
SLIP_FACTOR = 2.0
RANDOM_MHZ = (1.0, 15.0)


def place_uniformly(
    n_stations: int, edges: tuple[float, float, float, float], random: np.random.Generator
) -> tuple[Array, Array]:
    """Latitude and longitude of stations, each drawn by itself, uniform over the area of a box.

    `edges`: south, west, north, east in degrees, `west` < `east`.
    """
    south, west, north, east = edges
    sine = random.uniform(np.sin(np.radians(south)), np.sin(np.radians(north)), n_stations)
    return np.degrees(np.arcsin(sine)), random.uniform(west, east, n_stations)


def sounding_ages_h(window_h: float) -> Array:
    """Ages in hours, ascending from 0, of the soundings of a window: dense in its newest hours."""
    newest = np.arange(0.0, NEWEST_H + 1e-9, NEWEST_MINUTES / 60.0)
    older = np.arange(NEWEST_H + OLDER_MINUTES / 60.0, window_h - 1e-9, OLDER_MINUTES / 60.0)
    return np.concatenate([newest, older])


@dataclass(frozen=True)
class Soundings:
    """Readings of foF2 without gross errors by S stations at T times, arrays of shape (S, T)."""

    value: Array
    """MHz; NaN where there is none."""
    confidence: Array
    kind: NDArray[np.int64]
    """Of the gross error that a reading would have, index in `GROSS_KINDS` without the last."""
    rank: Array
    """In 0..1: a reading is gross when its rank is below the share of those that are."""
    station_rank: Array
    """(S,) the same for stations that are stuck."""
    slip: Array
    random_mhz: Array

    @classmethod
    def of(cls, fof2_mhz: Array, kernel: KernelConfig, random: np.random.Generator) -> Soundings:
        """Readings of what the stations would report without noise, shape (S, T), newest first.

        Noise is normal in MHz with the error that the kernel assumes for the confidence of each reading.
        """
        shape = fof2_mhz.shape
        scores = np.array(list(CONFIDENCE_SHARES))
        confidence = random.choice(scores, shape, p=list(CONFIDENCE_SHARES.values()))
        error = kernel.fof2_mhz.obs_error.of(confidence.ravel(), kernel.confidence).reshape(shape)
        value = fof2_mhz + error * random.standard_normal(shape)
        value[random.random(shape) < GAP_SHARE] = np.nan
        return cls(
            value=value,
            confidence=confidence,
            kind=random.integers(0, len(GROSS_KINDS) - 1, shape),
            rank=random.random(shape),
            station_rank=random.random(shape[:1]),
            slip=random.choice([1.0 / SLIP_FACTOR, SLIP_FACTOR], shape),
            random_mhz=random.uniform(*RANDOM_MHZ, shape),
        )

    def spoiled(self, share: float, gyrofrequency_mhz: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Readings with gross errors in a share of them, and which these are: shapes (S, T).

        With a larger share the same errors and more. `gyrofrequency_mhz` (S,).
        """
        share_of_stuck = share / len(GROSS_KINDS)
        is_stuck = self.station_rank < share_of_stuck
        is_single = self.rank < (share - share_of_stuck) / (1.0 - share_of_stuck)
        wrong = np.choose(
            self.kind,
            [
                extraordinary_mhz(self.value, gyrofrequency_mhz[:, None]),
                self.value * self.slip,
                self.random_mhz,
            ],
        )
        value = np.where(is_single & ~np.isnan(self.value), wrong, self.value)
        # What is stuck repeats the oldest reading that there is.
        oldest = pd.DataFrame(self.value).ffill(axis=1).to_numpy()[:, -1]
        value = np.where(is_stuck[:, None] & ~np.isnan(self.value), oldest[:, None], value)
        return value, is_single | is_stuck[:, None]


def ionograms(
    soundings: Soundings,
    value: Array,
    times: pd.DatetimeIndex,
    latitude_deg: Array,
    longitude_deg: Array,
) -> pd.DataFrame:
    """Rows of the dataset `ionograms` of values (S, T) at T aware times; those that are NaN have none."""
    n_stations, n_times = value.shape
    row = np.flatnonzero(~np.isnan(value.ravel()))
    station, time = np.divmod(row, n_times)
    observed_at = times[time]
    return pd.DataFrame(
        {
            "observation_id": row.astype(str),
            "sounder_id": np.array([f"T{number:05d}" for number in range(n_stations)], dtype=object)[station],
            "observed_at": observed_at,
            "available_at": observed_at,
            "revision": 0,
            "latitude_deg": latitude_deg[station],
            "longitude_deg": longitude_deg[station],
            "confidence_score": soundings.confidence.ravel()[row],
            "fof2_mhz": value.ravel()[row],
            "hmf2_km": np.nan,
            "m3000f2": np.nan,
            "b0_km": np.nan,
        }
    )


def station_number(sounder_id: pd.Series[str]) -> NDArray[np.int64]:
    """Index of the station of each name that `ionograms` gave, shape (n,)."""
    return sounder_id.str[1:].to_numpy(dtype=np.int64)
