"""Where new sounders are worth most: the gain of a sounder anywhere, several placed one after the other, one tried.

A new sounder is a series of observations like those that it would have sent during the window of the analysis, thinned as
that thins, with the errors of its tier. Its gain, the fall of the mean variance of foF2 over the area, is exact for them
(`rust_core.Analysis.candidate_gain`). Several are placed greedily, each where it gains most beside those before: variance
reductions of Gaussian fields are nearly submodular, so that this comes near the best set (Krause, Singh and Guestrin 2008;
(1 - 1/e) of it where they are).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.amplitude import amplitudes
from tasks.gaps import Gap, closed_shares, find_gaps
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.masks import Mask, everywhere
from tasks.posterior import FOF2, Posterior, Targets
from tasks.superobservations import Rows
from tasks.target_area import Area
from tasks.tier_errors import ASSUMED, TierError
from tasks.window import repeated

Array: TypeAlias = NDArray[np.float64]

MINUTES_PER_H, SECONDS_PER_H = 60.0, 3600.0
MOST_COVARIANCES = 10_000_000
"""Held at once between the rows and those of candidates, 80 MB."""
MOST_PER_H = 3_600.0
"""Beyond one observation for each window of the analysis a higher rate changes nothing."""
HMF2 = QUANTITIES.index("hmf2_km")


class PlacementError(ValueError):
    """A placement was asked for that cannot be made; the message names the argument."""


@dataclass(frozen=True)
class NewSounder:
    """What is assumed of a sounder that does not exist yet."""

    tier: str
    error: TierError

    @classmethod
    def of_tier(
        cls, tier: str, table: Mapping[str, TierError] = ASSUMED, per_h: float | None = None
    ) -> NewSounder:
        """A sounder of a tier by a table of errors; `per_h` are its observations of foF2 per hour, by default those of its tier.

        Raises:
            PlacementError: there is no such tier, or no such rate.
        """
        if tier not in table:
            raise PlacementError(f"tier {tier!r} is none of {', '.join(table)}")
        if per_h is None:
            return cls(tier, table[tier])
        if not 0.0 <= per_h <= MOST_PER_H:
            raise PlacementError(
                f"observations per hour must lie between 0 and {MOST_PER_H:g}, got {per_h:g}"
            )
        return cls(tier, replace(table[tier], per_h=per_h))

    def ages_h(self, kernel: KernelConfig, valid_at: pd.Timestamp) -> Array:
        """Ages of its observations that the analysis would use at a time, oldest first, shape (J,).

        At the middle of every window of the clock, or evenly and more seldom where it has fewer.
        """
        if self.error.per_h == 0.0:
            return np.zeros(0)
        window_h = kernel.sounders.window_minutes / MINUTES_PER_H
        interval_h = max(window_h, 1.0 / self.error.per_h)
        n_intervals = math.ceil(kernel.window.window_h / interval_h)
        age_h = interval_h * (np.arange(n_intervals, dtype=np.float64) + 0.5)[::-1]
        age_h = age_h[age_h < kernel.window.window_h]
        is_thinned = repeated(
            age_h, np.zeros(age_h.size, dtype=np.int64), kernel, valid_at.timestamp() / 3600.0
        )
        return np.asarray(age_h[~is_thinned | (age_h <= kernel.window.full_rate_h)])


@dataclass(frozen=True)
class Series:
    """What new sounders at places (K,) would observe at times (J,)."""

    time_h: Array
    error: Array
    """In the unit of the innovations, infinite for what is not observed, shape (J, Q, K)."""
    amplitude: Array
    """(J, Q, K)."""

    def rows(self, place: int) -> Rows:
        """Of one of the places, with the values that are expected."""
        error = self.error[..., place]
        sounding, quantity = np.nonzero(np.isfinite(error))
        nothing = np.zeros(sounding.size)
        return Rows(
            station=np.zeros(sounding.size, dtype=np.int64),
            quantity=quantity,
            time_h=self.time_h[sounding],
            value=nothing,
            innovation=nothing,
            error=error[sounding, quantity],
            amplitude=self.amplitude[sounding, quantity, place],
        )


def series_of(sounder: NewSounder, posterior: Posterior, latitude_deg: Array, longitude_deg: Array) -> Series:
    """The observations of a new sounder at each of the places (K,).

    A part of the error in MHz is one of ln foF2 by the climatology's foF2 at the place and time. hmF2 is left out where nothing
    correlates it with foF2: it would change nothing. Errors are larger by what the robust weights are expected to take.
    """
    kernel = posterior.kernel
    age_h = sounder.ages_h(kernel, posterior.valid_at)
    shape = (age_h.size, len(QUANTITIES), latitude_deg.size)
    error, amplitude = np.full(shape, np.inf), np.ones(shape)
    wider = 1.0 / math.sqrt(expected_weight(kernel.quality.full_weight_sd))
    uses_height = any("hmf2_km" in pair for term in kernel.terms for pair in term.correlation)
    for number, age in enumerate(age_h):
        time = (posterior.valid_at - pd.Timedelta(seconds=round(age * SECONDS_PER_H))).to_pydatetime()
        state = posterior.background.on_grid(time, latitude_deg, longitude_deg, posterior.ig12)
        amplitude[number] = amplitudes(kernel, time, latitude_deg, longitude_deg, posterior.f107_sfu)
        error[number, FOF2] = sounder.error.ln_fof2(state.fof2_mhz) * wider
        if uses_height and sounder.error.hmf2_km is not None:
            error[number, HMF2] = sounder.error.hmf2_km * wider
    return Series(-age_h, error, amplitude)


def expected_weight(full_weight_sd: float) -> float:
    """Mean of the robust weight min(1, c / |z|) of a standard normal z: 0.91 for c = 1."""
    from scipy.special import exp1

    c = full_weight_sd
    inside = math.erf(c / math.sqrt(2.0))
    return inside + c * float(exp1(c * c / 2.0)) / math.sqrt(2.0 * math.pi)


@dataclass(frozen=True)
class GainMap:
    """The gain of one new sounder over the points (n,) of a grid."""

    area: Area
    """Of the candidates; its weights do not count."""
    gain_mhz2: Array
    """NaN where no sounder may stand."""
    variance_mhz2: float
    """Mean over the target area before."""
    sounder: NewSounder

    @property
    def percent(self) -> Array:
        return np.asarray(100.0 * self.gain_mhz2 / self.variance_mhz2)

    @property
    def best(self) -> int:
        """Point of the largest gain."""
        return int(np.nanargmax(self.gain_mhz2))


def gain_map(
    posterior: Posterior, targets: Targets, sounder: NewSounder, candidates: Area, mask: Mask = everywhere
) -> GainMap:
    """The gain of one new sounder at each allowed point of `candidates`.

    Raises:
        PlacementError: no point is allowed.
    """
    chosen = np.flatnonzero(mask(candidates.latitude_deg, candidates.longitude_deg))
    if not chosen.size:
        raise PlacementError(
            f"no point of the grid of {candidates.grid.step_deg:g} degrees lies within the mask: widen it, or try one "
            "place"
        )
    latitude, longitude = candidates.latitude_deg[chosen], candidates.longitude_deg[chosen]
    gain = np.full(len(candidates), np.nan)
    gain[chosen] = gain_at(posterior, targets, sounder, latitude, longitude)
    return GainMap(candidates, gain, targets.variance_mhz2, sounder)


def gain_at(
    posterior: Posterior, targets: Targets, sounder: NewSounder, latitude_deg: Array, longitude_deg: Array
) -> Array:
    """The gain of one new sounder at each of the places (K,), MHz^2."""
    n_rows = max(
        posterior.entered.station.size * sounder.ages_h(posterior.kernel, posterior.valid_at).size, 1
    )
    n_at_once = max(MOST_COVARIANCES // n_rows, 1)
    gain = [
        _gain_at(posterior, targets, sounder, latitude_deg[part], longitude_deg[part])
        for first in range(0, latitude_deg.size, n_at_once)
        for part in [slice(first, first + n_at_once)]
    ]
    return np.concatenate([np.zeros(0), *gain])


def _gain_at(
    posterior: Posterior, targets: Targets, sounder: NewSounder, latitude_deg: Array, longitude_deg: Array
) -> Array:
    series = series_of(sounder, posterior, latitude_deg, longitude_deg)
    qd_latitude, qd_longitude = posterior.background.quasi_dipole(
        latitude_deg, longitude_deg, posterior.valid_at.year
    )
    gain = posterior.analysis.candidate_gain(
        qd_latitude,
        qd_longitude,
        series.time_h,
        series.error,
        *targets.places,
        weight=targets.weight,
        candidate_amplitude=series.amplitude,
        amplitude=targets.amplitude,
    )
    return np.asarray(gain[:, FOF2])


@dataclass(frozen=True)
class Placed:
    """One new sounder among others."""

    latitude_deg: float
    longitude_deg: float
    gain_mhz2: float
    """Beside the sounders that are there and those placed before."""
    gain_percent: float
    """Of the variance without any new sounder."""
    variance_after_mhz2: float


def add_sounder(
    posterior: Posterior, sounder: NewSounder, latitude_deg: float, longitude_deg: float
) -> Posterior:
    """The posterior with a new sounder that observes what is expected."""
    at = np.array([latitude_deg]), np.array([longitude_deg])
    qd_latitude, qd_longitude = posterior.background.quasi_dipole(*at, posterior.valid_at.year)
    rows = series_of(sounder, posterior, *at).rows(0)
    return posterior.with_station(float(qd_latitude[0]), float(qd_longitude[0]), rows)


def place(
    posterior: Posterior,
    targets: Targets,
    sounder: NewSounder,
    n_sounders: int,
    candidates: Area,
    mask: Mask = everywhere,
) -> tuple[list[Placed], GainMap]:
    """Place new sounders one after the other where each gains most; with the map of the first one's gain.

    Raises:
        PlacementError: fewer than one sounder, or no point is allowed.
    """
    if n_sounders < 1:
        raise PlacementError(f"{n_sounders} sounders cannot be placed: ask for at least one")
    first = found = gain_map(posterior, targets, sounder, candidates, mask)
    placed: list[Placed] = []
    variance = targets.variance_mhz2
    for number in range(n_sounders):
        if number:
            found = gain_map(posterior, targets, sounder, candidates, mask)
        best = found.best
        latitude, longitude = float(candidates.latitude_deg[best]), float(candidates.longitude_deg[best])
        gain = float(found.gain_mhz2[best])
        variance -= gain
        placed.append(Placed(latitude, longitude, gain, 100.0 * gain / targets.variance_mhz2, variance))
        if number + 1 < n_sounders:
            posterior = add_sounder(posterior, sounder, latitude, longitude)
    return placed, first


@dataclass(frozen=True)
class WhatIf:
    """What one new sounder at a place would change."""

    latitude_deg: float
    longitude_deg: float
    sounder: NewSounder
    variance_before_mhz2: float
    variance_after_mhz2: float
    sd_before_mhz: float
    """At the place itself."""
    sd_after_mhz: float
    gaps_before: list[Gap]
    closed_share: list[float]
    """Of the surface of each of them."""
    gaps_after: list[Gap]

    @property
    def gain_mhz2(self) -> float:
        return self.variance_before_mhz2 - self.variance_after_mhz2

    @property
    def gain_percent(self) -> float:
        return 100.0 * self.gain_mhz2 / self.variance_before_mhz2


def what_if(
    posterior: Posterior, targets: Targets, sounder: NewSounder, latitude_deg: float, longitude_deg: float
) -> WhatIf:
    """Try one new sounder at a place, by solving again with it.

    Raises:
        PlacementError: no place on Earth.
    """
    if not (-90 <= latitude_deg <= 90 and -180 <= longitude_deg <= 180):
        raise PlacementError(
            f"latitude and longitude must lie in -90..90 and -180..180 degrees, got {latitude_deg:g}, {longitude_deg:g}"
        )
    with_it = add_sounder(posterior, sounder, latitude_deg, longitude_deg)
    after = replace_variance(targets, with_it.ln_variance(targets))
    here = point_area(targets.area, latitude_deg, longitude_deg)
    own = posterior.over(here)
    return WhatIf(
        latitude_deg,
        longitude_deg,
        sounder,
        targets.variance_mhz2,
        after.variance_mhz2,
        float(own.sd_mhz[0]),
        float(replace_variance(own, with_it.ln_variance(own)).sd_mhz[0]),
        find_gaps(targets),
        closed_shares(targets, after),
        find_gaps(after),
    )


def replace_variance(targets: Targets, ln_variance: Array) -> Targets:
    """The same area, foF2 and factor with another posterior variance."""
    return replace(targets, ln_variance=ln_variance)


def point_area(area: Area, latitude_deg: float, longitude_deg: float) -> Area:
    """One place as an area."""
    return Area(
        area.grid,
        np.array([latitude_deg]),
        np.array([longitude_deg]),
        np.ones(1),
        np.ones(1),
    )
