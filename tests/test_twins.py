"""Twin experiments: truths have the covariance they are drawn from, instruments err as stated, and a run says how it went."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import rust_core
from tasks.kernel_config import QUANTITIES, KernelConfig, load_kernel_config
from tasks.magnetic_field import ordinary_mhz
from tasks.twin_network import (
    CONFIDENCE_SHARES,
    GAP_SHARE,
    GROSS_KINDS,
    RANDOM_MHZ,
    Soundings,
    ionograms,
    place_uniformly,
    sounding_ages_h,
    station_number,
)
from tasks.twin_truth import IncrementField, correlation_in_space, draw_field, draw_station_bias, harmonics
from tests.conftest import ROOT
from tests.reference.problems import Places, Term, covariance

Array = NDArray[np.float64]

KERNEL = load_kernel_config()
FOF2 = QUANTITIES.index("fof2_mhz")
# Two places near one another, one beyond the date line, one far off.
LATITUDE = np.array([50.0, 56.0, 44.0, 51.0, -20.0])
LONGITUDE = np.array([178.0, -176.0, 170.0, 150.0, 10.0])
TIME_H = np.array([0.0, -1.0, -6.0, -24.0])
AMPLITUDE = np.linspace(0.6, 1.6, LATITUDE.size * TIME_H.size).reshape(LATITUDE.size, TIME_H.size)


def oracle(kernel: KernelConfig, *, mapped_only: bool) -> Array:
    """Prior covariance of the places and times by the slow reference, shape (P T, P T)."""
    n_places, n_times = AMPLITUDE.shape
    points = Places(
        latitude=np.repeat(LATITUDE, n_times),
        longitude=np.repeat(LONGITUDE, n_times),
        station=np.repeat(np.arange(n_places), n_times),
        quantity=np.zeros(n_places * n_times, dtype=np.int64),
        time_h=np.tile(TIME_H, n_places),
        amplitude=AMPLITUDE.ravel(),
    )
    terms = [
        Term(
            *(term.spatial, term.temporal, (term.sd.fof2_mhz,), term.time_scale_h),
            zonal_km=term.zonal_km,
            meridional_km=term.meridional_km,
            phase_scale_h=term.phase_scale_h,
            is_modulated=term.is_modulated,
        )
        for term in kernel.terms
    ]
    return covariance(terms, points, points, mapped_only=mapped_only)


def score_of_covariance(draws: Array, expected: Array) -> Array:
    """Sample covariances (n, n) of draws (N, n) of zero mean, off the expected ones, in their sampling errors."""
    variance = np.diag(expected)
    sampling = np.sqrt((np.outer(variance, variance) + expected**2) / len(draws))
    return np.asarray((draws.T @ draws / len(draws) - expected) / sampling)


def whitened(draws: Array, expected: Array) -> Array:
    """Scores (n, n) of the covariance of draws that `expected` should turn into white noise: sees what is small in it too."""
    white = np.linalg.solve(np.linalg.cholesky(expected), draws.T).T
    return score_of_covariance(white, np.eye(len(expected)))


def with_term(kernel: KernelConfig, number: int, **changes: Any) -> KernelConfig:
    terms = list(kernel.terms)
    terms[number] = terms[number].model_copy(update=changes)
    return kernel.model_copy(update={"terms": tuple(terms)})


@pytest.fixture(scope="module")
def draws() -> Array:
    random = np.random.default_rng(11)
    return np.array(
        [
            (
                draw_field(KERNEL, "fof2_mhz", LATITUDE, LONGITUDE, TIME_H, AMPLITUDE, random)
                + draw_station_bias(KERNEL, "fof2_mhz", TIME_H, AMPLITUDE, random)
            ).ravel()
            for _ in range(4000)
        ]
    )


def test_a_truth_has_the_covariance_of_the_kernels_terms(draws: Array) -> None:
    expected = oracle(KERNEL, mapped_only=False)
    # 210 entries: the largest of as many normal scores passes 4.5 once in 700 seeds.
    assert np.abs(score_of_covariance(draws, expected)).max() < 4.5
    assert np.abs(whitened(draws, expected)).max() < 4.5


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (0, {"meridional_km": 1500.0}),
        (0, {"time_scale_h": 5.0}),
        (1, {"time_scale_h": 4.0}),
        (2, {"phase_scale_h": 3.0}),
        (0, {"is_modulated": False}),
    ],
)
def test_the_draws_tell_a_wrong_term(draws: Array, number: int, changes: dict[str, Any]) -> None:
    wrong = oracle(with_term(KERNEL, number, **changes), mapped_only=False)
    assert np.abs(whitened(draws, wrong)).max() > 6.0


@pytest.mark.parametrize("spatial", ["matern32", "matern52", "gaussian"])
@pytest.mark.parametrize("temporal", ["ou", "matern32", "gaussian", "diurnal"])
def test_every_kind_of_term_can_be_drawn(spatial: str, temporal: str) -> None:
    changes = {"spatial": spatial, "temporal": temporal, "phase_scale_h": 4.0, "time_scale_h": 9.0}
    kernel = with_term(KERNEL, 0, **changes)
    random = np.random.default_rng(3)
    drawn = [
        draw_field(kernel, "fof2_mhz", LATITUDE, LONGITUDE, TIME_H, AMPLITUDE, random).ravel()
        for _ in range(2000)
    ]
    assert np.abs(score_of_covariance(np.array(drawn), oracle(kernel, mapped_only=True))).max() < 4.5


def test_a_station_has_no_correlation_between_places() -> None:
    with pytest.raises(ValueError, match="station term"):
        correlation_in_space(KERNEL.terms[3], LATITUDE, LONGITUDE)


def test_the_kernel_errs_on_its_own_truth_by_what_it_says() -> None:
    """Held-out points: squared errors over the analysis' variance average to 1 when both know the same covariance."""
    random = np.random.default_rng(8)
    n_stations, n_points, error = 12, 40, 0.03
    age_h = np.array([0.0, 0.25, 1.0, 5.0, 24.0])
    z2, chi2 = [], []
    for _ in range(200):
        latitude, longitude = place_uniformly(n_stations + n_points, (-60.0, -90.0, 60.0, 90.0), random)
        amplitude = random.uniform(0.6, 1.6, (latitude.size, age_h.size))
        field = draw_field(KERNEL, "fof2_mhz", latitude, longitude, -age_h, amplitude, random)
        amplitude_of_stations = amplitude[:n_stations]
        heard = field[:n_stations] + draw_station_bias(
            KERNEL, "fof2_mhz", -age_h, amplitude_of_stations, random
        )
        heard += error * random.standard_normal(heard.shape)
        analysis = rust_core.Analysis(
            KERNEL.build_terms(),
            station_latitude_deg=latitude[:n_stations],
            station_longitude_deg=longitude[:n_stations],
            station=np.repeat(np.arange(n_stations), age_h.size),
            quantity=np.full(heard.size, FOF2),
            time_h=np.tile(-age_h, n_stations),
            innovation=heard.ravel(),
            obs_error=np.full(heard.size, error),
            amplitude=amplitude_of_stations.ravel(),
            n_threads=1,
        )
        chi2.append(analysis.chi2)
        of_points = np.ones((len(QUANTITIES), n_points))
        of_points[FOF2] = amplitude[n_stations:, 0]
        mean, sd = analysis.predict(latitude[n_stations:], longitude[n_stations:], 0.0, amplitude=of_points)
        z2.append(np.mean(((field[n_stations:, 0] - mean[FOF2]) / sd[FOF2]) ** 2))
    for values in (chi2, z2):
        standard_error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(1.0, abs=4.0 * standard_error)
        assert standard_error < 0.05


