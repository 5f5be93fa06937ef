"""Speed of the analysis against the same posterior in blocked NumPy and SciPy, measured in the same run.

    python benchmarks/analysis.py [--points 65160] [--observations 1000] [--correlation 0.3]

100 stations, 1,000 observations of three quantities, two field terms, mean and sd of all three on the grid; ours also
holds out every station and tells its information. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

import rust_core
from tasks.grid import Grid

Array = NDArray[np.float64]
N_STATIONS = 100
N_QUANTITIES = 3
BLOCK_POINTS = 4_096
EARTH_RADIUS_KM = 6371.0088
WEATHER_SD, WEATHER_H, WEATHER_KM = 0.11, 3.0, (2000.0, 1000.0)
LARGE_SD, LARGE_H, LARGE_KM = 0.08, 24.0, 4400.0


def embed(latitude_deg: Array, longitude_deg: Array, zonal_km: float, meridional_km: float) -> Array:
    phi, lam = np.radians(latitude_deg), np.radians(longitude_deg)
    chord = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)]) / zonal_km
    stretch = phi * np.sqrt(meridional_km**-2 - zonal_km**-2)
    return np.vstack([chord, stretch]) * EARTH_RADIUS_KM


def squared_distance(a: Array, b: Array) -> Array:
    return np.maximum((a**2).sum(0)[:, None] + (b**2).sum(0)[None, :] - 2 * a.T @ b, 0.0)


#: Latitude, longitude, time in hours, index of the quantity.
Rows = tuple[Array, Array, Array, NDArray[np.int64]]


def covariance(a: Rows, b: Rows, between_quantities: Array) -> Array:
    lag = np.abs(a[2][:, None] - b[2][None, :])
    scaled = np.sqrt(3 * squared_distance(embed(*a[:2], *WEATHER_KM), embed(*b[:2], *WEATHER_KM)))
    weather = WEATHER_SD**2 * (1 + scaled) * np.exp(-scaled - lag / WEATHER_H)
    squared = squared_distance(embed(*a[:2], LARGE_KM, LARGE_KM), embed(*b[:2], LARGE_KM, LARGE_KM))
    field = weather + LARGE_SD**2 * np.exp(-0.5 * squared - lag / LARGE_H)
    return between_quantities[np.ix_(a[3], b[3])] * field


def numpy_posterior(
    rows: Rows, innovation: Array, error: Array, latitude: Array, longitude: Array, between_quantities: Array
) -> tuple[Array, Array]:
    """As one writes it: cost quantities x points x observations^2."""
    prior = covariance(rows, rows, between_quantities)
    factor = cho_factor(prior + np.diag(error**2), lower=True)
    alpha = cho_solve(factor, innovation)
    shape = between_quantities.shape[0], latitude.size
    mean, sd = np.empty(shape), np.empty(shape)
    for quantity in range(shape[0]):
        for first in range(0, latitude.size, BLOCK_POINTS):
            block = slice(first, first + BLOCK_POINTS)
            n = latitude[block].size
            points = latitude[block], longitude[block], np.zeros(n), np.full(n, quantity)
            cross = covariance(rows, points, between_quantities)
            mean[quantity, block] = cross.T @ alpha
            whitened = solve_triangular(factor[0], cross, lower=True, overwrite_b=True)
            sd[quantity, block] = np.sqrt(WEATHER_SD**2 + LARGE_SD**2 - (whitened**2).sum(axis=0))
    return mean, sd


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=65_160, help="points of the grid that are analysed")
    parser.add_argument("--observations", type=int, default=1_000, help="of all quantities together")
    parser.add_argument(
        "--correlation", type=float, default=0.3, help="between the quantities; 0 lets them go apart"
    )
    parser.add_argument("--without-peer", action="store_true", help="do not run the peer")
    parser.add_argument("--threads", type=int, default=0, help="threads of the kernel, 0 takes all cores")
    arguments = parser.parse_args()
    random = np.random.default_rng(1)
    n_obs = arguments.observations
    correlation = np.full((N_QUANTITIES, N_QUANTITIES), arguments.correlation)
    np.fill_diagonal(correlation, 1.0)
    station_latitude = random.uniform(-75, 75, N_STATIONS)
    station_longitude = random.uniform(-180, 180, N_STATIONS)
    station = random.integers(0, N_STATIONS, n_obs)
    quantity = random.integers(0, N_QUANTITIES, n_obs)
    time_h = random.uniform(-6, 0, n_obs)
    innovation = random.normal(0, 0.13, n_obs)
    error = np.full(n_obs, 0.03)
    latitude, longitude = (axis[: arguments.points] for axis in Grid.globe().points())
    terms = [
        rust_core.CovarianceTerm(
            *("matern32", "ou"),
            sd=[WEATHER_SD] * N_QUANTITIES,
            correlation=correlation,
            time_scale_h=WEATHER_H,
            zonal_km=WEATHER_KM[0],
            meridional_km=WEATHER_KM[1],
        ),
        rust_core.CovarianceTerm(
            *("gaussian", "ou"),
            sd=[LARGE_SD] * N_QUANTITIES,
            correlation=correlation,
            time_scale_h=LARGE_H,
            zonal_km=LARGE_KM,
            meridional_km=LARGE_KM,
        ),
    ]

    def ours() -> tuple[Array, Array]:
        analysis = rust_core.Analysis(
            terms,
            station_latitude_deg=station_latitude,
            station_longitude_deg=station_longitude,
            station=station,
            quantity=quantity,
            time_h=time_h,
            innovation=innovation,
            obs_error=error,
            n_threads=arguments.threads,
        )
        for number in range(N_STATIONS):
            analysis.leave_station_out(number)
        analysis.station_information()
        return analysis.predict(latitude, longitude, 0.0)

    rows = station_latitude[station], station_longitude[station], time_h, quantity
    ours()
    (mean, sd), ours_s = timed(ours)
    result: dict[str, Any] = {
        "name": "analysis",
        "ours_s": round(ours_s, 3),
        "ours_does": "factorization, leave-station-out, information gain, mean and sd of three quantities",
        "n_stations": N_STATIONS,
        "n_obs": n_obs,
        "n_points": int(latitude.size),
        "correlation": arguments.correlation,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if not arguments.without_peer:
        (peer_mean, peer_sd), peer_s = timed(
            lambda: numpy_posterior(rows, innovation, error, latitude, longitude, correlation)
        )
        result |= {
            "peer": "blocked NumPy and SciPy: factorization, mean and sd of three quantities",
            "peer_s": round(peer_s, 3),
            "ratio": round(peer_s / ours_s, 1),
            "largest_difference": float(max(np.abs(mean - peer_mean).max(), np.abs(sd - peer_sd).max())),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
