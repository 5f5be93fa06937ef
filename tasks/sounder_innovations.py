"""What sounders reported, less what the analysis without them expects: the innovations that tell their errors.

Both the analysis and the effective index leave the sounder out. A delay is compared where it does not hang on the ceiling
alone; a signal strength by its link budget, where power and delay are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.amplitude import amplitudes
from tasks.background import Background, ig12_to_r12
from tasks.estimate import Estimate
from tasks.group_delay import ceilings_mhz
from tasks.group_delay import echoes as waves
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.link_budget import LIGHT_KM_PER_MS, absorption_db, received_dbm
from tasks.magnetic_field import MagneticField, magnetic_field
from tasks.profile import Peaks
from tasks.sounder_error import update
from tasks.sounder_record import UNITS, Known, learned
from tasks.soundings import RETRIEVED

Array: TypeAlias = NDArray[np.float64]

GOOD = ("used", "ceiling_only", "not_chosen", "no_delay")
BAD = ("outlier", "above_ceiling", "faster_than_light", "delay_too_long")
EXPECTED_BY = ("delay_by_fof2_ms", "delay_by_hmf2_ms", "delay_by_b0_ms")
"""What one sd of each part of what is expected makes of a delay."""
POSSIBLE_HMF2_KM = (150.0, 700.0)
LOWEST_MIRROR_KM = 80.0


def expected(
    echoes: pd.DataFrame, now: Estimate, kernel: KernelConfig, background: Background
) -> pd.DataFrame:
    """The echoes with what is expected of them without their sounder, and the innovations; NaN where there is none.

    Args:
        echoes: of one window, as `tasks.soundings.sound` gives them.
        now: the estimate that they entered.
    """
    columns = (
        *("expected_delay_ms", "expected_delay_sd_ms", "delay_innovation_ms"),
        *("expected_signal_dbm", "signal_innovation_db"),
        *EXPECTED_BY,
    )
    echoes = echoes.assign(**{name: np.full(len(echoes), np.nan) for name in columns})
    rows = np.flatnonzero(echoes["outcome"].isin([*GOOD, *BAD]).to_numpy())
    position = {name: number for number, name in enumerate(now.stations.sounder_id)}
    rows = rows[echoes["sounder_id"].iloc[rows].isin(position).to_numpy()]
    if rows.size == 0:
        return echoes
    own = echoes.iloc[rows]
    station = np.array([position[name] for name in own["sounder_id"]])
    peaks, spread = _without(own, station, now, kernel, background)
    latitude, longitude = (own[name].to_numpy(dtype=np.float64) for name in ("latitude_deg", "longitude_deg"))
    field = magnetic_field(own["observed_at"], latitude, longitude)
    is_x = (own["mode_used"].fillna(own["mode"]) == "X").to_numpy()
    frequency = own["frequency_mhz"].to_numpy(dtype=np.float64)
    path: dict[str, Any] = {
        "distance_km": own["distance_km"].to_numpy(dtype=np.float64),
        "gyrofrequency_mhz": field.gyrofrequency_mhz,
        "dip_deg": field.inclination_deg,
    }
    which = np.arange(rows.size)
    ceiling = ceilings_mhz(peaks, which, is_x, **path)
    wave = waves(peaks, which, frequency, is_x, **path)
    delay = np.where(frequency < kernel.tiers.ceiling_share * ceiling, wave.delay_ms, np.nan)
    delay_by = wave.delay_by * spread
    signal = _signal(own, frequency, is_x, delay, peaks, field, path["distance_km"])
    found = np.column_stack(
        [
            delay,
            np.sqrt((delay_by**2).sum(axis=1)),
            own["group_delay_ms"].to_numpy(dtype=np.float64) - delay,
            signal,
            own["signal_strength_dbm"].to_numpy(dtype=np.float64) - signal,
            delay_by,
        ]
    )
    for number, name in enumerate(columns):
        column = np.full(len(echoes), np.nan)
        column[rows] = found[:, number]
        echoes[name] = column
    return echoes


def _without(
    echoes: pd.DataFrame,
    station: NDArray[np.int64],
    now: Estimate,
    kernel: KernelConfig,
    background: Background,
) -> tuple[Peaks, Array]:
    """The layers above each echo's path without its sounder, and the sd of ln foF2, hmF2 and ln B0, shape (n, 3)."""
    latitude, longitude = (
        echoes[name].to_numpy(dtype=np.float64) for name in ("latitude_deg", "longitude_deg")
    )
    ig12 = np.array([index.ig12 for index in now.held_out])[station]
    state = background.at(echoes["observed_at"], latitude, longitude, ig12)
    amplitude = amplitudes(kernel, echoes["observed_at"], latitude, longitude, now.f107_sfu)
    time_h = np.asarray((echoes["observed_at"] - now.valid_at).dt.total_seconds(), dtype=np.float64) / 3600.0
    node = now.nodes.of_station[station]
    increment, sd = np.zeros((len(RETRIEVED), station.size)), np.zeros((len(RETRIEVED), station.size))
    for number in np.unique(node):
        own = np.flatnonzero(node == number)
        for row, name in enumerate(RETRIEVED):
            quantity = np.full(own.size, QUANTITIES.index(name))
            increment[row, own], narrow = now.joint.analysis.predict_sites(
                node[own],
                quantity,
                time_h[own],
                amplitude=amplitude[quantity[0], own],
                is_held_out=True,
                innovation=now.joint.held_out_innovation[int(number)],
            )
            wider = now.joint.adaptation.of_node(node[own], quantity, time_h[own], is_held_out=True)
            sd[row, own] = np.sqrt(wider) * narrow
    peaks = Peaks(
        fof2_mhz=state.fof2_mhz * np.exp(increment[0]),
        # What no layer is must not end the cycle: the delays of such a place are off by much anyway.
        hmf2_km=np.clip(state.hmf2_km + increment[1], *POSSIBLE_HMF2_KM),
        m3000f2=state.m3000f2,
        b0_km=state.b0_km * np.exp(increment[2]),
        b1=state.b1,
        foe_mhz=state.foe_mhz,
        solar_zenith_deg=state.solar_zenith_deg,
        r12=np.array([ig12_to_r12(index) for index in ig12]),
    )
    return peaks, sd.T


