"""Observations taken together: nothing is lost where they are of one value, errors stay out, and the rest is counted."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import rust_core
from tasks.background import Background
from tasks.cycle import run_cycle
from tasks.grid import Grid
from tasks.kernel_config import KernelConfig, load_kernel_config
from tasks.superobservations import Rows, Superobservations, combine, gather
from tasks.verification import targets_of
from tasks.window import Stations

Array = NDArray[np.float64]
VALID_TIME = datetime(2022, 10, 25, 12, tzinfo=UTC)
KERNEL = load_kernel_config()


def changed(kernel: KernelConfig = KERNEL, **scale: int) -> KernelConfig:
    return kernel.model_copy(update={"scale": kernel.scale.model_copy(update=scale)})


def network(latitude: Array, longitude: Array) -> Stations:
    names = tuple(f"S{number:04d}" for number in range(latitude.size))
    return Stations(names, latitude, longitude, latitude, longitude)


def rows_of(station: Array | list[int], time_h: Array, innovation: Array, error: float = 0.03) -> Rows:
    number = np.asarray(station, dtype=np.int64)
    n = number.size
    return Rows(
        number, np.zeros(n, dtype=np.int64), time_h, 6.0 * np.exp(innovation), innovation, np.full(n, error), np.ones(n)
    )  # fmt: skip


def analysed(
    kernel: KernelConfig, places: tuple[Array, Array], entering: Superobservations | Rows
) -> tuple[Array, Array]:
    station = entering.node if isinstance(entering, Superobservations) else entering.station
    analysis = rust_core.Analysis(
        kernel.build_terms(),
        station_latitude_deg=places[0],
        station_longitude_deg=places[1],
        station=station,
        quantity=entering.quantity,
        time_h=entering.time_h,
        innovation=entering.innovation,
        obs_error=entering.error,
        amplitude=entering.amplitude,
    )
    latitude, longitude = (
        axis.ravel() for axis in np.meshgrid(np.arange(-80.0, 81, 20), np.arange(-180.0, 180, 30))
    )
    mean, sd = analysis.predict(latitude, longitude, 0.0)
    return mean[0], sd[0]


def test_a_network_within_the_limits_is_left_as_it_is() -> None:
    random = np.random.default_rng(1)
    stations = network(random.uniform(-60, 60, 30), random.uniform(-180, 180, 30))
    nodes = gather(stations, 30)
    assert nodes.spacing_km == 0
    rows = rows_of(random.integers(0, 30, 90), random.uniform(-20, 0, 90), random.normal(0, 0.1, 90))
    entering = combine(changed(max_observations=90), stations, nodes, rows, 1000.0)
    assert entering.widening == 0
    assert entering.innovation is rows.innovation
    np.testing.assert_array_equal(entering.member, np.arange(90))
    np.testing.assert_array_equal(entering.mean(rows.value), rows.value)


@pytest.mark.parametrize("n_stations", [200, 3000])
def test_nodes_keep_to_their_number_lie_among_their_stations_and_do_not_depend_on_the_order(
    n_stations: int,
) -> None:
    random = np.random.default_rng(2)
    latitude = np.degrees(np.arcsin(random.uniform(-1, 1, n_stations)))
    longitude = random.uniform(-180, 180, n_stations)
    nodes = gather(network(latitude, longitude), 120)
    assert 60 <= len(nodes) <= 120
    np.testing.assert_array_equal(np.unique(nodes.of_station), np.arange(len(nodes)))
    order = random.permutation(n_stations)
    again = gather(network(latitude[order], longitude[order]), 120)
    np.testing.assert_allclose(
        again.latitude_deg[again.of_station], nodes.latitude_deg[nodes.of_station][order]
    )

    def vectors(lat: Array, lon: Array) -> Array:
        phi, lam = np.radians(lat), np.radians(lon)
        return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])

    place, centre = vectors(latitude, longitude), vectors(nodes.latitude_deg, nodes.longitude_deg)
    apart_km = 6371.0 * np.linalg.norm(place - centre[:, nodes.of_station], axis=0)
    assert apart_km.max() < 1.5 * nodes.spacing_km


def test_observations_of_one_place_and_time_lose_nothing_by_being_taken_together() -> None:
    """Ten sounders at each of eight places: the posterior is that of the eighty, to rounding."""
    random = np.random.default_rng(3)
    kernel = KERNEL.model_copy(
        update={
            "terms": tuple(term for term in KERNEL.terms if term.spatial != "station"),
            "quality": KERNEL.quality.model_copy(
                update={"full_weight_sd": 50.0, "buddy_sd": 100.0, "background_sd": 99.0}
            ),
        }
    )
    place = random.uniform(-60, 60, 8), random.uniform(-180, 180, 8)
    of_place = np.repeat(np.arange(8), 10)
    stations = network(place[0][of_place], place[1][of_place])
    nodes = gather(stations, 8)
    assert len(nodes) == 8
    times = np.array([-0.1, -5.3, -17.2])
    rows = rows_of(np.tile(np.arange(80), 3), np.repeat(times, 80), random.normal(0, 0.1, 240))
    entering = combine(changed(kernel, max_nodes=8), stations, nodes, rows, 1000.0)
    assert entering.innovation.size == 24
    np.testing.assert_allclose(entering.representativeness, 0, atol=1e-15)
    one = analysed(kernel, (stations.qd_latitude_deg, stations.qd_longitude_deg), rows)
    other = analysed(kernel, (nodes.latitude_deg, nodes.longitude_deg), entering)
    np.testing.assert_allclose(other[0], one[0], atol=1e-9)
    np.testing.assert_allclose(other[1], one[1], atol=1e-9)


def test_what_lies_apart_is_trusted_less_where_not_all_of_the_node_report() -> None:
    near = network(np.array([10.0, 10.0, 10.0]), np.array([0.0, 0.1, 0.2]))
    far = network(np.array([10.0, 10.0, 10.0]), np.array([0.0, 3.0, 6.0]))
    rows = rows_of([0, 0, 1], np.full(3, -0.1), np.full(3, 0.05))
    kernel = changed(KERNEL.model_copy(update={"terms": KERNEL.terms[:3]}), max_nodes=1)
    errors = []
    for stations in (near, far):
        nodes = gather(stations, 1)
        entering = combine(kernel, stations, nodes, rows, 1000.0)
        assert entering.innovation == pytest.approx([0.05])
        errors.append(entering.error[0])
    assert errors[0] == pytest.approx(0.03 / np.sqrt(3), rel=0.02)
    assert errors[1] > 1.05 * errors[0]


@pytest.mark.parametrize("n_stations", [4, 70])
def test_the_error_of_a_mean_is_that_of_draws_from_the_field(n_stations: int) -> None:
    """Of what a node's stations see of a field drawn from the covariance, against its mean over the node."""
    random = np.random.default_rng(6)
    kernel = KERNEL.model_copy(update={"terms": KERNEL.terms[:2]})
    stations = network(random.uniform(30, 36, n_stations), random.uniform(0, 7, n_stations))
    nodes = gather(stations, 1)
    # All stations late by the same time in part of the interval: what they lack, they lack together.
    time_h = np.repeat([-1.9, -1.85, -1.1], n_stations)[1:]
    rows = rows_of(np.tile(np.arange(n_stations), 3)[1:], time_h, np.full(time_h.size, 0.1), error=1e-6)
    entering = combine(changed(kernel, max_nodes=1, max_observations=1), stations, nodes, rows, 999.0)
    assert entering.innovation.size == 1
    assert nodes.footprint.size == min(n_stations, 8)
    station = np.append(rows.station, nodes.footprint)
    latitude, longitude = stations.qd_latitude_deg[station], stations.qd_longitude_deg[station]
    times = np.append(rows.time_h, np.repeat(entering.time_h, nodes.footprint.size))
    i, j = (index.ravel() for index in np.indices((times.size, times.size)))
    covariance = sum(
        term.sd.fof2_mhz**2
        * term.build().correlation(latitude[i], longitude[i], latitude[j], longitude[j], times[i] - times[j])
        for term in kernel.terms
    )
    weights = np.append(entering.share, np.full(nodes.footprint.size, -1.0 / nodes.footprint.size))
    expected = np.sqrt(weights @ np.asarray(covariance).reshape(times.size, -1) @ weights)
    assert entering.error[0] == pytest.approx(expected, rel=1e-6 if n_stations == 4 else 0.15)


