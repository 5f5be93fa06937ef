"""One cycle of the nowcast: a pure function of the observations available by a time and the configuration.

Window, effective index, innovations, quality control, analysis, grid, and the scores of every station held out. The
numbers come from ``rust_core``; this module says what enters and what each result means.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

import rust_core
from tasks.background import Background, SolarLevels, f107_to_ig12
from tasks.effective_index import estimate_effective_index
from tasks.kernel_config import (
    PERSISTENCE_H,
    PERSISTENCE_TOLERANCE_H,
    QUANTITIES,
    KernelConfig,
    Quantity,
)
from tasks.verification import Z_75, Z_95, Prediction

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
TIMESTAMP = pa.timestamp("us", tz="UTC")
EARTH_RADIUS_KM = 6371.0088

MICROSECONDS_PER_HOUR = 3_600_000_000
INPUT_COLUMNS = [
    *("observation_id", "sounder_id", "observed_at", "available_at", "latitude_deg", "longitude_deg"),
    *("confidence_score", *QUANTITIES),
]
FEEDBACK_COLUMNS = [
    "cycle_id",
    "valid_time",
    "observation_id",
    "sounder_id",
    "observed_at",
    "latitude_deg",
    "longitude_deg",
    "quantity",
    "obs_value",
    "obs_error",
    "effective_error",
    "hofx",
    "omb",
    "oma",
    "qc_flag",
    "weight",
    "holdout_value",
    "holdout_sd",
]
VERIFICATION_COLUMNS = [
    "cycle_id",
    "valid_time",
    "lead_h",
    "sounder_id",
    "latitude_deg",
    "longitude_deg",
    "quantity",
    "observed_at",
    "obs_value",
    "obs_error",
    "holdout_value",
    "holdout_sd",
    "holdout_p05",
    "holdout_p25",
    "holdout_p75",
    "holdout_p95",
    "iri_index_value",
    "iri_f107_value",
    "persistence_24h_value",
    "crps",
    "is_within_50",
    "is_within_90",
    "distance_to_nearest_km",
]
TEXT_COLUMNS = {"cycle_id", "observation_id", "sounder_id", "quantity", "qc_flag"}
TIME_COLUMNS = {"valid_time", "observed_at"}
TRUTH_COLUMNS = {"is_within_50", "is_within_90"}


@dataclass(frozen=True)
class Grid:
    """Points of an analysis: a box in degrees, edges included; `west` > `east` crosses the date line."""

    south: float
    west: float
    north: float
    east: float
    step_deg: float

    @classmethod
    def globe(cls, step_deg: float = 1.0) -> Grid:
        """The whole globe; 65,160 points at 1 degree."""
        if not 0 < step_deg <= 90:
            raise ValueError(f"step_deg must lie in 0..90, got {step_deg}")
        return cls(-90.0, -180.0, 90.0, 180.0 - step_deg, step_deg)

    @classmethod
    def box(cls, south: float, west: float, north: float, east: float, step_deg: float) -> Grid:
        """A region. Raises ValueError that names the edge at fault."""
        if not -90 <= south < north <= 90:
            raise ValueError(
                f"south and north must satisfy -90 <= south < north <= 90, got {south} and {north}"
            )
        if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east):
            raise ValueError(f"west and east must lie in -180..180 and differ, got {west} and {east}")
        if not 0 < step_deg <= 90:
            raise ValueError(f"step_deg must lie in 0..90, got {step_deg}")
        return cls(south, west, north, east, step_deg)

    def points(self) -> tuple[Array, Array]:
        """Latitude and longitude (-180..180) of every point, south to north, west to east, shapes (n,)."""
        span = self.east - self.west + (360.0 if self.east < self.west else 0.0)
        n_latitudes = int(np.floor((self.north - self.south) / self.step_deg + 1e-9)) + 1
        n_longitudes = int(np.floor(span / self.step_deg + 1e-9)) + 1
        latitudes = self.south + self.step_deg * np.arange(n_latitudes)
        longitudes = self.west + self.step_deg * np.arange(n_longitudes)
        longitudes = np.where(longitudes > 180.0, longitudes - 360.0, longitudes)
        latitude, longitude = np.meshgrid(latitudes, longitudes, indexing="ij")
        return latitude.ravel(), longitude.ravel()


@dataclass(frozen=True)
class Cycle:
    """What a cycle says: tables with the columns of their contracts, and how they came about."""

    analysis: pa.Table | None
    feedback: pa.Table
    verification: pa.Table
    metadata: dict[str, Any]


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


@dataclass(frozen=True)
class ChosenIndex:
    ig12: float
    source: str
    """`stations`; `f107` or `few_stations` below the minimum of stations; `default` with nothing to go by."""


def run_cycle(
    observations: pd.DataFrame,
    *,
    valid_time: datetime,
    available_until: datetime,
    kernel: KernelConfig,
    background: Background,
    grid: Grid | None = None,
    f107_sfu: float | None = None,
    cycle_minutes: float = 15.0,
    threads: int = 0,
) -> Cycle:
    """Analyse the ionosphere at `valid_time` from what was available by `available_until`.

    Args:
        observations: rows of the dataset `ionograms`, at least the last `kernel.lookback_h` hours; others are ignored.
        grid: where to analyse; None scores the stations only.
        f107_sfu: solar flux, used with fewer than the minimum of stations and as a reference.
        cycle_minutes: observations newer than this before `valid_time` are scored.
        threads: threads of the kernel, 0 takes all cores; they change no bit of the result.

    Raises:
        ValueError: a time without zone, or an innovation covariance that is not positive definite (the message names
            the pair of observations).
    """
    valid_at, available_at = _utc(valid_time, "valid_time"), _utc(available_until, "available_until")
    known = _known(observations, valid_at, available_at, kernel.lookback_h)
    window = known[known["observed_at"] > valid_at - pd.Timedelta(hours=kernel.longest_window_h)].reset_index(
        drop=True
    )
    stations, station = _locate(window, background, valid_at.year)
    latitude, longitude = stations.latitude_deg[station], stations.longitude_deg[station]
    levels = background.solar_levels(window["observed_at"], latitude, longitude)
    age_h = np.asarray((valid_at - window["observed_at"]).dt.total_seconds(), dtype=np.float64) / 3600.0

    index = IndexChooser(window, station, levels, age_h, kernel, f107_sfu)
    chosen = index.choose(None)
    held_out = [index.choose(excluded) for excluded in range(len(stations.sounder_id))]

    inputs_hash = _inputs_hash(known, f107_sfu)
    cycle_id = f"{valid_at:%Y%m%dT%H%MZ}-{_digest(kernel.config_hash, inputs_hash, repr(grid), str(cycle_minutes))[:12]}"
    scored = age_h < cycle_minutes / 60.0
    identity = {"cycle_id": cycle_id, "valid_time": valid_at}
    solved = {
        name: _solve(
            name, kernel, window, stations, station, levels, age_h, chosen, held_out, scored, threads
        )
        for name in QUANTITIES
    }
    feedback = pd.concat(
        [identity_frame(part.feedback, identity) for part in solved.values()], ignore_index=True
    )
    scores = [
        _score(name, part, known, window, stations, station, levels, chosen, held_out, f107_sfu)
        for name, part in solved.items()
    ]
    verification = pd.concat([identity_frame(part, identity) for part in scores], ignore_index=True)
    n_used = sum(int((part.feedback["qc_flag"] == "accepted").sum()) for part in solved.values())
    metadata: dict[str, Any] = {
        **{
            "cycle_id": cycle_id,
            "valid_time": valid_at.isoformat(),
            "available_until": available_at.isoformat(),
        },
        "config_hash": kernel.config_hash,
        "inputs_hash": inputs_hash,
        "kernel_version": rust_core.__version__,
        "effective_index": chosen.ig12,
        "index_source": chosen.source,
        "f107_sfu": f107_sfu,
        "n_observations": len(window),
        "n_stations": len(stations.sounder_id),
        "climatology_only": n_used == 0,
        "n_obs": {
            name: dict(sorted(Counter(part.feedback["qc_flag"]).items())) for name, part in solved.items()
        },
        "chi2": {name: part.chi2 for name, part in solved.items()},
        "log_evidence": {name: part.log_evidence for name, part in solved.items()},
        "stations": {name: part.information for name, part in solved.items()},
    }
    analysis = (
        None if grid is None else _on_grid(grid, identity, valid_at, solved, kernel, background, chosen)
    )
    return Cycle(
        analysis=analysis,
        feedback=_table(feedback, FEEDBACK_COLUMNS),
        verification=_table(verification, VERIFICATION_COLUMNS),
        metadata=metadata,
    )


def identity_frame(frame: pd.DataFrame, identity: dict[str, Any]) -> pd.DataFrame:
    """The frame with the cycle's identity in front."""
    return frame.assign(**identity)


