"""Random problems for the analysis, and their prior covariance by the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rust_core
from tests.reference.gaussian_process import correlation, distance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """One term of the covariance as the oracle sees it; quantities as many as sd."""

    spatial: str
    temporal: str
    sd: tuple[float, ...]
    time_scale_h: float
    zonal_km: float | None = None
    meridional_km: float | None = None
    phase_scale_h: float | None = None
    correlation: tuple[tuple[float, ...], ...] | None = None
    is_modulated: bool = False

    def build(self) -> rust_core.CovarianceTerm:
        return rust_core.CovarianceTerm(
            self.spatial,
            self.temporal,
            sd=self.sd,
            correlation=None if self.correlation is None else np.array(self.correlation),
            is_modulated=self.is_modulated,
            time_scale_h=self.time_scale_h,
            zonal_km=self.zonal_km,
            meridional_km=self.meridional_km,
            phase_scale_h=self.phase_scale_h,
        )

    @property
    def between_quantities(self) -> Array:
        correlation = np.eye(len(self.sd)) if self.correlation is None else np.array(self.correlation)
        return np.outer(self.sd, self.sd) * correlation

    @property
    def is_mapped(self) -> bool:
        return self.spatial != "station"


# Three quantities; the third term's correlation is singular: the second quantity follows the first.
TERMS = [
    Term("matern32", "ou", (0.11, 0.15, 0.05), 3.0, 2000.0, 1000.0, is_modulated=True),
    Term(
        *("matern52", "matern32", (0.05, 0.08, 0.06), 5.0, 1500.0, 1500.0),
        correlation=((1.0, -0.4, 0.3), (-0.4, 1.0, 0.2), (0.3, 0.2, 1.0)),
    ),
    Term(
        *("gaussian", "gaussian", (0.08, 0.12, 0.02), 24.0, 4400.0, 4000.0),
        correlation=((1.0, 1.0, -0.5), (1.0, 1.0, -0.5), (-0.5, -0.5, 1.0)),
        is_modulated=True,
    ),
    Term("matern32", "diurnal", (0.06, 0.05, 0.0), 480.0, 1800.0, 1200.0, 3.0),
    Term("station", "ou", (0.03, 0.04, 0.02), 720.0, correlation=((1, 0.5, 0), (0.5, 1, 0), (0, 0, 1.0))),
]
#: The third quantity goes apart: S is block diagonal.
LOOSE_TERMS = [
    replace(TERMS[0], correlation=((1.0, 0.6, 0.0), (0.6, 1.0, 0.0), (0.0, 0.0, 1.0))),
    replace(TERMS[4], correlation=None),
]
Q = 3


def alone(term: Term) -> Term:
    """The term for its first quantity only."""
    return replace(term, sd=term.sd[:1], correlation=None)


@dataclass(frozen=True)
class Places:
    """Rows or points of the covariance, arrays of shape (n,); stations below 0 are no station."""

    latitude: Array
    longitude: Array
    station: NDArray[np.int64]
    quantity: NDArray[np.int64]
    time_h: Array
    amplitude: Array


@dataclass(frozen=True)
class Problem:
    latitude: Array
    longitude: Array
    station: NDArray[np.int64]
    quantity: NDArray[np.int64]
    time_h: Array
    innovation: Array
    error: Array
    amplitude: Array
    pair: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    """Rows whose errors are correlated, (K, 2), and by how much, (K,)."""
    pair_correlation: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def noise(self) -> Array:
        """Covariance of the errors (m, m)."""
        correlation = np.eye(self.error.size)
        correlation[self.pair[:, 0], self.pair[:, 1]] = self.pair_correlation
        correlation[self.pair[:, 1], self.pair[:, 0]] = self.pair_correlation
        return np.outer(self.error, self.error) * correlation

    def solve(
        self, terms: list[Term] = TERMS, threads: int = 1, max_jitter: float = 0.0
    ) -> rust_core.Analysis:
        return rust_core.Analysis(
            [term.build() for term in terms],
            station_latitude_deg=self.latitude,
            station_longitude_deg=self.longitude,
            station=self.station,
            quantity=self.quantity,
            time_h=self.time_h,
            innovation=self.innovation,
            obs_error=self.error,
            amplitude=self.amplitude,
            error_pair=self.pair if self.pair.size else None,
            error_correlation=self.pair_correlation if self.pair.size else None,
            max_jitter=max_jitter,
            n_threads=threads,
        )

    def keep(self, rows: NDArray[Any]) -> Problem:
        number = np.full(self.station.size, -1)
        number[rows] = np.arange(self.station[rows].size)
        pair = number[self.pair]
        is_whole = np.all(pair >= 0, axis=1)
        return replace(
            self,
            pair=pair[is_whole],
            pair_correlation=self.pair_correlation[is_whole],
            station=self.station[rows],
            quantity=self.quantity[rows],
            time_h=self.time_h[rows],
            innovation=self.innovation[rows],
            error=self.error[rows],
            amplitude=self.amplitude[rows],
        )

    @property
    def places(self) -> Places:
        return Places(
            self.latitude[self.station],
            self.longitude[self.station],
            self.station,
            self.quantity,
            self.time_h,
            self.amplitude,
        )

    def predict_sites(
        self, analysis: rust_core.Analysis, rows: NDArray[Any], **options: Any
    ) -> tuple[Array, Array]:
        """Of the stations of the rows, at the rows."""
        return analysis.predict_sites(
            self.station[rows],
            self.quantity[rows],
            self.time_h[rows],
            amplitude=self.amplitude[rows],
            **options,
        )


def problem(seed: int = 1, n_stations: int = 7, n_obs: int = 60, n_quantities: int = Q) -> Problem:
    random = np.random.default_rng(seed)
    return Problem(
        latitude=random.uniform(-80, 80, n_stations),
        longitude=random.uniform(-180, 180, n_stations) * 0.2,
        station=random.integers(0, n_stations, n_obs),
        quantity=random.integers(0, n_quantities, n_obs),
        time_h=random.uniform(-24, 0, n_obs),
        innovation=random.normal(0, 0.15, n_obs),
        error=random.uniform(0.02, 0.06, n_obs),
        amplitude=random.uniform(0.5, 1.5, n_obs),
    )


def sounded(p: Problem, seed: int = 3) -> Problem:
    """The problem with the errors of every three rows of a station correlated, as those of one sounding are.

    Of every other three the first two and the last two are a pair, the first and the last are not.
    """
    random = np.random.default_rng(seed)
    pair, correlation = [], []
    for station in range(p.latitude.size):
        own = random.permutation(np.flatnonzero(p.station == station))
        for number, (a, b, c) in enumerate(own[: own.size // 3 * 3].reshape(-1, 3)):
            if number % 2:
                pair += [(a, b), (c, b)]
                correlation += list(random.uniform(-0.65, 0.65, 2))
            else:
                root = random.normal(size=(3, 4))
                between = np.corrcoef(root)
                pair += [(a, b), (c, a), (b, c)]
                correlation += [between[0, 1], between[0, 2], between[1, 2]]
    return replace(p, pair=np.array(pair).reshape(-1, 2), pair_correlation=np.array(correlation))


def covariance(terms: list[Term], a: Places, b: Places, *, mapped_only: bool) -> Array:
    """Prior covariance, shape (a, b)."""
    total = np.zeros((a.time_h.size, b.time_h.size))
    for term in terms:
        lag = np.abs(a.time_h[:, None] - b.time_h[None, :])
        if term.temporal == "diurnal":
            assert term.phase_scale_h is not None
            width = 2 * np.pi * term.phase_scale_h / 24
            in_time = np.exp(-2 * (np.sin(np.pi * lag / 24) / width) ** 2 - lag / term.time_scale_h)
        else:
            in_time = correlation(term.temporal, lag / term.time_scale_h)
        if not term.is_mapped:
            in_space = (a.station[:, None] == b.station[None, :]) * (0.0 if mapped_only else 1.0)
        else:
            assert term.zonal_km is not None
            assert term.meridional_km is not None
            places = (a.latitude, a.longitude), (b.latitude, b.longitude)
            in_space = correlation(term.spatial, distance(*places, term.zonal_km, term.meridional_km))
        factor = np.outer(a.amplitude, b.amplitude) if term.is_modulated else 1.0
        total += term.between_quantities[np.ix_(a.quantity, b.quantity)] * factor * in_space * in_time
    return total


def grid(
    seed: int = 2, n_points: int = 300, time_h: float = 0.5, n_quantities: int = Q
) -> tuple[Array, Array, Array, Places]:
    """Latitude, longitude (G,), amplitude (Q, G), and the same as points of the oracle (Q G,)."""
    random = np.random.default_rng(seed)
    latitude, longitude = random.uniform(-90, 90, n_points), random.uniform(-180, 180, n_points)
    amplitude = random.uniform(0.5, 1.5, (n_quantities, n_points))
    n = n_quantities * n_points
    points = Places(
        np.tile(latitude, n_quantities),
        np.tile(longitude, n_quantities),
        np.full(n, -1),
        np.repeat(np.arange(n_quantities), n_points),
        np.full(n, time_h),
        amplitude.ravel(),
    )
    return latitude, longitude, amplitude, points
