"""The cycle: what it does with hard inputs, that it is pure and causal, and that a held-out station is held out."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from tasks.analysis import diagnose
from tasks.background import Background, f107_to_ig12
from tasks.contracts import arrow_schema
from tasks.cycle import Cycle, run_cycle
from tasks.cycles import CycleError, plan_cycle
from tasks.grid import Grid
from tasks.kernel_config import KernelConfig, KernelConfigError, load_kernel_config
from tasks.magnetic_field import extraordinary_mhz, gyrofrequency_mhz
from tasks.prediction import Prediction
from tasks.settings import Settings
from tasks.verification import skill_table

NOON = datetime(2022, 10, 24, 12, 0, tzinfo=UTC)
PLACES = {
    "AAA01": (52.0, 0.0),
    "BBB02": (41.9, 12.5),
    "CCC03": (38.0, 23.5),
    "DDD04": (50.0, 14.5),
    "EEE05": (55.0, 13.0),
}
SMALL = Grid.box(35.0, -5.0, 55.0, 25.0, 5.0)


@cache
def background() -> Background:
    return Background()


def ionograms(
    hours: float = 6.0,
    *,
    stations: tuple[str, ...] = tuple(PLACES),
    factor: float = 1.1,
    until: datetime = NOON,
) -> pd.DataFrame:
    """Every 15 minutes, IRI at IG12 = 80 times a factor, with a little reproducible noise."""
    times = pd.date_range(until - timedelta(hours=hours), until, freq="15min", unit="us")
    random = np.random.default_rng(7)
    parts = []
    for sounder_id in stations:
        latitude, longitude = PLACES[sounder_id]
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
                    "fof2_mhz": state.fof2_mhz * factor * np.exp(random.normal(0, 0.02, times.size)),
                    "hmf2_km": state.hmf2_km + 5.0 + random.normal(0, 4.0, times.size),
                    "m3000f2": state.m3000f2 * np.exp(random.normal(0, 0.02, times.size)),
                    "b0_km": state.b0_km * np.exp(random.normal(0, 0.05, times.size)),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def cycle(observations: pd.DataFrame, **options: Any) -> Cycle:
    arguments: dict[str, Any] = {
        "valid_time": NOON,
        "available_until": NOON,
        "kernel": load_kernel_config(),
        "background": background(),
        "threads": 1,
        **options,
    }
    return run_cycle(observations, **arguments)


def column(table: pa.Table, name: str, **where: str) -> NDArray[np.float64]:
    frame = table.to_pandas()
    for key, value in where.items():
        frame = frame[frame[key] == value]
    return frame[name].to_numpy(dtype=np.float64)


def same(a: Cycle, b: Cycle) -> bool:
    return bool(
        a.metadata == b.metadata
        and a.feedback.equals(b.feedback)
        and a.verification.equals(b.verification)
        and (a.analysis is b.analysis is None or a.analysis.equals(b.analysis))
    )


def test_tables_have_the_columns_of_their_contracts() -> None:
    result = cycle(ionograms(1.0), grid=SMALL, f107_sfu=115.0)
    for dataset, table in (
        ("analysis", result.analysis),
        ("feedback", result.feedback),
        ("verification", result.verification),
    ):
        assert table is not None
        schema = arrow_schema(dataset)
        assert set(table.column_names) == set(schema.names)
        required = [field.name for field in schema if not field.nullable]
        assert not [name for name in required if table.column(name).null_count]
        table.select(schema.names).cast(pa.schema([(field.name, field.type) for field in schema]))
        assert table.num_rows


def test_the_analysis_moves_from_the_background_to_the_observations() -> None:
    # The index can take up a common factor, a strong departure of one corner it cannot.
    observations = ionograms()
    is_local = observations["sounder_id"] == "CCC03"
    observations.loc[is_local, "fof2_mhz"] *= 0.85
    result = cycle(observations, grid=Grid.box(37.0, 23.0, 38.0, 24.0, 1.0))
    assert result.analysis is not None
    analysed = column(result.analysis, "fof2_mhz")
    prior = column(result.analysis, "fof2_background_mhz")
    observed = observations.loc[is_local, "fof2_mhz"].iloc[-1]
    assert np.all(np.abs(analysed - observed) < 0.5 * np.abs(prior - observed))
    far = cycle(observations, grid=Grid.box(-40.0, -170.0, -39.0, -169.0, 1.0)).analysis
    assert far is not None
    np.testing.assert_allclose(column(far, "fof2_mhz"), column(far, "fof2_background_mhz"), rtol=0.03)
    assert np.all(
        column(far, "fof2_mhz_sd") / column(far, "fof2_mhz")
        > 2 * column(result.analysis, "fof2_mhz_sd") / analysed
    )
    np.testing.assert_array_equal(column(result.analysis, "b0_background_km") > 0, True)
    muf = column(result.analysis, "fof2_mhz") * column(result.analysis, "m3000f2")
    np.testing.assert_allclose(column(result.analysis, "muf3000_mhz"), muf, rtol=1e-12)


def test_the_extraordinary_frequency_follows_fof2() -> None:
    analysis = cycle(ionograms(1.0), grid=SMALL, f107_sfu=115.0).analysis
    assert analysis is not None
    fof2, sd, fxf2 = (column(analysis, name) for name in ("fof2_mhz", "fof2_mhz_sd", "fxf2_mhz"))
    gyrofrequency = gyrofrequency_mhz(
        analysis["valid_time"].to_pandas(),
        column(analysis, "latitude_deg"),
        column(analysis, "longitude_deg"),
    )
    np.testing.assert_allclose(fxf2, extraordinary_mhz(fof2, gyrofrequency), rtol=1e-12)
    difference = extraordinary_mhz(fof2 + 1e-4 * sd, gyrofrequency) - fxf2
    np.testing.assert_allclose(column(analysis, "fxf2_mhz_sd"), difference / 1e-4, rtol=1e-4)


def test_the_index_of_the_observations_is_found() -> None:
    result = cycle(ionograms(factor=1.0))
    assert result.metadata["effective_index"] == pytest.approx(80.0, abs=3.0)
    assert result.metadata["index_source"] == "stations"


@pytest.mark.parametrize(
    ("f107_sfu", "source", "index"), [(None, "default", 70.0), (115.0, "f107", f107_to_ig12(115.0))]
)
def test_without_observations_the_climatology_is_published_and_marked(
    f107_sfu: float | None, source: str, index: float
) -> None:
    result = cycle(ionograms().iloc[:0], grid=SMALL, f107_sfu=f107_sfu)
    assert result.metadata["climatology_only"] is True
    assert (result.metadata["index_source"], result.metadata["effective_index"]) == (source, index)
    assert result.analysis is not None
    np.testing.assert_allclose(
        column(result.analysis, "fof2_mhz"), column(result.analysis, "fof2_background_mhz"), rtol=1e-12
    )
    assert np.all(column(result.analysis, "hmf2_km_sd") > 10.0)
    assert result.feedback.num_rows == result.verification.num_rows == 0
    assert result.metadata["n_stations"] == result.metadata["n_observations"] == 0


def test_one_station_is_analysed_and_scored_against_the_climatology() -> None:
    result = cycle(ionograms(stations=("BBB02",)), f107_sfu=115.0)
    assert result.metadata["index_source"] == "f107"
    rows = result.verification.to_pandas()
    np.testing.assert_allclose(rows["holdout_value"], rows["iri_index_value"], rtol=1e-9)
    assert rows["distance_to_nearest_km"].isna().all()
    assert cycle(ionograms(stations=("BBB02",))).metadata["index_source"] == "few_stations"


def test_two_sounders_at_one_place_support_each_other() -> None:
    observations = ionograms(stations=("AAA01", "BBB02", "CCC03"))
    twin = observations[observations["sounder_id"] == "BBB02"].copy()
    twin["sounder_id"], twin["observation_id"] = "TWIN9", "T" + twin["observation_id"]
    result = cycle(pd.concat([observations, twin], ignore_index=True))
    rows = result.verification.to_pandas().set_index(["quantity", "sounder_id"])
    assert rows.loc[("fof2_mhz", "TWIN9"), "distance_to_nearest_km"] == 0.0
    held = rows.loc[("fof2_mhz", "TWIN9"), "holdout_value"]
    assert abs(held / rows.loc[("fof2_mhz", "TWIN9"), "obs_value"] - 1) < 0.05


def test_identical_values_and_duplicate_rows_are_no_trouble() -> None:
    observations = ionograms(2.0)
    observations["fof2_mhz"], observations["hmf2_km"] = 6.0, 300.0
    plain = cycle(observations, grid=SMALL)
    doubled = cycle(pd.concat([observations, observations], ignore_index=True), grid=SMALL)
    assert same(plain, doubled)
    assert plain.analysis is not None
    assert np.isfinite(column(plain.analysis, "fof2_mhz")).all()


def test_the_same_ionogram_under_two_ids_is_accepted() -> None:
    observations = ionograms(2.0)
    again = observations.assign(observation_id="again-" + observations["observation_id"])
    result = cycle(pd.concat([observations, again], ignore_index=True))
    assert result.metadata["n_observations"] == 2 * len(observations)


@pytest.mark.parametrize(
    "valid_time", [datetime(2022, 12, 31, 23, 45, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)]
)
def test_poles_date_line_and_the_end_of_the_year(valid_time: datetime) -> None:
    observations = ionograms(3.0, until=valid_time)
    for sounder_id, place in {"AAA01": (90.0, 0.0), "BBB02": (-90.0, 0.0), "CCC03": (0.0, 180.0)}.items():
        observations.loc[observations["sounder_id"] == sounder_id, ["latitude_deg", "longitude_deg"]] = place
    twin = observations[observations["sounder_id"] == "CCC03"].assign(
        sounder_id="CCC3W", longitude_deg=-180.0, observation_id=lambda rows: "W" + rows["observation_id"]
    )
    everything = pd.concat([observations, twin], ignore_index=True)
    result = cycle(everything, valid_time=valid_time, available_until=valid_time, grid=Grid.globe(15.0))
    assert result.analysis is not None
    for name in ("fof2_mhz", "fof2_mhz_sd", "hmf2_km", "hmf2_km_sd", "m3000f2", "b0_km", "muf3000_mhz"):
        values = column(result.analysis, name)
        assert np.all(np.isfinite(values) & (values > 0))
    distance = column(result.verification, "distance_to_nearest_km", quantity="fof2_mhz", sounder_id="CCC3W")
    np.testing.assert_allclose(distance, 0.0, atol=1e-6)
    frame = result.analysis.to_pandas()
    for pole in (-90.0, 90.0):
        at_pole = (
            frame.loc[frame["latitude_deg"] == pole, "fof2_mhz"]
            / frame.loc[frame["latitude_deg"] == pole, "fof2_background_mhz"]
        )
        assert at_pole.max() - at_pole.min() < 1e-6


def test_the_order_of_rows_and_the_threads_change_no_bit() -> None:
    observations = ionograms()
    shuffled = observations.sample(frac=1.0, random_state=3)
    one = cycle(observations, grid=SMALL, threads=1)
    many = cycle(shuffled, grid=SMALL, threads=4)
    assert same(one, many)


def test_the_future_and_the_unavailable_have_no_influence() -> None:
    observations = ionograms(8.0, until=NOON + timedelta(hours=2))
    late = observations["observed_at"].between(NOON - timedelta(minutes=30), NOON) & (
        observations["sounder_id"] == "AAA01"
    )
    observations.loc[late, "available_at"] = NOON + timedelta(hours=1)
    whole = cycle(observations, grid=SMALL)
    is_known = (observations["observed_at"] <= NOON) & (observations["available_at"] <= NOON)
    assert same(whole, cycle(observations[is_known], grid=SMALL))
    assert set(whole.feedback.column("observation_id").to_pylist()) <= set(
        observations.loc[is_known, "observation_id"]
    )
    assert cycle(observations, available_until=NOON + timedelta(hours=1)).metadata != whole.metadata


def without_control() -> KernelConfig:
    """Quality control judges each station with the help of all others, the only way a held-out one can speak."""
    kernel = load_kernel_config()
    lenient = kernel.quality.model_copy(update={"buddy_sd": 100.0, "full_weight_sd": 100.0})
    return kernel.model_copy(update={"quality": lenient})


def test_a_held_out_station_has_no_influence_on_its_own_prediction() -> None:
    """Its values change: its prediction and its reference stay, the others' move."""
    observations = ionograms(3.0)
    moved = observations.copy()
    is_held = moved["sounder_id"] == "DDD04"
    moved.loc[is_held, "fof2_mhz"] *= 1.1
    moved.loc[is_held, "hmf2_km"] += 20.0
    before, after = (cycle(rows, kernel=without_control()) for rows in (observations, moved))
    for name in ("fof2_mhz", "hmf2_km"):
        for value in ("holdout_value", "holdout_p95", "iri_index_value"):
            own = [column(c.verification, value, quantity=name, sounder_id="DDD04") for c in (before, after)]
            if value == "holdout_p95" and name == "fof2_mhz":
                continue  # the error of ln foF2 follows the observed value
            np.testing.assert_allclose(own[0], own[1], rtol=1e-9)
        other = [
            column(c.verification, "holdout_value", quantity=name, sounder_id="EEE05")
            for c in (before, after)
        ]
        assert not np.allclose(other[0], other[1], rtol=1e-4)


