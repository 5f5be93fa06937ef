"""The factor on the field's variance: its oracle, what it must not hear, what it must not believe, and a storm."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import rust_core
from tasks.adaptation import SpreadFactor, mean_of_capped, nearness, spread_factor
from tasks.background import Background
from tasks.cycle import Cycle, run_cycle
from tasks.estimate import Estimate, estimate
from tasks.great_circle import unit_vectors
from tasks.grid import Grid
from tasks.kernel_config import QUANTITIES, Adaptation, KernelConfig, load_kernel_config
from tests.reference.problems import LOOSE_TERMS, TERMS, Array, Problem, Q, Term, covariance, problem

NOON = datetime(2022, 10, 24, 12, 0, tzinfo=UTC)
EUROPE = {
    "EUR01": (52.0, 0.0),
    "EUR02": (41.9, 12.5),
    "EUR03": (38.0, 23.5),
    "EUR04": (50.0, 14.5),
    "EUR05": (55.0, 13.0),
    "EUR06": (45.0, 5.0),
}
PLACES = {**EUROPE, "FAR07": (-30.0, 150.0), "FAR08": (-33.0, 152.0)}
SETTINGS = load_kernel_config().adaptation


def evidence(
    p: Problem, analysis: rust_core.Analysis, stations: list[int], **options: Any
) -> tuple[Array, Array]:
    """With half of the errors as nominal ones, and recency by age."""
    asked: dict[str, Any] = {
        "error": p.error / 2,
        "recency": np.exp(p.time_h / 6.0),
        "largest_z2": 4.0,
        "mean_z2": mean_of_capped(2.0),
    }
    return analysis.spread_evidence(np.array(stations), **{**asked, **options})


def oracle(p: Problem, terms: list[Term], station: int, quantity: int) -> tuple[float, float]:
    """What a station says of one quantity, by a refit without it."""
    prior = covariance(terms, p.places, p.places, mapped_only=False)
    own = p.station == station
    total = prior + p.noise
    gain = np.linalg.solve(total[np.ix_(~own, ~own)], total[np.ix_(~own, own)])
    residual = p.innovation[own] - gain.T @ p.innovation[~own]
    v = total[np.ix_(own, own)] - gain.T @ total[np.ix_(~own, own)]
    mine = p.quantity[own] == quantity
    residual, v, time_h = residual[mine], v[np.ix_(mine, mine)], p.time_h[own][mine]
    error = p.error[own][mine]
    spread = np.diag(v) - error**2
    nominal = spread + (error / 2) ** 2
    share, k = spread / nominal, np.exp(time_h / 6.0)
    rho = v / np.sqrt(np.outer(np.diag(v), np.diag(v)))
    z2 = np.minimum(residual**2 / nominal, 4.0)
    information = np.sum(k * share**2)
    excess = np.sum(k * share * (z2 - mean_of_capped(2.0))) / information
    n_rows = information**2 / ((k * share) @ rho**2 @ (k * share))
    return excess, n_rows * np.sum((k * share) ** 2) / information


@pytest.mark.parametrize("terms", [TERMS, LOOSE_TERMS])
@pytest.mark.parametrize("excluded", [None, 2])
def test_what_a_station_says_matches_the_oracle(terms: list[Term], excluded: int | None) -> None:
    p = problem(n_obs=90)
    # Innovations against a background without the station that is excluded.
    innovation = p.innovation + 0.03
    excess, weight = evidence(p, p.solve(terms), [0, 1, 5, 6], excluded=excluded, innovation=innovation)
    rest = replace(p, innovation=innovation)
    rest = rest if excluded is None else rest.keep(np.flatnonzero(p.station != excluded))
    for row, station in enumerate([0, 1, 5, 6]):
        for quantity in range(Q):
            expected = oracle(rest, terms, station, quantity)
            assert (excess[row, quantity], weight[row, quantity]) == pytest.approx(expected, rel=1e-8)


def test_what_has_no_weight_by_age_is_not_asked_and_changes_nothing_else() -> None:
    """The third quantity goes apart: it is left out of the work too."""
    p = problem(n_obs=90)
    whole = evidence(p, p.solve(LOOSE_TERMS), [0, 1], excluded=2)
    recency = np.where(p.quantity == 2, 0.0, np.exp(p.time_h / 6.0))
    part = evidence(p, p.solve(LOOSE_TERMS), [0, 1], excluded=2, recency=recency)
    for of_whole, of_part in zip(whole, part, strict=True):
        np.testing.assert_array_equal(of_part[:, 2], 0.0)
        np.testing.assert_array_equal(of_part[:, :2], of_whole[:, :2])


def test_the_excluded_station_is_not_heard() -> None:
    p = problem(n_obs=90)
    louder = np.where(p.station == 2, 20.0, 1.0) * p.innovation
    analysis = p.solve()
    quiet = evidence(p, analysis, [0, 1, 3, 4, 5, 6], excluded=2)
    loud = evidence(p, analysis, [0, 1, 3, 4, 5, 6], excluded=2, innovation=louder)
    np.testing.assert_allclose(loud[0], quiet[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(loud[1], quiet[1], rtol=1e-8)
    heard = evidence(p, analysis, [0, 1, 3, 4, 5, 6], innovation=louder)
    assert np.any(heard[0] > quiet[0] + 0.1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_over_many_worlds_stations_say_the_factor_that_is_true(factor: float) -> None:
    p = problem(n_obs=60)
    random = np.random.default_rng(3)
    prior = covariance(TERMS, p.places, p.places, mapped_only=False)
    root = np.linalg.cholesky(factor * prior + np.diag(p.error**2))
    analysis = p.solve()
    told = np.array(
        [
            evidence(
                *(p, analysis, list(range(7))),
                error=p.error,
                innovation=root @ random.normal(size=60),
                largest_z2=1e9,
                mean_z2=1.0,
            )[0]
            for _ in range(3000)
        ]
    )
    _, weight = evidence(p, analysis, list(range(7)), error=p.error)
    mean = told.mean(axis=0)[weight > 0]
    # The others' errors are part of P and do not grow with the field: another factor than 1 is a little under-estimated.
    np.testing.assert_allclose(mean, factor - 1.0, atol=0.1 + 0.1 * abs(factor - 1.0))
    if factor == 1.0:
        # Variance 2 / n of each estimate, without weights by age.
        _, n_rows = evidence(p, analysis, list(range(7)), error=p.error, recency=np.ones(60))
        plain = np.array(
            [
                evidence(
                    *(p, analysis, list(range(7))),
                    error=p.error,
                    recency=np.ones(60),
                    innovation=root @ random.normal(size=60),
                    largest_z2=1e9,
                    mean_z2=1.0,
                )[0]
                for _ in range(3000)
            ]
        )
        np.testing.assert_allclose(plain.var(axis=0) * n_rows / 2, 1.0, atol=0.25)


def test_a_station_that_repeats_itself_counts_once() -> None:
    p = problem(n_stations=3, n_obs=30, n_quantities=1)
    p = replace(p, quantity=np.zeros(30, dtype=np.int64))
    terms = [TERMS[2]]
    often = replace(p, time_h=np.where(p.station == 0, -np.arange(30) / 60.0, p.time_h))
    _, weight = evidence(often, often.solve([replace(t) for t in terms]), [0], recency=np.ones(30))
    assert np.sum(p.station == 0) >= 8
    assert 0.9 < weight[0, 0] < 1.5


def test_arguments_at_fault_are_named() -> None:
    p = problem()
    analysis = p.solve()
    with pytest.raises(ValueError, match=r"stations must lie in 0\.\.7, got 7"):
        evidence(p, analysis, [7])
    with pytest.raises(ValueError, match=r"station must lie in 0\.\.7, got 9"):
        evidence(p, analysis, [1], excluded=9)
    with pytest.raises(ValueError, match="recency must have the length of the rows, 60, got 3"):
        evidence(p, analysis, [1], recency=np.ones(3))
    with pytest.raises(ValueError, match="error must not be negative"):
        evidence(p, analysis, [1], error=-p.error)


def test_the_mean_of_a_capped_square_is_that_of_many_draws() -> None:
    z2 = np.random.default_rng(1).normal(size=1_000_000) ** 2
    for largest in (1.0, 2.0, 3.0):
        assert mean_of_capped(largest) == pytest.approx(np.minimum(z2, largest**2).mean(), abs=0.005)
    assert mean_of_capped(9.0) == pytest.approx(1.0)


# --- in a cycle -------------------------------------------------------------------------------------------------------


@cache
def background() -> Background:
    return Background()


def ionograms(hours: float = 8.0, *, places: dict[str, tuple[float, float]] = PLACES) -> pd.DataFrame:
    """Every 15 minutes, IRI at IG12 = 80 with a little reproducible noise."""
    times = pd.date_range(NOON - timedelta(hours=hours), NOON, freq="15min", unit="us")
    parts = []
    for number, (sounder_id, (latitude, longitude)) in enumerate(places.items()):
        random = np.random.default_rng([7, number])
        state = background().at(times, latitude, longitude, 80.0)
        parts.append(
            pd.DataFrame(
                {
                    "observation_id": [f"{sounder_id}-{time:%Y%m%dT%H%M}" for time in times],
                    "sounder_id": sounder_id,
                    "observed_at": times,
                    "available_at": times,
                    "revision": 0,
                    "latitude_deg": latitude,
                    "longitude_deg": longitude,
                    "confidence_score": 80.0,
                    # Departures of an ordinary day, alike all day: only a change is news.
                    "fof2_mhz": state.fof2_mhz
                    * np.exp(0.02 * random.normal() + random.normal(0, 0.02, times.size)),
                    "hmf2_km": state.hmf2_km + 5.0 + random.normal(0, 4.0, times.size),
                    "m3000f2": state.m3000f2 * np.exp(random.normal(0, 0.02, times.size)),
                    "b0_km": np.nan,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def storm(observations: pd.DataFrame, hours: float = 2.0) -> pd.DataFrame:
    """European foF2 of the last hours up and down by a sixth from one station to the next, and nothing elsewhere."""
    sign = {name: 1.0 if number % 2 else -1.0 for number, name in enumerate(EUROPE)}
    strength = observations["sounder_id"].map(sign).fillna(0.0)
    is_now = observations["observed_at"] > pd.Timestamp(NOON - timedelta(hours=hours))
    return observations.assign(fof2_mhz=observations["fof2_mhz"] * np.exp(0.15 * strength * is_now))


def kernel(**changes: Any) -> KernelConfig:
    """Without quality control, through which a held-out station would speak, and with other settings of the adaptation."""
    base = load_kernel_config()
    loose = {name: 1e9 for name in ("rate_sd", "background_sd", "buddy_sd", "full_weight_sd")}
    return base.model_copy(
        update={
            "quality": base.quality.model_copy(update=loose),
            "adaptation": base.adaptation.model_copy(update=changes),
        }
    )


def run(observations: pd.DataFrame, **options: Any) -> Cycle:
    arguments: dict[str, Any] = {"kernel": kernel(), "f107_sfu": 120.0, "threads": 1, **options}
    return run_cycle(
        observations, valid_time=NOON, available_until=NOON, background=background(), **arguments
    )


def known(observations: pd.DataFrame, settings: KernelConfig | None = None) -> Estimate:
    return estimate(
        observations,
        valid_at=pd.Timestamp(NOON),
        available_at=pd.Timestamp(NOON),
        kernel=settings or kernel(),
        background=background(),
        f107_sfu=120.0,
        scored_h=0.25,
        threads=1,
    )


def of_fof2(cycle: Cycle) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = cycle.metadata["adaptation"]["fof2_mhz"]
    return found


def test_a_storm_widens_what_is_near_and_nothing_far() -> None:
    quiet, stormy = (run(rows, grid=Grid.globe(10.0)) for rows in (ionograms(), storm(ionograms())))
    factor = known(storm(ionograms())).joint.adaptation
    near, far = (
        factor.at(*background().quasi_dipole(np.array(latitude), np.array(longitude), NOON.year), 0.0)[0]
        for latitude, longitude in (([47.0, 50.0], [10.0, 5.0]), ([0.0, 45.0], [-90.0, -100.0]))
    )
    assert np.all(near > 1.5)
    np.testing.assert_allclose(far, 1.0, atol=1e-6)
    for name in EUROPE:
        assert of_fof2(stormy)[name]["factor_held_out"] > of_fof2(quiet)[name]["factor_held_out"] + 0.3
    assert of_fof2(stormy)["FAR07"]["factor"] == pytest.approx(of_fof2(quiet)["FAR07"]["factor"], abs=0.05)
    # Quantities that are not adapted stay, and another quantity's storm is none of heights.
    assert list(stormy.metadata["adaptation"]) == ["fof2_mhz"]
    both = kernel(prior_rows={"fof2_mhz": 2.0, "hmf2_km": 2.0})
    heights = [known(rows, both).joint.adaptation.excess[:, 1] for rows in (ionograms(), storm(ionograms()))]
    np.testing.assert_allclose(heights[0], heights[1], atol=0.05)
    # And the map says so.
    assert stormy.analysis is not None
    frame = stormy.analysis.to_pandas().set_index(["latitude_deg", "longitude_deg"])
    plain = run(storm(ionograms()), kernel=kernel(prior_rows={}), grid=Grid.globe(10.0)).analysis
    assert plain is not None
    before = plain.to_pandas().set_index(["latitude_deg", "longitude_deg"])
    ratio = frame["fof2_mhz_sd"] / before["fof2_mhz_sd"]
    assert ratio[50.0, 10.0] > 1.2
    assert ratio[0.0, -90.0] == pytest.approx(1.0, abs=1e-6)


def test_the_mean_is_what_it_was() -> None:
    rows = storm(ionograms(4.0))
    adapted = run(rows, grid=Grid.box(35.0, -5.0, 55.0, 25.0, 5.0)).analysis
    plain = run(rows, kernel=kernel(prior_rows={}), grid=Grid.box(35.0, -5.0, 55.0, 25.0, 5.0)).analysis
    assert adapted is not None
    assert plain is not None
    for name in QUANTITIES:
        assert adapted.column(name).equals(plain.column(name))
    assert adapted.column("hmf2_km_sd").equals(plain.column("hmf2_km_sd"))
    assert not adapted.column("fof2_mhz_sd").equals(plain.column("fof2_mhz_sd"))


def test_a_held_out_station_does_not_speak_for_itself() -> None:
    rows = ionograms()
    is_loud = (rows["sounder_id"] == "EUR02") & (
        rows["observed_at"] > pd.Timestamp(NOON - timedelta(hours=3))
    )
    loud = rows.assign(fof2_mhz=rows["fof2_mhz"] * np.where(is_loud, 1.8, 1.0))
    quiet_factor, loud_factor = (of_fof2(run(part)) for part in (rows, loud))
    assert loud_factor["EUR02"]["factor_held_out"] == pytest.approx(
        quiet_factor["EUR02"]["factor_held_out"], rel=1e-6
    )
    # To the others and to the map it does speak.
    assert loud_factor["EUR02"]["factor"] > quiet_factor["EUR02"]["factor"] + 0.2
    assert loud_factor["EUR04"]["factor_held_out"] > quiet_factor["EUR04"]["factor_held_out"] + 0.1


def test_gross_errors_have_a_bounded_say() -> None:
    rows = ionograms()
    newest = (rows["sounder_id"] == "EUR04") & (rows["observed_at"] == pd.Timestamp(NOON))
    off, absurd = (
        of_fof2(run(rows.assign(fof2_mhz=rows["fof2_mhz"] * np.where(newest, factor, 1.0))))
        for factor in (2.0, 3.0)
    )
    alone = of_fof2(run(rows))
    for name in EUROPE:
        assert SETTINGS.smallest <= absurd[name]["factor"] <= SETTINGS.largest
    # The row's own say is capped: three times as wrong is no more of a storm.
    assert absurd["EUR04"]["factor"] == pytest.approx(off["EUR04"]["factor"], abs=0.5)
    assert alone["EUR04"]["factor"] <= off["EUR04"]["factor"]


@pytest.mark.parametrize("rows", [ionograms().iloc[:0], ionograms(places={"EUR01": (52.0, 0.0)}).tail(1)])
def test_without_or_with_almost_no_data_the_factor_is_near_one(rows: pd.DataFrame) -> None:
    found = known(rows)
    factor = found.joint.adaptation.at(np.array([52.0, -30.0]), np.array([0.0, 100.0]), 0.0)
    assert factor.shape == (len(QUANTITIES), 2)
    np.testing.assert_allclose(factor[:, 1], 1.0, atol=1e-12)
    assert np.all((factor >= 0.75) & (factor <= 1.5))
    for number in range(len(found.stations.sounder_id)):
        held_out = found.joint.adaptation.of_node(
            np.full(4, number), np.arange(4), np.zeros(4), is_held_out=True
        )
        np.testing.assert_array_equal(held_out, 1.0)


def test_the_factor_fades_with_the_time_ahead_and_is_the_same_at_a_station_and_on_a_map() -> None:
    found = known(storm(ionograms()))
    factor, stations = found.joint.adaptation, found.stations
    number = stations.sounder_id.index("EUR04")
    of_lead = factor.of_node(
        np.full(6, number),
        np.zeros(6, dtype=np.int64),
        np.array([0.0, 1.0, 3.0, 6.0, 12.0, 48.0]),
        is_held_out=False,
    )
    assert of_lead[0] > 1.5
    is_capped = of_lead == SETTINGS.largest
    assert np.all(np.diff(of_lead[~is_capped]) < 0)
    assert np.all(np.diff(of_lead) <= 0)
    assert of_lead[-1] == pytest.approx(1.0, abs=1e-5)
    # Agreement is forgotten sooner.
    calm = known(ionograms()).joint.adaptation
    ahead, behind = (
        calm.of_node(
            np.full(3, number),
            np.zeros(3, dtype=np.int64),
            sign * np.array([0.0, 1.0, 3.0]),
            is_held_out=True,
        )
        for sign in (1.0, -1.0)
    )
    assert ahead[0] == behind[0] < 0.9
    assert ahead[1] > 0.98
    assert np.all(np.diff(ahead) > 0)
    assert behind[1] < 0.9
    for lead_h in (0.0, 3.0):
        on_map = factor.at(stations.qd_latitude_deg, stations.qd_longitude_deg, lead_h)
        there = factor.of_node(np.full(4, number), np.arange(4), np.full(4, lead_h), is_held_out=False)
        np.testing.assert_allclose(on_map[:, number], there, rtol=1e-12)


def test_a_held_out_factor_is_that_of_the_others_alone() -> None:
    """As if the station were not there at all, which a refit without it shows."""
    rows = storm(ionograms())
    # One index for both, so that the background is the same: too few stations to choose one.
    settings = kernel()
    settings = settings.model_copy(
        update={
            "effective_index": settings.effective_index.model_copy(update={"minimum_stations": 99}),
        }
    )
    whole, without = known(rows, settings), known(rows[rows["sounder_id"] != "EUR04"], settings)
    number = whole.stations.sounder_id.index("EUR04")
    held_out = whole.joint.adaptation.of_node(np.full(4, number), np.arange(4), np.zeros(4), is_held_out=True)
    place = whole.stations.qd_latitude_deg[[number]], whole.stations.qd_longitude_deg[[number]]
    np.testing.assert_allclose(held_out, without.joint.adaptation.at(*place, 0.0)[:, 0], rtol=1e-3)


def test_a_map_in_pieces_is_the_map() -> None:
    random = np.random.default_rng(5)
    n_stations, n_points = 5, 10_000
    factor = SpreadFactor(
        SETTINGS,
        unit_vectors(random.uniform(-60, 60, n_stations), random.uniform(-180, 180, n_stations)),
        *(random.uniform(0, 3, (n_stations, 4)) for _ in range(4)),
    )
    latitude, longitude = random.uniform(-90, 90, n_points), random.uniform(-180, 180, n_points)
    whole = factor.at(latitude, longitude, 1.0)
    few: NDArray[np.int64] = random.integers(0, n_points, 50)
    np.testing.assert_allclose(factor.at(latitude[few], longitude[few], 1.0), whole[:, few], rtol=1e-12)
    assert whole.min() >= SETTINGS.smallest
    assert whole.max() <= SETTINGS.largest


def test_nearness_is_a_gaussian_of_the_chord() -> None:
    a, b = unit_vectors(np.array([0.0]), np.array([179.5])), unit_vectors(np.array([0.0]), np.array([-179.5]))
    chord_km = 2 * 6371.0088 * np.sin(np.radians(0.5))
    assert nearness(a, b, 100.0)[0, 0] == pytest.approx(np.exp(-0.5 * (chord_km / 100.0) ** 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smallest": 1.2}, "smallest"),
        ({"prior_rows": {"tec": 2.0}}, "'tec' is none of fof2_mhz"),
        ({"prior_rows": {"hmf2_km": 0.0}}, "hmf2_km: 0.0 is not positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adaptation.model_validate({**SETTINGS.model_dump(), **change})


def test_switched_off_it_asks_nobody() -> None:
    class Silent:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    settings = SETTINGS.model_copy(update={"prior_rows": {}})
    nodes = known(ionograms(1.0)).nodes
    factor = spread_factor(
        *(settings, Silent(), nodes),  # type: ignore[arg-type]
        quantity=np.zeros(3, dtype=np.int64),
        error=np.ones(3),
        age_h=np.ones(3),
        is_asked=np.ones(3, dtype=np.bool_),
        held_out_innovation=[np.ones(3)] * 8,
    )
    np.testing.assert_array_equal(factor.at(np.zeros(2), np.zeros(2), 0.0), 1.0)
