"""Retrieval: the foF2, hmF2 and B0 that the echoes of one sounder and window say, with their full error covariance.

A robust maximum a posteriori fit by the Levenberg-Marquardt method, all soundings side by side; the delays, ceilings and their
derivatives are the kernel's (`tasks.group_delay`). Terms of the cost, for x = (ln foF2, hmF2, ln B0):

* a delay: Student's t of its residual, so that a wrong echo loses its say;
* an echo at f at all: the ceiling of its mode is above f, ``-ln((1 - e) Phi((ceiling - f) / width) + e)``, e the share of wrong ones;
* the climatology, with a wide error.

The climatology is taken out of the result again, so that the analysis does not use it twice: in the directions that diagonalize
the information L of the echoes beside the prior's (whitened by it), ``y = x_prior + (1 + l) / max(l, floor) (x - x_prior)`` with
variance ``1 / max(l, floor)``. Where the echoes say nothing, that is a wide error and no division by zero (Rodgers 2000, sections
2.4 and 5.6.2, for the linear case).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtr

from tasks.group_delay import ceilings, echoes
from tasks.profile import Peaks

Array: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

ORDINARY, EXTRAORDINARY, UNKNOWN = "O", "X", "U"
FREEDOM = 4.0
"""Degrees of freedom of Student's t: a residual of 3 sd has 0.4 of the weight, one of 10 sd 0.05."""
WRONG_SHARE = 0.05
"""Of echoes whose frequency, or mode, is wrong."""
MODE_PENALTY = {ORDINARY: 12.0, UNKNOWN: 1.0}
"""What the extraordinary wave must fit better by to be taken instead, in squared standard deviations: an unknown one is the ordinary
wave somewhat more often than not, a reported one almost always. Who reports the extraordinary wave has seen it apart."""
UNSTEADY = 0.02
"""By what share foF2 moves within a window (1 sd): travelling disturbances, sunrise."""
CEILING_WIDTH = 0.02
"""Softness of a ceiling as a share of the frequency: of the profile within a window."""
EXCESS = (7.5, 10.0)
"""Mean and sd, in these widths, of a ceiling over the highest echo that says something of it: the channels of amateurs lie 40 %
apart, and many sounders are wrong by it in the same way."""
OUTLIER_SD = 4.0
"""A residual beyond it is reported as one."""
MAX_ITERATIONS = 25
CONVERGED = 1e-3
"""Of the prior's standard deviations."""
LARGEST_STEP = 1.0
LOWEST, HIGHEST = np.array([np.log(0.8), 150.0, np.log(15.0)]), np.array([np.log(25.0), 700.0, np.log(400.0)])
FIRST_MARGIN = 1.03
"""Ceiling of a first guess over the frequencies that it must let pass."""
PERCENTILE = 75.0
"""The second first guess lets this share of the frequencies pass: the highest may be wrong."""


