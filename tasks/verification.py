"""Scores of held-out stations, now and ahead: proper scores of the predictions beside references, and the skill table.

A prediction is Gaussian in the assimilated variable: in ln foF2 and ln M(3000)F2, hence log-normal in MHz, and in
hmF2. Its sd is that of a new observation: the analysis without the station (and with an index without it), plus the
observation error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks import lake
from tasks.amplitude import amplitudes
from tasks.analysis import background_of, forward
from tasks.background import Background, SolarLevels, f107_to_ig12
from tasks.estimate import Estimate
from tasks.kernel_config import (
    PERSISTENCE_H,
    PERSISTENCE_TOLERANCE_H,
    QUANTITIES,
    KernelConfig,
)
from tasks.prediction import Z_75, Z_95, Prediction
from tasks.references import Kc2gKernel
from tasks.row_errors import error_of, has_possible_errors
from tasks.settings import Settings
from tasks.window import microseconds

Array = NDArray[np.float64]

MICROSECONDS_PER_HOUR = 3_600_000_000
SKILL_COLUMNS = (
    "quantity",
    "sounder_id",
    "n",
    "rmse_holdout",
    "rmse_iri_index",
    "rmse_kc2g_kernel",
    "rmse_persistence",
    "bias",
    "crps",
    "coverage50",
    "coverage90",
)
ALL_STATIONS = "all"
RECENT = timedelta(days=30)


@dataclass(frozen=True)
class Forecast:
    """What an estimate says of observations of one quantity at stations that it is not shown; arrays of shape (n,)."""

    sounder_id: NDArray[np.object_]
    observation_id: NDArray[np.object_]
    value: Prediction
    """Of the observation, its error included."""
    persistence: Prediction
    """The departure from the background at the time of the estimate, kept."""
    kc2g_kernel: Prediction
    iri_index: Array
    iri_f107: Array
    distance_to_nearest_km: Array


def targets_of(
    known: pd.DataFrame, valid_at: pd.Timestamp, scored_h: float, max_stations: int
) -> pd.DataFrame:
    """The rows of a cycle that may be scored: observed less than `scored_h` hours before its valid time.

    Where more than `max_stations` report, they take turns from cycle to cycle.
    """
    newest = known[known["observed_at"] > valid_at - pd.Timedelta(hours=scored_h)]
    sounders = np.sort(newest["sounder_id"].unique())
    n_turns = max(1, -(-sounders.size // max_stations))
    turn = int(valid_at.timestamp() / 3600.0 / scored_h)
    due = sounders[np.arange(sounders.size) % n_turns == turn % n_turns]
    return newest[newest["sounder_id"].isin(due)].reset_index(drop=True)


def forecast_held_out(
    origin: Estimate,
    targets: pd.DataFrame,
    valid_at: pd.Timestamp,
    kernel: KernelConfig,
    background: Background,
) -> dict[str, Forecast]:
    """By quantity, what an estimate says of later (or its own newest) observations at stations that it is not shown.

    Args:
        targets: rows of the dataset `ionograms` up to `valid_at`. Stations that the estimate does not know are left out.
        valid_at: time of the forecast, for the estimate's own newest observations `origin.valid_at`.
    """
    position = {name: number for number, name in enumerate(origin.stations.sounder_id)}
    targets = targets[targets["sounder_id"].isin(position)].reset_index(drop=True)
    station = np.array([position[name] for name in targets["sounder_id"]], dtype=np.int64)
    levels = background.solar_levels(
        targets["observed_at"], origin.stations.latitude_deg[station], origin.stations.longitude_deg[station]
    )
    latitude, longitude = origin.stations.latitude_deg, origin.stations.longitude_deg
    flux = origin.f107_sfu
    amplitude = amplitudes(kernel, targets["observed_at"], latitude[station], longitude[station], flux)
    amplitude_now = amplitudes(kernel, origin.valid_at.to_pydatetime(), latitude, longitude, flux)
    return {
        name: _forecast_quantity(
            *(name, origin, targets, station, levels, valid_at, kernel),
            amplitude=amplitude[number],
            amplitude_now=amplitude_now[number],
        )
        for number, name in enumerate(QUANTITIES)
    }


def _forecast_quantity(
    name: str,
    origin: Estimate,
    targets: pd.DataFrame,
    station_of_target: NDArray[np.int64],
    levels: SolarLevels,
    valid_at: pd.Timestamp,
    kernel: KernelConfig,
    *,
    amplitude: Array,
    amplitude_now: Array,
) -> Forecast:
    """Amplitude factors are those of the targets (n,) and of the stations at the time of the estimate (S,)."""
    quantity, solved = kernel.quantity(name), origin.solved[name]
    value = targets[name].to_numpy(dtype=np.float64)
    at = np.flatnonzero(
        (value >= quantity.minimum) & (value <= quantity.maximum) & has_possible_errors(targets)
    )
    value, station = value[at], station_of_target[at]
    obs_error = error_of(targets, name, kernel)[at]
    relative_error = obs_error / value
    error = relative_error if quantity.is_logarithmic else obs_error
    time_h = (
        np.asarray((targets["observed_at"].iloc[at] - origin.valid_at).dt.total_seconds(), dtype=np.float64)
        / 3600.0
    )
    accepted = solved.feedback["qc_flag"] == "accepted"
    reporting = np.unique(origin.station[solved.rows[np.flatnonzero(accepted)]])
    # The peer believes every possible value: no quality control.
    past = origin.window[name].to_numpy(dtype=np.float64)
    history = np.flatnonzero(
        (past >= quantity.minimum) & (past <= quantity.maximum) & has_possible_errors(origin.window)
    )
    past, error_of_past = past[history], error_of(origin.window, name, kernel)[history]
    lead_h = (valid_at - origin.valid_at).total_seconds() / 3600.0
    peer = Kc2gKernel(
        origin.station[history],
        -origin.age_h[history] - lead_h,
        error_of_past / past,
        origin.stations.latitude_deg,
        origin.stations.longitude_deg,
    )

    center, spread, kept_center, distance = (np.full(at.size, np.nan) for _ in range(4))
    iri_index, kc2g_center, kc2g_spread = (np.full(at.size, np.nan) for _ in range(3))
    nodes, number_of_quantity = origin.nodes.of_station, QUANTITIES.index(name)
    index_without = np.array([index.ig12 for index in origin.held_out])[station]
    for ig12 in np.unique(index_without):
        own = np.flatnonzero(index_without == ig12)
        iri_index[own] = background_of(levels, name, ig12)[at[own]]
        prior = forward(iri_index[own], quantity)
        node = nodes[station[own]]
        # Asked for at the time of the estimate too: a forecast by persistence keeps its departure.
        # A station that is part of a node is predicted where it stands.
        place = {}
        if origin.nodes.spacing_km > 0:
            place = {
                "latitude_deg": np.tile(origin.stations.qd_latitude_deg[station[own]], 2),
                "longitude_deg": np.tile(origin.stations.qd_longitude_deg[station[own]], 2),
            }
        increment, sd = origin.joint.analysis.predict_sites(
            np.tile(node, 2),
            np.full(2 * own.size, number_of_quantity),
            np.append(time_h[own], np.zeros(own.size)),
            amplitude=np.append(amplitude[at[own]], amplitude_now[station[own]]),
            **place,
            is_held_out=True,
            innovation=origin.joint.held_out_innovation[int(node[0])],
        )
        wider = origin.joint.adaptation.of_node(
            node, np.full(own.size, number_of_quantity), time_h[own], is_held_out=True
        )
        center[own] = prior + increment[: own.size]
        spread[own] = np.hypot(np.sqrt(wider) * sd[: own.size], error[own])
        kept_center[own] = prior + increment[own.size :]
        departure_of_history = np.log(past) - np.log(background_of(origin.levels, name, ig12)[history])
        for number in np.unique(station[own]):
            mine = own[station[own] == number]
            departure, departure_sd = peer.predict(int(number), departure_of_history)
            kc2g_center[mine] = np.log(iri_index[mine]) + departure
            kc2g_spread[mine] = np.hypot(departure_sd, relative_error[mine])
            others = reporting[nodes[reporting] != nodes[number]]
            distance[mine] = origin.stations.distance_km(int(number), others)
    iri_f107 = None if origin.f107_sfu is None else background_of(levels, name, f107_to_ig12(origin.f107_sfu))
    return Forecast(
        sounder_id=targets["sounder_id"].to_numpy(dtype=object)[at],
        observation_id=targets["observation_id"].to_numpy(dtype=object)[at],
        value=Prediction(center, spread, quantity.is_logarithmic),
        persistence=Prediction(kept_center, spread, quantity.is_logarithmic),
        kc2g_kernel=Prediction(kc2g_center, kc2g_spread, is_logarithmic=True),
        iri_index=iri_index,
        iri_f107=np.full(at.size, np.nan) if iri_f107 is None else iri_f107[at],
        distance_to_nearest_km=distance,
    )


def score(now: Estimate, forecasts: dict[str, Forecast], lead_h: float) -> pd.DataFrame:
    """The forecasts of the observations that quality control at `now` accepted, beside what was observed.

    Args:
        forecasts: of `forecast_held_out` by an estimate `lead_h` hours before `now`.
    """
    parts = [_score_quantity(name, now, forecasts[name], lead_h) for name in now.solved]
    rows = pd.DataFrame({column: np.concatenate([part[column] for part in parts]) for column in parts[0]})
    rows["observed_at"] = pd.to_datetime(rows["observed_at"], unit="us", utc=True).astype(
        "datetime64[us, UTC]"
    )
    return rows


def _score_quantity(name: str, now: Estimate, forecast: Forecast, lead_h: float) -> dict[str, NDArray[Any]]:
    solved = now.solved[name]
    scored = np.flatnonzero(solved.is_scored)
    # An id is its sounder's own: two may use the same.
    asked = zip(forecast.sounder_id, forecast.observation_id, strict=True)
    position = {key: number for number, key in enumerate(asked)}
    feedback = solved.feedback.iloc[scored]
    wanted = list(zip(feedback["sounder_id"], feedback["observation_id"], strict=True))
    is_forecast = np.array([key in position for key in wanted], dtype=bool)
    at = np.array([position[key] for key in wanted if key in position], dtype=np.int64)
    scored = scored[is_forecast]
    in_window = solved.rows[scored]
    station = now.station[in_window]
    observed = solved.feedback["obs_value"].to_numpy(dtype=np.float64)[scored]
    prediction, kept, peer = (
        part.take(at) for part in (forecast.value, forecast.persistence, forecast.kc2g_kernel)
    )
    p05, p25, p75, p95 = (prediction.quantile(z) for z in (-Z_95, -Z_75, Z_75, Z_95))
    sounder_id = np.array(now.stations.sounder_id, dtype=object)[station]
    observed_at = now.window["observed_at"].iloc[in_window]
    return {
        "lead_h": np.full(at.size, lead_h),
        "sounder_id": sounder_id,
        "latitude_deg": now.stations.latitude_deg[station],
        "longitude_deg": now.stations.longitude_deg[station],
        "quantity": np.full(at.size, name, dtype=object),
        "observed_at": microseconds(observed_at),
        "obs_value": observed,
        "obs_error": solved.feedback["obs_error"].to_numpy(dtype=np.float64)[scored],
        "holdout_value": prediction.median,
        "holdout_sd": prediction.sd,
        "holdout_p05": p05,
        "holdout_p25": p25,
        "holdout_p75": p75,
        "holdout_p95": p95,
        "iri_index_value": forecast.iri_index[at],
        "iri_f107_value": forecast.iri_f107[at],
        "persistence_24h_value": persistence(name, now.known, sounder_id, observed_at),
        "persistence_departure_value": kept.median if lead_h > 0 else np.full(at.size, np.nan),
        "kc2g_kernel_value": peer.median,
        "kc2g_kernel_sd": peer.sd,
        "kc2g_kernel_crps": peer.crps(observed),
        "crps": prediction.crps(observed),
        "pit": prediction.pit(observed),
        "is_within_50": (observed >= p25) & (observed <= p75),
        "is_within_90": (observed >= p05) & (observed <= p95),
        "distance_to_nearest_km": forecast.distance_to_nearest_km[at],
    }


def persistence(
    name: str, known: pd.DataFrame, sounders: NDArray[np.object_], observed_at: pd.Series[Any]
) -> Array:
    """The station's own observation 24 h earlier, the nearest within the tolerance; NaN without one."""
    result = np.full(len(sounders), np.nan)
    time_us = microseconds(known["observed_at"])
    sounder_id, value = known["sounder_id"].to_numpy(), known[name].to_numpy(dtype=np.float64)
    tolerance_us = PERSISTENCE_TOLERANCE_H * MICROSECONDS_PER_HOUR
    wanted_us = microseconds(observed_at) - PERSISTENCE_H * MICROSECONDS_PER_HOUR
    for number, (own, wanted) in enumerate(zip(sounders, wanted_us, strict=True)):
        first = np.searchsorted(time_us, wanted - tolerance_us, side="left")
        last = np.searchsorted(time_us, wanted + tolerance_us, side="right")
        near = first + np.flatnonzero((sounder_id[first:last] == own) & ~np.isnan(value[first:last]))
        if near.size:
            result[number] = value[near[np.abs(time_us[near] - wanted).argmin()]]
    return result


def skill_table(verification: pd.DataFrame) -> pd.DataFrame:
    """Skill per quantity and station, then over all stations (`sounder_id` "all"), in the quantity's unit.

    `bias` is prediction minus observation. `rmse_persistence` covers the rows that have an observation 24 h
    earlier. Forecasts, rows with a lead, are left out. No rows give an empty table with the same columns.
    """
    verification = verification[verification["lead_h"] == 0]

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
                    "rmse_kc2g_kernel": rmse(rows["kc2g_kernel_value"].astype(float) - observed),
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
