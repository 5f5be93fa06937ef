"""The analysis against its oracle, brute-force refits, limits and symmetries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rust_core
from tests.reference.gaussian_process import posterior
from tests.reference.problems import (
    LOOSE_TERMS,
    TERMS,
    Array,
    Places,
    Problem,
    Q,
    Term,
    alone,
    covariance,
    grid,
    problem,
)


@pytest.mark.parametrize(
    "n_obs", [1, 60, 300]
)  # less than, about and more than the blocks of the linear algebra
@pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])
def test_predict_matches_the_oracle(n_obs: int, terms: list[Term]) -> None:
    p = problem(n_obs=n_obs)
    latitude, longitude, amplitude, points = grid()
    mean, cov = posterior(
        covariance(terms, p.places, p.places, mapped_only=False),
        covariance(terms, p.places, points, mapped_only=True),
        covariance(terms, points, points, mapped_only=True),
        p.innovation,
        p.noise,
    )
    pairs = [(0, 1), (2, 0), (1, 1)]
    ours_mean, ours_sd, ours_cov = p.solve(terms).predict_pairs(
        latitude, longitude, 0.5, pairs, amplitude=amplitude
    )
    np.testing.assert_allclose(ours_mean.ravel(), mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours_sd.ravel() ** 2, np.diag(cov), rtol=0, atol=1e-9)
    by_quantity = cov.reshape(Q, latitude.size, Q, latitude.size)
    for (q, r), found in zip(pairs, ours_cov, strict=True):
        np.testing.assert_allclose(found, np.diag(by_quantity[q, :, r]), rtol=0, atol=1e-9)
    plain = p.solve(terms).predict(latitude, longitude, 0.5, amplitude=amplitude)
    assert plain[0].tobytes() == ours_mean.tobytes()
    assert plain[1].tobytes() == ours_sd.tobytes()


@pytest.mark.parametrize(
    ("n_stations", "tolerance"), [(20, 1e-9), (260, 1e-6)]
)  # a Gaussian field over many stations is known from fewer of them
def test_terms_of_one_shape_in_space_are_mapped_together(n_stations: int, tolerance: float) -> None:
    wide = Term("gaussian", "gaussian", (0.08, 0.12, 0.02), 24.0, 5000.0, 5000.0, is_modulated=True)
    daily = Term("gaussian", "diurnal", (0.06, 0.05, 0.03), 480.0, 5000.0, 5000.0, 3.0, is_modulated=True)
    still = Term("gaussian", "ou", (0.03, 0.02, 0.03), 8.0, 5000.0, 5000.0)
    terms = [TERMS[0], wide, daily, still, TERMS[4]]
    p = problem(19, n_stations=n_stations, n_obs=400)
    latitude, longitude, amplitude, points = grid()
    mean, cov = posterior(
        covariance(terms, p.places, p.places, mapped_only=False),
        covariance(terms, p.places, points, mapped_only=True),
        covariance(terms, points, points, mapped_only=True),
        p.innovation,
        p.noise,
    )
    ours_mean, ours_sd = p.solve(terms).predict(latitude, longitude, 0.5, amplitude=amplitude)
    np.testing.assert_allclose(ours_mean.ravel(), mean, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours_sd.ravel() ** 2, np.diag(cov), rtol=0, atol=tolerance)


def test_a_forecast_matches_the_oracle_and_relaxes_to_the_prior() -> None:
    p = problem(14)
    analysis = p.solve()
    for lead_h in (1.0, 6.0, 24.0):
        latitude, longitude, amplitude, points = grid(n_points=40, time_h=lead_h)
        mean, cov = posterior(
            covariance(TERMS, p.places, p.places, mapped_only=False),
            covariance(TERMS, p.places, points, mapped_only=True),
            covariance(TERMS, points, points, mapped_only=True),
            p.innovation,
            p.noise,
        )
        ours_mean, ours_sd = analysis.predict(latitude, longitude, lead_h, amplitude=amplitude)
        np.testing.assert_allclose(ours_mean.ravel(), mean, rtol=0, atol=1e-9)
        np.testing.assert_allclose(ours_sd.ravel() ** 2, np.diag(cov), rtol=0, atol=1e-9)
    mean, sd = analysis.predict(latitude, longitude, 1e5, amplitude=amplitude)
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    prior = np.diag(covariance(TERMS, points, points, mapped_only=True))
    np.testing.assert_allclose(sd.ravel() ** 2, prior, rtol=1e-12)


def test_predict_sites_evidence_and_residual_match_the_oracle() -> None:
    p = problem()
    n = 6
    target = Places(
        np.full(n, p.latitude[3]),
        np.full(n, p.longitude[3]),
        np.full(n, 3),
        np.array([0, 0, 1, 1, 2, 2]),
        np.array([-30.0, -5.0, 0.0, 6.0, -1.0, 2.0]),
        np.linspace(0.6, 1.4, n),
    )
    prior = covariance(TERMS, p.places, p.places, mapped_only=False)
    mean, cov = posterior(
        prior,
        covariance(TERMS, p.places, target, mapped_only=False),
        covariance(TERMS, target, target, mapped_only=False),
        p.innovation,
        p.noise,
    )
    analysis = p.solve()
    ours_mean, ours_sd = analysis.predict_sites(
        target.station, target.quantity, target.time_h, amplitude=target.amplitude
    )
    np.testing.assert_allclose(ours_mean, mean, atol=1e-9)
    np.testing.assert_allclose(ours_sd**2, np.diag(cov), atol=1e-9)
    total = prior + np.diag(p.error**2)
    alpha = np.linalg.solve(total, p.innovation)
    np.testing.assert_allclose(analysis.alpha(), alpha, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(analysis.residual(), p.innovation - prior @ alpha, atol=1e-9)
    evidence = -0.5 * (
        p.innovation @ alpha + np.linalg.slogdet(total)[1] + p.innovation.size * np.log(2 * np.pi)
    )
    assert analysis.log_evidence == pytest.approx(evidence, rel=1e-9)
    assert analysis.chi2 == pytest.approx(p.innovation @ alpha / p.innovation.size, rel=1e-9)
    assert analysis.jitter == 0.0


@pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])
def test_leave_one_out_equals_refits(terms: list[Term]) -> None:
    p = problem(3, n_obs=140)
    residual, variance = p.solve(terms).leave_one_out()
    for i in range(p.innovation.size):
        refit = p.keep(np.arange(p.innovation.size) != i).solve(terms)
        mean, sd = p.predict_sites(refit, np.array([i]))
        assert residual[i] == pytest.approx(p.innovation[i] - mean[0], abs=1e-8)
        assert variance[i] == pytest.approx(sd[0] ** 2 + p.error[i] ** 2, abs=1e-8)


@pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])
def test_leave_station_out_equals_refits_with_the_station_specific_innovation(terms: list[Term]) -> None:
    p = problem(4)
    analysis = p.solve(terms)
    for station in range(p.latitude.size):
        own = p.innovation + 0.01 * station  # the background made without this station
        rows, residual, cov = analysis.leave_station_out(station, own)
        np.testing.assert_array_equal(rows, np.flatnonzero(p.station == station))
        refit = replace(p, innovation=own).keep(p.station != station).solve(terms)
        mean, sd = p.predict_sites(refit, rows)
        np.testing.assert_allclose(residual, own[rows] - mean, atol=1e-8)
        np.testing.assert_allclose(np.diag(cov), sd**2 + p.error[rows] ** 2, atol=1e-8)
        held = p.predict_sites(analysis, rows, is_held_out=True, innovation=own)
        np.testing.assert_allclose(held[0], mean, atol=1e-8)
        np.testing.assert_allclose(held[1], sd, atol=1e-8)


def test_station_information_equals_its_definition() -> None:
    p = problem(5)
    degrees, gain = p.solve().station_information()
    total = covariance(TERMS, p.places, p.places, mapped_only=False) + np.diag(p.error**2)
    inverse = np.linalg.inv(total)
    for station in range(p.latitude.size):
        own = np.flatnonzero(p.station == station)
        noise = p.error[own] ** 2
        assert degrees[station] == pytest.approx(np.sum(1 - noise * np.diag(inverse)[own]), abs=1e-8)
        # Mutual information of the station's rows with the truth, given all the others.
        others = np.flatnonzero(p.station != station)
        given_others = total[np.ix_(own, own)] - total[np.ix_(own, others)] @ np.linalg.solve(
            total[np.ix_(others, others)], total[np.ix_(others, own)]
        )
        expected = 0.5 * (np.linalg.slogdet(given_others)[1] - np.log(noise).sum())
        assert gain[station] == pytest.approx(expected, abs=1e-8)


def test_uncorrelated_quantities_do_not_know_of_each_other() -> None:
    p = problem(15)
    latitude, longitude, amplitude, _ = grid(n_points=50)
    apart = [replace(term, correlation=None) for term in TERMS]
    mean, sd = p.solve(apart).predict(latitude, longitude, 0.0, amplitude=amplitude)
    for number in range(Q):
        one = p.keep(p.quantity == number)
        one = replace(one, quantity=np.zeros(one.station.size, dtype=np.int64))
        terms = [replace(term, sd=term.sd[number : number + 1]) for term in apart]
        own = one.solve(terms).predict(latitude, longitude, 0.0, amplitude=amplitude[number : number + 1])
        np.testing.assert_allclose(mean[number], own[0][0], atol=1e-12)
        np.testing.assert_allclose(sd[number], own[1][0], atol=1e-12)
    moved = replace(p, innovation=p.innovation + (p.quantity == 1))
    again, _ = moved.solve(apart).predict(latitude, longitude, 0.0, amplitude=amplitude)
    assert again[[0, 2]].tobytes() == mean[[0, 2]].tobytes()


def test_a_correlated_quantity_is_known_where_only_the_other_is_observed() -> None:
    p = problem(16)
    p = p.keep(p.quantity == 0)
    latitude, longitude, *_ = grid(n_points=20)
    linked = [replace(TERMS[0], correlation=((1.0, -0.9, 0.0), (-0.9, 1.0, 0.0), (0.0, 0.0, 1.0)))]
    mean, sd = p.solve(linked).predict(latitude, longitude, 0.0)
    np.testing.assert_allclose(mean[1], -0.9 * TERMS[0].sd[1] / TERMS[0].sd[0] * mean[0], atol=1e-12)
    assert np.all(sd[1] <= TERMS[0].sd[1] + 1e-12)
    np.testing.assert_array_equal(mean[2], 0)
    np.testing.assert_allclose(sd[2], TERMS[0].sd[2], rtol=1e-12)


def test_the_amplitude_scales_prior_and_increment() -> None:
    p = problem(17)
    latitude, longitude, *_ = grid(n_points=20)
    half = np.full((Q, 20), 0.5)
    p = replace(p, amplitude=np.ones(p.station.size))
    mean, sd = p.solve(TERMS[:1]).predict(latitude, longitude, 0.0)
    small_mean, small_sd = p.solve(TERMS[:1]).predict(latitude, longitude, 0.0, amplitude=half)
    np.testing.assert_allclose(small_mean, 0.5 * mean, atol=1e-12)
    np.testing.assert_allclose(small_sd, 0.5 * sd, atol=1e-12)


def field_at_own_stations(p: Problem, terms: list[Term]) -> tuple[Array, Array]:
    """Of the first quantity."""
    mean, sd = p.solve(terms).predict(p.latitude, p.longitude, 0.0)
    return mean[0], sd[0]


def test_exact_observations_are_reproduced() -> None:
    p = replace(
        problem(6),
        station=np.arange(7),
        quantity=np.zeros(7, dtype=np.int64),
        time_h=np.zeros(7),
        innovation=np.linspace(-0.2, 0.2, 7),
        error=np.zeros(7),
        amplitude=np.ones(7),
    )
    mean, sd = field_at_own_stations(p, TERMS[:1])
    np.testing.assert_allclose(mean, p.innovation, atol=1e-9)
    np.testing.assert_allclose(sd, 0, atol=1e-6)


def test_worthless_observations_leave_the_prior() -> None:
    p = problem(7)
    p = replace(p, error=np.full(p.error.size, 1e6))
    mean, sd = field_at_own_stations(p, TERMS[:2])
    np.testing.assert_allclose(mean, 0, atol=1e-9)
    np.testing.assert_allclose(sd, np.hypot(0.11, 0.05), atol=1e-9)


def test_infinite_lengths_make_one_weighted_mean() -> None:
    p = problem(8)
    p = replace(p, quantity=np.zeros_like(p.quantity))
    infinite = float("inf")
    terms = [Term("matern32", "ou", (10.0,), infinite, infinite, infinite)]
    mean, _ = field_at_own_stations(p, terms)
    weights = p.error**-2
    np.testing.assert_allclose(mean, np.average(p.innovation, weights=weights), atol=1e-4)


def test_no_observations_give_the_prior() -> None:
    analysis = problem().keep(np.zeros(60, dtype=bool)).solve()
    mean, sd = analysis.predict(np.array([0.0, 90.0]), np.array([0.0, 0.0]), 0.0)
    np.testing.assert_array_equal(mean, 0)
    prior = np.sum([np.square(term.sd) for term in TERMS[:4]], axis=0)
    np.testing.assert_allclose(sd, np.sqrt(prior)[:, None] * np.ones(2), rtol=1e-12)
    assert np.isnan(analysis.chi2)


@pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])
def test_the_thread_count_changes_no_bit(terms: list[Term]) -> None:
    p = problem(9, n_stations=40, n_obs=500)
    random = np.random.default_rng(3)
    latitude, longitude = random.uniform(-90, 90, 2000), random.uniform(-180, 180, 2000)
    one, many = p.solve(terms, threads=1), p.solve(terms, threads=5)
    assert one.alpha().tobytes() == many.alpha().tobytes()
    points = latitude, longitude, 0.0, [(0, 1)]
    for a, b in zip(one.predict_pairs(*points), many.predict_pairs(*points), strict=True):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(one.leave_station_out(2), many.leave_station_out(2), strict=True):
        assert a.tobytes() == b.tobytes()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_observations_does_not_matter(seed: int) -> None:
    p = problem(seed, n_obs=25)
    order = np.random.default_rng(seed).permutation(25)
    for a, b in zip(
        field_at_own_stations(p, TERMS), field_at_own_stations(p.keep(order), TERMS), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), turn=st.floats(-720, 720))
def test_a_rotation_about_the_pole_changes_nothing(seed: int, turn: float) -> None:
    p = problem(seed, n_obs=25)
    turned = replace(p, longitude=p.longitude + turn)
    for a, b in zip(field_at_own_stations(p, TERMS), field_at_own_stations(turned, TERMS), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_more_observations_never_raise_the_variance(seed: int) -> None:
    p = problem(seed, n_obs=25)
    _, fewer = p.keep(np.arange(25) < 20).solve().predict(p.latitude, p.longitude, 0.0)
    _, more = p.solve().predict(p.latitude, p.longitude, 0.0)
    assert np.all(more <= fewer + 1e-10)


def test_the_date_line_and_the_poles_are_no_borders() -> None:
    p = problem(11)
    analysis = p.solve()
    west = analysis.predict(np.array([30.0, 90.0]), np.array([-180.0, 17.0]), 0.0)
    east = analysis.predict(np.array([30.0, 90.0]), np.array([180.0, -120.0]), 0.0)
    np.testing.assert_allclose(west, east, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), zonal=st.floats(50, 20_000), ratio=st.floats(0.05, 1))
def test_every_term_is_positive_definite_on_the_sphere(seed: int, zonal: float, ratio: float) -> None:
    random = np.random.default_rng(seed)
    n = 80
    sphere = np.degrees(np.arcsin(random.uniform(-1, 1, n))), random.uniform(-180, 180, n)
    for kind in ("matern32", "matern52", "gaussian"):
        rust_core.Analysis(
            [Term(kind, "ou", (1.0,), 1.0, zonal, zonal * ratio).build()],
            station_latitude_deg=sphere[0],
            station_longitude_deg=sphere[1],
            station=np.arange(n),
            quantity=np.zeros(n, dtype=np.int64),
            time_h=np.zeros(n),
            innovation=np.zeros(n),
            obs_error=np.full(n, 1e-5),
        )


def prior_of(p: Problem) -> Array:
    return covariance(TERMS, p.places, p.places, mapped_only=False)


def test_duplicates_without_error_name_the_pair() -> None:
    p = problem(12, n_obs=6)
    p = replace(
        p,
        station=np.array([0, 1, 2, 1, 3, 4]),
        quantity=np.ones(6, dtype=np.int64),
        amplitude=np.ones(6),
        time_h=np.array([-1.0, -2.0, -3.0, -2.0, -4.0, -5.0]),
        error=np.zeros(6),
    )
    with pytest.raises(
        ValueError, match=r"observations 1 \(station 1, quantity 1, time_h -2.*and 3 \(station 1.*duplicates"
    ):
        p.solve()
    # A cycle survives it, and says by how much the errors were raised.
    survived = p.solve(max_jitter=1e-6)
    assert 0 < survived.jitter <= 1e-6
    raised = replace(p, error=np.sqrt(survived.jitter * np.diag(prior_of(p))))
    np.testing.assert_allclose(survived.alpha(), raised.solve().alpha(), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"station": np.array([0, 99])}, "station must lie in 0..7, got 99"),
        ({"station": np.array([0, -1])}, "station must not be negative, got -1"),
        ({"quantity": np.array([0, 3])}, "quantity must lie in 0..3, got 3"),
        ({"quantity": np.array([0])}, "quantity must have the length of station, 2, got 1"),
        ({"amplitude": np.array([1.0, -1.0])}, "amplitude must not be negative, got -1"),
        ({"error": np.array([0.1, -0.2])}, "obs_error must not be negative, got -0.2"),
        ({"innovation": np.array([0.1, np.nan])}, "innovation must be finite, got NaN at index 1"),
        ({"time_h": np.array([0.1])}, "time_h must have the length of station, 2, got 1"),
        ({"latitude": np.full(7, 91.0)}, "station_latitude_deg must lie in -90..90, got 91"),
    ],
)
def test_faulty_arguments_are_named(change: dict[str, Any], message: str) -> None:
    p = problem(13, n_obs=2)
    with pytest.raises(ValueError, match=message):
        replace(p, **change).solve()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial": "cubic"}, 'spatial must be .*, got "cubic"'),
        ({"temporal": "weekly"}, 'temporal must be .*, got "weekly"'),
        ({"zonal_km": None}, "zonal_km is needed"),
        ({"zonal_km": 900.0}, "meridional_km must not exceed zonal_km = 900, got 1000"),
        ({"sd": (0.1, -0.1)}, "sd must be zero or more, got -0.1"),
        ({"sd": ()}, "sd must have one value per quantity, got none"),
        ({"time_scale_h": 0.0}, "time_scale_h must be positive, got 0"),
        ({"temporal": "diurnal"}, "phase_scale_h is needed"),
        ({"correlation": ((1.0, 0.2), (0.2, 1.0))}, r"correlation must have shape \(3, 3\).*got \(2, 2\)"),
        (
            {"correlation": ((1.0, 0.2, 0.0), (0.1, 1.0, 0.0), (0.0, 0.0, 1.0))},
            r"symmetric.*got 0.1 at \(1, 0\) and 0.2",
        ),
        ({"correlation": ((2.0, 0, 0), (0, 1, 0), (0, 0, 1))}, r"ones on its diagonal, got 2 at \(0, 0\)"),
        (
            {"correlation": ((1.0, 0.9, -0.9), (0.9, 1.0, 0.9), (-0.9, 0.9, 1.0))},
            "positive semidefinite: .*smallest eigenvalue -0.8",
        ),
    ],
)
def test_faulty_terms_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TERMS[0], **change).build()


def test_faulty_points_are_named() -> None:
    p = problem(18)
    with pytest.raises(ValueError, match="every term must have sd for the same quantities, got 3 and 1"):
        p.solve([TERMS[0], alone(TERMS[1])])
    analysis = p.solve()
    here = np.zeros(2)
    with pytest.raises(ValueError, match=r"amplitude must have shape \(3, 2\), got \(2, 2\)"):
        analysis.predict(here, here, 0.0, amplitude=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"pairs must name quantities in 0..3, got \(0, 3\)"):
        analysis.predict_pairs(here, here, 0.0, [(0, 3)])
    with pytest.raises(ValueError, match=r"quantity must lie in 0\.\.3, got 5"):
        analysis.predict_sites(np.array([0]), np.array([5]), np.zeros(1))
    with pytest.raises(ValueError, match="quantity must have the length of time_h, 1, got 2"):
        analysis.predict_sites(np.array([0]), np.array([0, 0]), np.zeros(1))


# --- quality control ----------------------------------------------------------------------------------------

TWIN_TERMS = [alone(TERMS[0]), alone(TERMS[2])]


def screen(p: Problem, value: Array | None = None, **limits: Any) -> tuple[list[str], Array]:
    options: dict[str, Any] = {
        "minimum": [0.0],
        "maximum": [100.0],
        "background_sd": 5.0,
        "buddy_sd": 4.0,
        "full_weight_sd": 2.0,
        **limits,
    }
    return rust_core.screen_observations(
        [term.build() for term in TWIN_TERMS],
        station_latitude_deg=p.latitude,
        station_longitude_deg=p.longitude,
        station=p.station,
        quantity=p.quantity,
        time_h=p.time_h,
        value=np.full(p.station.size, 5.0) if value is None else value,
        innovation=p.innovation,
        obs_error=p.error,
        **options,
    )


def twin(seed: int) -> tuple[Problem, Problem, NDArray[np.bool_], Array, tuple[Array, Array]]:
    """A truth drawn from the prior at 25 stations over 6 h and 200 points; 15 % of the rows are gross errors."""
    random = np.random.default_rng(seed)
    n = 25
    latitude, longitude = random.uniform(30, 60, n), random.uniform(-20, 40, n)
    station = np.tile(np.arange(n), 13)
    time_h = np.repeat(np.arange(-6.0, 0.1, 0.5), n)
    points = random.uniform(35, 55, 200), random.uniform(-10, 30, 200)
    m = station.size
    everything = Places(
        np.concatenate([latitude[station], points[0]]),
        np.concatenate([longitude[station], points[1]]),
        np.concatenate([station, np.full(200, -1)]),
        np.zeros(m + 200, dtype=np.int64),
        np.concatenate([time_h, np.zeros(200)]),
        np.ones(m + 200),
    )
    prior = covariance(TWIN_TERMS, everything, everything, mapped_only=False)
    truth = np.linalg.cholesky(prior + 1e-10 * np.eye(len(prior))) @ random.normal(size=len(prior))
    clean = Problem(
        *(latitude, longitude, station, np.zeros(m, dtype=np.int64), time_h),
        innovation=truth[:m] + random.normal(0, 0.03, m),
        error=np.full(m, 0.03),
        amplitude=np.ones(m),
    )
    is_gross = random.uniform(size=m) < 0.15
    gross = np.where(is_gross, random.choice([-1, 1], m) * random.uniform(0.2, 0.8, m), 0.0)
    return clean, replace(clean, innovation=clean.innovation + gross), is_gross, truth[m:], points


def test_the_robust_analysis_withstands_gross_errors() -> None:
    squares: dict[str, list[float]] = {"clean": [], "plain": [], "robust": []}
    for seed in range(8):
        clean, spoiled, is_gross, truth, points = twin(seed)
        flags, weight = screen(spoiled)
        accepted = np.array([flag == "accepted" for flag in flags])
        assert np.all((weight > 0) == accepted)
        assert np.mean(accepted[is_gross]) < 0.15
        assert np.mean(accepted[~is_gross]) > 0.97
        robust = replace(spoiled, error=spoiled.error / np.sqrt(np.where(accepted, weight, 1.0))).keep(
            accepted
        )
        for name, p in (("clean", clean), ("plain", spoiled), ("robust", robust)):
            mean, _ = p.solve(TWIN_TERMS).predict(*points, 0.0)
            squares[name].append(float(np.mean((mean[0] - truth) ** 2)))
    rmse = {name: np.sqrt(np.mean(values)) for name, values in squares.items()}
    assert rmse["robust"] < 0.7 * rmse["plain"]
    assert rmse["robust"] < 1.15 * rmse["clean"]


def test_flags_come_in_order_and_clean_data_pass() -> None:
    clean, *_ = twin(4)
    flags, weight = screen(clean)
    assert np.mean([flag == "accepted" for flag in flags]) > 0.995
    assert np.all(weight <= 1)
    innovation = clean.innovation.copy()
    innovation[0] = 3.0
    innovation[100] += 0.4
    value = np.full(innovation.size, 5.0)
    value[200], innovation[200] = 0.0, -np.inf
    flags, _ = screen(replace(clean, innovation=innovation), value, minimum=[0.5])
    assert (flags[0], flags[100], flags[200]) == ("background_check", "buddy_check", "physical_limits")


def test_screening_does_not_depend_on_the_order() -> None:
    _, spoiled, *_ = twin(5)
    order = np.random.default_rng(0).permutation(spoiled.station.size)
    flags, weight = screen(spoiled)
    shuffled_flags, shuffled_weight = screen(spoiled.keep(order))
    assert [flags[i] for i in order] == shuffled_flags
    np.testing.assert_allclose(weight[order], shuffled_weight, atol=1e-8)


def test_screening_equals_refits_after_each_rejection() -> None:
    """The rank-one updates against the plain recipe: solve, reject the worst, solve again."""
    _, spoiled, *_ = twin(6)
    flags, _ = screen(spoiled)
    limit = 5 * np.sqrt(0.11**2 + 0.08**2 + 0.03**2)
    kept = list(np.flatnonzero(np.abs(spoiled.innovation) <= limit))
    rejected = set()
    while True:
        residual, variance = spoiled.keep(np.array(kept)).solve(TWIN_TERMS).leave_one_out()
        score = np.abs(residual) / np.sqrt(variance)
        if score.max() <= 4:
            break
        rejected.add(kept.pop(int(score.argmax())))
    assert {i for i, flag in enumerate(flags) if flag == "buddy_check"} == rejected


def test_screening_of_nothing_is_nothing() -> None:
    flags, weight = screen(problem().keep(np.zeros(60, dtype=bool)))
    assert flags == []
    assert weight.size == 0
