"""The analysis of one quantity: innovations, quality control, the solve, and what each station would be without itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import rust_core
from tasks.background import SolarLevels
from tasks.effective_index import ChosenIndex
from tasks.kernel_config import KernelConfig, Quantity
from tasks.prediction import Prediction
from tasks.window import Stations, hour_of, repeated

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Solved:
    """The analysis of one quantity, its feedback, and the held-out predictions of its scored rows."""

    analysis: rust_core.Analysis
    feedback: pd.DataFrame
    rows: NDArray[np.int64]
    """Rows of the window that hold the quantity; feedback has one row for each."""
    is_scored: NDArray[np.bool_]
    held_out: Prediction
    held_out_innovation: list[Array]
    """Innovations of the rows used against the background without each station."""
    chi2: float | None
    log_evidence: float
    information: dict[str, dict[str, float]]


def background_of(levels: SolarLevels, name: str, ig12: float) -> Array:
    if name == "fof2_mhz":
        return levels.fof2_at(ig12)
    return levels.hmf2_at(ig12) if name == "hmf2_km" else levels.m3000f2_at(ig12)


def forward(values: Array, quantity: Quantity) -> Array:
    if not quantity.is_logarithmic:
        return values
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # impossible values are stopped by the physical limits
        return np.log(values)


def solve(
    name: str,
    kernel: KernelConfig,
    window: pd.DataFrame,
    stations: Stations,
    station_of_window: NDArray[np.int64],
    levels: SolarLevels,
    age_of_window_h: Array,
    chosen: ChosenIndex,
    held_out: list[ChosenIndex],
    scored: NDArray[np.bool_],
    threads: int,
) -> Solved:
    quantity = kernel.quantity(name)
    value_of_window = window[name].to_numpy(dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(value_of_window) & (age_of_window_h < kernel.window.window_h))
    value, station, age_h = value_of_window[rows], station_of_window[rows], age_of_window_h[rows]
    time_h = -age_h
    transformed = forward(value, quantity)
    hofx = background_of(levels, name, chosen.ig12)[rows]
    innovation = transformed - forward(hofx, quantity)
    confidence = window["confidence_score"].to_numpy(dtype=np.float64)[rows]
    obs_error = quantity.obs_error.of(confidence, kernel.confidence)
    with np.errstate(divide="ignore"):  # a value of zero is stopped by the physical limits
        error = obs_error / np.abs(value) if quantity.is_logarithmic else obs_error
    terms = quantity.build_terms()
    network = {
        "station_latitude_deg": stations.qd_latitude_deg,
        "station_longitude_deg": stations.qd_longitude_deg,
    }

    valid_hour = hour_of(window, age_of_window_h)
    is_old = age_h > kernel.window.full_rate_h
    is_thinned = is_old & repeated(age_h, station, kernel, valid_hour)
    candidates = np.flatnonzero(~is_thinned)
    flags, screened_weight = rust_core.screen_observations(
        terms,
        **network,
        station=station[candidates],
        time_h=time_h[candidates],
        value=value[candidates],
        innovation=innovation[candidates],
        obs_error=error[candidates],
        minimum=quantity.minimum,
        maximum=quantity.maximum,
        background_sd=kernel.quality.background_sd,
        buddy_sd=kernel.quality.buddy_sd,
        full_weight_sd=kernel.quality.full_weight_sd,
        n_threads=threads,
    )
    flag = np.full(rows.size, "thinned", dtype=object)
    flag[candidates] = flags
    weight = np.zeros(rows.size)
    weight[candidates] = screened_weight
    used = np.flatnonzero(flag == "accepted")
    effective = np.full(rows.size, np.nan)
    effective[used] = error[used] / np.sqrt(weight[used])

    analysis = rust_core.Analysis(
        terms,
        **network,
        station=station[used],
        time_h=time_h[used],
        innovation=innovation[used],
        obs_error=effective[used],
        n_threads=threads,
    )
    fitted = np.full(rows.size, np.nan)
    fitted[used] = transformed[used] - analysis.residual()
    center = np.full(rows.size, np.nan)
    variance = np.full(rows.size, np.nan)
    # Rows that a check stopped are predicted too: their feedback shows by how much they are off.
    stopped = np.flatnonzero((flag == "buddy_check") | (flag == "background_check"))
    own_innovations = []
    for number in range(len(held_out)):
        own_background = forward(background_of(levels, name, held_out[number].ig12)[rows], quantity)
        own_innovation = transformed - own_background
        own_innovations.append(own_innovation[used])
        held, residual, covariance = analysis.leave_station_out(int(number), own_innovation[used])
        held_rows = used[held]
        center[held_rows] = transformed[held_rows] - residual
        # The prediction is of a new observation with the nominal error, not with the one that control inflated.
        variance[held_rows] = np.diag(covariance) - effective[held_rows] ** 2 + error[held_rows] ** 2
        own_stopped = stopped[station[stopped] == number]
        if own_stopped.size:
            own_time = time_h[own_stopped]
            mean, sd = analysis.predict_station(
                int(number), own_time, is_held_out=True, innovation=own_innovation[used]
            )
            center[own_stopped] = own_background[own_stopped] + mean
            variance[own_stopped] = sd**2 + error[own_stopped] ** 2
            mean, _ = analysis.predict_station(int(number), own_time)
            fitted[own_stopped] = forward(hofx[own_stopped], quantity) + mean
    prediction = Prediction(center, np.sqrt(variance), quantity.is_logarithmic)
    back = np.exp(fitted) if quantity.is_logarithmic else fitted
    scale = np.abs(value) if quantity.is_logarithmic else 1.0
    feedback = pd.DataFrame(
        {
            "observation_id": window["observation_id"].to_numpy()[rows],
            "sounder_id": window["sounder_id"].to_numpy()[rows],
            "observed_at": window["observed_at"].iloc[rows].reset_index(drop=True),
            "latitude_deg": stations.latitude_deg[station],
            "longitude_deg": stations.longitude_deg[station],
            "quantity": name,
            "obs_value": value,
            "obs_error": obs_error,
            "effective_error": effective * scale,
            "hofx": hofx,
            "omb": value - hofx,
            "oma": value - back,
            "qc_flag": flag,
            "weight": weight,
            "holdout_value": prediction.median,
            "holdout_sd": prediction.sd,
        }
    )
    degrees, gain = analysis.station_information()
    return Solved(
        analysis=analysis,
        feedback=feedback,
        rows=rows,
        is_scored=scored[rows] & (flag == "accepted"),
        held_out=prediction,
        held_out_innovation=own_innovations,
        chi2=analysis.chi2 if used.size else None,
        log_evidence=analysis.log_evidence,
        information={
            sounder_id: {
                "degrees_of_freedom": float(degrees[number]),
                "information_gain_nats": float(gain[number]),
            }
            for number, sounder_id in enumerate(stations.sounder_id)
        },
    )
