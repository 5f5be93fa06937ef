"""Errors of one sounding that go together: everything that the analysis says, against its oracle and refits."""

from __future__ import annotations

from dataclasses import replace
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
    Problem,
    Q,
    Term,
    covariance,
    grid,
    problem,
    sounded,
)
from tests.test_adaptation import evidence, oracle
from tests.test_evidence import REGULAR, STEP, moved
from tests.test_placement import AT, TARGETS, summed_variance

both_terms = pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])


def total(p: Problem, terms: list[Term]) -> Array:
    """The innovation covariance (m, m)."""
    return covariance(terms, p.places, p.places, mapped_only=False) + p.noise


@both_terms
@pytest.mark.parametrize("n_obs", [25, 160])
def test_the_map_and_the_fit_match_the_oracle(terms: list[Term], n_obs: int) -> None:
    p = sounded(problem(41, n_obs=n_obs))
    latitude, longitude, amplitude, points = grid(n_points=100)
    mean, cov = posterior(
        covariance(terms, p.places, p.places, mapped_only=False),
        covariance(terms, p.places, points, mapped_only=True),
        covariance(terms, points, points, mapped_only=True),
        p.innovation,
        p.noise,
    )
    analysis = p.solve(terms)
    pairs = [(0, 1), (2, 0), (1, 2)]
    ours = analysis.predict_pairs(latitude, longitude, 0.5, pairs, amplitude=amplitude)
    np.testing.assert_allclose(ours[0].ravel(), mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours[1].ravel() ** 2, np.diag(cov), rtol=0, atol=1e-9)
    by_quantity = cov.reshape(Q, latitude.size, Q, latitude.size)
    for (q, r), found in zip(pairs, ours[2], strict=True):
        np.testing.assert_allclose(found, np.diag(by_quantity[q, :, r]), rtol=0, atol=1e-9)
    s = total(p, terms)
    alpha = np.linalg.solve(s, p.innovation)
    np.testing.assert_allclose(analysis.alpha(), alpha, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(analysis.residual(), p.noise @ alpha, atol=1e-9)
    logdet = np.linalg.slogdet(s)[1]
    expected = -0.5 * (p.innovation @ alpha + logdet + p.innovation.size * np.log(2 * np.pi))
    assert analysis.log_evidence == pytest.approx(expected, rel=1e-9)


def test_the_correlation_counts() -> None:
    """Two errors that cancel in the difference: the difference is known better than by independent ones."""
    p = problem(42, n_obs=2)
    p = replace(p, station=np.array([0, 0]), quantity=np.array([0, 1]), time_h=np.zeros(2))
    pair = {"pair": np.array([[0, 1]]), "pair_correlation": np.array([0.9])}
    plain, linked = p.solve(LOOSE_TERMS), replace(p, **pair).solve(LOOSE_TERMS)
    assert np.abs(plain.alpha() - linked.alpha()).max() > 0.1
    nothing = replace(p, pair=pair["pair"], pair_correlation=np.zeros(1)).solve(LOOSE_TERMS)
    np.testing.assert_allclose(nothing.alpha(), plain.alpha(), rtol=1e-12)


@both_terms
def test_leave_one_out_equals_its_definition(terms: list[Term]) -> None:
    p = sounded(problem(43, n_obs=80))
    residual, variance = p.solve(terms).leave_one_out()
    s = total(p, terms)
    for i in range(p.innovation.size):
        expected, cov = against_others(s, p.innovation, np.array([i]))
        assert residual[i] == pytest.approx(expected[0], abs=1e-8)
        assert variance[i] == pytest.approx(cov[0, 0], abs=1e-8)


@both_terms
def test_leave_station_out_equals_refits(terms: list[Term]) -> None:
    p = sounded(problem(44, n_obs=80))
    analysis = p.solve(terms)
    s = total(p, terms)
    for station in range(p.latitude.size):
        innovation = p.innovation + 0.01 * station  # the background made without this station
        own = np.flatnonzero(p.station == station)
        rows, residual, cov = analysis.leave_station_out(station, innovation)
        np.testing.assert_array_equal(rows, own)
        expected, expected_cov = against_others(s, innovation, own)
        np.testing.assert_allclose(residual, expected, atol=1e-8)
        np.testing.assert_allclose(cov, expected_cov, atol=1e-8)
        refit = replace(p, innovation=innovation).keep(p.station != station).solve(terms)
        mean, sd = p.predict_sites(refit, own)
        held = p.predict_sites(analysis, own, is_held_out=True, innovation=innovation)
        np.testing.assert_allclose(held[0], mean, atol=1e-8)
        np.testing.assert_allclose(held[1], sd, atol=1e-8)


@both_terms
def test_station_information_equals_its_definition(terms: list[Term]) -> None:
    p = sounded(problem(45, n_obs=80))
    degrees, gain = p.solve(terms).station_information()
    s = total(p, terms)
    inverse = np.linalg.inv(s)
    for station in range(p.latitude.size):
        own = np.flatnonzero(p.station == station)
        noise = p.noise[np.ix_(own, own)]
        expected = np.trace(np.eye(own.size) - noise @ inverse[np.ix_(own, own)])
        assert degrees[station] == pytest.approx(expected, abs=1e-8)
        _, given_others = against_others(s, p.innovation, own)
        expected = 0.5 * (np.linalg.slogdet(given_others)[1] - np.linalg.slogdet(noise)[1])
        assert gain[station] == pytest.approx(expected, abs=1e-8)


@both_terms
def test_what_stations_buy_equals_refits(terms: list[Term]) -> None:
    p = sounded(problem(46, n_obs=80))
    analysis = p.solve(terms)
    bought = analysis.variance_bought(*AT, **TARGETS)
    whole = summed_variance(p, terms)
    for station in range(p.latitude.size):
        expected = summed_variance(p.keep(p.station != station), terms) - whole
        np.testing.assert_allclose(bought[station], expected, atol=1e-8)
    alone = analysis.variance_bought_alone(*AT, **TARGETS)
    nothing = summed_variance(p.keep(p.station < 0), terms)
    for station in range(p.latitude.size):
        expected = nothing - summed_variance(p.keep(p.station == station), terms)
        np.testing.assert_allclose(alone[station], expected, atol=1e-8)
    for error_factor in (0.3, 2.5):
        gain = analysis.upgrade_gain(np.full(p.latitude.size, error_factor), *AT, **TARGETS)
        for station in range(p.latitude.size):
            error = np.where(p.station == station, error_factor, 1.0) * p.error
            expected = whole - summed_variance(replace(p, error=error), terms)
            np.testing.assert_allclose(gain[station], expected, atol=1e-8)


def test_the_gain_of_a_candidate_equals_a_refit_with_it() -> None:
    p = sounded(problem(47, n_obs=80))
    noise = np.array([0.03, 0.05, 0.02])
    place = {"latitude": 12.0, "longitude": -30.0}
    gain = p.solve(LOOSE_TERMS).candidate_gain(
        *(np.array([v]) for v in (*place.values(), 0.5)), noise[None, :, None], *AT, **TARGETS
    )
    quantity = np.arange(Q)
    with_it = replace(
        p,
        latitude=np.append(p.latitude, place["latitude"]),
        longitude=np.append(p.longitude, place["longitude"]),
        station=np.append(p.station, np.full(Q, p.latitude.size)),
        quantity=np.append(p.quantity, quantity),
        time_h=np.append(p.time_h, np.full(Q, 0.5)),
        innovation=np.append(p.innovation, np.zeros(Q)),
        error=np.append(p.error, noise),
        amplitude=np.append(p.amplitude, np.ones(Q)),
    )
    expected = summed_variance(p, LOOSE_TERMS) - summed_variance(with_it, LOOSE_TERMS)
    np.testing.assert_allclose(gain[0], expected, atol=1e-8)


@both_terms
@pytest.mark.parametrize("excluded", [None, 2])
def test_what_a_station_says_of_the_spread_matches_the_oracle(
    terms: list[Term], excluded: int | None
) -> None:
    p = sounded(problem(48, n_obs=90))
    excess, weight = evidence(p, p.solve(terms), [0, 1, 5, 6], excluded=excluded)
    rest = p if excluded is None else p.keep(np.flatnonzero(p.station != excluded))
    for row, station in enumerate([0, 1, 5, 6]):
        for quantity in range(Q):
            expected = oracle(rest, terms, station, quantity)
            assert (excess[row, quantity], weight[row, quantity]) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("terms", [REGULAR, LOOSE_TERMS])
def test_the_gradient_equals_central_differences(terms: list[Term]) -> None:
    p = sounded(problem(49, n_obs=70))
    for name, derivative in p.solve(terms).evidence_gradient():
        expected = (moved(p, terms, name, STEP) - moved(p, terms, name, -STEP)) / (2 * STEP)
        assert derivative == pytest.approx(expected, rel=1e-5, abs=1e-6), name


@both_terms
def test_threads_and_order_change_nothing(terms: list[Term]) -> None:
    p = sounded(problem(50, n_stations=30, n_obs=300))
    latitude, longitude, amplitude, _ = grid(n_points=50)
    one, many = (
        p.solve(terms, threads=n).predict(latitude, longitude, 0.5, amplitude=amplitude) for n in (1, 4)
    )
    assert [part.tobytes() for part in one] == [part.tobytes() for part in many]
    shuffled = p.keep(np.random.default_rng(1).permutation(300)).solve(terms)
    for a, b in zip(one, shuffled.predict(latitude, longitude, 0.5, amplitude=amplitude), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


# --- quality control ----------------------------------------------------------------------------------------

BACKGROUND_SD, BUDDY_SD = 5.0, 3.0


def screened(p: Problem, terms: list[Term], full_sd: float) -> tuple[list[str], Array]:
    return rust_core.screen_observations(
        [term.build() for term in terms],
        station_latitude_deg=p.latitude,
        station_longitude_deg=p.longitude,
        station=p.station,
        quantity=p.quantity,
        time_h=p.time_h,
        value=np.full(p.station.size, 5.0),
        innovation=p.innovation,
        obs_error=p.error,
        amplitude=p.amplitude,
        error_pair=p.pair,
        error_correlation=p.pair_correlation,
        minimum=[0.0] * Q,
        maximum=[100.0] * Q,
        background_sd=BACKGROUND_SD,
        buddy_sd=BUDDY_SD,
        full_weight_sd=full_sd,
    )


def by_refits(p: Problem, terms: list[Term], full_sd: float) -> tuple[list[str], Array]:
    """The recipe in plain NumPy, with a new solve for every number."""
    prior = covariance(terms, p.places, p.places, mapped_only=False)
    flags = np.full(p.error.size, "accepted", dtype=object)
    is_far = np.abs(p.innovation) > BACKGROUND_SD * np.sqrt(np.diag(prior) + p.error**2)
    flags[is_far] = "background_check"
    weight = np.where(is_far, 0.0, 1.0)

    def score(i: int, weights: Array) -> float:
        kept = np.flatnonzero(weights > 0)
        inflation = 1.0 / np.sqrt(weights[kept])
        s = prior[np.ix_(kept, kept)] + p.noise[np.ix_(kept, kept)] * np.outer(inflation, inflation)
        residual, cov = against_others(s, p.innovation[kept], np.flatnonzero(kept == i))
        return float(np.abs(residual[0]) / np.sqrt(cov[0, 0]))

    # Rows of quantities that nothing links are apart, so the order of rejections among them does not matter.
    while True:
        scores = {int(i): score(int(i), weight) for i in np.flatnonzero(weight > 0)}
        worst = max(scores, key=lambda i: scores[i])
        if scores[worst] <= BUDDY_SD:
            break
        flags[worst], weight[worst] = "buddy_check", 0.0
    for _ in range(3):
        new = weight.copy()
        for i in np.flatnonzero(weight > 0):
            own = weight.copy()
            own[i] = 1.0  # the row's own weight does not excuse it
            new[i] = min(1.0, full_sd / score(int(i), own))
        weight = new
    return list(flags), weight


@both_terms
@pytest.mark.parametrize("full_sd", [0.7, 2.0])
def test_screening_equals_refits(terms: list[Term], full_sd: float) -> None:
    """With many weights that change, which are found by a new factorisation, and with few."""
    p = sounded(problem(51, n_obs=90))
    random = np.random.default_rng(52)
    drawn = np.linalg.cholesky(total(p, terms)) @ random.normal(size=90)
    innovation = drawn.copy()
    innovation[[3, 40]] = 4.5 * np.sqrt(np.diag(total(p, terms)))[[3, 40]]
    innovation[77] = 3.0
    p = replace(p, innovation=innovation)
    flags, weight = screened(p, terms, full_sd)
    expected_flags, expected_weight = by_refits(p, terms, full_sd)
    assert flags == expected_flags
    assert {"accepted", "background_check", "buddy_check"} == set(flags)
    np.testing.assert_allclose(weight, expected_weight, atol=1e-8)
    changed = np.mean((weight > 0) & (weight < 1))
    assert changed > 0.2 if full_sd < 1 else 0.0 < changed < 0.12


# --- arguments ----------------------------------------------------------------------------------------------


def test_what_is_added_to_make_the_covariance_definite_leaves_what_errors_share() -> None:
    p = problem(53, n_obs=4)
    p = replace(
        p,
        station=np.array([0, 0, 0, 1]),
        quantity=np.array([0, 0, 1, 0]),
        time_h=np.array([-1.0, -1.0, -1.0, -2.0]),
        error=np.array([0.0, 0.0, 0.03, 0.03]),
        amplitude=np.ones(4),
    )
    p = replace(p, pair=np.array([[2, 1]]), pair_correlation=np.array([0.5]))
    with pytest.raises(ValueError, match=r"not positive definite: observations 0 .*and 1 "):
        p.solve()
    survived = p.solve(max_jitter=1e-6)
    prior = covariance(TERMS, p.places, p.places, mapped_only=False)
    s = prior + p.noise + survived.jitter * np.diag(np.diag(prior + p.noise))
    np.testing.assert_allclose(survived.alpha(), np.linalg.solve(s, p.innovation), rtol=1e-4)


@pytest.mark.parametrize(
    ("pair", "correlation", "message"),
    [
        ([[0, 9]], [0.5], "error_pair must lie in 0..4, got 9"),
        ([[0, -1]], [0.5], "error_pair must not be negative, got -1"),
        ([[1, 1]], [0.5], r"error_pair must name two rows, once, got \(1, 1\)"),
        ([[0, 1], [1, 0]], [0.5, 0.5], r"error_pair must name two rows, once, got \(1, 0\)"),
        ([[0, 3]], [0.5], "error_pair must be of one station, got rows 0 and 3 of stations 0 and 1"),
        ([[0, 1]], [np.nan], "error_correlation must be finite, got NaN of rows 0 and 1"),
        ([[0, 1]], [1.0], r"error_correlation must be positive definite, it is not at row 1 of \[0, 1\]"),
        ([[0, 1], [0, 2], [1, 2]], [0.9, 0.9, -0.9], r"positive definite, it is not at row 2 of \[0, 1, 2\]"),
        ([[0, 1]], [0.1, 0.2], r"error_pair must have shape \(2, 2\) with 2 values"),
    ],
)
def test_faulty_pairs_are_named(pair: list[list[int]], correlation: list[float], message: str) -> None:
    pairs: NDArray[np.int64] = np.array(pair)
    options: dict[str, Any] = {"pair": pairs, "pair_correlation": np.array(correlation)}
    p = replace(problem(54, n_obs=4), station=np.array([0, 0, 0, 1]), **options)
    with pytest.raises(ValueError, match=message):
        p.solve()


def test_pairs_and_correlations_belong_together() -> None:
    with pytest.raises(ValueError, match="error_pair and error_correlation belong together"):
        rust_core.Analysis(
            [TERMS[0].build()],
            station_latitude_deg=np.zeros(1),
            station_longitude_deg=np.zeros(1),
            station=np.zeros(0, dtype=np.int64),
            quantity=np.zeros(0, dtype=np.int64),
            time_h=np.zeros(0),
            innovation=np.zeros(0),
            obs_error=np.zeros(0),
            error_pair=np.zeros((0, 2), dtype=np.int64),
        )
