"""Soundings: what the echoes of each NVIS sounder say of the layer above its path, as observations for the analysis.

Measurements become echoes (`tasks.echoes`), those of fast sounders are combined and the most informative chosen
(`tasks.aggregation`), and the echoes of one sounder and window are fitted by a profile (`tasks.retrieval`). The result is
one observation of foF2, hmF2 and B0 with its own errors and their correlations, the climatology that helped to find it
taken out again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tasks.aggregation import combine, most_informative
from tasks.background import Background, BackgroundState
from tasks.echoes import HEARD, USABLE, prepare
from tasks.group_delay import echoes as waves_on
from tasks.kernel_config import KernelConfig, SounderConfig
from tasks.lake import to_frame
from tasks.link_budget import LIGHT_KM_PER_MS
from tasks.magnetic_field import MagneticField, magnetic_field, ordinary_mhz
from tasks.profile import Peaks
from tasks.retrieval import Waves, retrieve
from tasks.row_errors import CORRELATION_OF, ERROR_OF
from tasks.settings import TIERS
from tasks.sounder_record import Declared, Known, know, newest_before

Array: TypeAlias = NDArray[np.float64]

RETRIEVED = ("fof2_mhz", "hmf2_km", "b0_km")
SELECTION_MARGIN = 1.05
"""The profile by which echoes are chosen has its ceiling this much above their highest frequency,"""
SELECTION_FACTOR = 2.0
"""but at most this much above the climatology's: a wrong frequency must not decide for the others."""
OPEN_SD = 3.0
"""An observation wider than this many of the retrieval's prior sd says nothing and is left out."""
NOT_CHOSEN = "not_chosen"
HASHED = (
    *("observed_at", "tx_latitude_deg", "tx_longitude_deg", "rx_latitude_deg", "rx_longitude_deg"),
    *("frequency_mhz", "group_delay_ms", "signal_strength_dbm", "snr_db"),
    *("tx_power_w", "tx_antenna_gain_dbi", "rx_antenna_gain_dbi"),
)
HASHED_TEXT = ("observation_id", "sounder_id", "mode")
"""Columns of the measurements that decide the result."""
KM_PER_MS = LIGHT_KM_PER_MS / 2.0
"""Of height by delay, up and down."""


@dataclass(frozen=True)
class Heard:
    """What sounders measured, and what is known of them."""

    measurements: pd.DataFrame
    """Rows of the dataset `measurements`, of the look-back's UTC days as a whole."""
    sounders: pd.DataFrame
    """Rows of the dataset `sounders`, of cycles before."""
    declared: Declared
    """By sounder, what it registered with."""

    @property
    def is_silent(self) -> bool:
        """Whether no sounder measured and none is remembered."""
        return self.measurements.empty and self.sounders.empty

    def after(self, sounders: pa.Table | None) -> Heard:
        """As the cycle after one sees it that has left these rows of the dataset `sounders`."""
        if sounders is None or sounders.num_rows == 0:
            return self
        return replace(self, sounders=pd.concat([self.sounders, to_frame(sounders)], ignore_index=True))


@dataclass(frozen=True)
class Soundings:
    """What the measurements of a look-back say at one time."""

    measurements: pd.DataFrame
    """As `tasks.echoes.prepare` gives them."""
    known: Mapping[str, Known]
    """By sounder, what was known of it before its innovations."""
    told_until: pd.Timestamp
    """Echoes up to then have told of their sounders in the cycle before."""
    echoes: pd.DataFrame
    """Combined, of the windows that were retrieved, with outcome, weight and fit."""
    observations: pd.DataFrame
    """Rows as of the dataset `ionograms`, with their own errors; see `tasks.row_errors`."""
    inputs_hash: str
    """Of everything that these come from: measurements, what was known of the sounders, what they declare."""

    def summary(self) -> dict[str, Any]:
        """For the metadata of a cycle."""
        newest = self.echoes[self.echoes["observed_at"] > self.told_until]
        return {
            "n_measurements": int(newest["n_combined"].sum()),
            "n_echoes": len(newest),
            "n_sounders": int(newest["sounder_id"].nunique()),
            "outcomes": {str(name): int(n) for name, n in sorted(newest["outcome"].value_counts().items())},
            "n_observations": len(self.observations),
        }


