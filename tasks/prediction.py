"""The predictive distribution of an observation: Gaussian, or log-normal where logarithms are analysed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Quantiles of the standard normal distribution.
Z_75 = 0.6744897501960817
Z_95 = 1.6448536269514722


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

    def take(self, rows: NDArray[np.int64]) -> Prediction:
        return Prediction(self.center[rows], self.spread[rows], self.is_logarithmic)

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

    def pit(self, observed: Array) -> Array:
        """Probability of values up to the observed ones (n,): uniform on 0..1 when the distribution is right."""
        values = np.log(observed) if self.is_logarithmic else observed
        return _normal_cdf((values - self.center) / self.spread)

    def log_score(self, observed: Array) -> Array:
        """z^2 / 2 + ln sd of the Gaussian (n,): minus the log density but for a constant and the change of variable."""
        values = np.log(observed) if self.is_logarithmic else observed
        return np.asarray(0.5 * ((values - self.center) / self.spread) ** 2 + np.log(self.spread))

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
