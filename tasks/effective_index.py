"""The effective ionosonde index: the IG12 with which the background best fits what the sounders report.

Raw F10.7 biases IRI (at low activity by +0.4 MHz); an index fitted to the last day of foF2 removes most of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from tasks.background import SolarLevels, f107_to_ig12
from tasks.kernel_config import KernelConfig
from tasks.row_errors import ERROR_OF, error_of
from tasks.window import hour_of, repeated

if TYPE_CHECKING:
    from collections.abc import Callable

Array: TypeAlias = NDArray[np.float64]

IG12_MINIMUM = -20.0
IG12_MAXIMUM = 200.0
#: Scale of ln(observed / background) foF2 in the first pass: day-to-day weather at mid-latitude (ITU-R P.1239 deciles).
WEATHER_SCALE = 0.12
#: Degrees of freedom of Student's t in the first pass: heavy tails, so that gross errors pull little.
DEGREES_OF_FREEDOM = 3.0
#: Cut-off of Tukey's biweight in the second pass, in robust standard deviations (95 % efficiency for normal errors).
BIWEIGHT_CUTOFF = 4.685
#: Smallest robust standard deviation of ln foF2: the scaling resolution of an ionogram.
SMALLEST_SCALE = 0.02
#: Median absolute deviation to standard deviation, for normal errors.
MAD_TO_SD = 1.4826
#: Smallest background foF2, MHz: the line through index 0 and 100 may fall below zero when drawn out.
FOF2_FLOOR_MHZ = 0.5
COARSE_STEP = 1.0
FINE_STEP = 0.01
MOST_ROWS = 5_000
"""That an index is fitted to: its standard error is below 0.2 long before."""
LEAST_TRUST = 0.1
"""Below it, an observation's own error drowns the weather: it says nothing of an index."""
#: How far the second pass may move from the first.
REFINEMENT_REACH = 20.0


def estimate_effective_index(
    obs_fof2_mhz: ArrayLike, fof2_at_0: ArrayLike, fof2_at_100: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """The IG12 in [-20, 200] that fits observed foF2 best by a robust misfit of its logarithm; deterministic.

    All arguments have shape (n,): observed foF2 in MHz, background foF2 in MHz at IG12 = 0 and 100 (foF2 is linear in
    IG12), and non-negative weights (default 1; give the newest most).

    Two passes: Student's t over the whole range, which has one clear minimum but leaves gross errors a small pull; then
    Tukey's biweight around it, scaled by the median absolute deviation, which leaves them none (Huber & Ronchetti 2009,
    sec. 4.8). Both look at whole units first, then at steps of 0.01, so that no local minimum is taken for the best; of
    equal minima the smallest index is returned. Raises ValueError for shapes that differ, values that are not positive,
    or no weight.
    """
    obs_value = _positive("obs_fof2_mhz", obs_fof2_mhz)
    low = _positive("fof2_at_0", fof2_at_0)
    high = _positive("fof2_at_100", fof2_at_100)
    weight = np.ones_like(obs_value) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    for name, column in (("fof2_at_0", low), ("fof2_at_100", high), ("weights", weight)):
        if column.shape != obs_value.shape:
            raise ValueError(f"{name} has {column.size} values where obs_fof2_mhz has {obs_value.size}")
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0):
        raise ValueError("weights must be finite, not negative, and not all zero")

    def residual(indices: Array) -> Array:
        fraction = np.atleast_1d(indices)[:, None] / 100.0
        background = np.maximum(low * (1.0 - fraction) + high * fraction, FOF2_FLOOR_MHZ)
        return np.asarray(np.log(obs_value / background))

    def student_t(indices: Array) -> Array:
        scaled = residual(indices) / WEATHER_SCALE
        return np.asarray(np.log1p(scaled**2 / DEGREES_OF_FREEDOM) @ weight)

    first = _minimise(student_t, IG12_MINIMUM, IG12_MAXIMUM)
    spread = MAD_TO_SD * _weighted_median(np.abs(residual(np.array([first])))[0], weight)
    cutoff = BIWEIGHT_CUTOFF * max(spread, SMALLEST_SCALE)

    def biweight(indices: Array) -> Array:
        inside = np.maximum(1.0 - (residual(indices) / cutoff) ** 2, 0.0)
        return np.asarray((1.0 - inside**3) @ weight)

    return _minimise(
        biweight, max(first - REFINEMENT_REACH, IG12_MINIMUM), min(first + REFINEMENT_REACH, IG12_MAXIMUM)
    )


@dataclass(frozen=True)
class ChosenIndex:
    ig12: float
    source: str
    """`stations`; `f107` or `few_stations` below the minimum of stations; `default` with nothing to go by."""


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
        # How near an observation with an error of its own comes to one with that of its class, by what it has more.
        trust = np.ones(value.size)
        if ERROR_OF["fof2_mhz"] in window:
            confidence = window["confidence_score"].to_numpy(dtype=np.float64)
            usual = limits.obs_error.of(confidence, kernel.confidence)
            excess = np.maximum(error_of(window, "fof2_mhz", kernel) ** 2 - usual**2, 0.0)
            trust = 1.0 / (1.0 + excess / (np.where(is_usable, value, 1.0) * WEATHER_SCALE) ** 2)
            is_usable &= trust > LEAST_TRUST
        usable = np.flatnonzero(is_usable)
        # A slow quantity needs no fast sampling: one observation per station and interval of the clock.
        is_repeated = repeated(age_h[usable], station[usable], kernel, hour_of(window, age_h))
        usable = usable[~is_repeated]
        # Nor does it need every sounder of a large network at every interval: they take turns, so that each still speaks.
        turns = -(-usable.size // MOST_ROWS) if usable.size else 1
        is_due = (station[usable] + np.arange(usable.size)) % turns == 0
        self._rows = usable[is_due]
        self._value = value[self._rows]
        self._levels = levels.fof2_mhz[:, self._rows]
        self._station = station[self._rows]
        # Each station counts once at equal age, however often it sounds.
        per_station = np.bincount(self._station, minlength=1)
        self._weight = (
            np.exp(-age_h[self._rows] / kernel.effective_index.memory_h) / per_station[self._station]
        ) * trust[self._rows]
        self._settings = kernel.effective_index
        self._f107_sfu = f107_sfu

    def choose(self, excluded: NDArray[np.int64] | None = None) -> ChosenIndex:
        """The index from all stations, or all but those excluded."""
        kept = (
            np.ones(self._rows.size, dtype=bool)
            if excluded is None
            else np.isin(self._station, excluded, invert=True)
        )
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


def _minimise(misfit: Callable[[Array], Array], lower: float, upper: float) -> float:
    coarse = np.append(np.arange(lower, upper, COARSE_STEP), upper)
    best = coarse[np.argmin(misfit(coarse))]
    n_fine = round(COARSE_STEP / FINE_STEP)
    fine = np.clip(best + np.arange(-n_fine, n_fine + 1) * FINE_STEP, lower, upper)
    return float(round(fine[np.argmin(misfit(fine))], 2))


def _weighted_median(values: Array, weight: Array) -> float:
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])


def _positive(name: str, values: ArrayLike) -> Array:
    column = np.asarray(values, dtype=np.float64).ravel()
    wrong = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
    if wrong.size:
        raise ValueError(f"{name}[{wrong[0]}] = {column[wrong[0]]}: a positive number is needed")
    if column.size == 0:
        raise ValueError(f"{name} is empty")
    return column
