"""What a sounder of a tier is worth to the analysis: the error of its foF2 and hmF2, and how often it gives them.

A tier is an error of delays and signal strengths; what that makes of foF2 and hmF2 depends on the echoes of a window, and
many windows say nothing of foF2 at all. The table below is an assumption, replaced by what the analysis shows of a tier
where it has observations of it (`measured`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.settings import TIERS

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class TierError:
    """Errors (1 sd) of one observation, and how many the analysis gets."""

    fof2_share: float
    """Of foF2: what an echo says of the ceiling is a share of it."""
    hmf2_km: float | None
    """None: the echoes do not tell."""
    per_h: float
    """Observations of foF2 per hour, at most one for each window; 0: its echoes alone never tell foF2."""
    fof2_mhz: float = 0.0
    """A part of the error that does not go with foF2, as of an ionogram."""
    n_rows: int = 0
    """Observations of foF2 that the errors were measured on; 0: they are assumed."""

    def ln_fof2(self, fof2_mhz: Array) -> Array:
        """Error of ln foF2 at values (n,)."""
        return np.hypot(self.fof2_share, self.fof2_mhz / fof2_mhz)


ASSUMED: Mapping[str, TierError] = {
    # PLATINUM and GOLD as `tasks.soundings` gave them in the default simulated network, 20 March 2026 11-13 UTC, two seeds, every
    # sounder with the delay error of its tier and its bias known. SILVER and BRONZE gave no foF2 there; of SILVER a little came
    # where the tiers were not known yet (7 % of the windows), the error of BRONZE is chosen.
    "PLATINUM": TierError(0.023, 8.4, 4.0),
    "GOLD": TierError(0.044, 37.0, 2.6),
    "SILVER": TierError(0.10, None, 0.2),
    "BRONZE": TierError(0.20, None, 0.0),
}

MIX: Mapping[str, float] = {"PLATINUM": 0.05, "GOLD": 0.14, "SILVER": 0.27, "BRONZE": 0.54}
"""Share of each tier in the network that the default simulation has and the design aims at: 2, 5, 10 and 20 of 37."""

FEWEST_ROWS = 4
"""An hour of one sounder's windows: fewer say little of a tier."""


def measured(
    feedback: pd.DataFrame, tiers: Mapping[str, str], valid_at: pd.Timestamp, hours: float
) -> dict[str, TierError]:
    """The table with what a cycle's own observations show where a tier has at least FEWEST_ROWS of foF2.

    Errors vary from window to window; that of the mean precision stands for them, because precisions add up.

    Args:
        feedback: dataset `feedback`, of any quantities.
        tiers: of the sounders whose tier was estimated.
        hours: before `valid_at`, in which no observation is thinned: the rate is counted there.
    """
    used = feedback[(feedback["qc_flag"] == "accepted") & feedback["obs_error"].notna()]
    tier = used["sounder_id"].map(dict(tiers))
    is_recent = used["observed_at"] > valid_at - pd.Timedelta(hours=hours)
    table = {}
    for name, assumed in ASSUMED.items():
        is_fof2, is_hmf2 = (
            (tier == name) & (used["quantity"] == quantity) for quantity in ("fof2_mhz", "hmf2_km")
        )
        if is_fof2.sum() >= FEWEST_ROWS:
            n_sounders = sum(own == name for own in tiers.values())
            assumed = replace(
                assumed,
                fof2_share=_typical(used["obs_error"][is_fof2] / used["obs_value"][is_fof2]),
                per_h=float((is_fof2 & is_recent).sum()) / n_sounders / hours,
                n_rows=int(is_fof2.sum()),
            )
        if is_hmf2.sum() >= FEWEST_ROWS:
            assumed = replace(assumed, hmf2_km=_typical(used["obs_error"][is_hmf2]))
        table[name] = assumed
    return table


def _typical(error: pd.Series[Any]) -> float:
    """The error whose precision is the mean precision."""
    return float(np.mean(error.to_numpy(np.float64) ** -2.0) ** -0.5)


def nearest_tier(fof2_share: float, table: Mapping[str, TierError]) -> str:
    """The tier whose error of foF2 is nearest, as a ratio; the better of two that are equally near."""
    return min(TIERS, key=lambda tier: abs(float(np.log(fof2_share / table[tier].fof2_share))))