# --- increments of another assimilation ---------------------------------------------------------------------------


def write_aida(path: Path, analysed: list[float], background: list[float], **texts: str) -> Path:
    import netCDF4

    with netCDF4.Dataset(path, "w") as file:
        file.createVariable("Time", "f8", ())[...] = datetime(2024, 3, 1, 6, tzinfo=UTC).timestamp()
        group = file.createGroup("Parameters").createGroup("NmF2")
        for name, text in {"coords": "modip", "scale": "abs", **texts}.items():
            group.createVariable(name, str, ())[...] = text
        group.createDimension("particle", 1)
        for name, values in {"parameters": analysed, "bkgparameters": background}.items():
            group.createDimension(name, len(values))
            group.createVariable(name, "f8", ("particle", name))[...] = values
    return path


@pytest.fixture
def increments(tmp_path: Path) -> IncrementField:
    return IncrementField.read(write_aida(tmp_path / "aida.h5", [8.0, 1.0, 2.0, 0.0], [6.0, 0.0, 0.0, 0.0]))


def test_increments_are_half_the_logarithm_of_the_densities(increments: IncrementField) -> None:
    assert increments.valid_at == datetime(2024, 3, 1, 6, tzinfo=UTC)
    phi, lam = np.radians([0.0, 30.0, -60.0]), np.radians([0.0, 180.0, 45.0])
    analysed = 8 * np.sqrt(0.5) + np.sqrt(1.5) * np.sin(phi) + 2 * np.sqrt(0.75) * np.cos(phi) * np.cos(lam)
    expected = 0.5 * np.log(analysed / (6 * np.sqrt(0.5)))
    assert increments.at(np.degrees(phi), np.degrees(lam), np.zeros(3)) == pytest.approx(expected, rel=1e-12)