def test_a_held_out_prediction_equals_the_analysis_without_the_station() -> None:
    observations = ionograms(3.0)
    whole = cycle(observations, kernel=without_control())
    without = cycle(
        observations[observations["sounder_id"] != "DDD04"],
        kernel=without_control(),
        grid=Grid.box(50.0, 14.5, 50.5, 15.0, 1.0),
    )
    assert without.analysis is not None
    for name in ("fof2_mhz", "hmf2_km"):
        held = column(whole.verification, "holdout_value", quantity=name, sounder_id="DDD04")
        np.testing.assert_allclose(held[-1:], column(without.analysis, name), rtol=1e-9)


def test_gross_errors_are_flagged_and_do_not_spoil_the_neighbours() -> None:
    observations = ionograms()
    clean = cycle(observations)
    spoiled = observations.copy()
    newest = (spoiled["sounder_id"] == "BBB02") & (spoiled["observed_at"] == pd.Timestamp(NOON))
    spoiled.loc[newest, "fof2_mhz"] *= 1.9
    older = (spoiled["sounder_id"] == "AAA01") & (
        spoiled["observed_at"] == pd.Timestamp(NOON - timedelta(hours=1))
    )
    spoiled.loc[older, "fof2_mhz"] = 99.0
    result = cycle(spoiled)
    flags = result.feedback.to_pandas().query("quantity == 'fof2_mhz'").set_index("observation_id")["qc_flag"]
    assert flags[spoiled.loc[newest, "observation_id"].iloc[0]] == "rate_check"
    assert flags[spoiled.loc[older, "observation_id"].iloc[0]] == "physical_limits"
    held = [
        column(c.verification, "holdout_value", quantity="fof2_mhz", sounder_id="CCC03")
        for c in (clean, result)
    ]
    np.testing.assert_allclose(held[0], held[1], rtol=0.02)


