"""A simulated network of NVIS sounders: where they stand, how good they are, and what they hear of a known truth.

Noise, biases, outliers, clock errors and dropouts are those of the tier a sounder was made as; what it says of itself
(equipment, calibration) is mostly right and sometimes missing. Every sounder is named NVIS-<letter>nn and every item says
`source: simulated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.contracts import arrow_schema
from tasks.great_circle import distance_km, midpoint
from tasks.group_delay import ceilings_mhz, delays_ms
from tasks.link_budget import LIGHT_KM_PER_MS, absorption_db, noise_dbm, received_dbm
from tasks.magnetic_field import magnetic_field
from tasks.profile import Peaks
from tasks.settings import TIERS
from tasks.simulated_truth import SimulatedTruth
from tasks.window import EARTH_RADIUS_KM

Array: TypeAlias = NDArray[np.float64]

DEFAULT_REGION = (44.0, 2.0, 54.0, 20.0)
"""South, west, north, east in degrees: about 1,100 by 1,300 km of central Europe."""
DEFAULT_NETWORK = {"PLATINUM": 2, "GOLD": 5, "SILVER": 10, "BRONZE": 20}
LONGEST_PATH_KM = 500.0
AMATEUR_CHANNELS_MHZ = (1.85, 3.6, 5.36, 7.1, 10.12)
"""160, 80, 60, 40 and 30 m."""
SWEEP_MHZ = (1.6, 12.0, 0.1)
"""Lowest and highest frequency and step of a sounder that sweeps."""
LEAST_SNR_DB = 0.0
LATENCY = pd.Timedelta(seconds=5)
SECOND_HOP, WRONG_FACTOR = 2.0, (0.4, 2.5)
BIASED_SHARE = 0.1
"""Of the sounders: cable, filter or clock delay not calibrated, beyond their own noise."""


@dataclass(frozen=True)
class Kind:
    """What sounders of a tier are like."""

    per_h: float
    signal_sd_db: float
    delay_sd_ms: float
    clock_sd_s: float
    outlier_share: float
    drops_per_day: float
    drop_h: float
    is_sweeping: bool
    separates_modes: float
    """Share of echoes whose mode it knows."""
    equipment: str
    calibration: str
    tx_power_w: float


KINDS: Mapping[str, Kind] = {
    "PLATINUM": Kind(500.0, 2.0, 0.1, 0.01, 0.02, 0.2, 0.5, True, 1.0, "professional", "calibrated", 500.0),
    "GOLD": Kind(50.0, 4.0, 0.5, 0.1, 0.04, 0.5, 1.0, True, 1.0, "research", "calibrated", 250.0),
    "SILVER": Kind(
        10.0, 8.0, 2.0, 2.0, 0.06, 1.0, 2.0, False, 0.5, "amateur_advanced", "self_calibrated", 100.0
    ),
    "BRONZE": Kind(2.0, 15.0, 5.0, 10.0, 0.10, 1.5, 3.0, False, 0.0, "amateur_basic", "uncalibrated", 50.0),
}
"""Rates of the default network; error sds are those of the tiers (capability A6)."""


@dataclass(frozen=True)
class SimulatedSounder:
    """One sounder: what it says of itself, and what it is."""

    sounder_id: str
    tier: str
    """What it was made as."""
    tx_latitude_deg: float
    tx_longitude_deg: float
    rx_latitude_deg: float
    rx_longitude_deg: float
    delay_sd_ms: float
    delay_bias_ms: float
    signal_sd_db: float
    signal_bias_db: float
    clock_offset_s: float
    declared: dict[str, Any]
    """Details that it registers with."""

    @property
    def path_km(self) -> float:
        return float(
            distance_km(
                self.tx_latitude_deg, self.tx_longitude_deg, self.rx_latitude_deg, self.rx_longitude_deg
            )
        )

    @property
    def midpoint(self) -> tuple[float, float]:
        latitude, longitude = midpoint(
            self.tx_latitude_deg, self.tx_longitude_deg, self.rx_latitude_deg, self.rx_longitude_deg
        )
        return float(latitude), float(longitude)

    def describe(self) -> dict[str, Any]:
        """What was made, for the record of the truth."""
        latitude, longitude = self.midpoint
        return {**asdict(self), "midpoint_latitude_deg": latitude, "midpoint_longitude_deg": longitude}


def draw_network(
    seed: int,
    region: tuple[float, float, float, float] = DEFAULT_REGION,
    n_by_tier: Mapping[str, int] = DEFAULT_NETWORK,
) -> list[SimulatedSounder]:
    """Sounders at random places of a box, best tier first; the same arguments give the same network.

    Args:
        region: south, west, north, east in degrees; west > east crosses the date line.
        n_by_tier: number of sounders of each tier.

    Raises:
        ValueError: an unknown tier, a negative number, no sounder at all, or a box that is none.
    """
    south, west, north, east = region
    if not -90 <= south < north <= 90 or west == east:
        raise ValueError(f"region {region} is not south < north within -90..90, west, east in degrees")
    for tier, n in n_by_tier.items():
        if tier not in TIERS or n < 0:
            raise ValueError(
                f"{n} sounders of tier {tier!r}: tiers are {', '.join(TIERS)}, numbers 0 or more"
            )
    if not sum(n_by_tier.values()):
        raise ValueError("a network of no sounders: give a number for one tier at least")
    width = (east - west) % 360.0 or 360.0
    sounders = []
    for number, tier in enumerate(TIERS):
        random = np.random.default_rng([seed, 21, number])
        for place in range(n_by_tier.get(tier, 0)):
            sine = random.uniform(np.sin(np.radians(south)), np.sin(np.radians(north)))
            rx = float(np.degrees(np.arcsin(sine))), float(west + random.uniform(0.0, width))
            path_km = float(random.uniform(0.0, LONGEST_PATH_KM)) if random.random() > 0.3 else 0.0
            tx = _along(*rx, path_km, float(random.uniform(0.0, 360.0)))
            sounders.append(_draw_sounder(f"NVIS-{tier[0]}{place + 1:02d}", tier, tx, rx, random))
    return sounders


def _along(latitude: float, longitude: float, path_km: float, azimuth: float) -> tuple[float, float]:
    """The place at a distance and azimuth, degrees."""
    angle, bearing, phi = path_km / EARTH_RADIUS_KM, np.radians(azimuth), np.radians(latitude)
    sine = np.sin(phi) * np.cos(angle) + np.cos(phi) * np.sin(angle) * np.cos(bearing)
    east = np.arctan2(np.sin(bearing) * np.sin(angle) * np.cos(phi), np.cos(angle) - np.sin(phi) * sine)
    return float(np.degrees(np.arcsin(sine))), float(longitude + np.degrees(east))


def _wrapped(longitude_deg: float) -> float:
    return (longitude_deg + 180.0) % 360.0 - 180.0


def _draw_sounder(
    sounder_id: str,
    tier: str,
    tx: tuple[float, float],
    rx: tuple[float, float],
    random: np.random.Generator,
) -> SimulatedSounder:
    kind = KINDS[tier]
    is_biased = random.random() < BIASED_SHARE
    bias_ms = random.normal(0.0, 0.2 * kind.delay_sd_ms) + is_biased * random.choice([-1.0, 1.0]) * 0.5
    bias_db = random.normal(0.0, 0.2 * kind.signal_sd_db) + is_biased * random.choice([-1.0, 1.0]) * 8.0
    declared: dict[str, Any] = {
        "equipment": kind.equipment,
        "calibration": kind.calibration,
        "tx_power_w": kind.tx_power_w,
    }
    if tier == "BRONZE" and random.random() < 0.3:  # some say nothing of themselves
        declared = {}
    return SimulatedSounder(
        sounder_id=sounder_id,
        tier=tier,
        tx_latitude_deg=round(tx[0], 5),
        tx_longitude_deg=round(_wrapped(tx[1]), 5),
        rx_latitude_deg=round(rx[0], 5),
        rx_longitude_deg=round(_wrapped(rx[1]), 5),
        delay_sd_ms=float(kind.delay_sd_ms * random.lognormal(0.0, 0.15)),
        delay_bias_ms=float(bias_ms),
        signal_sd_db=float(kind.signal_sd_db * random.lognormal(0.0, 0.15)),
        signal_bias_db=float(bias_db),
        clock_offset_s=float(random.normal(0.0, kind.clock_sd_s)),
        declared=declared,
    )


def listen(
    sounder: SimulatedSounder, truth: SimulatedTruth, start: datetime, hours: float, seed: int
) -> list[dict[str, Any]]:
    """Measurement items that a sounder sends of a span, in order of time.

    Raises:
        ValueError: `start` carries no zone or `hours` is not positive.
    """
    if start.tzinfo is None:
        raise ValueError(f"start: {start.isoformat()} carries no zone; give aware UTC")
    if not hours > 0:
        raise ValueError(f"hours: {hours} is not positive")
    kind = KINDS[sounder.tier]
    random = np.random.default_rng([seed, 22, *sounder.sounder_id.encode()])
    n_tries = int(random.poisson(kind.per_h * hours))
    at_h = np.sort(random.uniform(0.0, hours, n_tries))
    at_h = at_h[~_is_down(at_h, hours, kind, random)]
    if at_h.size == 0:
        return []
    times = pd.DatetimeIndex(start.astimezone(UTC) + pd.to_timedelta(at_h, unit="h"))
    latitude, longitude = sounder.midpoint
    peaks = truth.at(times, latitude, longitude)
    field = magnetic_field(times, latitude, longitude)
    path: dict[str, Any] = {
        "distance_km": np.full(at_h.size, sounder.path_km),
        "gyrofrequency_mhz": field.gyrofrequency_mhz,
        "dip_deg": field.inclination_deg,
    }
    which = np.arange(at_h.size)
    ordinary, extraordinary = (
        ceilings_mhz(peaks, which, np.full(at_h.size, is_x), **path) for is_x in (False, True)
    )
    is_x = random.random(at_h.size) < 0.3
    # Who hears nothing on one channel tries a lower one; nothing is sent of what was not heard.
    frequency = _choose_channel(np.where(is_x, extraordinary, ordinary), kind, random)
    delay = np.full(at_h.size, np.nan)
    heard = np.flatnonzero(~np.isnan(frequency))
    delay[heard] = delays_ms(
        peaks, heard, frequency[heard], is_x[heard], **{name: values[heard] for name, values in path.items()}
    )
    virtual_km = np.sqrt(
        np.maximum((delay * LIGHT_KM_PER_MS / 2.0) ** 2 - (sounder.path_km / 2.0) ** 2, 80.0**2)
    )
    absorbed = absorption_db(
        frequency,
        is_x,
        distance_km=sounder.path_km,
        virtual_height_km=virtual_km,
        solar_zenith_deg=peaks.solar_zenith_deg,
        r12=peaks.r12,
        longitudinal_gyrofrequency_mhz=field.gyrofrequency_mhz * np.sin(np.radians(field.inclination_deg)),
    )
    signal = received_dbm(frequency, delay, absorbed, tx_power_w=kind.tx_power_w)
    bandwidth_khz = 3.0
    snr = signal - noise_dbm(frequency, bandwidth_khz)
    is_heard = snr >= LEAST_SNR_DB  # of the truth: who hears is decided by the wave, not by the meter's error
    is_wrong = random.random(at_h.size) < kind.outlier_share
    wrong = np.where(random.random(at_h.size) < 0.5, SECOND_HOP, random.uniform(*WRONG_FACTOR, at_h.size))
    told_ms = np.where(is_wrong, delay * wrong, delay)
    told_ms = told_ms + sounder.delay_bias_ms + random.normal(0.0, sounder.delay_sd_ms, at_h.size)
    off_db = sounder.signal_bias_db + random.normal(0.0, sounder.signal_sd_db, at_h.size)
    knows_mode = random.random(at_h.size) < kind.separates_modes
    is_heard &= told_ms > 0
    told_at = times + timedelta(seconds=sounder.clock_offset_s)
    return [
        {
            "sounder_id": sounder.sounder_id,
            "observed_at": told_at[int(row)].isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "tx_latitude_deg": sounder.tx_latitude_deg,
            "tx_longitude_deg": sounder.tx_longitude_deg,
            "rx_latitude_deg": sounder.rx_latitude_deg,
            "rx_longitude_deg": sounder.rx_longitude_deg,
            "frequency_mhz": round(float(frequency[row]), 3),
            "mode": ("X" if is_x[row] else "O") if knows_mode[row] else "U",
            "group_delay_ms": round(float(told_ms[row]), 4),
            "signal_strength_dbm": round(float(signal[row] + off_db[row]), 1),
            "snr_db": round(float(snr[row] + off_db[row]), 1),
            "tx_power_w": kind.tx_power_w,
            "tx_antenna_gain_dbi": 0.0,
            "rx_antenna_gain_dbi": 0.0,
            "bandwidth_khz": bandwidth_khz,
            "source": "simulated",
        }
        for row in np.flatnonzero(is_heard)
    ]


def _is_down(at_h: Array, hours: float, kind: Kind, random: np.random.Generator) -> NDArray[np.bool_]:
    is_down = np.zeros(at_h.size, dtype=np.bool_)
    for _ in range(random.poisson(kind.drops_per_day * hours / 24.0)):
        since = random.uniform(0.0, hours)
        is_down |= (at_h >= since) & (at_h < since + random.exponential(kind.drop_h))
    return is_down


def _choose_channel(ceiling_mhz: Array, kind: Kind, random: np.random.Generator) -> Array:
    """A channel below each ceiling, each alike; NaN where there is none."""
    low, high, step = SWEEP_MHZ
    channels = np.arange(low, high + step / 2.0, step) if kind.is_sweeping else np.array(AMATEUR_CHANNELS_MHZ)
    n_below = np.searchsorted(channels, ceiling_mhz)
    chosen = np.minimum((random.random(ceiling_mhz.size) * n_below).astype(int), channels.size - 1)
    return np.where(n_below > 0, channels[chosen], np.nan)


def as_rows(items: list[dict[str, Any]]) -> pd.DataFrame:
    """Items as rows of the dataset `measurements`, as curation leaves them in the lake, available 5 seconds after they were made."""
    frame = pd.DataFrame(items).reindex(columns=arrow_schema("measurements").names)
    frame["observed_at"] = pd.to_datetime(frame["observed_at"], utc=True, format="ISO8601").dt.as_unit("us")
    frame["received_at"] = frame["available_at"] = frame["observed_at"] + LATENCY
    frame["observation_id"] = [f"m{number}" for number in range(len(frame))]
    frame["revision"] = 0.0
    for name in ("elevation_deg", "group_delay_ms", "snr_db", "signal_strength_dbm"):
        frame[name] = pd.to_numeric(frame[name])
    return frame


def truth_table(truth: SimulatedTruth, times: pd.DatetimeIndex, places: pd.DataFrame) -> pd.DataFrame:
    """The truth at every time and place, to score by: columns valid_time, latitude_deg, longitude_deg and the layers'.

    `places` has latitude_deg and longitude_deg, and what else it has is kept.
    """
    rows = places.merge(pd.DataFrame({"valid_time": times}), how="cross")
    peaks: Peaks = truth.at(
        pd.DatetimeIndex(rows["valid_time"]),
        rows["latitude_deg"].to_numpy(),
        rows["longitude_deg"].to_numpy(),
    )
    return rows.assign(**{name: getattr(peaks, name) for name in ("fof2_mhz", "hmf2_km", "m3000f2", "b0_km")})