def test_increments_stand_still_in_local_time(increments: IncrementField) -> None:
    modip, longitude = np.array([10.0, 40.0]), np.array([20.0, -170.0])
    later = increments.at(modip, longitude, np.array([3.0, 3.0]))
    assert later == pytest.approx(increments.at(modip, longitude + 45.0, np.zeros(2)))
    assert not np.allclose(later, increments.at(modip, longitude, np.zeros(2)), atol=0.01)
    assert increments.at(modip, longitude, np.array([27.0, 27.0])) == pytest.approx(later)


@pytest.mark.parametrize(
    ("analysed", "texts", "message"),
    [
        ([8.0, 1.0, 2.0, 0.0], {"coords": "geo"}, "coords is 'geo'"),
        ([8.0, 1.0, 2.0, 0.0], {"scale": "log"}, "scale is 'log'"),
        ([8.0, 1.0, 2.0], {}, "3 and 4 coefficients"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, analysed: list[float], texts: dict[str, str], message: str
) -> None:
    path = write_aida(tmp_path / "other.h5", analysed, [6.0, 0.0, 0.0, 0.0], **texts)
    with pytest.raises(ValueError, match=message):
        IncrementField.read(path)


def test_a_file_without_peak_densities_and_a_field_below_zero_are_refused(tmp_path: Path) -> None:
    import netCDF4

    with netCDF4.Dataset(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ValueError, match="no AIDA output"):
        IncrementField.read(tmp_path / "empty.h5")
    negative = IncrementField(np.array([-1.0]), np.array([1.0]), datetime(2024, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="zero or less"):
        negative.at(np.zeros(1), np.zeros(1), np.zeros(1))


def test_harmonics_are_orthogonal_over_the_sphere() -> None:
    sine, weight = np.polynomial.legendre.leggauss(12)
    longitude = np.arange(24) * 15.0
    latitude = np.degrees(np.arcsin(np.repeat(sine, longitude.size)))
    basis = harmonics(latitude, np.tile(longitude, sine.size), 6)
    product = basis.T @ (np.repeat(weight, longitude.size)[:, None] * basis) * np.radians(15.0)
    order_of_column = np.concatenate([[0, *np.repeat(np.arange(1, d + 1), 2)] for d in range(7)])
    assert product == pytest.approx(np.diag(np.where(order_of_column == 0, 2 * np.pi, np.pi)), abs=1e-12)


def test_the_real_field_has_the_size_of_weather(shared_data: Path) -> None:
    (path,) = (shared_data / "aida_states").glob("*.h5")
    field = IncrementField.read(path)
    latitude, longitude = place_uniformly(2000, (-90.0, -180.0, 90.0, 180.0), np.random.default_rng(1))
    departure = field.at(latitude, longitude, np.zeros(2000))
    assert 0.08 < departure.std() < 0.2
    assert np.abs(departure).max() < 1.0


# --- the network --------------------------------------------------------------------------------------------------

N_STATIONS, N_TIMES = 400, 50
TRUTH = np.full((N_STATIONS, N_TIMES), 6.0)
GYROFREQUENCY = np.full(N_STATIONS, 1.3)


@pytest.fixture(scope="module")
def soundings() -> Soundings:
    return Soundings.of(TRUTH, KERNEL, np.random.default_rng(5))


def test_noise_is_what_the_kernel_assumes_for_its_class(soundings: Soundings) -> None:
    assert np.isnan(soundings.value).mean() == pytest.approx(GAP_SHARE, abs=0.006)
    for score, share in CONFIDENCE_SHARES.items():
        own = (soundings.confidence == score) & ~np.isnan(soundings.value)
        error = (soundings.value - TRUTH)[own]
        sd = KERNEL.fof2_mhz.obs_error.of(np.array([score]), KERNEL.confidence)[0]
        assert own.sum() == pytest.approx(share * (1 - GAP_SHARE) * TRUTH.size, rel=0.12)
        assert error.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * own.sum()))
        assert error.mean() == pytest.approx(0.0, abs=4 * sd / np.sqrt(own.sum()))


@pytest.mark.parametrize("share", [0.05, 0.15])
def test_the_share_of_gross_errors_and_their_kinds(soundings: Soundings, share: float) -> None:
    value, is_spoiled = soundings.spoiled(share, GYROFREQUENCY)
    is_stuck = soundings.station_rank < share / len(GROSS_KINDS)
    n_stuck = is_stuck.sum()
    expected_stuck = share / len(GROSS_KINDS) * N_STATIONS
    assert n_stuck == pytest.approx(expected_stuck, abs=4 * np.sqrt(expected_stuck))
    single = is_spoiled[~is_stuck].mean()
    expected = share * (1 - 1 / len(GROSS_KINDS)) / (1 - share / len(GROSS_KINDS))
    assert single == pytest.approx(expected, abs=4 * np.sqrt(expected / is_spoiled.size))
    untouched = ~is_spoiled & ~np.isnan(soundings.value)
    assert (value[untouched] == soundings.value[untouched]).all()
    assert (np.isnan(value) == np.isnan(soundings.value)).all()
    for number in np.flatnonzero(is_stuck):
        assert np.unique(value[number][~np.isnan(value[number])]).size == 1
    spoiled = is_spoiled & ~is_stuck[:, None] & ~np.isnan(value)
    before, after, kind = soundings.value[spoiled], value[spoiled], soundings.kind[spoiled]
    assert ordinary_mhz(after[kind == 0], 1.3) == pytest.approx(before[kind == 0])
    assert (after[kind == 0] - before[kind == 0]) == pytest.approx(0.65, abs=0.06)
    assert set(np.round(after[kind == 1] / before[kind == 1], 6)) == {0.5, 2.0}
    assert RANDOM_MHZ[0] <= after[kind == 2].min() < after[kind == 2].max() <= RANDOM_MHZ[1]
    assert np.bincount(kind) / kind.size == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / kind.size))