def test_old_observations_are_thinned_by_the_clock() -> None:
    result = cycle(ionograms(24.0))
    rows = result.feedback.to_pandas().query("quantity == 'fof2_mhz' and sounder_id == 'AAA01'")
    kernel = load_kernel_config()
    age = pd.Timestamp(NOON) - rows["observed_at"]
    old = rows[(age > pd.Timedelta(hours=kernel.window.full_rate_h)) & (rows["qc_flag"] != "thinned")]
    assert (old["observed_at"].dt.minute == 45).all()
    assert old["observed_at"].dt.floor("h").is_unique
    assert (rows.loc[age <= pd.Timedelta(hours=kernel.window.full_rate_h), "qc_flag"] != "thinned").all()


def test_persistence_is_the_same_station_a_day_earlier() -> None:
    observations = ionograms(25.0)
    result = cycle(observations)
    at = observations.set_index(["sounder_id", "observed_at"])["fof2_mhz"]
    rows = result.verification.to_pandas().query("quantity == 'fof2_mhz'")
    expected = [at[(row.sounder_id, row.observed_at - pd.Timedelta(hours=24))] for row in rows.itertuples()]
    np.testing.assert_array_equal(rows["persistence_24h_value"], expected)
    assert cycle(ionograms(3.0)).verification["persistence_24h_value"].null_count == len(PLACES) * 4