# --- what enters --------------------------------------------------------------------------------------------------


def _utc(value: datetime, name: str) -> pd.Timestamp:
    if value.tzinfo is None:
        raise ValueError(f"{name} {value.isoformat()} has no zone: give an aware UTC time")
    return pd.Timestamp(value.astimezone(UTC)).as_unit("us")


def _known(
    observations: pd.DataFrame, valid_at: pd.Timestamp, available_at: pd.Timestamp, lookback_h: float
) -> pd.DataFrame:
    """What a cycle may see: one row per id, in an order that the order of arrival does not decide."""
    is_known = (
        (observations["observed_at"] <= valid_at)
        & (observations["observed_at"] > valid_at - pd.Timedelta(hours=lookback_h))
        & (observations["available_at"] <= available_at)
    )
    chosen = observations.loc[is_known, INPUT_COLUMNS]
    chosen = chosen.sort_values(["observed_at", "sounder_id", "observation_id"], kind="stable")
    return chosen.drop_duplicates("observation_id").reset_index(drop=True)


def _locate(window: pd.DataFrame, background: Background, year: int) -> tuple[Stations, NDArray[np.int64]]:
    newest = window.drop_duplicates("sounder_id", keep="last").sort_values("sounder_id")
    sounder_id = tuple(newest["sounder_id"])
    latitude = newest["latitude_deg"].to_numpy(dtype=np.float64)
    longitude = newest["longitude_deg"].to_numpy(dtype=np.float64)
    qd_latitude, qd_longitude = background.quasi_dipole(latitude, longitude, year)
    position = {name: number for number, name in enumerate(sounder_id)}
    station = np.array([position[name] for name in window["sounder_id"]], dtype=np.int64)
    return Stations(sounder_id, latitude, longitude, qd_latitude, qd_longitude), station


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _inputs_hash(known: pd.DataFrame, f107_sfu: float | None) -> str:
    rows = known[INPUT_COLUMNS].drop(columns="available_at")
    rows = rows.assign(observed_at=_microseconds(known["observed_at"]))
    return _digest(rows.to_json(orient="values", double_precision=15), json.dumps(f107_sfu))[:32]


