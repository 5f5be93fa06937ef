"""Speed of the analysis against the same posterior computed by a peer in the same run: one JSON line.

    python benchmarks/analysis.py [--peer george|numpy|none] [--points 65160] [--observations 1000] [--correlation 0.3]

100 stations, 1,000 observations of three quantities, two field terms, mean and sd of all three on the grid; ours also
holds out every station and tells its information. Bars: ours under 1 s on 2 cores, at least 40 times faster than george
(Ambikasaran et al. 2015), equal to 1e-6.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

import rust_core
from tasks.grid import Grid

Array = NDArray[np.float64]
N_QUANTITIES = 3
OBS_ERROR = 0.03
REPEATS = 5
BLOCK_POINTS = 4_096
EARTH_RADIUS_KM = 6371.0088
WEATHER_SD, WEATHER_H, WEATHER_KM = 0.11, 3.0, (2000.0, 1000.0)
LARGE_SD, LARGE_H, LARGE_KM = 0.08, 24.0, 4400.0


@dataclass(frozen=True)
class Problem:
    """Observations of the last six hours at random places, and the points of the map."""

    station_latitude_deg: Array
    station_longitude_deg: Array
    station: NDArray[np.int64]
    quantity: NDArray[np.int64]
    time_h: Array
    innovation: Array
    obs_error: Array
    latitude_deg: Array
    longitude_deg: Array
    #: (Q, Q) between the quantities.
    correlation: Array

    @classmethod
    def random(cls, n_stations: int, n_obs: int, n_points: int, correlation: float) -> Problem:
        random = np.random.default_rng(1)
        # The grid of 1 degree as often as needed: what a point costs does not depend on where it is.
        latitude, longitude = (np.resize(axis, n_points) for axis in Grid.globe().points())
        return cls(
            station_latitude_deg=random.uniform(-75, 75, n_stations),
            station_longitude_deg=random.uniform(-180, 180, n_stations),
            station=random.permutation(n_obs) % n_stations,
            quantity=random.integers(0, N_QUANTITIES, n_obs),
            time_h=random.uniform(-6, 0, n_obs),
            innovation=random.normal(0, 0.13, n_obs),
            obs_error=np.full(n_obs, OBS_ERROR),
            latitude_deg=latitude,
            longitude_deg=longitude,
            correlation=np.where(np.eye(N_QUANTITIES) == 1, 1.0, correlation),
        )

    def factorized(self, threads: int = 0) -> rust_core.Analysis:
        def term(spatial: str, sd: float, time_scale_h: float, *km: float) -> rust_core.CovarianceTerm:
            return rust_core.CovarianceTerm(
                *(spatial, "ou"),
                sd=[sd] * N_QUANTITIES,
                correlation=self.correlation,
                time_scale_h=time_scale_h,
                zonal_km=km[0],
                meridional_km=km[-1],
            )

        return rust_core.Analysis(
            [
                term("matern32", WEATHER_SD, WEATHER_H, *WEATHER_KM),
                term("gaussian", LARGE_SD, LARGE_H, LARGE_KM),
            ],
            station_latitude_deg=self.station_latitude_deg,
            station_longitude_deg=self.station_longitude_deg,
            station=self.station,
            quantity=self.quantity,
            time_h=self.time_h,
            innovation=self.innovation,
            obs_error=self.obs_error,
            n_threads=threads,
        )

    def stations_judged(self, analysis: rust_core.Analysis) -> None:
        for station in range(self.station_latitude_deg.size):
            analysis.leave_station_out(station)
        analysis.station_information()

    def ours(self, threads: int = 0) -> tuple[Array, Array]:
        analysis = self.factorized(threads)
        self.stations_judged(analysis)
        return analysis.predict(self.latitude_deg, self.longitude_deg, 0.0)

    def rows(self) -> Rows:
        place = self.station_latitude_deg[self.station], self.station_longitude_deg[self.station]
        return *place, self.time_h, self.quantity

    def blocks(self, quantity: int) -> list[tuple[slice, Rows]]:
        """The points as rows of a quantity, as many at a time as keep a peer's memory small."""
        blocks = []
        for first in range(0, self.latitude_deg.size, BLOCK_POINTS):
            chosen = slice(first, first + BLOCK_POINTS)
            n = self.latitude_deg[chosen].size
            place = self.latitude_deg[chosen], self.longitude_deg[chosen]
            blocks.append((chosen, (*place, np.zeros(n), np.full(n, quantity))))
        return blocks


#: Latitude, longitude, time in hours, index of the quantity.
Rows = tuple[Array, Array, Array, NDArray[np.int64]]


def embed(latitude_deg: Array, longitude_deg: Array, zonal_km: float, meridional_km: float) -> Array:
    phi, lam = np.radians(latitude_deg), np.radians(longitude_deg)
    chord = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)]) / zonal_km
    stretch = phi * np.sqrt(meridional_km**-2 - zonal_km**-2)
    return np.vstack([chord, stretch]) * EARTH_RADIUS_KM


def squared_distance(a: Array, b: Array) -> Array:
    return np.maximum((a**2).sum(0)[:, None] + (b**2).sum(0)[None, :] - 2 * a.T @ b, 0.0)


def covariance(a: Rows, b: Rows, between_quantities: Array) -> Array:
    lag = np.abs(a[2][:, None] - b[2][None, :])
    scaled = np.sqrt(3 * squared_distance(embed(*a[:2], *WEATHER_KM), embed(*b[:2], *WEATHER_KM)))
    weather = WEATHER_SD**2 * (1 + scaled) * np.exp(-scaled - lag / WEATHER_H)
    squared = squared_distance(embed(*a[:2], LARGE_KM, LARGE_KM), embed(*b[:2], LARGE_KM, LARGE_KM))
    field = weather + LARGE_SD**2 * np.exp(-0.5 * squared - lag / LARGE_H)
    return between_quantities[np.ix_(a[3], b[3])] * field