def sound(
    heard: Heard,
    *,
    valid_at: pd.Timestamp,
    available_at: pd.Timestamp,
    kernel: KernelConfig,
    background: Background,
    ig12: float,
    threads: int,
) -> Soundings:
    """Retrieve what the sounders heard up to a time, with what was known of them before it.

    Args:
        ig12: index of the climatology that the retrieval begins with; it is taken out of the result again.
    """
    rows = prepare(
        heard.measurements,
        valid_at=valid_at,
        available_at=available_at,
        lookback_h=kernel.lookback_h,
        config=kernel.sounders,
    )
    before = newest_before(heard.sounders, valid_at)
    known = know(before, rows, heard.declared, valid_at=valid_at, config=kernel.tiers)
    chosen = rows[_is_retrieved(rows, valid_at, kernel)].reset_index(drop=True)
    echoes = combine(chosen, _errors(chosen, known), kernel.sounders)
    paths = Paths.of(echoes, background, ig12)
    echoes = _choose(echoes, paths, known, kernel)
    echoes, observations = _retrieve(echoes, paths, known, kernel, threads)
    # After a pause, what was heard in it tells too, as far back as every window is retrieved.
    told_until = valid_at - pd.Timedelta(hours=kernel.window.full_rate_h)
    if before.empty:
        told_until = valid_at - pd.Timedelta(minutes=kernel.sounders.window_minutes)
    else:
        told_until = max(told_until, before["valid_time"].iloc[0])
    return Soundings(
        measurements=rows,
        known=known,
        told_until=told_until,
        echoes=echoes,
        observations=observations,
        inputs_hash=_hash(rows, before, {name: heard.declared.get(name, {}) for name in known}),
    )


def _hash(rows: pd.DataFrame, before: pd.DataFrame, declared: Declared) -> str:
    of_rows = pd.util.hash_pandas_object(rows[[*HASHED, *HASHED_TEXT]], index=False).to_numpy().tobytes()
    records = before.sort_values("sounder_id").to_json(
        orient="values", double_precision=15, date_format="iso", date_unit="us"
    )
    said = json.dumps(declared, sort_keys=True, default=str)
    return hashlib.sha256(b"\n".join([of_rows, records.encode(), said.encode()])).hexdigest()[:32]


def _is_retrieved(rows: pd.DataFrame, valid_at: pd.Timestamp, kernel: KernelConfig) -> NDArray[np.bool_]:
    """Rows of the windows that the analysis can use: all recent ones, then the newest of each thinning interval."""
    minutes = kernel.sounders.window_minutes
    window_h = rows["window"].to_numpy() * minutes / 60.0
    valid_h = valid_at.timestamp() / 3600.0
    age_h = valid_h - window_h
    interval = np.floor(window_h / (kernel.window.thinned_minutes / 60.0))
    is_heard = rows["outcome"].isin(HEARD).to_numpy()
    frame = pd.DataFrame({"sounder_id": rows["sounder_id"], "interval": interval, "window": rows["window"]})
    newest = frame[is_heard].groupby(["sounder_id", "interval"])["window"].max().rename("newest")
    of_row = frame.join(newest, on=["sounder_id", "interval"])["newest"].to_numpy()
    is_recent = age_h < kernel.window.full_rate_h
    return np.asarray(
        (is_recent | (is_heard & (rows["window"].to_numpy() == of_row))) & (age_h < kernel.window.window_h)
    )


def _errors(rows: pd.DataFrame, known: Mapping[str, Known]) -> pd.DataFrame:
    """Error (1 sd) of every row, by what is known of its sounder."""
    of = {
        name: {sounder_id: one.errors[name].sd for sounder_id, one in known.items()}
        for name in ("delay", "signal")
    }
    return pd.DataFrame(
        {
            "delay_ms": rows["sounder_id"].map(of["delay"]).to_numpy(dtype=np.float64),
            "signal_db": rows["sounder_id"].map(of["signal"]).to_numpy(dtype=np.float64),
        }
    )