class IndexChooser:
    """The effective index with or without one station: robust over the window, newest observations most."""

    def __init__(
        self,
        window: pd.DataFrame,
        station: NDArray[np.int64],
        levels: SolarLevels,
        age_h: Array,
        kernel: KernelConfig,
        f107_sfu: float | None,
    ) -> None:
        value = window["fof2_mhz"].to_numpy(dtype=np.float64)
        limits = kernel.fof2_mhz
        floor = levels.floors[0]
        is_usable = (
            (value >= limits.minimum) & (value <= limits.maximum) & (levels.fof2_mhz > floor).all(axis=0)
        )
        usable = np.flatnonzero(is_usable)
        # A slow quantity needs no fast sampling: one observation per station and interval of the clock.
        is_repeated = _repeated(age_h[usable], station[usable], kernel, _hour_of(window, age_h))
        self._rows = usable[~is_repeated]
        self._value = value[self._rows]
        self._levels = levels.fof2_mhz[:, self._rows]
        self._station = station[self._rows]
        # Each station counts once at equal age, however often it sounds.
        per_station = np.bincount(self._station, minlength=1)
        self._weight = (
            np.exp(-age_h[self._rows] / kernel.effective_index.memory_h) / per_station[self._station]
        )
        self._settings = kernel.effective_index
        self._f107_sfu = f107_sfu

    def choose(self, excluded: int | None) -> ChosenIndex:
        """The index from all stations but `excluded`."""
        kept = np.ones(self._rows.size, dtype=bool) if excluded is None else self._station != excluded
        n_stations = np.unique(self._station[kept]).size
        if n_stations < self._settings.minimum_stations and self._f107_sfu is not None:
            return ChosenIndex(f107_to_ig12(self._f107_sfu), "f107")
        if n_stations == 0:
            return ChosenIndex(self._settings.default_ig12, "default")
        ig12 = estimate_effective_index(
            self._value[kept], self._levels[0, kept], self._levels[1, kept], self._weight[kept]
        )
        is_enough = n_stations >= self._settings.minimum_stations
        return ChosenIndex(ig12, "stations" if is_enough else "few_stations")