def numpy_posterior(problem: Problem) -> tuple[Array, Array]:
    """As one writes it: cost quantities x points x observations^2."""
    rows = problem.rows()
    prior = covariance(rows, rows, problem.correlation)
    factor = cho_factor(prior + np.diag(problem.obs_error**2), lower=True)
    alpha = cho_solve(factor, problem.innovation)
    mean, sd = np.empty((2, N_QUANTITIES, problem.latitude_deg.size))
    for quantity in range(N_QUANTITIES):
        for block, points in problem.blocks(quantity):
            cross = covariance(rows, points, problem.correlation)
            mean[quantity, block] = cross.T @ alpha
            whitened = solve_triangular(factor[0], cross, lower=True, overwrite_b=True)
            sd[quantity, block] = np.sqrt(WEATHER_SD**2 + LARGE_SD**2 - (whitened**2).sum(axis=0))
    return mean, sd


def george_posterior(problem: Problem) -> tuple[Array, Array]:
    """The same kernel in george: one process of all quantities, one for each where nothing correlates them.

    A quantity is a corner of a simplex, and a Gaussian of its side is the correlation: george has one output only.
    """
    from george import GP, kernels

    def inputs(rows: Rows) -> Array:
        latitude = np.radians(rows[0])
        chord = embed(rows[0], rows[1], 1.0, 1.0)[:3]
        return np.vstack([chord, EARTH_RADIUS_KM * latitude, rows[2], np.eye(N_QUANTITIES)[rows[3]].T]).T

    ndim = 5 + N_QUANTITIES
    place, hour, corner = [0, 1, 2, 3], 4, list(range(5, ndim))
    stretch = 1 / (WEATHER_KM[1] ** -2 - WEATHER_KM[0] ** -2)
    weather = WEATHER_SD**2 * kernels.Matern32Kernel(
        [WEATHER_KM[0] ** 2] * 3 + [stretch], ndim=ndim, axes=place
    )
    weather *= kernels.ExpKernel(WEATHER_H**2, ndim=ndim, axes=hour)
    large = LARGE_SD**2 * kernels.ExpSquaredKernel([LARGE_KM**2] * 3, ndim=ndim, axes=place[:3])
    large *= kernels.ExpKernel(LARGE_H**2, ndim=ndim, axes=hour)
    kernel, groups = weather + large, [[quantity] for quantity in range(N_QUANTITIES)]
    correlation = problem.correlation[0, 1]
    if correlation > 0:
        kernel *= kernels.ExpSquaredKernel([-1 / np.log(correlation)] * N_QUANTITIES, ndim=ndim, axes=corner)
        groups = [list(range(N_QUANTITIES))]
    x = inputs(problem.rows())
    mean, sd = np.empty((2, N_QUANTITIES, problem.latitude_deg.size))
    for group in groups:
        own = np.isin(problem.quantity, group)
        process = GP(kernel)
        process.compute(x[own], problem.obs_error[own])
        for quantity in group:
            for block, points in problem.blocks(quantity):
                found, variance = process.predict(
                    problem.innovation[own], inputs(points), return_cov=False, return_var=True
                )
                mean[quantity, block], sd[quantity, block] = found, np.sqrt(variance)
    return mean, sd


PEERS: dict[str, tuple[str, Callable[[Problem], tuple[Array, Array]]]] = {
    "george": ("george: factorization, mean and sd of three quantities", george_posterior),
    "numpy": ("blocked NumPy and SciPy: factorization, mean and sd of three quantities", numpy_posterior),
}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", choices=[*PEERS, "none"], default="george" if find_spec("george") else "numpy"
    )
    parser.add_argument("--points", type=int, default=65_160, help="points of the grid that are analysed")
    parser.add_argument("--observations", type=int, default=1_000, help="of all quantities together")
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument(
        "--correlation", type=float, default=0.3, help="between the quantities; 0 lets them go apart"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of the kernel, 0 takes all cores")
    arguments = parser.parse_args()
    problem = Problem.random(
        arguments.stations, arguments.observations, arguments.points, arguments.correlation
    )
    begun_cpu_s = time.process_time()
    runs = [timed(lambda: problem.ours(arguments.threads)) for _ in range(REPEATS)]
    ours_cpu_s = (time.process_time() - begun_cpu_s) / REPEATS
    (mean, sd), ours_s = runs[0][0], statistics.median(seconds for _, seconds in runs)
    result: dict[str, Any] = {
        "name": "analysis",
        "ours_s": round(ours_s, 3),
        "ours_cpu_s": round(ours_cpu_s, 3),
        "ours_does": "factorization, leave-station-out, information gain, mean and sd of three quantities",
        "n_stations": arguments.stations,
        "n_obs": arguments.observations,
        "n_points": arguments.points,
        "correlation": arguments.correlation,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    if arguments.peer != "none":
        peer, posterior = PEERS[arguments.peer]
        begun_cpu_s = time.process_time()
        (peer_mean, peer_sd), peer_s = timed(lambda: posterior(problem))
        peer_cpu_s = time.process_time() - begun_cpu_s
        result |= {
            "peer": peer,
            "peer_s": round(peer_s, 3),
            "peer_cpu_s": round(peer_cpu_s, 3),
            "ratio": round(peer_s / ours_s, 1),
            "largest_difference": float(max(np.abs(mean - peer_mean).max(), np.abs(sd - peer_sd).max())),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
