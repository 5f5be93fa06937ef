"""Scores of held-out stations: proper scores of a Gaussian or log-normal prediction, and the skill table.

A prediction is Gaussian in the assimilated variable: in ln foF2 and ln M(3000)F2, hence log-normal in MHz, and in
hmF2. Its sd is that of a new observation: the analysis without the station (and with an index without it), plus the
observation error.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks import lake
from tasks.analysis import Solved, background_of
from tasks.background import SolarLevels, f107_to_ig12
from tasks.effective_index import ChosenIndex
from tasks.kernel_config import PERSISTENCE_H, PERSISTENCE_TOLERANCE_H
from tasks.prediction import Z_75, Z_95, Prediction
from tasks.settings import Settings
from tasks.window import Stations, microseconds

Array = NDArray[np.float64]

MICROSECONDS_PER_HOUR = 3_600_000_000
SKILL_COLUMNS = (
    "quantity",
    "sounder_id",
    "n",
    "rmse_holdout",
    "rmse_iri_index",
    "rmse_persistence",
    "bias",
    "crps",
    "coverage50",
    "coverage90",
)
ALL_STATIONS = "all"
RECENT = timedelta(days=30)


def score(
    name: str,
    solved: Solved,
    known: pd.DataFrame,
    window: pd.DataFrame,
    stations: Stations,
    station_of_window: NDArray[np.int64],
    levels: SolarLevels,
    chosen: ChosenIndex,
    held_out: list[ChosenIndex],
    f107_sfu: float | None,
) -> pd.DataFrame:
    """The held-out predictions of the newest accepted observations beside their references."""
    at = np.flatnonzero(solved.is_scored)
    in_window = solved.rows[at]
    station = station_of_window[in_window]
    base = solved.feedback.iloc[at]
    observed = base["obs_value"].to_numpy(dtype=np.float64)
    prediction = Prediction(
        solved.held_out.center[at], solved.held_out.spread[at], solved.held_out.is_logarithmic
    )
    accepted = solved.feedback["qc_flag"] == "accepted"
    reporting = np.unique(station_of_window[solved.rows[np.flatnonzero(accepted)]])
    iri_index = {s: background_of(levels, name, held_out[s].ig12) for s in np.unique(station)}
    iri_f107 = None if f107_sfu is None else background_of(levels, name, f107_to_ig12(f107_sfu))
    return pd.DataFrame(
        {
            "lead_h": 0.0,
            "sounder_id": base["sounder_id"].to_numpy(),
            "latitude_deg": stations.latitude_deg[station],
            "longitude_deg": stations.longitude_deg[station],
            "quantity": name,
            "observed_at": base["observed_at"].reset_index(drop=True),
            "obs_value": observed,
            "obs_error": base["obs_error"].to_numpy(),
            "holdout_value": prediction.median,
            "holdout_sd": prediction.sd,
            "holdout_p05": prediction.quantile(-Z_95),
            "holdout_p25": prediction.quantile(-Z_75),
            "holdout_p75": prediction.quantile(Z_75),
            "holdout_p95": prediction.quantile(Z_95),
            "iri_index_value": np.array(
                [iri_index[s][row] for s, row in zip(station, in_window, strict=True)]
            ),
            "iri_f107_value": np.full(at.size, np.nan) if iri_f107 is None else iri_f107[in_window],
            "persistence_24h_value": persistence(name, known, window.iloc[in_window]),
            "crps": prediction.crps(observed),
            "is_within_50": (observed >= prediction.quantile(-Z_75))
            & (observed <= prediction.quantile(Z_75)),
            "is_within_90": (observed >= prediction.quantile(-Z_95))
            & (observed <= prediction.quantile(Z_95)),
            "distance_to_nearest_km": np.array(
                [stations.distance_km(s, reporting[reporting != s]) for s in station], dtype=np.float64
            ),
        }
    )


def persistence(name: str, known: pd.DataFrame, rows: pd.DataFrame) -> Array:
    """The station's own observation 24 h earlier, the nearest within the tolerance; NaN without one."""
    result = np.full(len(rows), np.nan)
    time_us = microseconds(known["observed_at"])
    sounder_id, value = known["sounder_id"].to_numpy(), known[name].to_numpy(dtype=np.float64)
    tolerance_us = PERSISTENCE_TOLERANCE_H * MICROSECONDS_PER_HOUR
    wanted_us = microseconds(rows["observed_at"]) - PERSISTENCE_H * MICROSECONDS_PER_HOUR
    for number, (own, wanted) in enumerate(zip(rows["sounder_id"], wanted_us, strict=True)):
        first = np.searchsorted(time_us, wanted - tolerance_us, side="left")
        last = np.searchsorted(time_us, wanted + tolerance_us, side="right")
        near = first + np.flatnonzero((sounder_id[first:last] == own) & ~np.isnan(value[first:last]))
        if near.size:
            result[number] = value[near[np.abs(time_us[near] - wanted).argmin()]]
    return result


def skill_table(verification: pd.DataFrame) -> pd.DataFrame:
    """Skill per quantity and station, then over all stations (`sounder_id` "all"), in the quantity's unit.

    `bias` is prediction minus observation. `rmse_persistence` covers the rows that have an observation 24 h
    earlier. No rows give an empty table with the same columns.
    """

    def rmse(difference: pd.Series[float]) -> float:
        return float(np.sqrt((difference**2).mean())) if difference.notna().any() else math.nan

    records = []
    for quantity, of_quantity in verification.groupby("quantity", sort=True):
        groups = [*of_quantity.groupby("sounder_id", sort=True), (ALL_STATIONS, of_quantity)]
        for sounder_id, rows in groups:
            observed = rows["obs_value"]
            records.append(
                {
                    "quantity": quantity,
                    "sounder_id": sounder_id,
                    "n": len(rows),
                    "rmse_holdout": rmse(rows["holdout_value"] - observed),
                    "rmse_iri_index": rmse(rows["iri_index_value"] - observed),
                    "rmse_persistence": rmse(rows["persistence_24h_value"].astype(float) - observed),
                    "bias": float((rows["holdout_value"] - observed).mean()),
                    "crps": float(rows["crps"].mean()),
                    "coverage50": float(rows["is_within_50"].astype(float).mean()),
                    "coverage90": float(rows["is_within_90"].astype(float).mean()),
                }
            )
    return pd.DataFrame(records, columns=list(SKILL_COLUMNS))


def read_verification(
    settings: Settings, *, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """Rows of the dataset `verification` by valid time, both ends included.

    With `until` alone, the 30 days before it: the skill of today, not of all time; with neither, everything.
    """
    if since is None and until is not None:
        since = until - RECENT
    return lake.read("verification", settings=settings, start=since, end=until)
