"""Scores of held-out stations: proper scores of a Gaussian or log-normal prediction, and the skill table.

A prediction is Gaussian in the assimilated variable: in ln foF2 and ln M(3000)F2, hence log-normal in MHz, and in
hmF2. Its sd is that of a new observation: the analysis without the station (and with an index without it), plus the
observation error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks import lake
from tasks.settings import Settings

Array = NDArray[np.float64]

# Quantiles of the standard normal distribution.
Z_75 = 0.6744897501960817
Z_95 = 1.6448536269514722
SKILL_COLUMNS = (
    "quantity",
    "sounder_id",
    "n",
    "rmse_holdout",
    "rmse_iri_index",
    "rmse_persistence",
    "bias",
    "crps",
    "coverage50",
    "coverage90",
)
ALL_STATIONS = "all"
RECENT = timedelta(days=30)


def _normal_cdf(z: Array) -> Array:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z.ravel()]).reshape(z.shape)


@dataclass(frozen=True)
class Prediction:
    """A predictive distribution: Gaussian in x, or in ln x when `is_logarithmic` (then log-normal in x).

    `center` and `spread` (n,) are mean and sd of the Gaussian; everything returned is in the unit of x.
    """

    center: Array
    spread: Array
    is_logarithmic: bool

    def _back(self, values: Array) -> Array:
        return np.exp(values) if self.is_logarithmic else values

    @property
    def median(self) -> Array:
        return self._back(self.center)

    @property
    def sd(self) -> Array:
        if not self.is_logarithmic:
            return self.spread
        variance = self.spread**2
        return np.exp(self.center + variance / 2) * np.sqrt(np.expm1(variance))

    def quantile(self, z: float) -> Array:
        """The quantile at `z` standard deviations of the Gaussian."""
        return self._back(self.center + z * self.spread)

    def crps(self, observed: Array) -> Array:
        """Continuous ranked probability score against observations (n,).

        Gaussian: Gneiting and Raftery 2007, equation 21. Log-normal: Baran and Lerch 2015, equation 5.
        """
        if not self.is_logarithmic:
            z = (observed - self.center) / self.spread
            density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
            return self.spread * (z * (2 * _normal_cdf(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
        z = (np.log(observed) - self.center) / self.spread
        mean = np.exp(self.center + self.spread**2 / 2)
        tail = _normal_cdf(z - self.spread) + _normal_cdf(self.spread / math.sqrt(2)) - 1
        return observed * (2 * _normal_cdf(z) - 1) - 2 * mean * tail


def skill_table(verification: pd.DataFrame) -> pd.DataFrame:
    """Skill per quantity and station, then over all stations (`sounder_id` "all"), in the quantity's unit.

    `bias` is prediction minus observation. `rmse_persistence` covers the rows that have an observation 24 h
    earlier. No rows give an empty table with the same columns.
    """

    def rmse(difference: pd.Series[float]) -> float:
        return float(np.sqrt((difference**2).mean())) if difference.notna().any() else math.nan

    records = []
    for quantity, of_quantity in verification.groupby("quantity", sort=True):
        groups = [*of_quantity.groupby("sounder_id", sort=True), (ALL_STATIONS, of_quantity)]
        for sounder_id, rows in groups:
            observed = rows["obs_value"]
            records.append(
                {
                    "quantity": quantity,
                    "sounder_id": sounder_id,
                    "n": len(rows),
                    "rmse_holdout": rmse(rows["holdout_value"] - observed),
                    "rmse_iri_index": rmse(rows["iri_index_value"] - observed),
                    "rmse_persistence": rmse(rows["persistence_24h_value"].astype(float) - observed),
                    "bias": float((rows["holdout_value"] - observed).mean()),
                    "crps": float(rows["crps"].mean()),
                    "coverage50": float(rows["is_within_50"].astype(float).mean()),
                    "coverage90": float(rows["is_within_90"].astype(float).mean()),
                }
            )
    return pd.DataFrame(records, columns=list(SKILL_COLUMNS))


def read_verification(
    settings: Settings, *, since: datetime | None = None, until: datetime | None = None
) -> pd.DataFrame:
    """Rows of the dataset `verification` by valid time, both ends included.

    With `until` alone, the 30 days before it: the skill of today, not of all time; with neither, everything.
    """
    if since is None and until is not None:
        since = until - RECENT
    return lake.read("verification", settings=settings, start=since, end=until)