def test_more_gross_errors_are_the_same_and_others(soundings: Soundings) -> None:
    few, is_few = soundings.spoiled(0.05, GYROFREQUENCY)
    many, is_many = soundings.spoiled(0.15, GYROFREQUENCY)
    assert (is_many | ~is_few).all()
    one_kind = is_few & ~(soundings.station_rank < 0.15 / len(GROSS_KINDS))[:, None] & ~np.isnan(few)
    assert (few[one_kind] == many[one_kind]).all()
    none, is_none = soundings.spoiled(0.0, GYROFREQUENCY)
    assert not is_none.any()
    np.testing.assert_array_equal(none, soundings.value)


def test_rows_of_ionograms_name_station_and_time(soundings: Soundings) -> None:
    age_h = sounding_ages_h(30.0)
    assert (np.diff(age_h) > 0).all()
    assert age_h[0] == 0.0
    assert age_h[-1] < 30.0
    times = pd.DatetimeIndex(
        pd.Timestamp("2026-01-01T12:00Z") - pd.to_timedelta(np.arange(N_TIMES), unit="h")
    )
    rows = ionograms(
        soundings,
        soundings.value,
        times,
        np.linspace(-80, 80, N_STATIONS),
        np.linspace(-180, 179, N_STATIONS),
    )
    assert len(rows) == (~np.isnan(soundings.value)).sum()
    assert not rows.duplicated(["sounder_id", "observation_id"]).any()
    at = station_number(rows["sounder_id"]), times.get_indexer(rows["observed_at"])
    assert (soundings.value[at] == rows["fof2_mhz"]).all()
    assert (soundings.confidence[at] == rows["confidence_score"]).all()


