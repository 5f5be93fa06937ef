"""The effective ionosonde index: the IG12 with which the background best fits what the sounders report.

Raw F10.7 biases IRI (at low activity by +0.4 MHz); an index fitted to the last day of foF2 removes most of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