@dataclass(frozen=True)
class Waves:
    """Echoes of n waves: arrays of shape (n,)."""

    path: Numbers
    """Which sounding each belongs to."""
    frequency_mhz: Array
    mode: NDArray[np.object_]
    """O, X or U as reported."""
    delay_ms: Array
    """NaN where the frequency alone counts."""
    error_ms: Array
    distance_km: Array
    gyrofrequency_mhz: Array
    dip_deg: Array

    def take(self, rows: Numbers) -> Waves:
        return Waves(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Retrieved:
    """What the echoes of P soundings say, and what was made of each echo."""

    value: Array
    """(P, 3): ln foF2, hmF2 in km and ln B0 without the climatology."""
    covariance: Array
    """(P, 3, 3), of `value`."""
    fitted: Array
    """(P, 3), with the climatology."""
    freedom: Array
    """(P, 3): of each quantity the share of the posterior that the echoes decided, 0..1."""
    delay_ms: Array
    """(n,), of the fitted profile in the mode used; NaN above its ceiling."""
    weight: Array
    """(n,), 0..1: share of its own information that each delay kept."""
    is_extraordinary: Mask
    """(n,), the mode used."""
    outcome: NDArray[np.object_]
    """(n,): used, ceiling_only, outlier or above_ceiling."""


def retrieve(
    prior: Peaks, prior_sd: Array, waves: Waves, *, least_information: float, threads: int = 0
) -> Retrieved:
    """Fit P soundings.

    Args:
        prior: climatology above the P paths.
        prior_sd: of ln foF2, hmF2 in km and ln B0, shape (3,).
        waves: their echoes, in any order: within a sounding they are sorted first, so order changes no bit.
        least_information: floor of l, see the module.
        threads: of the kernel, 0 for all cores.
    """
    n_paths = np.asarray(prior.fof2_mhz).size
    order = np.lexsort(
        (waves.error_ms, waves.delay_ms, waves.mode.astype(str), waves.frequency_mhz, waves.path)
    )
    fit = _Fit(prior, prior_sd, waves.take(order), threads)
    if n_paths == 0:
        none = np.zeros((0, 3))
        nothing = np.zeros(0)
        return Retrieved(
            value=none,
            covariance=np.zeros((0, 3, 3)),
            fitted=none,
            freedom=none,
            delay_ms=nothing,
            weight=nothing,
            is_extraordinary=nothing.astype(np.bool_),
            outcome=nothing.astype(object),
        )
    every = np.arange(n_paths)
    best, cost = fit.minimize(fit.first_guess(100.0), every)
    state = fit.evaluate(best, every)
    # Where an echo does not fit, the highest frequency may have been the wrong one to begin with.
    is_odd = np.isin(state.outcomes(fit.waves), ["outlier", "above_ceiling"])
    suspect = np.unique(fit.waves.path[is_odd])
    if suspect.size:
        other, other_cost = fit.minimize(fit.first_guess(PERCENTILE), suspect)
        is_better = other_cost < cost - 1e-6
        best[is_better] = other[is_better]
        state = fit.evaluate(best, every)
    mean, precision = fit.with_ceiling(best, state)
    # Once more about the mean, where the delays bend less than at the ceiling.
    mean = np.clip(mean, LOWEST, HIGHEST)
    mean, precision = fit.with_ceiling(mean, fit.evaluate(mean, every))
    value, covariance, freedom = fit.without_prior(mean, precision, least_information)
    outcome, back = state.outcomes(fit.waves), np.argsort(order, kind="stable")
    return Retrieved(
        value,
        covariance,
        mean,
        freedom,
        state.delay_ms[back],
        state.weight[back],
        state.is_x[back],
        outcome[back],
    )


@dataclass(frozen=True)
class _State:
    """The cost of some soundings at one x, its slope and curvature, and what it makes of their echoes."""

    cost: Array
    gradient: Array
    information: Array
    of_delays: tuple[Array, Array]
    """Gradient and information of prior and delays alone."""
    lowest: tuple[Array, Array]
    """See `_Fit._lowest`."""
    delay_ms: Array
    residual: Array
    """In standard deviations; NaN without a delay, or above the ceiling."""
    weight: Array
    is_x: Mask

    def outcomes(self, waves: Waves) -> NDArray[np.object_]:
        has_delay = ~np.isnan(waves.delay_ms)
        return np.select(
            [np.isnan(self.delay_ms), ~has_delay, np.abs(self.residual) > OUTLIER_SD],
            ["above_ceiling", "ceiling_only", "outlier"],
            "used",
        ).astype(object)


class _Fit:
    def __init__(self, prior: Peaks, prior_sd: Array, waves: Waves, threads: int) -> None:
        self.prior, self.prior_sd, self.waves, self.threads = prior, prior_sd, waves, threads or None
        self.mean = np.column_stack(
            [np.log(prior.fof2_mhz), np.asarray(prior.hmf2_km, float), np.log(prior.b0_km)]
        )
        # foF2 that lets each frequency come back; of a wave that is or may be extraordinary, by that mode's ceiling.
        f, gyro = waves.frequency_mhz, waves.gyrofrequency_mhz
        self.needed = np.where(waves.mode == ORDINARY, f, np.sqrt(np.maximum(f * (f - gyro), 0.25)))

    def first_guess(self, percentile: float) -> Array:
        """The climatology, its foF2 raised until that share of the frequencies comes back."""
        guess = self.mean.copy()
        starts = np.searchsorted(self.waves.path, np.arange(len(guess)))
        for path, (low, high) in enumerate(zip(starts, [*starts[1:], self.waves.path.size], strict=True)):
            if high > low:
                must = float(np.percentile(self.needed[low:high], percentile, method="lower"))
                guess[path, 0] = max(guess[path, 0], np.log(FIRST_MARGIN * max(must, 0.1)))
        return np.asarray(np.clip(guess, LOWEST, HIGHEST))

    def minimize(self, x: Array, active: Numbers) -> tuple[Array, Array]:
        """Levenberg and Marquardt from x, (P, 3): the minimum found for each sounding `active`, and its cost; else infinite."""
        x = x.copy()
        cost, gradient = np.full(len(x), np.inf), np.zeros((len(x), 3))
        information = np.zeros((len(x), 3, 3))
        state = self.evaluate(x, active)
        cost[active], gradient[active], information[active] = state.cost, state.gradient, state.information
        damping = np.full(len(x), 1e-2)
        precision = np.diag(self.prior_sd**-2.0)
        for _ in range(MAX_ITERATIONS):
            hessian = information[active] + precision
            scaled = (
                hessian
                + damping[active, None, None] * np.eye(3) * np.diagonal(hessian, axis1=1, axis2=2)[:, None, :]
            )
            step = np.linalg.solve(scaled, -gradient[active][:, :, None])[:, :, 0]
            size = np.abs(step / self.prior_sd).max(axis=1)
            step *= np.minimum(1.0, LARGEST_STEP / np.maximum(size, 1e-12))[:, None]
            trial = x.copy()
            trial[active] = np.clip(x[active] + step, LOWEST, HIGHEST)
            tried = self.evaluate(trial, active)
            is_better = tried.cost <= cost[active]
            taken = active[is_better]
            x[taken] = trial[taken]
            cost[taken], gradient[taken] = tried.cost[is_better], tried.gradient[is_better]
            information[taken] = tried.information[is_better]
            damping[active] = np.where(is_better, damping[active] / 5.0, damping[active] * 8.0)
            is_done = (is_better & (size < CONVERGED)) | (damping[active] > 1e6)
            active = active[~is_done]
            if active.size == 0:
                break
        return x, cost

    def evaluate(self, x: Array, paths: Numbers) -> _State:
        """Cost and derivatives of the soundings `paths` (ascending); arrays by echo are those of their echoes."""
        number = np.full(len(x), -1)
        number[paths] = np.arange(paths.size)
        rows = np.flatnonzero(number[self.waves.path] >= 0)
        waves, n_paths = self.waves.take(rows), paths.size
        own = number[waves.path]
        columns = {
            name: np.broadcast_to(np.asarray(values, dtype=np.float64), len(x))[paths]
            for name, values in vars(self.prior).items()
        }
        peaks = Peaks(
            **columns
            | {"fof2_mhz": np.exp(x[paths, 0]), "hmf2_km": x[paths, 1], "b0_km": np.exp(x[paths, 2])}
        )
        delay, by, is_x, paid = self._best_mode(peaks, own, waves)
        offset = x[paths] - self.mean[paths]
        cost = 0.5 * (offset**2 / self.prior_sd**2).sum(axis=1)
        gradient = offset / self.prior_sd**2
        information = np.zeros((n_paths, 3, 3))

        error = _error_ms(waves, by)
        residual = (waves.delay_ms - delay) / error
        has_residual = ~np.isnan(residual)
        squared = np.where(has_residual, residual, 0.0) ** 2
        weight = np.where(has_residual, (FREEDOM + 1.0) / (FREEDOM + squared), 0.0)
        slope = np.where(has_residual[:, None], by, 0.0) / error[:, None]
        above, z, by_ceiling = self._ceiling(peaks, own, waves, is_x)
        # A delay that no profile with this ceiling has: what a far outlier costs, less where the ceiling was above for a while.
        lost = (
            0.5 * (FREEDOM + 1.0) * np.log1p(OUTLIER_SD**2 / FREEDOM) * np.minimum(1.0, (z / OUTLIER_SD) ** 2)
        )
        of_delay = 0.5 * (FREEDOM + 1.0) * np.log1p(squared / FREEDOM) + np.log(error / waves.error_ms)
        of_delay = np.where(np.isnan(waves.delay_ms), 0.0, np.where(has_residual, of_delay, lost))
        np.add.at(cost, own, of_delay + paid)
        pull = weight * np.where(has_residual, residual, 0.0)
        np.add.at(gradient, own, -pull[:, None] * slope)
        np.add.at(information, own, weight[:, None, None] * slope[:, :, None] * slope[:, None, :])

        of_delays = gradient.copy(), information.copy()
        np.add.at(cost, own, -above)
        inside = np.exp(log_ndtr(z))
        density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
        share = (1.0 - WRONG_SHARE) / ((1.0 - WRONG_SHARE) * inside + WRONG_SHARE)
        force = share * density
        np.add.at(gradient, own, -force[:, None] * by_ceiling)
        curvature = np.maximum(force * (force + z), 0.0)
        np.add.at(
            information, own, curvature[:, None, None] * by_ceiling[:, :, None] * by_ceiling[:, None, :]
        )
        lowest = self._lowest(own, z, by_ceiling, n_paths)
        return _State(
            cost, gradient, information, of_delays, lowest, delay, residual, np.minimum(weight, 1.0), is_x
        )

    @staticmethod
    def _lowest(own: Numbers, z: Array, by_ceiling: Array, n_paths: int) -> tuple[Array, Array]:
        """Of every sounding the least distance of its ceiling from an echo that it must let pass, in widths, and its derivatives.

        An echo far above the ceiling is a wrong one and asks for nothing.
        """
        asks = np.where(z > -OUTLIER_SD, z, np.inf)
        order = np.lexsort((asks, own))
        first = np.unique(own[order], return_index=True)[1]
        least, by = np.full(n_paths, np.inf), np.zeros((n_paths, 3))
        least[own[order][first]] = asks[order][first]
        by[own[order][first]] = by_ceiling[order][first]
        return least, by

    def _best_mode(self, peaks: Peaks, own: Numbers, waves: Waves) -> tuple[Array, Array, Mask, Array]:
        """Delay, its derivatives and mode of every echo, in the mode that explains it, and what another than reported costs."""
        reported_x = waves.mode == EXTRAORDINARY

        def of(rows: Numbers, is_x: Mask) -> tuple[Array, Array, Array]:
            part = waves.take(rows)
            wave = echoes(
                peaks,
                own[rows],
                part.frequency_mhz,
                is_x,
                part.distance_km,
                part.gyrofrequency_mhz,
                part.dip_deg,
                n_threads=self.threads,
            )
            residual = np.abs(part.delay_ms - wave.delay_ms) / _error_ms(part, wave.delay_by)
            # Without a delay any mode that comes back will do; what does not is as good as a far outlier.
            misfit = np.where(np.isnan(wave.delay_ms), OUTLIER_SD, np.nan_to_num(residual)) ** 2
            return wave.delay_ms, wave.delay_by, misfit

        every = np.arange(own.size)
        delay, by, misfit = of(every, reported_x)
        penalty = np.where(waves.mode == UNKNOWN, MODE_PENALTY[UNKNOWN], MODE_PENALTY[ORDINARY])
        # The other mode is worth a look only where it could be better.
        rows = np.flatnonzero(~reported_x & (misfit > penalty))
        is_x, paid = reported_x.copy(), np.zeros(own.size)
        if rows.size:
            other_delay, other_by, other = of(rows, np.ones(rows.size, dtype=np.bool_))
            is_other = (other + penalty[rows] < misfit[rows]) & ~np.isnan(other_delay)
            taken = rows[is_other]
            delay[taken], by[taken] = other_delay[is_other], other_by[is_other]
            is_x[taken], paid[taken] = True, 0.5 * penalty[taken]
        return delay, by, is_x, paid

    def _ceiling(self, peaks: Peaks, own: Numbers, waves: Waves, is_x: Mask) -> tuple[Array, Array, Array]:
        """Of every echo: ln of the probability that the ceiling is above it, its distance in widths, and the derivatives of that."""
        # One sounding has one ceiling per mode.
        key, first, back = np.unique(own * 2 + is_x, return_index=True, return_inverse=True)
        part = waves.take(first)
        ceiling = ceilings(
            peaks,
            key // 2,
            key % 2 == 1,
            part.distance_km,
            part.gyrofrequency_mhz,
            part.dip_deg,
            n_threads=self.threads,
        )
        width = CEILING_WIDTH * waves.frequency_mhz
        z = np.clip(np.nan_to_num((ceiling.mhz[back] - waves.frequency_mhz) / width, nan=-30.0), -30.0, 30.0)
        above = np.log((1.0 - WRONG_SHARE) * ndtr(z) + WRONG_SHARE)
        return above, z, np.nan_to_num(ceiling.by[back]) / width[:, None]

    def with_ceiling(self, x: Array, state: _State) -> tuple[Array, Array]:
        """Mean (P, 3) and precision (P, 3, 3) of what delays, climatology and the ceiling say together.

        Delays and climatology are Gaussian about the fit. Where their mean would not let the highest echo pass, the ceiling is
        taken to be `EXCESS` above it. The likelihood is a step, and its exact moments would lean on the wide climatology, whose
        tail the analysis does not share; where the mean lets the echo pass, it says nothing.
        """
        gradient, information = state.of_delays
        precision = information + np.diag(self.prior_sd**-2.0)
        covariance = np.linalg.inv(precision)
        mean = x - np.einsum("pij,pj->pi", covariance, gradient)
        least, slope = state.lowest
        z = np.where(np.isfinite(least), least + np.einsum("pi,pi->p", slope, mean - x), np.inf)
        (excess, excess_sd), is_cut = EXCESS, z < 0.0
        along = np.einsum("pij,pj->pi", covariance, slope)
        variance = np.einsum("pi,pi->p", slope, along)
        gain = np.where(is_cut, (excess - np.where(is_cut, z, 0.0)) / (variance + excess_sd**2), 0.0)
        added = np.where(is_cut, excess_sd**-2.0, 0.0)
        return (
            mean + along * gain[:, None],
            precision + added[:, None, None] * slope[:, :, None] * slope[:, None, :],
        )

    def without_prior(self, mean: Array, precision: Array, least: float) -> tuple[Array, Array, Array]:
        """What the echoes alone say: value, covariance and degrees of freedom; see the module."""
        scale = self.prior_sd
        seen, vectors = np.linalg.eigh(scale[:, None] * precision * scale[None, :] - np.eye(3))
        seen = np.maximum(seen, 0.0)
        floored = np.maximum(seen, least)
        along = np.einsum("pji,pj->pi", vectors, (mean - self.mean) / scale)
        value = self.mean + scale * np.einsum("pij,pj->pi", vectors, along * (1.0 + seen) / floored)
        covariance = np.einsum("pik,pk,pjk->pij", vectors, 1.0 / floored, vectors)
        freedom = np.einsum("pik,pk,pik->pi", vectors, seen / (1.0 + seen), vectors)
        return value, scale[:, None] * covariance * scale[None, :], freedom


def _error_ms(waves: Waves, delay_by: Array) -> Array:
    """Error (1 sd) of each delay as one of the window's mean layer.

    Each echo met the layer as it was just then; next to the ceiling, where delays grow without bound, that is most of it.
    """
    return np.hypot(waves.error_ms, UNSTEADY * np.nan_to_num(delay_by[:, 0]))