def test_history_beyond_the_lookback_changes_nothing() -> None:
    observations = ionograms(40.0)
    lookback = timedelta(hours=load_kernel_config().lookback_h)
    recent = observations[observations["observed_at"] > pd.Timestamp(NOON - lookback)]
    assert len(recent) < len(observations)
    assert same(cycle(observations), cycle(recent))


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="valid_time 2022-10-24T12:00:00 has no zone"):
        cycle(ionograms(1.0), valid_time=NOON.replace(tzinfo=None))


def test_grids_cover_the_globe_and_cross_the_date_line() -> None:
    latitude, longitude = Grid.globe().points()
    assert latitude.size == 65_160
    assert (latitude.min(), latitude.max(), longitude.min(), longitude.max()) == (-90.0, 90.0, -180.0, 179.0)
    _, pacific = Grid.box(-10.0, 170.0, 10.0, -170.0, 10.0).points()
    assert sorted(set(pacific)) == [-170.0, 170.0, 180.0]
    with pytest.raises(ValueError, match=r"south and north .* got 60.0 and 50.0"):
        Grid.box(60.0, 0.0, 50.0, 10.0, 1.0)


@pytest.mark.parametrize(
    ("step_deg", "message"),
    [
        (0.0, "grid: the spacing must be above 0 and at most 90 degrees, got 0"),
        (-1.0, "got -1"),
        (91.0, "got 91"),
        (float("nan"), "got nan"),
        (0.01, "grid: 648,036,000 points 0.01 degrees apart are more than 2,000,000"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_it_is_made(step_deg: float, message: str) -> None:
    with pytest.raises(CycleError, match=re.escape(message)):
        plan_cycle(Settings(), NOON, grid_step_deg=step_deg)


def with_correlation(**change: Any) -> KernelConfig:
    kernel = load_kernel_config()
    weather = kernel.terms[0].model_copy(update=change)
    return kernel.model_copy(update={"terms": (weather, *kernel.terms[1:])})


def test_muf_has_the_covariance_of_its_factors() -> None:
    """Var(a + b) = Var a + Var b + 2 Cov(a, b): an anticorrelation makes MUF(3000) surer than its factors."""
    observations = ionograms(3.0)
    sd = {}
    for value in (-0.8, 0.0, 0.8):
        kernel = with_correlation(correlation={"fof2_mhz m3000f2": value})
        analysis = cycle(observations, kernel=kernel, grid=SMALL).analysis
        assert analysis is not None
        frame = analysis.to_pandas()
        sd[value] = np.sqrt(np.log1p((frame["muf3000_mhz_sd"] / frame["muf3000_mhz"]) ** 2))
        parts = [np.log1p((frame[f"{name}_sd"] / frame[name]) ** 2) for name in ("fof2_mhz", "m3000f2")]
        if value == 0.0:
            # sd is of the log-normal about its mean, so the ratio to the median holds to a few thousandths only.
            np.testing.assert_allclose(sd[value], np.sqrt(sum(parts)), rtol=0.01)
    # Where no station is near; observations of both leave their own correlation.
    assert np.all(sd[-0.8][:4] < 0.9 * sd[0.0][:4])
    assert np.all(sd[0.8][:4] > 1.1 * sd[0.0][:4])


def test_a_height_alone_moves_a_correlated_critical_frequency() -> None:
    observations = ionograms(3.0)
    observations["hmf2_km"] += 30.0 * (observations["sounder_id"] == "CCC03")
    is_local = observations["sounder_id"] == "CCC03"
    observations.loc[is_local, "fof2_mhz"] = np.nan
    here = Grid.box(38.0, 23.5, 38.5, 24.0, 1.0)
    linked = with_correlation(correlation={"fof2_mhz hmf2_km": -0.8})
    fof2 = []
    for kernel in (load_kernel_config(), linked):
        analysis = cycle(observations, kernel=kernel, grid=here).analysis
        assert analysis is not None
        fof2.append(column(analysis, "fof2_mhz")[0])
    assert fof2[1] < 0.97 * fof2[0]


def test_the_amplitude_scales_the_prior_of_modulated_terms() -> None:
    kernel = load_kernel_config()
    assert [term.is_modulated for term in kernel.terms] == [True, True, True, False]
    half = kernel.model_copy(
        update={
            "amplitude": kernel.amplitude.model_copy(
                update={"reference_sd": 2 * kernel.amplitude.reference_sd}
            )
        }
    )
    none = ionograms().iloc[:0]
    plain, smaller = (cycle(none, kernel=k, grid=Grid.globe(15.0)).analysis for k in (kernel, half))
    assert plain is not None
    assert smaller is not None
    # Without observations the sd is the prior's: it follows the place, and halves everywhere.
    sd = column(plain, "hmf2_km_sd")
    assert sd.max() > 1.5 * sd.min()
    np.testing.assert_allclose(column(smaller, "hmf2_km_sd"), 0.5 * sd)


def test_right_observation_errors_are_found_right_and_wrong_ones_wrong() -> None:
    """A truth drawn from the prior, seen with known errors: Desroziers finds them whatever was assumed."""
    random = np.random.default_rng(3)
    n = 300
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / 20
    prior = np.exp(-distance)
    truth = np.linalg.cholesky(prior + 1e-12 * np.eye(n)) @ random.normal(size=n)
    error = np.where(np.arange(n) % 2, 0.2, 0.4)
    innovation = truth + random.normal(size=n) * error
    weights = np.linalg.solve(prior + np.diag(error**2), innovation)
    classes = np.where(np.arange(n) % 2, "high", "low")
    found = diagnose(error**2 * weights, innovation, error, classes)
    for name, true in (("high", 0.2), ("low", 0.4)):
        assert found[name]["n"] == n // 2
        assert found[name]["assumed_variance"] == pytest.approx(true**2)
        assert found[name]["diagnosed_variance"] == pytest.approx(true**2, rel=0.35)
    weights = np.linalg.solve(prior + np.diag((2 * error) ** 2), innovation)
    doubted = diagnose((2 * error) ** 2 * weights, innovation, 2 * error, classes)
    assert doubted["low"]["diagnosed_variance"] < 0.8 * doubted["low"]["assumed_variance"]


def test_observation_errors_are_diagnosed_by_class() -> None:
    observations = ionograms(3.0)
    observations.loc[observations["sounder_id"] == "AAA01", "confidence_score"] = 999.0
    errors = cycle(observations).metadata["obs_errors"]
    assert set(errors) == {"fof2_mhz", "hmf2_km", "m3000f2", "b0_km"}
    assert set(errors["hmf2_km"]) == {"high", "manual"}
    nominal = load_kernel_config().hmf2_km.obs_error.manual
    # Huber's weights make some errors larger.
    assert errors["hmf2_km"]["manual"]["assumed_variance"] == pytest.approx(nominal**2, rel=0.1)
    assert errors["hmf2_km"]["manual"]["assumed_variance"] >= nominal**2 * (1 - 1e-12)
    assert cycle(observations.iloc[:0]).metadata["obs_errors"]["hmf2_km"] == {}


def test_a_covariance_without_errors_is_survived_and_recorded() -> None:
    """The same ionogram under two ids with errors that vanish in the rounding: S is singular."""
    observations = ionograms(1.0)
    again = observations.assign(observation_id="again-" + observations["observation_id"])
    kernel = load_kernel_config()
    tiny = kernel.hmf2_km.obs_error.model_copy(update={"high": 1e-9})
    hmf2 = kernel.hmf2_km.model_copy(update={"obs_error": tiny})
    result = cycle(
        pd.concat([observations, again], ignore_index=True),
        kernel=kernel.model_copy(update={"hmf2_km": hmf2}),
        grid=SMALL,
    )
    assert 0 < result.metadata["jitter"] <= 1e-6
    assert result.analysis is not None
    assert np.isfinite(column(result.analysis, "hmf2_km")).all()
    assert cycle(observations).metadata["jitter"] == 0.0


# --- the configuration ------------------------------------------------------------------------------------------


def altered(folder: Path, old: str, new: str) -> Path:
    from tasks.kernel_config import DEFAULT_FILE

    text = DEFAULT_FILE.read_text(encoding="utf-8")
    assert old in text
    file = folder / "kernel.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[quality]", "[quality]\nbuddy = 3", "quality.buddy: Extra inputs are not permitted"),
        ("buddy_sd", "# buddy_sd", "quality.buddy_sd: Field required"),
        ('spatial = "matern52"', 'spatial = "cubic"', "terms.0.spatial"),
        ("zonal_km", "# zonal_km", "terms.0.*zonal_km is needed"),
        ("sd = { fof2_mhz = 0.16, ", "sd = { ", "terms.0.sd.fof2_mhz: Field required"),
        (
            "sd = { fof2",
            'correlation = { "fof2_mhz b0" = 0.1 }\nsd = { fof2',
            "terms.0.correlation.*'fof2_mhz b0' does not name two of fof2_mhz, hmf2_km",
        ),
        (
            "sd = { fof2",
            'correlation = { "fof2_mhz b0_km" = 0.9, "hmf2_km b0_km" = 0.9, "fof2_mhz hmf2_km" = -0.9 }\n'
            "sd = { fof2",
            "terms.0.*positive semidefinite",
        ),
        ("reference_sd = ", "reference_sd = -", "amplitude.reference_sd: Input should be greater than 0"),
        ("[window]", "[window", "is not a TOML file"),
    ],
)
def test_a_faulty_configuration_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(KernelConfigError, match=message):
        load_kernel_config(altered(tmp_path, old, new))