# --- the analysis of one quantity -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solved:
    """The analysis of one quantity, its feedback, and the held-out predictions of its scored rows."""

    analysis: rust_core.Analysis
    feedback: pd.DataFrame
    rows: NDArray[np.int64]
    """Rows of the window that hold the quantity; feedback has one row for each."""
    is_scored: NDArray[np.bool_]
    held_out: Prediction
    chi2: float | None
    log_evidence: float
    information: dict[str, dict[str, float]]


def _background(levels: SolarLevels, name: str, ig12: float) -> Array:
    if name == "fof2_mhz":
        return levels.fof2_at(ig12)
    return levels.hmf2_at(ig12) if name == "hmf2_km" else levels.m3000f2_at(ig12)


def _forward(values: Array, quantity: Quantity) -> Array:
    if not quantity.is_logarithmic:
        return values
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # impossible values are stopped by the physical limits
        return np.log(values)


def _repeated(
    age_h: Array, station: NDArray[np.int64], kernel: KernelConfig, valid_hour: float
) -> NDArray[np.bool_]:
    """Rows that are not the newest of their station in the thinning interval of the clock; rows in order of time."""
    interval = np.floor((valid_hour - age_h) / (kernel.window.thinned_minutes / 60.0) + 1e-9)
    newest_first = pd.DataFrame({"station": station, "interval": interval})[::-1]
    is_repeated: NDArray[np.bool_] = newest_first.duplicated().to_numpy(dtype=np.bool_)[::-1]
    return is_repeated


