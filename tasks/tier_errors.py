"""What a sounder of a tier is worth to the analysis: the error of its foF2 and hmF2, and how often it gives them.

A tier is an error of delays and signal strengths; what that makes of foF2 and hmF2 depends on the echoes of a window. The
table below is an assumption, to be replaced by what the analysis shows: the median of the errors that the observations of a
tier had in the cycle, where it has any (`measured`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.settings import TIERS

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class TierError:
    """Errors (1 sd) of one observation, and observations per hour before they are gathered in windows."""

    fof2_share: float
    """Of foF2: what an echo says of the ceiling is a share of it."""
    hmf2_km: float | None
    """None: the echoes do not tell."""
    reports_per_h: float
    fof2_mhz: float = 0.0
    """A part of the error that does not go with foF2, as of an ionogram."""
    n_rows: int = 0
    """Observations of foF2 that the errors were measured on; 0: they are assumed."""

    def ln_fof2(self, fof2_mhz: Array) -> Array:
        """Error of ln foF2 at values (n,)."""
        return np.hypot(self.fof2_share, self.fof2_mhz / fof2_mhz)


ASSUMED: Mapping[str, TierError] = {
    # Medians of `tasks.soundings` in the default simulated network, 20 March 2026 9-13 UTC, two seeds, every sounder with the
    # delay error of its tier and its bias known. Of SILVER and BRONZE hardly more is left than that the ceiling is above.
    "PLATINUM": TierError(0.022, 7.5, 500.0),
    "GOLD": TierError(0.13, 40.0, 50.0),
    "SILVER": TierError(0.23, None, 10.0),
    "BRONZE": TierError(0.23, None, 2.0),
}

MIX: Mapping[str, float] = {"PLATINUM": 0.05, "GOLD": 0.14, "SILVER": 0.27, "BRONZE": 0.54}
"""Share of each tier in the network that the default simulation has and the design aims at: 2, 5, 10 and 20 of 37."""

FEWEST_ROWS = 4
"""An hour of one sounder's windows: fewer say little of a tier."""


def measured(feedback: pd.DataFrame, tiers: Mapping[str, str]) -> dict[str, TierError]:
    """The table with the errors of a cycle's own observations where a tier has at least FEWEST_ROWS of them.

    Args:
        feedback: dataset `feedback`, of any quantities.
        tiers: of the sounders whose tier was estimated.
    """
    used = feedback[(feedback["qc_flag"] == "accepted") & feedback["obs_error"].notna()]
    tier = used["sounder_id"].map(dict(tiers))
    table = {}
    for name, assumed in ASSUMED.items():
        own = used[tier == name]
        fof2, hmf2 = (own[own["quantity"] == quantity] for quantity in ("fof2_mhz", "hmf2_km"))
        if len(fof2) >= FEWEST_ROWS:
            assumed = replace(
                assumed, fof2_share=float((fof2["obs_error"] / fof2["obs_value"]).median()), n_rows=len(fof2)
            )
        if len(hmf2) >= FEWEST_ROWS:
            assumed = replace(assumed, hmf2_km=float(hmf2["obs_error"].median()))
        table[name] = assumed
    return table


def nearest_tier(fof2_share: float, table: Mapping[str, TierError]) -> str:
    """The tier whose error of foF2 is nearest, as a ratio; the better of two that are equally near."""
    return min(TIERS, key=lambda tier: abs(float(np.log(fof2_share / table[tier].fof2_share))))
