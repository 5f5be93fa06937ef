"""A simulated network of ionosondes over Europe, for the demonstration and for tests that need to know the truth.

The truth is the climatology at an index of its own times a smooth departure in space and time, and the stations hear
it with noise, gaps and gross errors. Every sounder is named SIMnn and every item says `source: simulated`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tasks.background import Background

Array: TypeAlias = NDArray[np.float64]

STATIONS = (  # sounder_id, latitude_deg, longitude_deg: no real ionosonde stands at these places
    ("SIM01", 53.0, 6.5),
    ("SIM02", 47.5, 16.5),
    ("SIM03", 60.5, 23.0),
    ("SIM04", 39.5, -4.5),
    ("SIM05", 44.5, 10.0),
    ("SIM06", 39.5, 21.5),
    ("SIM07", 56.0, -3.5),
    ("SIM08", 50.5, 27.0),
)
STEP_MINUTES = 15
TRUE_IG12 = 105.0  # of the simulated world; the default of the analysis without stations is 75
EARTH_RADIUS_KM = 6371.0
LENGTH_SCALE_KM = 1000.0
TIME_SCALE_H = 4.0
N_WAVES = 256  # random Fourier features; the field's variance is within a few per cent of the kernel's
FOF2_DEPARTURE_SD = 0.12  # of ln foF2: quiet-time day-to-day variability is 10-20 %
HMF2_DEPARTURE_SD_KM = 15.0
SHIMAZAKI_KM = (
    1490.0,
    176.0,
)  # hmF2 = 1490 / M(3000)F2 - 176 (Shimazaki 1955): ties M to the height's departure
FOF2_NOISE_MHZ, HMF2_NOISE_KM, M3000F2_NOISE = 0.10, 8.0, 0.05
GAP_SHARE, GROSS_SHARE = 0.04, 0.03
IMPOSSIBLE_SHARE = 0.1  # of the gross errors: beyond any contract, so that the quarantine is not empty


@dataclass(frozen=True)
class SmoothField:
    """A stationary Gaussian random field on the sphere and in time, as a sum of random waves (Rahimi and Recht 2007).

    Its covariance is sd^2 exp(-d^2 / 2 L^2) exp(-t^2 / 2 T^2), d the chord between two points.
    """

    sd: float
    wave_per_km: Array  # (N_WAVES, 3)
    wave_per_h: Array  # (N_WAVES,)
    phase: Array  # (N_WAVES,)

    @classmethod
    def draw(cls, sd: float, random: np.random.Generator) -> SmoothField:
        """A field of this standard deviation with the module's length and time scale."""
        return cls(
            sd=sd,
            wave_per_km=random.normal(0.0, 1.0 / LENGTH_SCALE_KM, (N_WAVES, 3)),
            wave_per_h=random.normal(0.0, 1.0 / TIME_SCALE_H, N_WAVES),
            phase=random.uniform(0.0, 2.0 * np.pi, N_WAVES),
        )

    def at(self, hours: Array, latitude_deg: Array, longitude_deg: Array) -> Array:
        """Values at n places and times; arguments and result of shape (n,)."""
        latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
        place_km = EARTH_RADIUS_KM * np.stack(
            [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)],
            axis=-1,
        )
        waves = place_km @ self.wave_per_km.T + np.outer(hours, self.wave_per_h) + self.phase
        total: Array = self.sd * np.sqrt(2.0 / N_WAVES) * np.cos(waves).sum(axis=-1)
        return total


@dataclass(frozen=True)
class State:
    """The true ionosphere at n places and times: arrays of shape (n,)."""

    fof2_mhz: Array
    hmf2_km: Array
    m3000f2: Array


