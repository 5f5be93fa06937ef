"""The tier of a sounder: where its estimated error falls, in words that its owner understands."""

from __future__ import annotations

import itertools
import math

from tasks.kernel_config import ErrorScale, PerTier, TierConfig
from tasks.settings import TIERS
from tasks.sounder_error import SounderError

BEST, WORST = 0, len(TIERS) - 1


def boundaries(sd: PerTier) -> list[float]:
    """Errors at which a tier ends and the next begins, best first: geometric means of what they stand for."""
    values = sd.as_list()
    return [math.sqrt(better * worse) for better, worse in itertools.pairwise(values)]


def tier_of(error_sd: float, sd: PerTier) -> str:
    """The tier in which an error falls."""
    return TIERS[sum(error_sd > limit for limit in boundaries(sd))]


def next_tier(error_sd: float, sd: PerTier, previous: str | None, config: TierConfig) -> str:
    """The tier in which an error falls; the previous one stays while the error is not clearly beyond its boundary."""
    if previous is None:
        return tier_of(error_sd, sd)
    low, high = [0.0, *boundaries(sd)], [*boundaries(sd), math.inf]
    number = TIERS.index(previous)
    if low[number] / config.hysteresis <= error_sd <= high[number] * config.hysteresis:
        return previous
    return tier_of(error_sd, sd)


def weight(tier: str, sd: PerTier) -> float:
    """Weight of an observation of a tier beside one of the worst: the ratio of their error variances."""
    return float((getattr(sd, TIERS[WORST]) / getattr(sd, tier)) ** 2)


def reason(
    tier: str,
    previous: str | None,
    error: SounderError,
    scale: ErrorScale,
    config: TierConfig,
    *,
    observable: str,
    unit: str,
    score: float,
) -> str:
    """Why a sounder has its tier, one or two sentences."""
    low, high = error.interval
    estimate = f"its {observable} error is {error.sd:.2g} {unit} ({low:.2g} to {high:.2g})"
    if error.n_obs < 1:
        text = f"{estimate} by its quality of {score:.2f} alone: no innovation yet"
    else:
        text = f"{estimate} from {error.n_obs:.0f} innovations"
    if tier != tier_of(error.sd, scale.sd):
        text += f"; it stays {tier} until it is clearly beyond the boundary"
    if previous is not None and previous != tier:
        text += f"; it was {previous}"
    if error.has_bias(scale, config):
        text += (
            f". Its {observable} is off by {error.bias:+.2g} +- {error.bias_sd:.1g} {unit}, which is taken off: "
            "check cables, filters and clock"
        )
    return text