def test_the_configuration_hash_follows_values_only(tmp_path: Path) -> None:
    shipped = load_kernel_config()
    comment = load_kernel_config(altered(tmp_path, "[quality]", "# a remark\n[quality]"))
    value = load_kernel_config(altered(tmp_path, "buddy_sd = 4.0", "buddy_sd = 4.5"))
    assert shipped.config_hash == comment.config_hash != value.config_hash


# --- the scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_logarithmic", [False, True])
def test_the_score_equals_its_definition(is_logarithmic: bool) -> None:
    """CRPS = E|X - y| - 1/2 E|X - X'|, by quadrature over quantiles."""
    prediction = Prediction(np.array([1.6]), np.array([0.3]), is_logarithmic)
    levels = (np.arange(4000) + 0.5) / 4000
    from statistics import NormalDist

    draws = 1.6 + 0.3 * np.array([NormalDist().inv_cdf(level) for level in levels])
    draws = np.exp(draws) if is_logarithmic else draws
    for observed in (1.0, 5.0, 9.0):
        spread = 2 * np.mean(draws * (2 * levels - 1))  # E|X - X'| from the quantile function
        expected = np.mean(np.abs(draws - observed)) - 0.5 * spread
        assert prediction.crps(np.array([observed]))[0] == pytest.approx(expected, rel=2e-3)
    assert prediction.sd[0] == pytest.approx(draws.std(), rel=5e-3)
    assert prediction.quantile(1.6448536269514722)[0] == pytest.approx(np.quantile(draws, 0.95), rel=1e-3)