def test_a_node_that_reports_as_a_whole_errs_by_its_noise_alone() -> None:
    far = network(np.array([10.0, 10.0, 10.0]), np.array([0.0, 3.0, 6.0]))
    rows = rows_of([0, 1, 2], np.full(3, -0.1), np.full(3, 0.05))
    entering = combine(changed(max_nodes=1), far, gather(far, 1), rows, 1000.0)
    assert entering.error[0] == pytest.approx(0.03 / np.sqrt(3), rel=2e-3)


def test_an_error_among_neighbours_is_stopped_and_a_pair_that_disagrees_stays_apart() -> None:
    stations = network(np.full(6, 10.0), np.linspace(0.0, 0.1, 6))
    nodes = gather(stations, 1)
    kernel = changed(max_nodes=1)
    innovation = np.array([0.01, 0.0, -0.01, 0.02, 0.0, 0.6])
    entering = combine(kernel, stations, nodes, rows_of(range(6), np.full(6, -0.1), innovation), 1000.0)
    assert entering.flag.tolist() == ["accepted"] * 5 + ["buddy_check"]
    assert entering.member.tolist() == [0] * 5 + [-1]
    assert abs(entering.innovation[0]) < 0.01
    pair = rows_of([0, 1], np.full(2, -0.1), np.array([0.0, 0.6]))
    entering = combine(kernel, stations, nodes, pair, 1000.0)
    assert entering.flag.tolist() == ["accepted"] * 2
    assert sorted(entering.innovation) == pytest.approx([0.0, 0.6])
    absurd = rows_of([0, 1, 2], np.full(3, -0.1), np.array([0.0, 0.01, 4.0]))
    entering = combine(kernel, stations, nodes, absurd, 1000.0)
    assert entering.flag.tolist() == ["accepted", "accepted", "background_check"]