def _solve(
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
    transformed = _forward(value, quantity)
    hofx = _background(levels, name, chosen.ig12)[rows]
    innovation = transformed - _forward(hofx, quantity)
    confidence = window["confidence_score"].to_numpy(dtype=np.float64)[rows]
    obs_error = quantity.obs_error.of(confidence, kernel.confidence)
    with np.errstate(divide="ignore"):  # a value of zero is stopped by the physical limits
        error = obs_error / np.abs(value) if quantity.is_logarithmic else obs_error
    terms = quantity.build_terms()
    network = {
        "station_latitude_deg": stations.qd_latitude_deg,
        "station_longitude_deg": stations.qd_longitude_deg,
    }

    valid_hour = _hour_of(window, age_of_window_h)
    is_old = age_h > kernel.window.full_rate_h
    is_thinned = is_old & _repeated(age_h, station, kernel, valid_hour)
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
    for number in np.unique(station):
        own_background = _forward(_background(levels, name, held_out[number].ig12)[rows], quantity)
        own_innovation = transformed - own_background
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
            fitted[own_stopped] = _forward(hofx[own_stopped], quantity) + mean
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


def _hour_of(window: pd.DataFrame, age_h: Array) -> float:
    """Hours since 1970 of the valid time, so that thinning follows the clock and not the cycle."""
    if window.empty:
        return 0.0
    newest = window["observed_at"].iloc[-1]
    return float(newest.timestamp() / 3600.0 + age_h[-1])


# --- the scores -----------------------------------------------------------------------------------------------------


def _score(
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
    iri_index = {s: _background(levels, name, held_out[s].ig12) for s in np.unique(station)}
    iri_f107 = None if f107_sfu is None else _background(levels, name, f107_to_ig12(f107_sfu))
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
            "persistence_24h_value": _persistence(name, known, window.iloc[in_window]),
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


def _persistence(name: str, known: pd.DataFrame, rows: pd.DataFrame) -> Array:
    """The station's own observation 24 h earlier, the nearest within the tolerance; NaN without one."""
    result = np.full(len(rows), np.nan)
    time_us = _microseconds(known["observed_at"])
    sounder_id, value = known["sounder_id"].to_numpy(), known[name].to_numpy(dtype=np.float64)
    tolerance_us = PERSISTENCE_TOLERANCE_H * MICROSECONDS_PER_HOUR
    wanted_us = _microseconds(rows["observed_at"]) - PERSISTENCE_H * MICROSECONDS_PER_HOUR
    for number, (own, wanted) in enumerate(zip(rows["sounder_id"], wanted_us, strict=True)):
        first = np.searchsorted(time_us, wanted - tolerance_us, side="left")
        last = np.searchsorted(time_us, wanted + tolerance_us, side="right")
        near = first + np.flatnonzero((sounder_id[first:last] == own) & ~np.isnan(value[first:last]))
        if near.size:
            result[number] = value[near[np.abs(time_us[near] - wanted).argmin()]]
    return result


def _microseconds(times: pd.Series[Any]) -> NDArray[np.int64]:
    """UTC microseconds since 1970, shape (n,)."""
    return np.asarray(pd.DatetimeIndex(times).as_unit("us").asi8)


# --- the grid -------------------------------------------------------------------------------------------------------


def _on_grid(
    grid: Grid,
    identity: dict[str, Any],
    valid_at: pd.Timestamp,
    solved: dict[str, Solved],
    kernel: KernelConfig,
    background: Background,
    chosen: ChosenIndex,
) -> pa.Table:
    latitude, longitude = grid.points()
    qd_latitude, qd_longitude = background.quasi_dipole(latitude, longitude, valid_at.year)
    state = background.on_grid(valid_at.to_pydatetime(), latitude, longitude, chosen.ig12)
    prior = {"fof2_mhz": state.fof2_mhz, "hmf2_km": state.hmf2_km, "m3000f2": state.m3000f2}
    fields = {}
    for name, part in solved.items():
        quantity = kernel.quantity(name)
        increment, sd = part.analysis.predict(qd_latitude, qd_longitude, 0.0)
        fields[name] = Prediction(_forward(prior[name], quantity) + increment, sd, quantity.is_logarithmic)
    # MUF(3000) = foF2 x M(3000)F2: the logarithms add, and the two are analysed independently.
    muf = Prediction(
        fields["fof2_mhz"].center + fields["m3000f2"].center,
        np.hypot(fields["fof2_mhz"].spread, fields["m3000f2"].spread),
        is_logarithmic=True,
    )
    columns: dict[str, Any] = {
        "cycle_id": pa.repeat(pa.scalar(identity["cycle_id"], pa.string()), latitude.size),
        "valid_time": pa.repeat(pa.scalar(valid_at.to_pydatetime(), TIMESTAMP), latitude.size),
        "lead_h": np.zeros(latitude.size),
        "latitude_deg": latitude,
        "longitude_deg": longitude,
    }
    for name, field in (*fields.items(), ("muf3000_mhz", muf)):
        columns[name] = field.median
        columns[f"{name}_sd"] = field.sd
    columns["foe_mhz"] = state.foe_mhz
    columns["fof2_background_mhz"] = state.fof2_mhz
    columns["hmf2_background_km"] = state.hmf2_km
    columns["m3000f2_background"] = state.m3000f2
    return pa.table(columns)


def _table(frame: pd.DataFrame, names: list[str]) -> pa.Table:
    """The columns in the contract's order and types; NaN becomes null."""
    arrays = []
    for name in names:
        if name in TEXT_COLUMNS:
            kind = pa.string()
        elif name in TIME_COLUMNS:
            kind = TIMESTAMP
        else:
            kind = pa.bool_() if name in TRUTH_COLUMNS else pa.float64()
        arrays.append(pa.array(frame[name], type=kind, from_pandas=True))
    return pa.table(arrays, names=names)
