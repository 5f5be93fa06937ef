"""The analysis against its oracle, brute-force refits, limits and symmetries."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rust_core
from tests.reference.gaussian_process import correlation, distance, posterior

Array = NDArray[np.float64]

# spatial, temporal, sd, time_scale_h, zonal_km, meridional_km, phase_scale_h
TERMS: list[tuple[str, str, float, float, float | None, float | None, float | None]] = [
    ("matern32", "ou", 0.11, 3.0, 2000.0, 1000.0, None),
    ("matern52", "matern32", 0.05, 5.0, 1500.0, 1500.0, None),
    ("gaussian", "gaussian", 0.08, 24.0, 4400.0, 4000.0, None),
    ("matern32", "diurnal", 0.06, 480.0, 1800.0, 1200.0, 3.0),
    ("station", "ou", 0.03, 720.0, None, None, None),
]


def build_terms(rows: list[tuple[Any, ...]] = TERMS) -> list[rust_core.CovarianceTerm]:
    return [
        rust_core.CovarianceTerm(
            spatial,
            temporal,
            sd=sd,
            time_scale_h=scale,
            zonal_km=zonal,
            meridional_km=meridional,
            phase_scale_h=phase,
        )
        for spatial, temporal, sd, scale, zonal, meridional, phase in rows
    ]


@dataclass(frozen=True)
class Problem:
    latitude: Array
    longitude: Array
    station: NDArray[np.int64]
    time_h: Array
    innovation: Array
    error: Array

    def solve(self, terms: list[Any] = TERMS, threads: int = 1) -> rust_core.Analysis:
        return rust_core.Analysis(
            build_terms(terms),
            station_latitude_deg=self.latitude,
            station_longitude_deg=self.longitude,
            station=self.station,
            time_h=self.time_h,
            innovation=self.innovation,
            obs_error=self.error,
            n_threads=threads,
        )

    def keep(self, rows: NDArray[Any]) -> Problem:
        return replace(
            self,
            station=self.station[rows],
            time_h=self.time_h[rows],
            innovation=self.innovation[rows],
            error=self.error[rows],
        )


def problem(seed: int = 1, n_stations: int = 7, n_obs: int = 60) -> Problem:
    random = np.random.default_rng(seed)
    return Problem(
        latitude=random.uniform(-80, 80, n_stations),
        longitude=random.uniform(-180, 180, n_stations) * 0.2,
        station=random.integers(0, n_stations, n_obs),
        time_h=random.uniform(-24, 0, n_obs),
        innovation=random.normal(0, 0.15, n_obs),
        error=random.uniform(0.02, 0.06, n_obs),
    )


def covariance(
    terms: list[Any],
    a: tuple[Array, Array, Array, Array],
    b: tuple[Array, Array, Array, Array],
    *,
    mapped_only: bool,
) -> Array:
    """Prior covariance between (latitude, longitude, station, time_h) rows; stations below 0 are no station."""
    total = np.zeros((len(a[0]), len(b[0])))
    for spatial, temporal, sd, scale, zonal, meridional, phase in terms:
        lag = np.abs(a[3][:, None] - b[3][None, :])
        if temporal == "diurnal":
            width = 2 * np.pi * phase / 24
            in_time = np.exp(-2 * (np.sin(np.pi * lag / 24) / width) ** 2 - lag / scale)
        else:
            in_time = correlation(temporal, lag / scale)
        if spatial == "station":
            in_space = (a[2][:, None] == b[2][None, :]) * (0.0 if mapped_only else 1.0)
        else:
            in_space = correlation(spatial, distance(a[:2], b[:2], zonal, meridional))
        total += sd**2 * in_space * in_time
    return total


def places(p: Problem) -> tuple[Array, Array, Array, Array]:
    return p.latitude[p.station], p.longitude[p.station], p.station.astype(float), p.time_h


@pytest.mark.parametrize(
    "n_obs", [1, 60, 200]
)  # less than, about and more than the blocks of the linear algebra
def test_predict_matches_the_oracle(n_obs: int) -> None:
    p = problem(n_obs=n_obs)
    random = np.random.default_rng(2)
    latitude, longitude = random.uniform(-90, 90, 300), random.uniform(-180, 180, 300)
    points = (latitude, longitude, np.full(300, -1.0), np.full(300, 0.5))
    mean, cov = posterior(
        covariance(TERMS, places(p), places(p), mapped_only=False),
        covariance(TERMS, places(p), points, mapped_only=True),
        covariance(TERMS, points, points, mapped_only=True),
        p.innovation,
        p.error,
    )
    ours_mean, ours_sd = p.solve().predict(latitude, longitude, 0.5)
    np.testing.assert_allclose(ours_mean, mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours_sd**2, np.diag(cov), rtol=0, atol=1e-9)


def test_predict_station_evidence_and_residual_match_the_oracle() -> None:
    p = problem()
    times = np.array([-30.0, -5.0, 0.0, 6.0])
    target = (np.full(4, p.latitude[3]), np.full(4, p.longitude[3]), np.full(4, 3.0), times)
    prior = covariance(TERMS, places(p), places(p), mapped_only=False)
    mean, cov = posterior(
        prior,
        covariance(TERMS, places(p), target, mapped_only=False),
        covariance(TERMS, target, target, mapped_only=False),
        p.innovation,
        p.error,
    )
    analysis = p.solve()
    ours_mean, ours_sd = analysis.predict_station(3, times)
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


def test_leave_one_out_equals_refits() -> None:
    p = problem(3, n_obs=140)
    residual, variance = p.solve().leave_one_out()
    for i in range(p.innovation.size):
        refit = p.keep(np.arange(p.innovation.size) != i).solve()
        mean, sd = refit.predict_station(int(p.station[i]), p.time_h[i : i + 1])
        assert residual[i] == pytest.approx(p.innovation[i] - mean[0], abs=1e-8)
        assert variance[i] == pytest.approx(sd[0] ** 2 + p.error[i] ** 2, abs=1e-8)


def test_leave_station_out_equals_refits_with_the_station_specific_innovation() -> None:
    p = problem(4)
    analysis = p.solve()
    times = np.array([-3.0, 0.0, 2.0])
    for station in range(p.latitude.size):
        own = p.innovation + 0.01 * station  # the background made without this station
        rows, residual, cov = analysis.leave_station_out(station, own)
        np.testing.assert_array_equal(rows, np.flatnonzero(p.station == station))
        refit = replace(p, innovation=own).keep(p.station != station).solve()
        mean, sd = refit.predict_station(station, p.time_h[rows])
        np.testing.assert_allclose(residual, own[rows] - mean, atol=1e-8)
        np.testing.assert_allclose(np.diag(cov), sd**2 + p.error[rows] ** 2, atol=1e-8)
        expected = refit.predict_station(station, times)
        held = analysis.predict_station(station, times, is_held_out=True, innovation=own)
        np.testing.assert_allclose(held[0], expected[0], atol=1e-8)
        np.testing.assert_allclose(held[1], expected[1], atol=1e-8)


def test_station_information_equals_its_definition() -> None:
    p = problem(5)
    degrees, gain = p.solve().station_information()
    total = covariance(TERMS, places(p), places(p), mapped_only=False) + np.diag(p.error**2)
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


def field_at_own_stations(p: Problem, terms: list[Any]) -> tuple[Array, Array]:
    return p.solve(terms).predict(p.latitude, p.longitude, 0.0)


def test_exact_observations_are_reproduced() -> None:
    p = replace(
        problem(6),
        station=np.arange(7),
        time_h=np.zeros(7),
        innovation=np.linspace(-0.2, 0.2, 7),
        error=np.zeros(7),
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
    terms = [("matern32", "ou", 10.0, float("inf"), float("inf"), float("inf"), None)]
    mean, _ = field_at_own_stations(p, terms)
    weights = p.error**-2
    np.testing.assert_allclose(mean, np.average(p.innovation, weights=weights), atol=1e-4)


def test_no_observations_give_the_prior() -> None:
    analysis = problem().keep(np.zeros(60, dtype=bool)).solve()
    mean, sd = analysis.predict(np.array([0.0, 90.0]), np.array([0.0, 0.0]), 0.0)
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(sd, np.sqrt(sum(t[2] ** 2 for t in TERMS[:4])), rtol=1e-12)
    assert np.isnan(analysis.chi2)


def test_the_thread_count_changes_no_bit() -> None:
    p = problem(9, n_stations=40, n_obs=500)
    random = np.random.default_rng(3)
    latitude, longitude = random.uniform(-90, 90, 2000), random.uniform(-180, 180, 2000)
    one, many = p.solve(threads=1), p.solve(threads=5)
    assert one.alpha().tobytes() == many.alpha().tobytes()
    for a, b in zip(
        one.predict(latitude, longitude, 0.0), many.predict(latitude, longitude, 0.0), strict=True
    ):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(one.leave_station_out(2), many.leave_station_out(2), strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_interpreter_is_free_while_the_kernel_runs() -> None:
    p = problem(10, n_stations=60, n_obs=1800)
    span: list[float] = []

    def solve() -> None:
        begun = time.perf_counter()
        p.solve(threads=1)
        span.extend([begun, time.perf_counter()])

    worker = threading.Thread(target=solve)
    ticks = [time.perf_counter()]
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
    worker.join()
    # With the interpreter held, this thread would stand still for all of the solve.
    assert np.diff(ticks).max() < 0.5 * (span[1] - span[0])


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
            build_terms([(kind, "ou", 1.0, 1.0, zonal, zonal * ratio, None)]),
            station_latitude_deg=sphere[0],
            station_longitude_deg=sphere[1],
            station=np.arange(n),
            time_h=np.zeros(n),
            innovation=np.zeros(n),
            obs_error=np.full(n, 1e-5),
        )


def test_duplicates_without_error_name_the_pair() -> None:
    p = problem(12, n_obs=6)
    p = replace(
        p,
        station=np.array([0, 1, 2, 1, 3, 4]),
        time_h=np.array([-1.0, -2.0, -3.0, -2.0, -4.0, -5.0]),
        error=np.zeros(6),
    )
    with pytest.raises(
        ValueError, match=r"observations 1 \(station 1, time_h -2.*and 3 \(station 1.*duplicates"
    ):
        p.solve()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"station": np.array([0, 99])}, "station must lie in 0..7, got 99"),
        ({"station": np.array([0, -1])}, "station must not be negative, got -1"),
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
    ("row", "message"),
    [
        (("cubic", "ou", 0.1, 3.0, 100.0, 100.0, None), 'spatial must be .*, got "cubic"'),
        (("station", "weekly", 0.1, 3.0, None, None, None), 'temporal must be .*, got "weekly"'),
        (("gaussian", "ou", 0.1, 3.0, None, 100.0, None), "zonal_km is needed"),
        (
            ("gaussian", "ou", 0.1, 3.0, 100.0, 200.0, None),
            "meridional_km must not exceed zonal_km = 100, got 200",
        ),
        (("station", "ou", -0.1, 3.0, None, None, None), "sd must be zero or more, got -0.1"),
        (("station", "ou", 0.1, 0.0, None, None, None), "time_scale_h must be positive, got 0"),
        (("station", "diurnal", 0.1, 9.0, None, None, None), "phase_scale_h is needed"),
    ],
)
def test_faulty_terms_are_named(row: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_terms([row])


# --- quality control ----------------------------------------------------------------------------------------

TWIN_TERMS = [TERMS[0], TERMS[2]]


def screen(p: Problem, value: Array | None = None, **limits: float) -> tuple[list[str], Array]:
    options = {
        "minimum": 0.0,
        "maximum": 100.0,
        "background_sd": 5.0,
        "buddy_sd": 4.0,
        "full_weight_sd": 2.0,
        **limits,
    }
    return rust_core.screen_observations(
        build_terms(TWIN_TERMS),
        station_latitude_deg=p.latitude,
        station_longitude_deg=p.longitude,
        station=p.station,
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
    rows = (latitude[station], longitude[station], station.astype(float), time_h)
    everything = tuple(
        np.concatenate([a, b])
        for a, b in zip(rows, (*points, np.full(200, -1.0), np.zeros(200)), strict=True)
    )
    prior = covariance(TWIN_TERMS, everything, everything, mapped_only=False)  # type: ignore[arg-type]
    truth = np.linalg.cholesky(prior + 1e-10 * np.eye(len(prior))) @ random.normal(size=len(prior))
    m = station.size
    error = np.full(m, 0.03)
    clean = Problem(latitude, longitude, station, time_h, truth[:m] + random.normal(0, 0.03, m), error)
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
            squares[name].append(float(np.mean((mean - truth) ** 2)))
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
    flags, _ = screen(replace(clean, innovation=innovation), value, minimum=0.5)
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
