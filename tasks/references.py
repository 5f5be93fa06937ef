"""The peer that the analysis is measured against: the published method of prop.kc2g.com, on our background.

Facts and constants from the repository github.com/arodland/prop (pred/app/kernel.py and server.py,
assimilate/app/models/gp3d.py): each station's series of ln(observed / background) is predicted to one time by a Gaussian
process over time, and the predictions are kriged on the unit sphere, each with its own standard deviation. Outliers are
believed. The observation errors are ours: with the table of the service, from the confidence score, it does worse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]

HOURS_PER_DAY = 24.0

#: In space: sd of ln(observed / background) and length on the unit sphere, 1,622 and 4,418 km.
MATERN52_SD, MATERN52_LENGTH = 0.0809, np.sqrt(0.0648)
GAUSSIAN_SD, GAUSSIAN_LENGTH = 0.0845, np.sqrt(0.481)

#: Over time, in days: a day's shape over weeks, half a day's for ever, today, and 1.6 hours.
DAILY_SD, DAILY_MEMORY, DAILY_GAMMA = 0.108, np.sqrt(972.0), 23.548
HALF_DAILY_SD, HALF_DAILY_MEMORY, HALF_DAILY_GAMMA, HALF_DAILY_CONSTANT = 0.0421, 1e3, 2.270, 0.000877
TODAY_SD, TODAY_LENGTH = 0.0417, np.sqrt(3.233)
HOURS_SD, HOURS_LENGTH, HOURS_ALPHA = 0.0737, np.sqrt(0.00436), np.exp(17.903)

FEWEST_OBSERVATIONS = 7
NUGGET = 1e-3


def space_covariance(distance: Array) -> Array:
    """Covariance at chord distances on the unit sphere, any shape."""
    scaled = np.sqrt(5.0) * distance / MATERN52_LENGTH
    matern52 = (1.0 + scaled + scaled**2 / 3.0) * np.exp(-scaled)
    gaussian = np.exp(-0.5 * (distance / GAUSSIAN_LENGTH) ** 2)
    return np.asarray(MATERN52_SD**2 * matern52 + GAUSSIAN_SD**2 * gaussian)


def time_covariance(lag_d: Array) -> Array:
    """Covariance of one station's departures at lags in days, any shape."""

    def gaussian(length: float) -> Array:
        return np.asarray(np.exp(-0.5 * (lag_d / length) ** 2))

    daily = np.exp(-DAILY_GAMMA * np.sin(np.pi * lag_d) ** 2)
    half_daily = np.exp(-HALF_DAILY_GAMMA * np.sin(2.0 * np.pi * lag_d) ** 2) + HALF_DAILY_CONSTANT
    hours = np.exp(-HOURS_ALPHA * np.log1p((lag_d / HOURS_LENGTH) ** 2 / (2.0 * HOURS_ALPHA)))
    return np.asarray(
        DAILY_SD**2 * gaussian(DAILY_MEMORY) * daily
        + HALF_DAILY_SD**2 * gaussian(HALF_DAILY_MEMORY) * half_daily
        + TODAY_SD**2 * gaussian(TODAY_LENGTH)
        + HOURS_SD**2 * hours
    )


class Kc2gKernel:
    """KC2G's method for one quantity and one time, each station left out in turn.

    Args:
        station: (n,) index of each observation's station.
        time_h: (n,) hours of each observation relative to the time to predict.
        relative_error: (n,) sd of ln(observed).
        latitude_deg, longitude_deg: (S,) geographic coordinates of the stations.

    The departures come with each prediction, because the background without a station differs from station to station;
    everything else is factorised once.
    """

    def __init__(
        self,
        station: NDArray[np.int64],
        time_h: Array,
        relative_error: Array,
        latitude_deg: Array,
        longitude_deg: Array,
    ) -> None:
        time_d = time_h / HOURS_PER_DAY
        rows, weights, members, kriged_noise = [], [], [], []
        for number in range(latitude_deg.size):
            own = np.flatnonzero(station == number)
            if own.size < FEWEST_OBSERVATIONS:
                continue
            covariance = time_covariance(time_d[own, None] - time_d[None, own]) + np.diag(
                (relative_error[own] + NUGGET) ** 2
            )
            to_target = time_covariance(time_d[own])
            weight = cho_solve(cho_factor(covariance, lower=True), to_target)
            variance = float(time_covariance(np.zeros(1))[0] - weight @ to_target)
            kriged_noise.append(np.sqrt(max(variance, 0.0)) + NUGGET)
            members.append(number)
            rows.append(own)
            weights.append(weight)
        self._members = np.array(members, dtype=np.int64)
        # Station by station in one row, each from its beginning on.
        self._rows = np.concatenate([*rows, np.zeros(0, dtype=np.int64)])
        self._weights = np.concatenate([*weights, np.zeros(0)])
        self._counts = np.array([own.size for own in rows], dtype=np.int64)
        self._begins = np.cumsum(self._counts) - self._counts
        phi, lam = np.radians(latitude_deg), np.radians(longitude_deg)
        self._place = np.column_stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
        self._noise = np.array(kriged_noise)
        if members:
            place = self._place[self._members]
            distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
            covariance = space_covariance(distance) + np.diag(self._noise**2)
            self._inverse = cho_solve(cho_factor(covariance, lower=True), np.eye(len(members)))

    def predict(self, excluded: int, departure: Array) -> tuple[float, float]:
        """Mean and sd of ln(value / background) at a station from all the others.

        `departure` (n,): ln(observed / background), rows as given to the constructor. Without any other station the
        mean is 0 and the sd the prior's.
        """
        if self._members.size == 0:
            return 0.0, float(np.hypot(MATERN52_SD, GAUSSIAN_SD))
        own = departure[self._rows]
        mean = np.add.reduceat(own, self._begins) / self._counts
        predicted = mean + np.add.reduceat(
            self._weights * (own - np.repeat(mean, self._counts)), self._begins
        )
        at = np.flatnonzero(self._members == excluded)
        if at.size:
            # Leave-one-out from the inverse of the whole (Rasmussen and Williams 2006, equations 5.12).
            diagonal = self._inverse[at[0], at[0]]
            weight = -self._inverse[at[0]] / diagonal
            weight[at[0]] = 0.0
            variance = 1.0 / diagonal - self._noise[at[0]] ** 2
        else:
            distance = np.linalg.norm(self._place[self._members] - self._place[excluded], axis=-1)
            to_place = space_covariance(distance)
            weight = self._inverse @ to_place
            variance = MATERN52_SD**2 + GAUSSIAN_SD**2 - weight @ to_place
        return float(weight @ predicted), float(np.sqrt(max(variance, 0.0)))
