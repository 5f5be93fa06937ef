"""What a cycle sees: the rows it may know, where their sounders are, and which rows say nothing new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Background
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.revisions import OBSERVATION, known_at
from tasks.row_errors import carried

Array = NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0088
INPUT_COLUMNS = [
    *("observation_id", "sounder_id", "observed_at", "available_at", "latitude_deg", "longitude_deg"),
    *("confidence_score", *QUANTITIES),
]


@dataclass(frozen=True)
class Stations:
    """Sounders of the window, each where its newest observation says; shapes (S,)."""

    sounder_id: tuple[str, ...]
    latitude_deg: Array
    longitude_deg: Array
    qd_latitude_deg: Array
    qd_longitude_deg: Array

    def distance_km(self, station: int, others: NDArray[np.int64]) -> float:
        """Great-circle distance to the nearest of the others, NaN when there is none."""
        if others.size == 0:
            return float("nan")
        phi, lam = np.radians(self.latitude_deg), np.radians(self.longitude_deg)
        half = (
            np.sin((phi[others] - phi[station]) / 2) ** 2
            + np.cos(phi[others]) * np.cos(phi[station]) * np.sin((lam[others] - lam[station]) / 2) ** 2
        )
        return float(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(half, 1.0))).min())


def known_rows(
    observations: pd.DataFrame, valid_at: pd.Timestamp, available_at: pd.Timestamp, lookback_h: float
) -> pd.DataFrame:
    """What a cycle may see: of each observation the newest revision then, in an order that arrival does not decide.

    Args:
        observations: those of the look-back's UTC days as a whole.
    """
    known = known_at(observations, available_at)
    is_recent = (known["observed_at"] <= valid_at) & (
        known["observed_at"] > valid_at - pd.Timedelta(hours=lookback_h)
    )
    chosen = known[is_recent]
    # What no row says must not change the inputs' hash.
    chosen = chosen[[*INPUT_COLUMNS, *carried(chosen)]]
    chosen = chosen.sort_values(["observed_at", *OBSERVATION], kind="stable")
    return chosen.drop_duplicates([*OBSERVATION]).reset_index(drop=True)


def locate(window: pd.DataFrame, background: Background, year: int) -> tuple[Stations, NDArray[np.int64]]:
    newest = window.drop_duplicates("sounder_id", keep="last").sort_values("sounder_id")
    sounder_id = tuple(newest["sounder_id"])
    latitude = newest["latitude_deg"].to_numpy(dtype=np.float64)
    longitude = newest["longitude_deg"].to_numpy(dtype=np.float64)
    qd_latitude, qd_longitude = background.quasi_dipole(latitude, longitude, year)
    position = {name: number for number, name in enumerate(sounder_id)}
    station = np.array([position[name] for name in window["sounder_id"]], dtype=np.int64)
    return Stations(sounder_id, latitude, longitude, qd_latitude, qd_longitude), station


def repeated(
    age_h: Array, station: NDArray[np.int64], kernel: KernelConfig, valid_hour: float
) -> NDArray[np.bool_]:
    """Rows that are not the newest of their station in the thinning interval of the clock; rows in order of time."""
    interval = np.floor((valid_hour - age_h) / (kernel.window.thinned_minutes / 60.0) + 1e-9)
    newest_first = pd.DataFrame({"station": station, "interval": interval})[::-1]
    is_repeated: NDArray[np.bool_] = newest_first.duplicated().to_numpy(dtype=np.bool_)[::-1]
    return is_repeated


def hour_of(window: pd.DataFrame, age_h: Array) -> float:
    """Hours since 1970 of the valid time, so that thinning follows the clock and not the cycle."""
    if window.empty:
        return 0.0
    newest = window["observed_at"].iloc[-1]
    return float(newest.timestamp() / 3600.0 + age_h[-1])


def microseconds(times: pd.Series[Any]) -> NDArray[np.int64]:
    """UTC microseconds since 1970, shape (n,)."""
    return np.asarray(pd.DatetimeIndex(times).as_unit("us").asi8)