@dataclass
class SimulatedIonosphere:
    """The truth behind a simulated network: the same seed is the same ionosphere, at any place and time."""

    seed: int
    start: datetime
    background: Background = field(default_factory=Background)

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise ValueError(f"start: {self.start.isoformat()} carries no zone; give aware UTC")
        random = np.random.default_rng([self.seed, 1])
        self._fof2 = SmoothField.draw(FOF2_DEPARTURE_SD, random)
        self._hmf2 = SmoothField.draw(HMF2_DEPARTURE_SD_KM, random)

    def at(self, times: pd.DatetimeIndex, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> State:
        """The truth at n times (aware) and places in degrees; arguments broadcast to shape (n,)."""
        hours = np.asarray((times - self.start) / timedelta(hours=1), dtype=np.float64)
        hours, latitude, longitude = np.broadcast_arrays(
            hours, np.asarray(latitude_deg, dtype=np.float64), np.asarray(longitude_deg, dtype=np.float64)
        )
        quiet = self.background.at(times, latitude, longitude, TRUE_IG12)
        rise_km = self._hmf2.at(hours, latitude, longitude)
        scale_km, _ = SHIMAZAKI_KM
        return State(
            fof2_mhz=quiet.fof2_mhz * np.exp(self._fof2.at(hours, latitude, longitude)),
            hmf2_km=quiet.hmf2_km + rise_km,
            m3000f2=scale_km / (scale_km / quiet.m3000f2 + rise_km),
        )


def simulate_network(
    start: datetime, hours: float, seed: int, *, background: Background | None = None
) -> list[dict[str, Any]]:
    """Ionogram items of the simulated stations from `start` (aware) for `hours`, in order of time.

    About 4 % of the soundings are missing and 3 % of the foF2 are gross errors, a tenth of those impossible values that
    the contract refuses. The same arguments give the same items.

    Raises:
        ValueError: `start` has no zone or `hours` is not positive.
    """
    if hours <= 0:
        raise ValueError(f"hours: {hours} is not positive")
    truth = SimulatedIonosphere(seed, start, background or Background())
    random = np.random.default_rng([seed, 2])
    n_steps = int(hours * 60 // STEP_MINUTES) + 1
    grid = pd.date_range(start.astimezone(UTC), periods=n_steps, freq=f"{STEP_MINUTES}min")
    items: list[dict[str, Any]] = []
    for sounder_id, latitude_deg, longitude_deg in STATIONS:
        times = grid[random.random(n_steps) >= GAP_SHARE]
        n_obs = len(times)
        state = truth.at(times, latitude_deg, longitude_deg)
        fof2_mhz = state.fof2_mhz + random.normal(0.0, FOF2_NOISE_MHZ, n_obs)
        hmf2_km = state.hmf2_km + random.normal(0.0, HMF2_NOISE_KM, n_obs)
        m3000f2 = state.m3000f2 + random.normal(0.0, M3000F2_NOISE, n_obs)
        confidence = random.integers(70, 101, n_obs)
        is_gross = random.random(n_obs) < GROSS_SHARE
        is_impossible = is_gross & (random.random(n_obs) < IMPOSSIBLE_SHARE)
        # An interferer or a sporadic E trace taken for the F2 layer: far too high or about half.
        wrong = np.where(
            random.random(n_obs) < 0.5, random.uniform(1.6, 3.0, n_obs), random.uniform(0.4, 0.65, n_obs)
        )
        fof2_mhz = np.where(is_gross, fof2_mhz * wrong, fof2_mhz)
        fof2_mhz = np.where(is_impossible, 99.9, fof2_mhz)
        confidence = np.where(is_gross, random.integers(0, 90, n_obs), confidence)
        items += [
            {
                "sounder_id": sounder_id,
                "observed_at": time.isoformat().replace("+00:00", "Z"),
                "latitude_deg": latitude_deg,
                "longitude_deg": longitude_deg,
                "confidence_score": int(score),
                "fof2_mhz": round(float(fof2), 3),
                "hmf2_km": round(float(hmf2), 1),
                "m3000f2": round(float(m3000), 3),
                "source": "simulated",
            }
            for time, score, fof2, hmf2, m3000 in zip(
                times, confidence, fof2_mhz, hmf2_km, m3000f2, strict=True
            )
        ]
    return sorted(items, key=lambda item: (item["observed_at"], item["sounder_id"]))
