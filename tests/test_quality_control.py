"""Quality control at the level of a cycle: which rows are stopped, under which name, and what the others feel of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks.contracts import load_contract
from tasks.cycle import Cycle
from tasks.kernel_config import KernelConfig, load_kernel_config
from tasks.magnetic_field import extraordinary_mhz, gyrofrequency_mhz, ordinary_mhz
from tasks.profile import Peaks
from tasks.rate_check import leaves_its_neighbours, stands_still
from tasks.series import UNREACHED_SD, spoil
from tests.test_cycle import NOON, background, cycle, ionograms

NIGHT = datetime(2022, 12, 20, 3, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def of_fof2(result: Cycle) -> pd.DataFrame:
    feedback = result.feedback.to_pandas()
    return feedback[feedback["quantity"] == "fof2_mhz"].set_index("observation_id")


def hour_of_station(rows: pd.DataFrame, sounder_id: str, until: datetime) -> pd.Series[bool]:
    """Rows of the station in the hour that ended half an hour before `until`."""
    age = pd.Timestamp(until) - rows["observed_at"]
    return (
        (rows["sounder_id"] == sounder_id)
        & (age >= pd.Timedelta(minutes=30))
        & (age < pd.Timedelta(minutes=90))
    )


def read_as_ordinary(rows: pd.DataFrame, is_wrong: pd.Series[bool]) -> pd.DataFrame:
    """The same rows with the end of the extraordinary trace for foF2 where `is_wrong`."""
    wrong = rows[is_wrong]
    gyrofrequency = gyrofrequency_mhz(
        wrong["observed_at"], wrong["latitude_deg"].to_numpy(), wrong["longitude_deg"].to_numpy()
    )
    spoiled = rows.copy()
    spoiled.loc[is_wrong, "fof2_mhz"] = extraordinary_mhz(wrong["fof2_mhz"], gyrofrequency)
    return spoiled


def uncontrolled() -> KernelConfig:
    kernel = load_kernel_config()
    names = ("rate_sd", "background_sd", "buddy_sd", "full_weight_sd")
    return kernel.model_copy(
        update={"quality": kernel.quality.model_copy(update=dict.fromkeys(names, UNREACHED_SD))}
    )


def test_fifteen_per_cent_of_gross_errors_barely_spoil_what_is_said_of_a_held_out_station() -> None:
    observations = ionograms()
    spoiled, _ = spoil(observations, 0.15)
    is_wrong = pd.Series(
        (spoiled["fof2_mhz"] != observations["fof2_mhz"]).to_numpy(), observations["observation_id"]
    )
    assert 0.1 < is_wrong.mean() < 0.2

    def rms(rows: pd.DataFrame, kernel: KernelConfig) -> float:
        said = of_fof2(cycle(rows, kernel=kernel))
        said = said[(said["qc_flag"] == "accepted") & ~is_wrong[said.index]]
        return float(np.sqrt(np.mean(np.log(said["holdout_value"] / said["obs_value"]) ** 2)))

    clean = rms(observations, load_kernel_config())
    controlled = rms(spoiled, load_kernel_config())
    assert controlled < 1.25 * clean
    assert rms(spoiled, uncontrolled()) > 1.5 * controlled


def test_an_hour_of_errors_cannot_speak_for_itself() -> None:
    """To the leave-one-out score of the buddy check three wrong neighbours confirm the fourth, and no other is near."""
    observations = ionograms(stations=("BBB02", "CCC03"))
    age = pd.Timestamp(NOON) - observations["observed_at"]
    is_wrong = (observations["sounder_id"] == "BBB02") & age.between(15 * MINUTE, 60 * MINUTE)
    observations.loc[is_wrong, "fof2_mhz"] *= 2.0
    ids = observations.loc[is_wrong, "observation_id"]
    kernel = load_kernel_config()
    without_rate = kernel.model_copy(
        update={"quality": kernel.quality.model_copy(update={"rate_sd": UNREACHED_SD})}
    )
    flags = of_fof2(cycle(observations)).loc[ids, "qc_flag"]
    assert (flags == "rate_check").sum() >= 3
    assert "accepted" not in set(flags)
    assert set(of_fof2(cycle(observations, kernel=without_rate)).loc[ids, "qc_flag"]) == {"accepted"}


def test_an_hour_of_extraordinary_traces_is_named_and_not_used() -> None:
    """A winter night of a low sun, scaled by hand: there half the gyrofrequency is half of foF2."""
    observations = ionograms(until=NIGHT, factor=0.4).assign(confidence_score=999.0)
    is_wrong = hour_of_station(observations, "DDD04", NIGHT)
    said = of_fof2(cycle(read_as_ordinary(observations, is_wrong), valid_time=NIGHT, available_until=NIGHT))
    wrong = said.loc[observations.loc[is_wrong, "observation_id"]]
    assert wrong["qc_flag"].tolist() == ["x_trace"] * 4
    assert (wrong["weight"] == 0).all()
    assert set(said.drop(index=wrong.index)["qc_flag"]) == {"accepted", "thinned"}


def test_a_jump_too_small_to_be_stopped_leaves_the_others_nearly_alone() -> None:
    """By day half the gyrofrequency is 6 % of foF2, which the ionosphere may do as well."""
    observations = ionograms()
    is_wrong = hour_of_station(observations, "DDD04", NOON)
    before, after = (
        of_fof2(cycle(rows)) for rows in (observations, read_as_ordinary(observations, is_wrong))
    )
    others = (before["sounder_id"] != "DDD04") & (before["qc_flag"] == "accepted")
    assert (after.loc[others.index[others], "qc_flag"] == "accepted").all()
    change = np.log(after.loc[others, "holdout_value"] / before.loc[others, "holdout_value"])
    assert 1e-4 < np.abs(change).max() < 0.05


def test_an_e_layer_read_as_the_f2_layer_is_named() -> None:
    observations = ionograms()
    newest = (observations["sounder_id"] == "BBB02") & (observations["observed_at"] == pd.Timestamp(NOON))
    row = observations[newest].iloc[0]
    foe_mhz = background().at([NOON], row["latitude_deg"], row["longitude_deg"], 80.0).foe_mhz[0]
    observations.loc[newest, "fof2_mhz"] = 1.05 * foe_mhz
    assert of_fof2(cycle(observations)).loc[row["observation_id"], "qc_flag"] == "e_layer"
    observations.loc[newest, "fof2_mhz"] = 0.6 * foe_mhz  # stopped, and no known misreading
    assert of_fof2(cycle(observations)).loc[row["observation_id"], "qc_flag"] == "rate_check"


def test_an_f1_layer_read_as_the_f2_layer_is_named() -> None:
    """A summer noon of high activity: by day foF1 is far below foF2, and far above foE."""
    summer = datetime(2022, 7, 5, 12, tzinfo=UTC)
    observations = ionograms(until=summer, factor=1.4)
    newest = (observations["sounder_id"] == "BBB02") & (observations["observed_at"] == pd.Timestamp(summer))
    row = observations[newest].iloc[0]
    state = background().at([summer], row["latitude_deg"], row["longitude_deg"], 80.0)
    layers = Peaks.of_background(state, 80.0).layers()
    assert layers.f1_probability[0] > 0.9
    observations.loc[newest, "fof2_mhz"] = layers.fof1_mhz[0]
    said = of_fof2(cycle(observations, valid_time=summer, available_until=summer))
    assert said.loc[row["observation_id"], "qc_flag"] == "f1_layer"


def test_only_the_critical_frequency_has_misreadings() -> None:
    observations = ionograms()
    newest = (observations["sounder_id"] == "BBB02") & (observations["observed_at"] == pd.Timestamp(NOON))
    observations.loc[newest, "hmf2_km"] += 150.0
    said = cycle(observations).feedback.to_pandas().set_index(["quantity", "observation_id"])["qc_flag"]
    name = observations.loc[newest, "observation_id"].iloc[0]
    assert said["hmf2_km", name] == "rate_check"
    assert said["fof2_mhz", name] == "accepted"


def test_an_error_does_not_stand_for_its_hour() -> None:
    """Of a thinned hour the newest row is used; when it is wrong, the one before it."""
    kernel = load_kernel_config()
    hourly = kernel.window.model_copy(update={"full_rate_h": 2.0, "thinned_minutes": 60.0})
    kernel = kernel.model_copy(update={"window": hourly})
    observations = ionograms()
    at = (observations["sounder_id"] == "AAA01") & (
        observations["observed_at"] == pd.Timestamp(NOON - 195 * MINUTE)  # 08:45
    )
    before = (observations["sounder_id"] == "AAA01") & (
        observations["observed_at"] == pd.Timestamp(NOON - 210 * MINUTE)
    )
    ids = [observations.loc[row, "observation_id"].iloc[0] for row in (at, before)]
    assert of_fof2(cycle(observations, kernel=kernel)).loc[ids, "qc_flag"].tolist() == ["accepted", "thinned"]
    for value, flag in (
        (2.0 * observations.loc[at, "fof2_mhz"].iloc[0], "rate_check"),
        (99.0, "physical_limits"),
    ):
        observations.loc[at, "fof2_mhz"] = value
        assert of_fof2(cycle(observations, kernel=kernel)).loc[ids, "qc_flag"].tolist() == [flag, "accepted"]


def test_times_off_the_quarter_hour_are_as_good() -> None:
    observations = ionograms(until=NOON)
    shift = pd.to_timedelta(np.random.default_rng(2).integers(0, 15 * 60, len(observations)), unit="s")
    moved = observations.assign(
        observed_at=(observations["observed_at"] - shift).astype(observations["observed_at"].dtype),
        available_at=NOON,
    )
    result = cycle(moved)
    assert set(of_fof2(result)["qc_flag"]) == {"accepted", "thinned"}
    assert result.metadata["n_stations"] == 5
    said = of_fof2(result).query("qc_flag == 'accepted'")
    # The values belong to up to a quarter of an hour later, in which foF2 changes by a few per cent at most.
    assert np.sqrt(np.mean(np.log(said["holdout_value"] / said["obs_value"]) ** 2)) < 0.06


def test_a_station_every_five_minutes_does_not_drown_an_hourly_one() -> None:
    hourly = ionograms(stations=("AAA01", "CCC03", "DDD04"))
    hourly = hourly[hourly["observed_at"].dt.minute == 0]
    slow = ionograms(stations=("BBB02",))
    every_five = pd.concat(
        [
            slow.assign(
                observed_at=slow["observed_at"] - minutes * MINUTE,
                available_at=slow["observed_at"],
                observation_id=slow["observation_id"] + f"-{minutes}",
            )
            for minutes in (0, 5, 10)
        ]
    )
    # The hourly station departs: it is heard at its own place, and has too few neighbours for a rate.
    hourly.loc[hourly["sounder_id"] == "CCC03", "fof2_mhz"] *= 0.85
    said = of_fof2(cycle(pd.concat([hourly, every_five], ignore_index=True)))
    assert set(said["qc_flag"]) == {"accepted", "thinned"}
    own = said[(said["sounder_id"] == "CCC03") & (said["qc_flag"] == "accepted")].iloc[-1]
    assert abs(own["oma"]) < 0.5 * abs(own["omb"])


def test_every_flag_is_in_the_contract() -> None:
    allowed = next(column for column in load_contract("feedback").columns if column.name == "qc_flag").enum
    assert {"accepted", "thinned", "physical_limits", "rate_check"} <= set(allowed)
    spoiled, _ = spoil(ionograms(), 0.15)
    assert set(cycle(spoiled).feedback["qc_flag"].to_pylist()) <= set(allowed)


def rate(
    departure: list[float] | np.ndarray[tuple[int], np.dtype[np.float64]],
    step_h: float = 0.25,
    floor: float = 0.1,
) -> list[int]:
    """Rows of one series, evenly in time, that the rate check finds."""
    values = np.asarray(departure, dtype=np.float64)
    n = values.size
    found = leaves_its_neighbours(
        np.zeros(n, dtype=np.int64), step_h * np.arange(n), values, np.full(n, floor), 5.0
    )
    return np.flatnonzero(found).tolist()


def test_the_rate_check_finds_spikes_and_short_steps_but_no_slope_and_no_lasting_step() -> None:
    quiet = np.zeros(40)
    spiked, stepped = quiet.copy(), quiet.copy()
    spiked[[7, 39]] = 0.6, -0.6
    stepped[20:24] = 0.6
    assert rate(quiet) == []
    assert rate(spiked) == [7, 39]
    assert rate(stepped) == [20, 21, 22, 23]
    assert rate(np.linspace(0.0, 4.0, 40)) == []  # 0.4 an hour, a sunrise
    assert rate(np.where(np.arange(40) < 20, 0.0, 0.6)) == []  # the onset of a storm: as many before as after
    noisy = np.random.default_rng(1).normal(0.0, 0.3, 400)
    assert len(rate(noisy)) < 4  # a noisy station has its own deviation


def test_the_rate_check_needs_neighbours_and_leaves_out_what_is_missing() -> None:
    spiked = np.zeros(24)
    spiked[12] = 3.0
    assert rate(spiked, step_h=1.0) == []
    assert rate(spiked, step_h=0.5) == [12]
    assert rate(spiked[10:15]) == []
    assert rate([]) == []
    holes = np.where(np.arange(24) % 2, np.nan, spiked)
    assert rate(holes) == [12]


def test_the_rate_check_knows_one_series_from_another() -> None:
    """Two stations at different levels, in any order of rows, are judged as each alone."""
    random = np.random.default_rng(4)
    n = 60
    series, time_h = np.repeat([0, 3], n), np.tile(0.25 * np.arange(n), 2)
    departure = random.normal(0.0, 0.02, 2 * n) + 2.0 * (series == 3)
    departure[[10, n + 30]] += 1.0
    for order in (np.arange(2 * n), random.permutation(2 * n)):
        found = leaves_its_neighbours(
            series[order], time_h[order], departure[order], np.full(2 * n, 0.1), 5.0
        )
        assert sorted(order[found]) == [10, n + 30]


def test_the_ordinary_frequency_is_the_inverse_of_the_extraordinary_one() -> None:
    fof2, gyrofrequency = np.array([0.5, 3.0, 14.0]), np.array([1.6, 1.2, 0.8])
    np.testing.assert_allclose(
        ordinary_mhz(extraordinary_mhz(fof2, gyrofrequency), gyrofrequency), fof2, rtol=1e-12
    )
    assert ordinary_mhz(1.0, 1.4) == pytest.approx(0.0)


def test_a_station_that_hangs_is_found_and_not_believed() -> None:
    """Its readings confirm one another, so that without this check they outvote their neighbours."""
    observations = ionograms(30.0)
    is_stuck = (observations["sounder_id"] == "DDD04") & (
        observations["observed_at"] > pd.Timestamp(NOON - timedelta(hours=9))
    )
    observations.loc[is_stuck, "fof2_mhz"] = observations.loc[is_stuck, "fof2_mhz"].iloc[0]
    said = of_fof2(cycle(observations))
    ids = observations.loc[is_stuck, "observation_id"]
    assert set(said.loc[ids, "qc_flag"]) == {"stuck"}
    assert (said.loc[ids, "weight"] == 0).all()
    assert not set(said.drop(index=ids)["qc_flag"]) - {"accepted", "thinned"}
    newest = said.loc[ids].sort_values("observed_at").iloc[-1]
    truth = ionograms(30.0).set_index("observation_id").loc[newest.name, "fof2_mhz"]
    assert abs(newest["holdout_value"] / truth - 1) < 0.1 < abs(newest["obs_value"] / truth - 1)


def still(value: list[float], departure: list[float], step_h: float = 1.0) -> list[int]:
    n = len(value)
    found = stands_still(
        *(np.zeros(n, dtype=np.int64), step_h * np.arange(n), np.array(value), np.array(departure)),
        *(np.full(n, 0.1), 5.0),
    )
    return np.flatnonzero(found).tolist()


def test_what_stands_still_while_the_climatology_moves() -> None:
    slope = np.linspace(0.0, 0.6, 7)
    assert still([3, 4, 4, 4, 4, 4, 5], slope.tolist()) == [1, 2, 3, 4, 5]
    # The climatology has moved by no more than half of what the rate check would stop.
    assert still([3, 4, 4, 4, 4, 4, 5], (0.6 * slope).tolist()) == []
    assert still([3, 4, 4, 4, 4, 5, 5], slope.tolist()) == []
    assert still([4.0] * 7, (10 * slope).tolist(), step_h=0.25) == []
    # A missing or impossible reading in between is none, and a repeated row counts once.
    assert still([4, 4, np.nan, 4, 4, 4, 5], slope.tolist()) == [0, 1, 3, 4, 5]
    assert still([4, 4, 4, 4, 4, 4, 5], [0.0, 0.1, 0.2, np.nan, 0.4, 0.5, 0.6]) == [0, 1, 2, 4, 5]
    assert still([], []) == []
    found = stands_still(
        np.zeros(8, dtype=np.int64),
        np.repeat(np.arange(4.0), 2),
        np.full(8, 4.0),
        np.repeat([0.0, 0.2, 0.4, 0.6], 2),
        np.full(8, 0.1),
        5.0,
    )
    assert not found.any()


def test_standing_still_is_a_matter_of_one_series_and_not_of_the_order_of_rows() -> None:
    time_h = np.tile(np.arange(6.0), 2)
    series = np.repeat([0, 1], 6)
    value = np.where(series == 0, 4.0, time_h)
    departure, floor = 0.1 * time_h, np.full(12, 0.1)
    shuffled = np.random.default_rng(1).permutation(12)
    found = np.zeros(12, dtype=bool)
    found[shuffled] = stands_still(
        *(column[shuffled] for column in (series, time_h, value, departure, floor)), 5.0
    )
    assert found.tolist() == (series == 0).tolist()
