"""From measurements to echoes: which rows say something of the ionosphere above a path, and why the others do not.

Every row gets an outcome; the bad input that a contract cannot refuse (a path that is a point is fine, a delay faster than
light is not) is decided here, in one place.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.great_circle import distance_km, midpoint
from tasks.kernel_config import SounderConfig
from tasks.link_budget import LIGHT_KM_PER_MS
from tasks.revisions import OBSERVATION, known_at

Array: TypeAlias = NDArray[np.float64]

USABLE = "usable"
OUTCOMES = {
    USABLE: "delay and frequency say something of the ionosphere",
    "no_delay": "no delay is given: the frequency alone says that the ceiling is above it",
    "faster_than_light": "the delay is shorter than light takes by way of the lowest ionosphere: only the frequency is used",
    "delay_too_long": "the delay is longer than that of one hop to the highest layer: only the frequency is used",
    "path_too_long": "transmitter and receiver are further apart than NVIS reaches: it is not used",
    "elsewhere": "the sounder reports from another place in the same window: only the path with most rows is used",
}
"""What becomes of a measurement before the retrieval."""
HEARD = (USABLE, "no_delay", "faster_than_light", "delay_too_long")
"""Outcomes of rows whose frequency was heard over the path: a wrong delay says nothing against that."""

LOWEST_MIRROR_KM = 60.0
"""Nothing is reflected below."""
CELLS_PER_DEG = 10.0
SAME_PATH_KM = 10.0
"""Midpoints nearer than this are one path: a sounder on the move is taken where it is from window to window."""


def prepare(
    measurements: pd.DataFrame,
    *,
    valid_at: pd.Timestamp,
    available_at: pd.Timestamp,
    lookback_h: float,
    config: SounderConfig,
) -> pd.DataFrame:
    """The measurements of a look-back that are known then, each with its path, its window and its outcome.

    Args:
        measurements: rows of the dataset `measurements`, those of the look-back's UTC days as a whole.
        lookback_h: hours before `valid_at`.

    Returns:
        Rows in an order that arrival does not decide (sounder, time, frequency, mode, id), with the columns `window` (its
        number, of `config.window_minutes` since 1970, each window without its start and with its end), `latitude_deg` and
        `longitude_deg` of the path's true midpoint, `distance_km` and `outcome`, a key of `OUTCOMES`.
    """
    known = known_at(measurements, available_at)
    age = valid_at - known["observed_at"]
    known = known[(age >= pd.Timedelta(0)) & (age < pd.Timedelta(hours=lookback_h))]
    keys = ["sounder_id", "observed_at", "frequency_mhz", "mode", *OBSERVATION]
    known = known.sort_values(list(dict.fromkeys(keys)), kind="stable").drop_duplicates([*OBSERVATION])
    known = known.reset_index(drop=True)
    ends = [
        known[name].to_numpy(dtype=np.float64)
        for name in ("tx_latitude_deg", "tx_longitude_deg", "rx_latitude_deg", "rx_longitude_deg")
    ]
    distance = distance_km(*ends)
    latitude, longitude = midpoint(*ends)
    # A window ends with the minute of a cycle, and an observation of that minute is in it.
    time_us = pd.DatetimeIndex(known["observed_at"]).as_unit("us").asi8
    window = -(-time_us // np.int64(config.window_minutes * 60e6))
    known = known.assign(
        window=window,
        latitude_deg=latitude,
        longitude_deg=longitude,
        distance_km=distance,
        mode=known["mode"].where(known["mode"].isin(["O", "X"]), "U"),
    )
    known["outcome"] = _outcomes(known, config)
    return known


def _outcomes(rows: pd.DataFrame, config: SounderConfig) -> NDArray[np.object_]:
    delay_ms = rows["group_delay_ms"].to_numpy(dtype=np.float64)
    distance = rows["distance_km"].to_numpy(dtype=np.float64)
    outcome = np.select(
        [
            distance > config.longest_path_km,
            np.isnan(delay_ms),
            delay_ms * LIGHT_KM_PER_MS < np.hypot(distance, 2.0 * LOWEST_MIRROR_KM),
            delay_ms > config.longest_delay_ms,
        ],
        ["path_too_long", "no_delay", "faster_than_light", "delay_too_long"],
        USABLE,
    ).astype(object)
    is_heard = np.isin(outcome, HEARD)
    outcome[_is_elsewhere(rows, is_heard)] = "elsewhere"
    return outcome


def _is_elsewhere(rows: pd.DataFrame, is_heard: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows of a sounder's window that are not of the path that most of its rows there have; the earliest of two alike.

    Most is by cells of a tenth of a degree: a sounder that reports from everywhere costs no more than one at rest.
    """
    is_elsewhere = np.zeros(len(rows), dtype=np.bool_)
    latitude, longitude = (
        rows[name].to_numpy(dtype=np.float64) for name in ("latitude_deg", "longitude_deg")
    )
    groups = rows[is_heard].groupby(["sounder_id", "window"], sort=False).indices
    positions = np.flatnonzero(is_heard)
    for members in groups.values():
        own = positions[members]
        if np.ptp(latitude[own]) == 0.0 and np.ptp(longitude[own]) == 0.0:
            continue
        cells = np.round(np.stack([latitude[own], longitude[own]], axis=1) * CELLS_PER_DEG)
        _, first, counts = np.unique(cells, axis=0, return_index=True, return_counts=True)
        usual = own[first[counts == counts.max()].min()]
        apart = distance_km(latitude[own], longitude[own], latitude[usual], longitude[usual])
        is_elsewhere[own] = apart >= SAME_PATH_KM
    return is_elsewhere