def test_stations_are_uniform_over_the_area_of_their_box() -> None:
    south, west, north, east = 20.0, -30.0, 70.0, 50.0
    latitude, longitude = place_uniformly(20_000, (south, west, north, east), np.random.default_rng(2))
    assert south <= latitude.min() < latitude.max() <= north
    low, high = np.sin(np.radians([south, north]))
    # Mean of a uniform variable on 0..1: 0.5, with the error of 1 / sqrt(12 n).
    share = (np.sin(np.radians(latitude)) - low) / (high - low)
    for values in (share, (longitude - west) / (east - west)):
        assert values.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * 20_000))


# --- a run --------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "benchmarks/twins.py", "--threads", "1", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def numbers(result: dict[str, Any]) -> list[dict[str, float]]:
    return [
        {key: value for key, value in case.items() if not key.startswith("elapsed")}
        for case in result["cases"]
    ]


def test_a_run_prints_a_table_and_json_and_repeats_itself(tmp_path: Path) -> None:
    arguments = ["--stations", "8", "--cycles", "2", "--gross-errors", "0", "0.15", "--plain"]
    arguments += ["--area", "35", "-10", "65", "35", "--seed", "4"]
    text, result = run(*arguments)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2
    assert len({line.count("|") for line in table}) == 1
    clean, spoiled = numbers(result)
    assert clean["map_rmse_iri"] == pytest.approx(spoiled["map_rmse_iri"], rel=0.2)
    assert clean["map_rmse_ours"] < clean["map_rmse_iri"]
    assert spoiled["map_rmse_ours"] < spoiled["plain_map_rmse_ours"]
    assert spoiled["stopped_gross"] > 10 * spoiled["stopped_right"]
    assert all(0 <= case[f"{part}coverage90"] <= 1 for case in (clean, spoiled) for part in ("", "map_"))
    assert numbers(run(*arguments)[1]) == [clean, spoiled]
    assert numbers(run(*arguments[:-1], "5")[1]) != [clean, spoiled]


def test_a_run_on_increments_of_another_assimilation(tmp_path: Path) -> None:
    path = write_aida(tmp_path / "aida.h5", [8.0, 1.0, 2.0, 0.0], [6.0, 0.0, 0.0, 0.0])
    arguments = ["--truth", "aida", "--increments", str(path), "--stations", "10", "--cycles", "1"]
    _, result = run(*arguments, "--gross-errors", "0")
    (case,) = numbers(result)
    assert case["map_rmse_ours"] < case["map_rmse_iri"]
