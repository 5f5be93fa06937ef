"""Stations that are the mean over several places, and sites that are no stations, against the oracle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rust_core
from tests.reference.gaussian_process import against_others, posterior
from tests.reference.problems import (
    LOOSE_TERMS,
    TERMS,
    Array,
    Places,
    Problem,
    Term,
    covariance,
    grid,
    problem,
)
from tests.test_evidence import REGULAR, STEP

both_terms = pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])


@dataclass(frozen=True)
class Spread:
    """A problem whose stations are means over places (P,)."""

    p: Problem
    latitude: Array
    longitude: Array
    place_station: NDArray[np.int64]

    def solve(self, terms: list[Term]) -> rust_core.Analysis:
        p = self.p
        return rust_core.Analysis(
            [term.build() for term in terms],
            station_latitude_deg=self.latitude,
            station_longitude_deg=self.longitude,
            place_station=self.place_station,
            station=p.station,
            quantity=p.quantity,
            time_h=p.time_h,
            innovation=p.innovation,
            obs_error=p.error,
            amplitude=p.amplitude,
        )

    @property
    def parts(self) -> tuple[Places, Array]:
        """What single places would report for every row, and the weights (m, parts) that make the rows of them.

        Each place is a station of its own: it has a bias of its own.
        """
        row, place = np.nonzero(self.p.station[:, None] == self.place_station[None, :])
        weight = np.zeros((self.p.station.size, row.size))
        weight[row, np.arange(row.size)] = 1.0 / np.bincount(row)[row]
        p = self.p
        parts = Places(
            *(self.latitude[place], self.longitude[place], place),
            *(p.quantity[row], p.time_h[row], p.amplitude[row]),
        )
        return parts, weight

    def prior(self, terms: list[Term]) -> Array:
        parts, weight = self.parts
        return weight @ covariance(terms, parts, parts, mapped_only=False) @ weight.T

    def cross(self, terms: list[Term], points: Places) -> Array:
        parts, weight = self.parts
        return weight @ covariance(terms, parts, points, mapped_only=True)


def spread(seed: int, n_stations: int = 7, n_obs: int = 60) -> Spread:
    """Stations of one to three places within some 500 km, in no order."""
    p = problem(seed, n_stations=n_stations, n_obs=n_obs)
    random = np.random.default_rng(seed)
    place_station = random.permutation(np.repeat(np.arange(n_stations), 1 + np.arange(n_stations) % 3))
    n = place_station.size
    latitude = np.clip(p.latitude[place_station] + random.uniform(-4, 4, n), -90, 90)
    return Spread(p, latitude, p.longitude[place_station] + random.uniform(-4, 4, n), place_station)


@pytest.mark.parametrize(("n_stations", "n_obs", "tolerance"), [(7, 60, 1e-9), (260, 500, 1e-6)])
@both_terms
def test_the_map_and_the_fit_match_the_oracle(
    terms: list[Term], n_stations: int, n_obs: int, tolerance: float
) -> None:
    s = spread(61, n_stations, n_obs)
    latitude, longitude, amplitude, points = grid(n_points=100)
    prior = s.prior(terms)
    mean, cov = posterior(
        prior,
        s.cross(terms, points),
        covariance(terms, points, points, mapped_only=True),
        s.p.innovation,
        s.p.noise,
    )
    analysis = s.solve(terms)
    ours_mean, ours_sd = analysis.predict(latitude, longitude, 0.5, amplitude=amplitude)
    np.testing.assert_allclose(ours_mean.ravel(), mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours_sd.ravel() ** 2, np.diag(cov), rtol=0, atol=tolerance)
    alpha = np.linalg.solve(prior + s.p.noise, s.p.innovation)
    np.testing.assert_allclose(analysis.alpha(), alpha, rtol=1e-7, atol=1e-7)
    for station in (0, 4):
        own = np.flatnonzero(s.p.station == station)
        _, residual, held = analysis.leave_station_out(station)
        expected, expected_cov = against_others(prior + s.p.noise, s.p.innovation, own)
        np.testing.assert_allclose(residual, expected, atol=1e-8)
        np.testing.assert_allclose(held, expected_cov, atol=1e-8)
        mean, sd = s.p.predict_sites(analysis, own, is_held_out=True)
        np.testing.assert_allclose(mean, s.p.innovation[own] - expected, atol=1e-8)
        np.testing.assert_allclose(sd**2, np.diag(expected_cov) - s.p.error[own] ** 2, atol=1e-8)


@both_terms
@pytest.mark.parametrize("is_held_out", [False, True])
def test_a_site_elsewhere_is_another_instrument_there(terms: list[Term], is_held_out: bool) -> None:
    s = spread(62)
    n = 6
    station = np.array([0, 1, 1, 2, 5, 6])
    site = Places(
        np.linspace(-60, 70, n),
        np.linspace(-30, 30, n),
        np.full(n, -1) - np.arange(n),  # none of the stations: nothing is known of its bias
        np.array([0, 1, 2, 0, 1, 2]),
        np.linspace(-3, 6, n),
        np.linspace(0.6, 1.4, n),
    )
    ours = s.solve(terms).predict_sites(
        station,
        site.quantity,
        site.time_h,
        amplitude=site.amplitude,
        latitude_deg=site.latitude,
        longitude_deg=site.longitude,
        is_held_out=is_held_out,
    )
    prior, noise, cross = s.prior(terms), s.p.noise, s.cross(terms, site)
    own_prior = np.diag(covariance(terms, site, site, mapped_only=False))
    for j in range(n):
        kept = np.flatnonzero((s.p.station != station[j]) | (not is_held_out))
        mean, explained = posterior(
            prior[np.ix_(kept, kept)],
            cross[np.ix_(kept, [j])],
            np.zeros((1, 1)),
            s.p.innovation[kept],
            noise[np.ix_(kept, kept)],
        )
        assert ours[0][j] == pytest.approx(mean[0], abs=1e-8)
        assert ours[1][j] ** 2 == pytest.approx(own_prior[j] + explained[0, 0], abs=1e-8)


@pytest.mark.parametrize("terms", [REGULAR, LOOSE_TERMS])
def test_the_gradient_of_the_lengths_equals_central_differences(terms: list[Term]) -> None:
    s = spread(63)
    for name, derivative in s.solve(terms).evidence_gradient():
        number, _, field = name.removeprefix("terms[").partition("].")
        if field not in ("zonal_km", "meridional_km"):
            continue
        term = terms[int(number)]

        def evidence(step: float, term: Term = term, number: str = number, field: str = field) -> float:
            changed = replace(term, **{field: getattr(term, field) * np.exp(step)})
            return s.solve([*terms[: int(number)], changed, *terms[int(number) + 1 :]]).log_evidence

        expected = (evidence(STEP) - evidence(-STEP)) / (2 * STEP)
        assert derivative == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_the_background_check_knows_that_a_mean_varies_less() -> None:
    """Two places far apart: their mean has half of the variance, and 5 sd are less."""
    options: dict[str, Any] = {
        "station": np.zeros(1, dtype=np.int64),
        "quantity": np.zeros(1, dtype=np.int64),
        "time_h": np.zeros(1),
        "value": np.full(1, 5.0),
        "obs_error": np.full(1, 1e-6),
        "minimum": [0.0],
        "maximum": [100.0],
        "background_sd": 5.0,
        "buddy_sd": 100.0,
        "full_weight_sd": 50.0,
    }
    term = Term("matern32", "ou", (0.1,), 3.0, 1000.0, 1000.0).build()
    for innovation, place_station, flag in (
        (0.4, [0, 1], "accepted"),
        (0.4, [0, 0], "background_check"),
        (0.34, [0, 0], "accepted"),
    ):
        flags, _ = rust_core.screen_observations(
            [term],
            station_latitude_deg=np.array([0.0, 0.0]),
            station_longitude_deg=np.array([0.0, 179.0]),
            place_station=np.array(place_station),
            innovation=np.full(1, innovation),
            **options,
        )
        assert flags == [flag]


@pytest.mark.parametrize(
    ("place_station", "message"),
    [
        ([0, 1, 1], "place_station must have the length of the places, 4, got 3"),
        ([0, 1, 2, 4], "place_station must lie in 0..4, got 4"),
        ([0, -1, 1, 1], "place_station must not be negative, got -1"),
        ([0, 0, 2, 2], "place_station must name every station up to the largest, got no place of 1"),
    ],
)
def test_faulty_places_are_named(place_station: list[int], message: str) -> None:
    p = replace(problem(64, n_obs=1), station=np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match=message):
        Spread(p, np.arange(4.0), np.zeros(4), np.array(place_station)).solve(TERMS)


def test_both_coordinates_are_needed() -> None:
    p = problem(65)
    with pytest.raises(ValueError, match="latitude_deg and longitude_deg belong together"):
        p.predict_sites(p.solve(), np.arange(2), latitude_deg=np.zeros(2))
    with pytest.raises(ValueError, match="longitude_deg must have the length of time_h, 2, got 3"):
        p.predict_sites(p.solve(), np.arange(2), latitude_deg=np.zeros(2), longitude_deg=np.zeros(3))