def test_the_skill_table_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "quantity": "fof2_mhz",
            "lead_h": 0.0,
            "sounder_id": ["A", "A", "B"],
            "obs_value": [5.0, 6.0, 7.0],
            "holdout_value": [5.3, 6.4, 7.0],
            "iri_index_value": [6.0, 7.0, 8.0],
            "kc2g_kernel_value": [5.5, 6.5, np.nan],
            "persistence_24h_value": [4.0, np.nan, np.nan],
            "crps": [0.1, 0.2, 0.3],
            "is_within_50": [True, False, True],
            "is_within_90": [True, True, True],
        }
    )
    table = skill_table(rows).set_index("sounder_id")
    assert list(table.index) == ["A", "B", "all"]
    assert table.loc["A", "rmse_holdout"] == pytest.approx(np.sqrt((0.3**2 + 0.4**2) / 2))
    assert table.loc["A", "rmse_persistence"] == pytest.approx(1.0)
    assert np.isnan(table.loc["B", "rmse_persistence"])
    assert (table.loc["all", "n"], table.loc["all", "coverage50"]) == (3, pytest.approx(2 / 3))
    assert table.loc["all", "bias"] == pytest.approx(0.7 / 3)
    assert table.loc["all", "rmse_iri_index"] == pytest.approx(1.0)
    assert table.loc["all", "rmse_kc2g_kernel"] == pytest.approx(0.5)
    assert skill_table(rows.assign(lead_h=3.0)).empty
    assert skill_table(rows.iloc[:0]).empty