def test_intervals_are_made_longer_until_the_observations_fit() -> None:
    stations = network(np.array([0.0, 30.0]), np.array([0.0, 30.0]))
    nodes = gather(stations, 2)
    time_h = np.tile(-np.arange(0.1, 28.0, 0.25), 2)
    station = np.repeat([0, 1], time_h.size // 2)
    rows = rows_of(station, time_h, np.random.default_rng(4).normal(0, 0.02, time_h.size))
    sizes = []
    for limit in (100, 40, 20):
        entering = combine(changed(max_observations=limit), stations, nodes, rows, 1000.0)
        sizes.append(entering.innovation.size)
        assert entering.innovation.size <= limit
        assert set(entering.node) == {0, 1}
        np.testing.assert_allclose(np.bincount(entering.member, weights=entering.share), 1.0)
    assert sizes == sorted(sizes, reverse=True)


def observations(n_stations: int, ages_h: Array, seed: int = 5) -> pd.DataFrame:
    """foF2 on a smooth departure from the climatology, with the noise of the instruments."""
    random = np.random.default_rng(seed)
    latitude = np.degrees(np.arcsin(random.uniform(-0.9, 0.9, n_stations)))
    longitude = random.uniform(-180, 180, n_stations)
    station = np.repeat(np.arange(n_stations), ages_h.size)
    age_h = np.tile(ages_h, n_stations)
    observed_at = (pd.Timestamp(VALID_TIME) - pd.to_timedelta(age_h * 3600, unit="s")).as_unit("us")
    levels = Background().solar_levels(pd.Series(observed_at), latitude[station], longitude[station])
    departure = 0.1 * np.sin(np.radians(latitude[station] * 2)) * np.cos(np.radians(longitude[station]))
    value = levels.fof2_at(100.0) * np.exp(departure)
    return pd.DataFrame(
        {
            "observation_id": [f"o{number}" for number in range(station.size)],
            "sounder_id": [f"S{number:04d}" for number in station],
            "observed_at": observed_at,
            "available_at": observed_at,
            "latitude_deg": latitude[station],
            "longitude_deg": longitude[station],
            "confidence_score": 80.0,
            "fof2_mhz": value + random.normal(0, 0.11, value.size),
            "hmf2_km": np.nan,
            "m3000f2": np.nan,
            "b0_km": np.nan,
            "revision": 0,
        }
    )


def test_what_is_now_is_not_mixed_with_what_was_before() -> None:
    """Eight stations at one place, each every 15 minutes for 30 h: 120 rows of time have to become some."""
    stations = network(np.full(8, 50.0), np.full(8, 10.0))
    age_h = np.arange(0.0, 30.0, 0.25)
    rows = rows_of(np.repeat(np.arange(8), age_h.size), np.tile(-age_h, 8), np.full(8 * age_h.size, 0.1))
    entering = combine(
        changed(max_nodes=1, max_observations=12), stations, gather(stations, 1), rows, 1000.0 - 1e-3
    )
    assert entering.widening > 1
    assert entering.time_h.size <= 12
    age = np.sort(-entering.time_h)
    assert age[0] < 0.25
    assert age[1] < 1.0
    # Of each quarter of an hour in the newest one, its members and no others.
    newest = entering.member[-rows.time_h < 0.25]
    assert set(-rows.time_h[np.isin(entering.member, newest)]) == {0.0}


def test_a_cycle_of_many_stations_says_what_the_exact_one_does() -> None:
    rows = observations(150, np.array([0.05, 0.3, 6.0]))
    options = {
        "valid_time": VALID_TIME,
        "available_until": VALID_TIME,
        "background": Background(),
        "grid": Grid.globe(10.0),
    }
    exact = run_cycle(rows, kernel=KERNEL, **options)
    small = run_cycle(
        rows, kernel=changed(max_nodes=75, max_observations=160, max_scored_stations=40), **options
    )
    assert exact.metadata["scale"]["widening"] == 0
    scale = small.metadata["scale"]
    assert scale["n_nodes"] <= 75
    assert scale["n_analysed"] <= 160
    assert scale["widening"] >= 1
    assert exact.analysis is not None
    assert small.analysis is not None
    one, other = exact.analysis.to_pandas(), small.analysis.to_pandas()
    apart = np.abs(np.log(other.fof2_mhz / one.fof2_mhz)) * one.fof2_mhz / one.fof2_mhz_sd
    assert np.sqrt((apart**2).mean()) < 0.5
    ratio = other.fof2_mhz_sd / one.fof2_mhz_sd
    assert 0.95 < ratio.median() < 1.4
    # Every observation has its feedback; 40 stations are scored, 150 of the exact one's 100 at most.
    assert len(small.feedback) == len(exact.feedback) == 450
    assert len(set(small.verification.column("sounder_id").to_pylist())) <= 40
    scored = small.verification.to_pandas()
    assert np.sqrt(((scored.holdout_value - scored.obs_value) ** 2).mean()) < 0.7 * np.sqrt(
        ((scored.iri_index_value - scored.obs_value) ** 2).mean()
    )
    information = small.metadata["stations"]
    degrees = sum(of_one["degrees_of_freedom"] for of_one in information.values())
    assert 1.0 < degrees < scale["n_analysed"]


def test_stations_take_turns_in_being_scored() -> None:
    rows = observations(10, np.array([0.05]))
    seen: set[str] = set()
    for turn in range(4):
        at = pd.Timestamp(VALID_TIME) + pd.Timedelta(minutes=15 * turn)
        due = set(targets_of(rows.assign(observed_at=at), at, 0.25, 3)["sounder_id"])
        assert 1 <= len(due) <= 3
        assert not due & seen
        seen |= due
    assert len(seen) == 10
