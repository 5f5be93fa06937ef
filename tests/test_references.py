"""KC2G's method against its formulas written out, one station removed at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.references import Kc2gKernel, space_covariance, time_covariance

LATITUDE = np.array([50.0, 41.9, 38.0, 55.0])
LONGITUDE = np.array([4.6, 12.5, 23.5, 13.0])
N_PER_STATION = (24, 30, 40, 5)  # the last has too few to be predicted in time


def series() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    station = np.repeat(np.arange(4), N_PER_STATION)
    time_h = np.concatenate([-np.sort(random.uniform(0, 24, n))[::-1] for n in N_PER_STATION])
    departure = 0.1 * np.sin(time_h / 5.0) + random.normal(0.05, 0.05, station.size)
    error = random.uniform(0.01, 0.05, station.size)
    return station, time_h, departure, error


def in_time(lag_h: float) -> float:
    """The service's delta kernel: metrics are squared lengths in days, the sine kernels exp(-gamma sin^2(pi t / P))."""
    t = lag_h / 24.0
    return (
        0.108**2 * math.exp(-(t**2) / 972 / 2) * math.exp(-23.548 * math.sin(math.pi * t) ** 2)
        + 0.0421**2
        * math.exp(-(t**2) / 1e6 / 2)
        * (math.exp(-2.270 * math.sin(math.pi * t / 0.5) ** 2) + 0.000877)
        + 0.0417**2 * math.exp(-(t**2) / 3.233 / 2)
        + 0.0737**2
        * math.exp(-(t**2) / 0.00436 / 2)  # alpha is so large that the rational quadratic is a Gaussian
    )


def in_space(a: int, b: int) -> float:
    phi, lam = np.radians(LATITUDE), np.radians(LONGITUDE)
    cosine = math.sin(phi[a]) * math.sin(phi[b]) + math.cos(phi[a]) * math.cos(phi[b]) * math.cos(
        lam[a] - lam[b]
    )
    square = 2.0 - 2.0 * cosine  # of the chord
    r = math.sqrt(5.0 * max(square, 0.0) / 0.0648)
    return 0.0809**2 * (1 + r + r**2 / 3) * math.exp(-r) + 0.0845**2 * math.exp(-square / 0.481 / 2)


def by_hand(excluded: int) -> tuple[float, float]:
    station, time_h, departure, error = series()
    others, means, variances = [], [], []
    for number in range(4):
        own = np.flatnonzero(station == number)
        if number == excluded or own.size < 7:
            continue
        covariance = np.array([[in_time(time_h[i] - time_h[j]) for j in own] for i in own])
        covariance += np.diag((error[own] + 1e-3) ** 2)
        to_now = np.array([in_time(time_h[i]) for i in own])
        mean = departure[own].mean()
        means.append(mean + to_now @ np.linalg.solve(covariance, departure[own] - mean))
        variances.append(in_time(0.0) - to_now @ np.linalg.solve(covariance, to_now))
        others.append(number)
    covariance = np.array([[in_space(a, b) for b in others] for a in others])
    covariance += np.diag((np.sqrt(variances) + 1e-3) ** 2)
    to_place = np.array([in_space(a, excluded) for a in others])
    weight = np.linalg.solve(covariance, to_place)
    return float(weight @ means), math.sqrt(0.0809**2 + 0.0845**2 - weight @ to_place)


@pytest.mark.parametrize("excluded", [0, 1, 2, 3])
def test_each_station_is_predicted_from_the_others_as_by_hand(excluded: int) -> None:
    station, time_h, departure, error = series()
    method = Kc2gKernel(station, time_h, error, LATITUDE, LONGITUDE)
    assert method.predict(excluded, departure) == pytest.approx(by_hand(excluded), rel=1e-7)
    own = station == excluded
    assert method.predict(excluded, np.where(own, 9.0, departure)) == method.predict(excluded, departure)


def test_without_another_station_the_background_stays_with_its_sd() -> None:
    station, time_h, departure, error = series()
    alone = station == 1
    for rows, excluded in ((alone, 1), (station == 3, 0)):
        method = Kc2gKernel(station[rows], time_h[rows], error[rows], LATITUDE, LONGITUDE)
        mean, sd = method.predict(excluded, departure[rows])
        assert mean == 0.0
        assert sd == pytest.approx(math.hypot(0.0809, 0.0845))


def test_covariances_have_the_published_lengths() -> None:
    assert space_covariance(np.zeros(1)) == pytest.approx(0.0809**2 + 0.0845**2)
    lag = np.linspace(-3.0, 3.0, 50)
    assert time_covariance(lag) == pytest.approx([in_time(24.0 * t) for t in lag], rel=1e-6)