@dataclass(frozen=True)
class Paths:
    """The climatology above every sounder's path, window by window."""

    of_echo: NDArray[np.int64]
    """Path of each echo, -1 for those that were not heard over it."""
    frame: pd.DataFrame
    """Sounder, window, observed_at, available_at, latitude_deg, longitude_deg, distance_km; one row per path."""
    state: BackgroundState
    field: MagneticField
    ig12: float

    @classmethod
    def of(cls, echoes: pd.DataFrame, background: Background, ig12: float) -> Paths:
        """Paths in order of time and sounder."""
        is_heard = echoes["outcome"].isin(HEARD).to_numpy()
        heard = echoes[is_heard]
        order = heard.sort_values(["window", "sounder_id"], kind="stable")
        groups = order.groupby(["window", "sounder_id"], sort=True)
        first = groups.first().reset_index()
        time_us = pd.Series(pd.DatetimeIndex(order["observed_at"]).as_unit("us").asi8, index=order.index)
        frame = first[["sounder_id", "window", "latitude_deg", "longitude_deg", "distance_km"]].copy()
        keys = [order["window"], order["sounder_id"]]
        mean_us = time_us.groupby(keys, sort=True).mean().to_numpy()
        frame["observed_at"] = pd.to_datetime(np.round(mean_us).astype(np.int64), unit="us", utc=True)
        frame["available_at"] = groups["available_at"].max().to_numpy(dtype="datetime64[us]")
        frame["available_at"] = frame["available_at"].dt.tz_localize("UTC")
        number = pd.MultiIndex.from_frame(frame[["window", "sounder_id"]])
        of_echo = number.get_indexer(pd.MultiIndex.from_frame(echoes[["window", "sounder_id"]]))
        of_echo = np.where(is_heard, of_echo, -1)
        latitude, longitude = (
            frame[name].to_numpy(dtype=np.float64) for name in ("latitude_deg", "longitude_deg")
        )
        state = background.at(frame["observed_at"], latitude, longitude, ig12)
        return cls(of_echo, frame, state, magnetic_field(frame["observed_at"], latitude, longitude), ig12)

    def __len__(self) -> int:
        return len(self.frame)

    def profiles(self, fof2_mhz: Array | None = None) -> Peaks:
        """The climatology above every path; with another foF2 if one is given, shape (paths,)."""
        peaks = Peaks.of_background(self.state, self.ig12)
        return peaks if fof2_mhz is None else replace(peaks, fof2_mhz=fof2_mhz)

    def field_at(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Distance and field of the paths `rows`, each of shape (n,), as `tasks.group_delay` asks for them."""
        return {
            "distance_km": self.frame["distance_km"].to_numpy(dtype=np.float64)[rows],
            "gyrofrequency_mhz": self.field.gyrofrequency_mhz[rows],
            "dip_deg": self.field.inclination_deg[rows],
        }


def _choose(
    echoes: pd.DataFrame, paths: Paths, known: Mapping[str, Known], kernel: KernelConfig
) -> pd.DataFrame:
    """The echoes with the outcome `not_chosen` where their sounder's limit leaves them out."""
    limit_of = dict(zip(TIERS, (int(value) for value in kernel.sounders.limit.as_list()), strict=True))
    limit = np.array([limit_of[known[name].tier] for name in paths.frame["sounder_id"]], dtype=np.int64)
    n_of_path = np.bincount(paths.of_echo[paths.of_echo >= 0], minlength=len(paths))
    rows = np.flatnonzero(paths.of_echo >= 0)
    rows = rows[(n_of_path > limit)[paths.of_echo[rows]]]
    if rows.size == 0:
        return echoes
    path = paths.of_echo[rows]
    frequency = echoes["frequency_mhz"].to_numpy(dtype=np.float64)[rows]
    mode = echoes["mode"].to_numpy()[rows]
    # foF2 that lets the frequency come back: of an extraordinary wave, and of one that may be, that of its own ceiling.
    needed = np.where(mode == "O", frequency, ordinary_mhz(frequency, paths.field.gyrofrequency_mhz[path]))
    fof2 = paths.state.fof2_mhz.copy()
    np.maximum.at(fof2, path, SELECTION_MARGIN * needed)
    fof2 = np.minimum(fof2, SELECTION_FACTOR * paths.state.fof2_mhz)
    waves = waves_on(paths.profiles(fof2), path, frequency, mode == "X", **paths.field_at(path))
    has_delay = (echoes["outcome"].to_numpy()[rows] == USABLE)[:, None]
    sensitivity = np.where(has_delay, waves.delay_by, np.nan)
    error = echoes["delay_error_ms"].to_numpy(dtype=np.float64)[rows]
    outcome = echoes["outcome"].to_numpy(dtype=object).copy()
    for number in np.unique(path):
        own = np.flatnonzero(path == number)
        kept = most_informative(
            sensitivity[own], error[own], needed[own], kernel.sounders.prior_sd.as_array(), int(limit[number])
        )
        outcome[np.delete(rows[own], kept)] = NOT_CHOSEN
    return echoes.assign(outcome=outcome)


def _retrieve(
    echoes: pd.DataFrame, paths: Paths, known: Mapping[str, Known], kernel: KernelConfig, threads: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The echoes with what the fit made of them, and one observation per path."""
    config = kernel.sounders
    rows = np.flatnonzero((paths.of_echo >= 0) & (echoes["outcome"].to_numpy() != NOT_CHOSEN))
    path = paths.of_echo[rows]
    # A bias beyond doubt is taken off; what is not known of it is an error that all echoes of a sounder share.
    bias_ms = np.array([_bias_ms(known[name], kernel) for name in paths.frame["sounder_id"]])
    bias_sd_ms = np.array([known[name].errors["delay"].bias_sd for name in paths.frame["sounder_id"]])
    is_usable = echoes["outcome"].to_numpy()[rows] == USABLE
    delay = echoes["group_delay_ms"].to_numpy(dtype=np.float64)[rows] - bias_ms[path]
    error_ms = np.hypot(echoes["delay_error_ms"].to_numpy(dtype=np.float64)[rows], config.profile_error_ms)
    is_told = is_usable & _tells_height(path, np.where(is_usable, error_ms, np.inf), len(paths), config)
    retrieved = retrieve(
        paths.profiles(),
        config.prior_sd.as_array(),
        Waves(
            path=path,
            frequency_mhz=echoes["frequency_mhz"].to_numpy(dtype=np.float64)[rows],
            mode=echoes["mode"].to_numpy(dtype=object)[rows],
            delay_ms=np.where(is_told, delay, np.nan),
            error_ms=error_ms,
            **paths.field_at(path),
        ),
        least_information=config.least_information,
        threads=threads,
    )
    outcome = echoes["outcome"].to_numpy(dtype=object).copy()
    # What a delay is wrong by at once stays said; of the others the fit decides.
    outcome[rows[is_usable]] = retrieved.outcome[is_usable]
    delay_ms, weight = np.full(len(echoes), np.nan), np.full(len(echoes), np.nan)
    delay_ms[rows] = retrieved.delay_ms + bias_ms[path]
    weight[rows] = retrieved.weight
    mode_used = np.full(len(echoes), None, dtype=object)
    mode_used[rows] = np.where(retrieved.is_extraordinary, "X", "O")
    covariance = retrieved.covariance.copy()
    covariance[:, 1, 1] += (KM_PER_MS * bias_sd_ms) ** 2
    covariance += np.diag(config.least_error.as_array() ** 2)
    return (
        echoes.assign(outcome=outcome, mode_used=mode_used, retrieved_delay_ms=delay_ms, weight=weight),
        _observations(paths, retrieved.value, covariance, kernel),
    )


def _tells_height(
    path: NDArray[np.int64], error_ms: Array, n_paths: int, config: SounderConfig
) -> NDArray[np.bool_]:
    """Whether the delays of each echo's path together say more of the layer's height than the climatology does.

    Others would tell of foF2 only, by delays that grow without bound next to the ceiling. Noise does so too: a fit by such delays puts
    foF2 next to the frequency heard, with an error that is that of a parabola around a needle.
    """
    information = np.bincount(path, error_ms**-2.0, n_paths)
    return np.asarray(information[path] >= config.longest_error_ms**-2.0)


def _bias_ms(known: Known, kernel: KernelConfig) -> float:
    error = known.errors["delay"]
    return error.bias if error.has_bias(kernel.tiers.delay, kernel.tiers) else 0.0


def _observations(paths: Paths, y: Array, covariance: Array, kernel: KernelConfig) -> pd.DataFrame:
    """Rows as of the dataset `ionograms`; what the echoes leave open is missing.

    Args:
        y: ln foF2, hmF2 and ln B0 of every path, shape (paths, 3), covariance (paths, 3, 3).
    """
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    value = np.column_stack([np.exp(y[:, 0]), y[:, 1], np.exp(y[:, 2])])
    is_open = sd > OPEN_SD * kernel.sounders.prior_sd.as_array()
    value = np.where(is_open, np.nan, value)
    error = np.column_stack([sd[:, 0] * value[:, 0], sd[:, 1], sd[:, 2] * value[:, 2]])
    correlation = covariance / (sd[:, :, None] * sd[:, None, :])
    frame = paths.frame
    end = pd.to_datetime(frame["window"] * round(kernel.sounders.window_minutes * 60), unit="s", utc=True)
    columns: dict[str, Any] = {
        "observation_id": "sounding-" + end.dt.strftime("%Y%m%dT%H%M%SZ"),
        "revision": 0,
        "confidence_score": np.nan,
        "m3000f2": np.nan,
    }
    for number, name in enumerate(RETRIEVED):
        columns[name] = value[:, number]
        columns[ERROR_OF[name]] = np.where(is_open[:, number], np.nan, error[:, number])
    for (one, other), name in CORRELATION_OF.items():
        columns[name] = correlation[:, RETRIEVED.index(one), RETRIEVED.index(other)]
    kept = frame[["sounder_id", "observed_at", "available_at", "latitude_deg", "longitude_deg"]]
    return kept.assign(**columns)
