"""A simulated ionosphere whose truth is known: climatology, weather, a storm, and travelling disturbances.

The weather is a Gaussian field in space and time. A storm lowers foF2 and lifts the layer for hours; it is stronger
towards the pole. Travelling disturbances are plane waves of some 200 km and half an hour, far below what a network
resolves. The same seed is the same ionosphere, at any place and time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tasks.background import Background
from tasks.profile import Peaks
from tasks.simulation import (
    EARTH_RADIUS_KM,
    FOF2_DEPARTURE_SD,
    HMF2_DEPARTURE_SD_KM,
    SHIMAZAKI_KM,
    TRUE_IG12,
    SmoothField,
)

Array: TypeAlias = NDArray[np.float64]

B0_DEPARTURE_SD = 0.12  # of ln B0
SMALLEST_B0_KM = 20.0
REFERENCE_LATITUDE_DEG = 50.0  # where a storm has its own depth
STORM_GROWTH_PER_DEG = 0.02  # of its depth: negative phases are deeper towards the pole (Buonsanto 1999)


@dataclass(frozen=True)
class Storm:
    """A negative storm phase: foF2 sinks within hours of its onset and recovers over a day, the layer rises at first."""

    onset_h: float
    """Hours after the start of the truth."""
    depth: float = 0.25
    """Of ln foF2 at its deepest, at 50 degrees of latitude."""
    lift_km: float = 40.0
    growth_h: float = 3.0
    recovery_h: float = 12.0

    def depth_at(self, hours: Array, latitude_deg: Array) -> Array:
        """Departure of ln foF2, shape of the arguments."""
        since = np.maximum(hours - self.onset_h, 0.0)
        shape = (1.0 - np.exp(-since / self.growth_h)) * np.exp(-since / self.recovery_h)
        peak = np.log1p(self.recovery_h / self.growth_h) * self.growth_h
        largest = (1.0 - np.exp(-peak / self.growth_h)) * np.exp(-peak / self.recovery_h)
        growth = 1.0 + STORM_GROWTH_PER_DEG * (np.abs(latitude_deg) - REFERENCE_LATITUDE_DEG)
        return np.asarray(-self.depth * shape / largest * np.clip(growth, 0.0, 2.0))

    def lift_at(self, hours: Array) -> Array:
        """Departure of hmF2 in km, shape of the argument: it comes and goes faster than the depletion."""
        since = np.maximum(hours - self.onset_h, 0.0) / self.growth_h
        return np.asarray(self.lift_km * since * np.exp(1.0 - since))


@dataclass(frozen=True)
class TravellingDisturbance:
    """A plane wave over the region (medium-scale TIDs: 100-300 km, 15-60 min; Hocke and Schlegel 1996)."""

    amplitude: float
    """Of ln foF2."""
    lift_km: float
    wavelength_km: float
    period_h: float
    towards_deg: float
    """Azimuth of travel, clockwise from north."""
    phase: float

    def wave(self, hours: Array, latitude_deg: Array, longitude_deg: Array) -> Array:
        """Of amplitude one, shape of the arguments."""
        north_km = np.radians(latitude_deg) * EARTH_RADIUS_KM
        east_km = np.radians(longitude_deg) * EARTH_RADIUS_KM * np.cos(np.radians(latitude_deg))
        azimuth = np.radians(self.towards_deg)
        along_km = north_km * np.cos(azimuth) + east_km * np.sin(azimuth)
        turns = along_km / self.wavelength_km - hours / self.period_h
        return np.asarray(np.sin(2.0 * np.pi * turns + self.phase))


class SimulatedTruth:
    """The truth behind a simulated network of sounders.

    Args:
        seed: the same seed is the same ionosphere.
        start: aware time from which its hours count.
        storm: a storm, or None for a quiet span.
        has_disturbances: whether travelling disturbances cross it.

    Raises:
        ValueError: `start` carries no zone.
    """

    N_DISTURBANCES = 3
    DISTURBANCE_AMPLITUDE = 0.015
    DISTURBANCE_LIFT_KM = 4.0

    def __init__(
        self,
        seed: int,
        start: datetime,
        *,
        storm: Storm | None = None,
        has_disturbances: bool = True,
        background: Background | None = None,
    ) -> None:
        if start.tzinfo is None:
            raise ValueError(f"start: {start.isoformat()} carries no zone; give aware UTC")
        self.start = start
        self.storm = storm
        self.background = background or Background()
        random = np.random.default_rng([seed, 11])
        self._fof2 = SmoothField.draw(FOF2_DEPARTURE_SD, random)
        self._hmf2 = SmoothField.draw(HMF2_DEPARTURE_SD_KM, random)
        self._b0 = SmoothField.draw(B0_DEPARTURE_SD, random)
        self._disturbances = [
            TravellingDisturbance(
                amplitude=self.DISTURBANCE_AMPLITUDE,
                lift_km=self.DISTURBANCE_LIFT_KM,
                wavelength_km=float(random.uniform(150.0, 300.0)),
                period_h=float(random.uniform(0.4, 0.9)),
                towards_deg=float(random.uniform(0.0, 360.0)),
                phase=float(random.uniform(0.0, 2.0 * np.pi)),
            )
            for _ in range(self.N_DISTURBANCES if has_disturbances else 0)
        ]

    def at(self, times: pd.DatetimeIndex, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Peaks:
        """The layers at n times (aware) and places in degrees; arguments broadcast to shape (n,)."""
        hours = np.asarray((times - self.start) / timedelta(hours=1), dtype=np.float64)
        hours, latitude, longitude = np.broadcast_arrays(
            hours, np.asarray(latitude_deg, dtype=np.float64), np.asarray(longitude_deg, dtype=np.float64)
        )
        quiet = self.background.at(times, latitude, longitude, TRUE_IG12)
        departure = self._fof2.at(hours, latitude, longitude)
        lift_km = self._hmf2.at(hours, latitude, longitude)
        if self.storm is not None:
            departure = departure + self.storm.depth_at(hours, latitude)
            lift_km = lift_km + self.storm.lift_at(hours)
        for disturbance in self._disturbances:
            wave = disturbance.wave(hours, latitude, longitude)
            departure = departure + disturbance.amplitude * wave
            lift_km = lift_km + disturbance.lift_km * wave
        scale_km, _ = SHIMAZAKI_KM
        b0_km = quiet.b0_km * np.exp(self._b0.at(hours, latitude, longitude))
        return Peaks(
            fof2_mhz=quiet.fof2_mhz * np.exp(departure),
            hmf2_km=quiet.hmf2_km + lift_km,
            m3000f2=scale_km / (scale_km / quiet.m3000f2 + lift_km),
            b0_km=np.maximum(b0_km, SMALLEST_B0_KM),
            b1=quiet.b1,
            foe_mhz=quiet.foe_mhz,
            solar_zenith_deg=quiet.solar_zenith_deg,
            r12=np.full(hours.shape, TRUE_IG12),
        )
