"""Errors that observations bring themselves: read, counted in the cycle, and kept where observations are taken together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import rust_core
from tasks.grid import Grid
from tasks.kernel_config import QUANTITIES, load_kernel_config
from tasks.row_errors import (
    COLUMNS,
    CORRELATION_OF,
    ErrorPairs,
    carried,
    error_of,
    error_pairs,
    has_possible_errors,
)
from tasks.superobservations import Rows, Superobservations, combine, gather
from tests.test_cycle import SMALL, column, cycle, ionograms, same
from tests.test_superobservations import changed, network

Array = NDArray[np.float64]
KERNEL = load_kernel_config()
FOF2, HMF2, B0 = (QUANTITIES.index(name) for name in ("fof2_mhz", "hmf2_km", "b0_km"))


def rows(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"confidence_score": [80.0, 999.0, np.nan, 10.0], **columns})


# --- what a row says ----------------------------------------------------------------------------------------


def test_a_row_has_its_own_error_or_that_of_its_class() -> None:
    of_class = KERNEL.fof2_mhz.obs_error
    own = rows(fof2_mhz_error=[0.05, np.nan, 0.3, None])
    expected = [0.05, of_class.manual, 0.3, of_class.low]
    np.testing.assert_array_equal(error_of(own, "fof2_mhz", KERNEL), expected)
    np.testing.assert_array_equal(error_of(own, "hmf2_km", KERNEL), error_of(rows(), "hmf2_km", KERNEL))
    np.testing.assert_array_equal(error_of(own, "m3000f2", KERNEL), error_of(rows(), "m3000f2", KERNEL))


def test_only_what_is_said_is_carried() -> None:
    assert carried(rows()) == []
    silent = rows(fof2_mhz_error=np.nan, fof2_b0_correlation=None)
    assert carried(silent) == []
    assert carried(silent.assign(b0_km_error=[np.nan, 3.0, np.nan, np.nan])) == ["b0_km_error"]


def test_errors_and_correlations_that_cannot_be_are_found() -> None:
    assert has_possible_errors(rows()).all()
    assert has_possible_errors(rows(fof2_mhz_error=[0.1, 0.0, -1.0, np.inf])).tolist() == [True, *[False] * 3]
    of_two = rows(fof2_hmf2_correlation=[0.999, 1.0, -1.2, np.nan])
    assert has_possible_errors(of_two).tolist() == [True, False, False, True]
    # Each of them is possible, all three together are not.
    of_three = rows(
        fof2_hmf2_correlation=[0.9, 0.9, 0.9, 0.0],
        fof2_b0_correlation=[0.9, 0.9, np.nan, 0.0],
        hmf2_b0_correlation=[0.9, -0.9, -0.9, np.inf],
    )
    assert has_possible_errors(of_three).tolist() == [True, False, False, False]


def test_pairs_are_numbered_quantity_by_quantity() -> None:
    said = rows(fof2_hmf2_correlation=[0.5, -0.2, 0.1, 0.0], hmf2_b0_correlation=[np.nan, 0.3, 0.4, 0.6])
    rows_of = {
        "fof2_mhz": np.array([0, 1, 3]),
        "hmf2_km": np.array([0, 1, 2, 3]),
        "m3000f2": np.array([0]),
        "b0_km": np.array([2, 3]),
    }
    pairs = error_pairs(said, rows_of)
    assert pairs.pair.tolist() == [[0, 3], [1, 4], [5, 8], [6, 9]]
    assert pairs.correlation.tolist() == [0.5, -0.2, 0.4, 0.6]
    number = np.array([-1, 0, -1, -1, 1, 2, 3, -1, 4, -1])
    kept = pairs.renumbered(number)
    assert kept.pair.tolist() == [[0, 1], [2, 4]]
    assert kept.correlation.tolist() == [-0.2, 0.4]
    assert len(error_pairs(rows(), rows_of)) == 0


# --- in a cycle ---------------------------------------------------------------------------------------------


def test_columns_that_say_nothing_change_no_bit() -> None:
    observations = ionograms(3.0)
    silent = observations.assign(**{name: np.nan for name in COLUMNS[:-1]}, **{COLUMNS[-1]: None})
    assert same(cycle(observations, grid=SMALL), cycle(silent, grid=SMALL))


def test_own_errors_that_are_those_of_the_class_give_the_same_fields() -> None:
    observations = ionograms(3.0)
    own = observations.assign(fof2_mhz_error=KERNEL.fof2_mhz.obs_error.high)
    one, other = cycle(observations, grid=SMALL), cycle(own, grid=SMALL)
    assert one.metadata["inputs_hash"] != other.metadata["inputs_hash"]
    for name in ("fof2_mhz", "fof2_mhz_sd", "hmf2_km"):
        np.testing.assert_array_equal(column(one.analysis, name), column(other.analysis, name))


def test_an_error_of_its_own_weighs_in_fields_feedback_and_scores() -> None:
    observations = ionograms(3.0)
    sure = observations.assign(
        fof2_mhz_error=np.where(observations["sounder_id"] == "CCC03", 0.02, 1.5), hmf2_km_error=40.0
    )
    one, other = cycle(observations, grid=SMALL), cycle(sure, grid=SMALL)
    assert column(other.analysis, "hmf2_km_sd").min() > column(one.analysis, "hmf2_km_sd").min()
    feedback = other.feedback.to_pandas()
    own = feedback[(feedback["quantity"] == "fof2_mhz") & (feedback["sounder_id"] == "CCC03")]
    assert set(own["obs_error"]) == {0.02}
    verification = other.verification.to_pandas()
    held = verification[verification["quantity"] == "hmf2_km"]
    assert np.all(held["holdout_sd"] > 40.0)


def test_correlated_errors_let_one_quantity_correct_the_other() -> None:
    """At one of five stations foF2 is read too high; if hmF2 errs with it, it must have been too high as well."""
    observations = ionograms(3.0)
    is_off = observations["sounder_id"] == "DDD04"
    observations.loc[is_off, "fof2_mhz"] *= 1.06
    observations["fof2_mhz_error"] = np.where(is_off, 0.6, 0.1)
    observations["hmf2_km_error"] = np.where(is_off, 12.0, 10.0)
    here = Grid.box(50.0, 14.5, 50.5, 15.0, 1.0)
    height = {}
    for correlation in (-0.8, 0.0, 0.8):
        said = observations.assign(fof2_hmf2_correlation=np.where(is_off, correlation, np.nan))
        height[correlation] = column(cycle(said, grid=here).analysis, "hmf2_km")[0]
    assert height[0.8] < height[0.0] < height[-0.8]
    assert height[0.8] < height[-0.8] - 1.0


def test_a_sounding_whose_errors_cannot_be_is_stopped_and_the_cycle_goes_on() -> None:
    observations = ionograms(3.0)
    is_newest = (observations["sounder_id"] == "AAA01") & (
        observations["observed_at"] == observations["observed_at"].max()
    )
    said = observations.assign(**{name: np.where(is_newest, 0.99, 0.1) for name in CORRELATION_OF.values()})
    said.loc[is_newest, "hmf2_b0_correlation"] = -0.99
    made = cycle(said, grid=SMALL)
    feedback = made.feedback.to_pandas()
    stopped = feedback[feedback["qc_flag"] == "physical_limits"]
    assert set(stopped["observation_id"]) == set(observations["observation_id"][is_newest])
    assert np.isfinite(column(made.analysis, "fof2_mhz")).all()
    assert made.metadata["n_obs"]["fof2_mhz"]["accepted"] > 40


# --- taken together -----------------------------------------------------------------------------------------


def soundings(station: NDArray[np.int64], time_h: Array, seed: int) -> tuple[Rows, ErrorPairs]:
    """foF2, hmF2 and B0 of every sounding, quantity by quantity, with the errors of each going together."""
    random = np.random.default_rng(seed)
    n = station.size
    error = np.repeat([0.03, 12.0, 0.1], n)
    innovation = error * random.normal(size=3 * n)
    ones = np.ones(3 * n)
    quantity = np.repeat([FOF2, HMF2, B0], n)
    all_rows = Rows(np.tile(station, 3), quantity, np.tile(time_h, 3), 5.0 * ones, innovation, error, ones)
    number = np.arange(n)
    pair = np.concatenate(
        [np.column_stack([number + a * n, number + b * n]) for a, b in ((0, 1), (0, 2), (1, 2))]
    )
    return all_rows, ErrorPairs(pair, np.repeat([0.6, -0.4, 0.2], n))


def analysed(places: tuple[Array, Array], entering: Superobservations | Rows, pairs: ErrorPairs) -> Array:
    analysis = rust_core.Analysis(
        [term.build() for term in KERNEL.terms if term.spatial != "station"],
        station_latitude_deg=places[0],
        station_longitude_deg=places[1],
        station=entering.node if isinstance(entering, Superobservations) else entering.station,
        quantity=entering.quantity,
        time_h=entering.time_h,
        innovation=entering.innovation,
        obs_error=entering.error,
        amplitude=entering.amplitude,
        error_pair=pairs.pair,
        error_correlation=pairs.correlation,
    )
    random = np.random.default_rng(1)
    return np.stack(analysis.predict(random.uniform(-80, 80, 50), random.uniform(-180, 180, 50), 0.0))


def test_soundings_of_one_place_and_time_lose_nothing_by_being_taken_together() -> None:
    """Six sounders at each of five places: the posterior is that of the thirty, to rounding, as without correlation."""
    random = np.random.default_rng(3)
    loose = {"full_weight_sd": 50.0, "buddy_sd": 100.0, "background_sd": 99.0}
    kernel = KERNEL.model_copy(
        update={
            "terms": tuple(term for term in KERNEL.terms if term.spatial != "station"),
            "quality": KERNEL.quality.model_copy(update=loose),
        }
    )
    place = random.uniform(-60, 60, 5), random.uniform(-180, 180, 5)
    stations = network(*(axis[np.repeat(np.arange(5), 6)] for axis in place))
    nodes = gather(stations, 5)
    all_rows, pairs = soundings(np.tile(np.arange(30), 2), np.repeat([-0.1, -5.3], 30), seed=4)
    entering = combine(changed(kernel, max_nodes=5), stations, nodes, all_rows, 1000.0, pairs)
    assert entering.innovation.size == 30
    assert len(entering.pairs) == 30
    one = analysed((stations.qd_latitude_deg, stations.qd_longitude_deg), all_rows, pairs)
    other = analysed((nodes.latitude_deg, nodes.longitude_deg), entering, entering.pairs)
    np.testing.assert_allclose(other, one, atol=1e-8)
    alone = analysed(
        (nodes.latitude_deg, nodes.longitude_deg), entering, entering.pairs.renumbered(np.full(30, -1))
    )
    assert np.abs(alone - one).max() > 1e-3


def test_lying_apart_leaves_less_of_the_correlation() -> None:
    """Not all stations of the node report: what the mean lacks for that is each quantity's own."""
    stations = network(np.array([10.0, 10.0, 10.0]), np.array([0.0, 3.0, 6.0]))
    all_rows, pairs = soundings(np.array([0, 0, 1]), np.full(3, -0.1), seed=5)
    nodes = gather(stations, 1)
    together = combine(changed(max_nodes=1), stations, nodes, all_rows, 1000.0, pairs)
    assert together.innovation.size == 3
    by_pair = {
        tuple(pair): rho
        for pair, rho in zip(together.pairs.pair.tolist(), together.pairs.correlation, strict=True)
    }
    assert set(by_pair) == {(0, 1), (0, 2), (1, 2)}
    assert 0.3 < by_pair[0, 1] < 0.59


