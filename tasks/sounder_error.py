"""What a sounder's innovations say of its error: the variance of its noise as an inverse gamma, its bias apart from it.

An innovation is what a sounder reported less what the analysis without it expects:

    e_i = bias + sum_k s_ik f_k + noise_i,    noise_i ~ N(0, sigma^2)

``f_k`` are the errors of what is expected, one number each for the echoes of a window, in their own sd, and ``s_ik`` what each
makes of the echo: of ln foF2, hmF2 and ln B0 by the analysis, and of what no such profile, or no link budget, has right, which
is the same for all. They drift (first-order autoregressions), the bias stays: the five are a
Kalman filter, so that what the map has wrong for an afternoon is not taken for the sounder's bias. The residuals update the
inverse gamma by their number less what the states took of it. Residuals beyond `largest_z` count as that, with the factor
that keeps a normal sample unbiased (Huber's proposal 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from tasks.kernel_config import ErrorScale, TierConfig

Array: TypeAlias = NDArray[np.float64]

N_STATES = 5
N_PASSES = 25
CONVERGED = 1e-9
INTERVAL = (0.05, 0.95)
HOURS_PER_DAY = 24.0


@dataclass(frozen=True)
class SounderError:
    """What is known of one sounder and observable; ms or dB."""

    shape: float
    scale: float
    """Of the inverse gamma: the mean of the variance is scale / (shape - 1)."""
    state: tuple[float, ...]
    """Bias, then f of what is common, of ln foF2, hmF2 and ln B0."""
    covariance: tuple[tuple[float, ...], ...]
    """Of the state, (5, 5)."""
    n_obs: float = 0.0
    """Innovations seen, those forgotten in part."""
    updated_at: datetime | None = None

    @property
    def bias(self) -> float:
        return self.state[0]

    @property
    def sd(self) -> float:
        """Error of one observation, 1 sd, its bias taken off."""
        return math.sqrt(self.scale / (self.shape - 1.0))

    @property
    def interval(self) -> tuple[float, float]:
        """5 % and 95 % quantiles of the sd."""
        low, high = INTERVAL
        return tuple(  # type: ignore[return-value]
            math.sqrt(self.scale / float(special.gammainccinv(self.shape, level))) for level in (low, high)
        )

    @property
    def bias_sd(self) -> float:
        return math.sqrt(self.covariance[0][0])

    def has_bias(self, scale: ErrorScale, config: TierConfig) -> bool:
        """Whether the bias is beyond doubt and worth a word."""
        return abs(self.bias) > config.notable_sd * self.bias_sd and abs(self.bias) > scale.notable_bias


def prior_error(sd: float, scale: ErrorScale, config: TierConfig) -> SounderError:
    """What is known before any innovation: the error that its quality suggests, weighing `prior_observations`."""
    shape = config.prior_observations / 2.0 + 1.0
    # Who measures well is seldom far off.
    bias_variance = min(scale.bias_sd, sd) ** 2
    return SounderError(
        shape=shape,
        scale=sd**2 * (shape - 1.0),
        state=(0.0,) * N_STATES,
        covariance=_rows(np.diag([bias_variance, *[1.0] * (N_STATES - 1)])),
    )


def forget(error: SounderError, prior: SounderError, now: datetime, config: TierConfig) -> SounderError:
    """What is still known at a later time: innovations fade towards the prior, the drift towards no knowledge."""
    if error.updated_at is None:
        return replace(prior, updated_at=now)
    age_h = max((now - error.updated_at).total_seconds() / 3600.0, 0.0)
    kept = math.exp(-age_h / (config.memory_d * HOURS_PER_DAY))
    calm = math.exp(-age_h / config.field_memory_h)
    # The bias keeps its value, but after long silence it is as unknown as at first: it may have been mended.
    stays = np.array([1.0, *[calm] * (N_STATES - 1)])
    fades = np.array([kept, *[calm] * (N_STATES - 1)])
    covariance = fades[:, None] * np.array(error.covariance) * fades[None, :]
    covariance += np.diag((1.0 - fades**2) * np.diag(prior.covariance))
    return SounderError(
        shape=prior.shape + kept * (error.shape - prior.shape),
        scale=prior.scale + kept * (error.scale - prior.scale),
        state=tuple(float(value) for value in stays * error.state),
        covariance=_rows(covariance),
        n_obs=kept * error.n_obs,
        updated_at=now,
    )


def update(
    error: SounderError,
    innovation: Array,
    expected_by: Array,
    variance_ratio: Array,
    scale_of: ErrorScale,
    config: TierConfig,
) -> SounderError:
    """The error after the innovations of one window.

    Args:
        error: as `forget` gives it for the time of the window.
        innovation: shape (n,), ms or dB.
        expected_by: what one sd of ln foF2, hmF2 and ln B0 makes of each, shape (n, 3).
        variance_ratio: error variance of each over that of a single observation: less than 1 where echoes were combined.
    """
    n = innovation.size
    if n == 0:
        return error
    design = np.column_stack([np.ones(n), np.full(n, scale_of.field_error), expected_by])
    prior_state, prior_precision = np.array(error.state), np.linalg.inv(np.array(error.covariance))
    unbiased = _clipped_second_moment(config.largest_z)
    shape, scale = error.shape, error.scale
    variance = scale / (shape - 1.0)
    state, covariance = prior_state, np.array(error.covariance)
    weight = np.ones(n)
    for _ in range(N_PASSES):
        precision = weight / (variance * variance_ratio)
        covariance = np.linalg.inv(prior_precision + (design.T * precision) @ design)
        state = covariance @ (prior_precision @ prior_state + design.T @ (precision * innovation))
        z = np.abs(innovation - design @ state) / np.sqrt(variance * variance_ratio)
        leverage = np.einsum("ij,jk,ik->i", design, covariance, design) * precision
        freedom = float(np.maximum(1.0 - leverage, 0.0).sum())
        squares = variance * float((np.minimum(z, config.largest_z) ** 2).sum()) / unbiased
        # The states fit part of the noise: the sum of squares of the rest stands for `freedom` of n.
        shape = error.shape + freedom / 2.0
        scale = error.scale + squares / 2.0
        last, variance = variance, scale / (shape - 1.0)
        weight = np.minimum(1.0, config.largest_z / np.maximum(z, 1e-12))
        if abs(variance - last) <= CONVERGED * last:
            break
    return replace(
        error,
        shape=shape,
        scale=scale,
        state=tuple(float(value) for value in state),
        covariance=_rows(covariance),
        n_obs=error.n_obs + n,
    )


def _rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _clipped_second_moment(limit: float) -> float:
    """E[min(|z|, limit)^2] of a standard normal z."""
    inside = math.erf(limit / math.sqrt(2.0)) - limit * math.sqrt(2.0 / math.pi) * math.exp(-(limit**2) / 2.0)
    return inside + limit**2 * math.erfc(limit / math.sqrt(2.0))