def _signal(
    echoes: pd.DataFrame,
    frequency: Array,
    is_x: NDArray[np.bool_],
    delay_ms: Array,
    peaks: Peaks,
    field: MagneticField,
    distance_km: Array,
) -> Array:
    """Power by the link budget in dBm, shape (n,); NaN where the transmitted power is not stated."""
    half_km = delay_ms * LIGHT_KM_PER_MS / 2.0
    virtual_km = np.sqrt(np.maximum(half_km**2 - (distance_km / 2.0) ** 2, LOWEST_MIRROR_KM**2))
    absorbed = absorption_db(
        frequency,
        is_x,
        distance_km=distance_km,
        virtual_height_km=virtual_km,
        solar_zenith_deg=peaks.solar_zenith_deg,
        r12=peaks.r12,
        longitudinal_gyrofrequency_mhz=field.gyrofrequency_mhz * np.sin(np.radians(field.inclination_deg)),
    )
    power = echoes["tx_power_w"].to_numpy(dtype=np.float64)
    gain = {
        name: np.nan_to_num(echoes[name].to_numpy(dtype=np.float64))
        for name in ("tx_antenna_gain_dbi", "rx_antenna_gain_dbi")
    }
    return received_dbm(frequency, delay_ms, absorbed, tx_power_w=np.where(power > 0, power, np.nan), **gain)


def learn_errors(echoes: pd.DataFrame, known: Mapping[str, Known], kernel: KernelConfig) -> dict[str, Known]:
    """What is known of every sounder after the innovations of its echoes, as `expected` gives them."""
    config = kernel.tiers
    by_sounder = {str(name): rows for name, rows in echoes.groupby("sounder_id", sort=True)}
    nothing = echoes.iloc[:0]
    after = {}
    for sounder_id, before in known.items():
        own = by_sounder.get(sounder_id, nothing)
        errors = {}
        for name, unit in UNITS.items():
            scale = getattr(config, name)
            innovation = own[f"{name}_innovation_{unit}"].to_numpy(dtype=np.float64)
            told = ~np.isnan(innovation)
            by = own[list(EXPECTED_BY)].to_numpy(dtype=np.float64)
            if name == "signal":  # the link budget's own error is the same for the whole window
                by = np.zeros_like(by)
            ratio = (own[f"{name}_error_{unit}"].to_numpy(dtype=np.float64) / before.errors[name].sd) ** 2
            errors[name] = update(before.errors[name], innovation[told], by[told], ratio[told], scale, config)
        n_good, n_bad = (
            float(own.loc[own["outcome"].isin(kinds), "n_combined"].sum()) for kinds in (GOOD, BAD)
        )
        after[sounder_id] = learned(before, errors, n_good, n_bad, config)
    return after


def what_echoes_tell(
    now: Estimate, kernel: KernelConfig, background: Background
) -> tuple[pd.DataFrame, dict[str, Known]]:
    """The echoes since the cycle before with their innovations, and what is known of every sounder after them."""
    soundings = now.soundings
    if soundings is None:
        raise ValueError("the estimate has seen no measurements: nothing can be told from them")
    newest = soundings.echoes[soundings.echoes["observed_at"] > soundings.told_until].reset_index(drop=True)
    told = expected(newest, now, kernel, background)
    return told, learn_errors(told, soundings.known, kernel)