def test_quantities_whose_errors_go_together_share_one_factorisation() -> None:
    """The limit counts their rows together, so that observations are taken together earlier."""
    random = np.random.default_rng(6)
    stations = network(random.uniform(-60, 60, 20), random.uniform(-180, 180, 20))
    nodes = gather(stations, 20)
    all_rows, pairs = soundings(np.tile(np.arange(20), 4), np.repeat([-0.1, -0.3, -5.2, -5.7], 20), seed=7)
    limit = changed(max_observations=100)
    assert combine(limit, stations, nodes, all_rows, 1000.0).widening == 0
    linked = combine(limit, stations, nodes, all_rows, 1000.0, pairs)
    assert linked.widening > 0
    assert linked.innovation.size <= 100


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_row_that_is_stopped_takes_its_pairs_along(stopped: int) -> None:
    stations = network(np.array([10.0] * 4), np.linspace(0.0, 0.3, 4))
    all_rows, pairs = soundings(np.arange(4), np.full(4, -0.1), seed=8)
    all_rows.innovation[stopped] = 3.0
    together = combine(changed(max_nodes=1), stations, gather(stations, 1), all_rows, 1000.0, pairs)
    assert together.flag[stopped] == "background_check"
    covariance = together.pairs.correlation[0] * together.error[0] * together.error[1]
    kept = np.setdiff1d(np.arange(4), [stopped])
    share = together.share
    expected = np.sum(
        0.6
        * 0.03
        * 12.0
        * share[kept]
        * share[kept + 4]
        / np.sqrt(together.weight[kept] * together.weight[kept + 4])
    )
    assert covariance == pytest.approx(expected, rel=1e-9)
