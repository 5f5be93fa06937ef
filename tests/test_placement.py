"""What sounders are worth for a map, against refits with a station left out, made better, or added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rust_core
from tests.reference.gaussian_process import posterior
from tests.reference.problems import LOOSE_TERMS, TERMS, Array, Problem, Q, Term, covariance, grid, problem

both_terms = pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])
LATITUDE, LONGITUDE, AMPLITUDE, POINTS = grid(n_points=90)
WEIGHT = np.random.default_rng(5).uniform(0, 2, 90)
TARGETS: dict[str, Any] = {"weight": WEIGHT, "amplitude": AMPLITUDE}
AT = (LATITUDE, LONGITUDE, 0.5)


def summed_variance(p: Problem, terms: list[Term]) -> Array:
    """Weighted sum over the targets of the variance of every quantity, shape (Q,), by the oracle."""
    _, cov = posterior(
        covariance(terms, p.places, p.places, mapped_only=False),
        covariance(terms, p.places, POINTS, mapped_only=True),
        covariance(terms, POINTS, POINTS, mapped_only=True),
        p.innovation,
        p.noise,
    )
    return np.asarray(np.diag(cov).reshape(Q, -1) @ WEIGHT)


@both_terms
def test_the_variance_bought_equals_refits_without_the_station(terms: list[Term]) -> None:
    p = problem(21)
    bought = p.solve(terms).variance_bought(*AT, **TARGETS)
    whole = summed_variance(p, terms)
    for station in range(p.latitude.size):
        expected = summed_variance(p.keep(p.station != station), terms) - whole
        np.testing.assert_allclose(bought[station], expected, atol=1e-8)
    assert np.all(bought >= 0)


@both_terms
@pytest.mark.parametrize("error_factor", [0.3, 1.0, 2.5])
def test_an_upgrade_equals_a_refit_with_other_errors(terms: list[Term], error_factor: float) -> None:
    p = problem(22)
    factors = np.full(p.latitude.size, error_factor)
    factors[1] = 0.5  # each has its own
    gain = p.solve(terms).upgrade_gain(factors, *AT, **TARGETS)
    whole = summed_variance(p, terms)
    for station in range(p.latitude.size):
        changed = np.where(p.station == station, factors[station], 1.0) * p.error
        expected = whole - summed_variance(replace(p, error=changed), terms)
        np.testing.assert_allclose(gain[station], expected, atol=1e-8)


@both_terms
def test_what_a_station_buys_alone_equals_fits_of_it_alone(terms: list[Term]) -> None:
    p = problem(27)
    alone = p.solve(terms).variance_bought_alone(*AT, **TARGETS)
    nothing = summed_variance(p.keep(p.station < 0), terms)
    for station in range(p.latitude.size):
        expected = nothing - summed_variance(p.keep(p.station == station), terms)
        np.testing.assert_allclose(alone[station], expected, atol=1e-8)


@both_terms
@pytest.mark.parametrize("observed", [(0, 1, 2), (0, 2), (1,)])
@pytest.mark.parametrize("time_h", [(0.5,), (0.5, -1.0, -26.0)])
def test_the_gain_of_a_candidate_equals_a_refit_with_it(
    terms: list[Term], observed: tuple[int, ...], time_h: tuple[float, ...]
) -> None:
    p = problem(23)
    random = np.random.default_rng(6)
    n = 5
    latitude, longitude = random.uniform(-90, 90, n), random.uniform(-180, 180, n)
    shape = (len(time_h), Q, n)
    amplitude = random.uniform(0.5, 1.5, shape)
    noise = np.array([0.03, 0.05, 0.02])[None, :, None] * random.uniform(0.5, 2.0, shape)
    noise[:, [q for q in range(Q) if q not in observed]] = np.inf
    if len(time_h) > 1:
        noise[1, :, 2] = np.inf  # one of them misses a sounding
    gain = p.solve(terms).candidate_gain(
        latitude, longitude, np.array(time_h), noise, *AT, candidate_amplitude=amplitude, **TARGETS
    )
    whole = summed_variance(p, terms)
    for k in range(n):
        added = with_station(p, latitude[k], longitude[k], time_h, noise[..., k], amplitude[..., k])
        np.testing.assert_allclose(gain[k], whole - summed_variance(added, terms), atol=1e-8)


def with_station(
    p: Problem, latitude: float, longitude: float, time_h: tuple[float, ...], noise: Array, amplitude: Array
) -> Problem:
    """A new station that sounds at the times; noise and amplitude (J, Q)."""
    sounding, quantity = np.nonzero(np.isfinite(noise))
    n = quantity.size
    return Problem(
        np.append(p.latitude, latitude),
        np.append(p.longitude, longitude),
        np.append(p.station, np.full(n, p.latitude.size)),
        np.append(p.quantity, quantity),
        np.append(p.time_h, np.array(time_h)[sounding]),
        np.append(p.innovation, np.zeros(n)),
        np.append(p.error, noise[sounding, quantity]),
        np.append(p.amplitude, amplitude[sounding, quantity]),
    )


NOISE = np.array([0.03, 0.05, 0.02])[None, :, None]
FACTORS = np.ones(problem(26).latitude.size)


def test_many_targets_are_the_sum_of_few() -> None:
    """More points than are held at a time."""
    p = problem(24)
    analysis = p.solve()
    latitude, longitude, amplitude, _ = grid(n_points=9000)
    weight = np.random.default_rng(7).uniform(0, 1, 9000)
    here = (np.array([20.0]), np.array([10.0]), np.array([0.5]), NOISE)
    factors = np.full(p.latitude.size, 0.5)

    def gains(chosen: slice) -> list[Array]:
        at = latitude[chosen], longitude[chosen], 0.5
        options: dict[str, Any] = {"weight": weight[chosen], "amplitude": amplitude[:, chosen]}
        return [
            analysis.variance_bought(*at, **options),
            analysis.variance_bought_alone(*at, **options),
            analysis.upgrade_gain(factors, *at, **options),
            analysis.candidate_gain(*here, *at, **options),
        ]

    parts = [gains(slice(first, first + 1000)) for first in range(0, 9000, 1000)]
    for number, whole in enumerate(gains(slice(None))):
        np.testing.assert_allclose(whole, np.sum([part[number] for part in parts], axis=0), rtol=1e-10)


def test_the_thread_count_changes_no_bit() -> None:
    p = problem(25, n_stations=30, n_obs=300)
    here = (LATITUDE[:20], LONGITUDE[:20], np.array([0.5, -2.0]), np.tile(NOISE, (2, 1, 20)))
    one, many = (
        [
            analysis.variance_bought(*AT, **TARGETS),
            analysis.variance_bought_alone(*AT, **TARGETS),
            analysis.upgrade_gain(np.full(30, 0.5), *AT, **TARGETS),
            analysis.candidate_gain(*here, *AT, **TARGETS),
            np.array([value for _, value in analysis.evidence_gradient()]),
        ]
        for analysis in (p.solve(threads=1), p.solve(threads=4))
    )
    assert [part.tobytes() for part in one] == [part.tobytes() for part in many]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: a.variance_bought(*AT, weight=WEIGHT[:3]),
            "weight must have the length of the points, 90, got 3",
        ),
        (lambda a: a.variance_bought(*AT, weight=-WEIGHT), "weight must not be negative"),
        (
            lambda a: a.upgrade_gain(np.zeros(1), *AT, weight=WEIGHT),
            "error_factor must have the length of the stations",
        ),
        (lambda a: a.upgrade_gain(FACTORS * 0.0, *AT, weight=WEIGHT), "error_factor must be positive, got 0"),
        (
            lambda a: a.candidate_gain(
                LATITUDE, LONGITUDE, np.zeros(1), np.ones((1, 2, 90)), *AT, weight=WEIGHT
            ),
            r"noise must have shape \(1, 3, 90\), got \(1, 2, 90\)",
        ),
        (
            lambda a: a.candidate_gain(
                LATITUDE, LONGITUDE, np.zeros(1), -np.ones((1, 3, 90)), *AT, weight=WEIGHT
            ),
            "noise must not be negative, got -1",
        ),
        (
            lambda a: a.candidate_gain(
                LATITUDE + 90.0, LONGITUDE, np.zeros(1), np.ones((1, 3, 90)), *AT, weight=WEIGHT
            ),
            "candidate_latitude_deg must lie in -90..90",
        ),
    ],
)
def test_faulty_arguments_are_named(call: Any, message: str) -> None:
    analysis: rust_core.Analysis = problem(26).solve()
    with pytest.raises(ValueError, match=message):
        call(analysis)
