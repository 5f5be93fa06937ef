"""Measurements in a cycle: soundings for the analysis, tiers for the sounders, and the same bits whatever the order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.background import Background
from tasks.contracts import arrow_schema
from tasks.cycle import Cycle, run_cycle
from tasks.grid import Grid
from tasks.kernel_config import load_kernel_config
from tasks.lake import to_frame
from tasks.row_errors import ERROR_OF, has_possible_errors
from tasks.simulated_sounders import SimulatedSounder, as_rows, draw_network, listen
from tasks.simulated_truth import SimulatedTruth
from tasks.soundings import Heard, sound

KERNEL = load_kernel_config()
START = datetime(2026, 3, 20, 9, tzinfo=UTC)
NONE = to_frame(arrow_schema("ionograms").empty_table())
NO_RECORD = to_frame(arrow_schema("sounders").empty_table())
BOX = Grid.box(47.0, 10.0, 50.0, 13.0, 1.0)
"""About the best sounder."""


@pytest.fixture(scope="module")
def background() -> Background:
    return Background()


@pytest.fixture(scope="module")
def truth(background: Background) -> SimulatedTruth:
    return SimulatedTruth(5, START, background=background)


@pytest.fixture(scope="module")
def network() -> list[SimulatedSounder]:
    return draw_network(5, n_by_tier={"PLATINUM": 1, "GOLD": 2, "SILVER": 2, "BRONZE": 2})


@pytest.fixture(scope="module")
def heard(truth: SimulatedTruth, network: list[SimulatedSounder]) -> Heard:
    items = [item for sounder in network for item in listen(sounder, truth, START, 1.5, 5)]
    declared = {sounder.sounder_id: sounder.declared for sounder in network}
    return Heard(as_rows(items), NO_RECORD, declared)


def cycle_at(hours: float, heard: Heard, background: Background, **more: Any) -> Cycle:
    valid_time = START + timedelta(hours=hours)
    return run_cycle(
        more.pop("observations", NONE),
        valid_time=valid_time,
        available_until=valid_time + timedelta(minutes=3),
        kernel=KERNEL,
        background=background,
        grid=BOX,
        heard=heard,
        **more,
    )


@pytest.fixture(scope="module")
def cycles(heard: Heard, background: Background) -> list[Cycle]:
    """Five cycles, each by what the one before knew."""
    done = []
    for number in range(1, 6):
        done.append(cycle_at(number / 4, heard, background))
        heard = heard.after(done[-1].sounders)
    return done


def test_soundings_bring_the_analysis_to_the_truth(cycles: list[Cycle], truth: SimulatedTruth) -> None:
    analysis = to_frame(cycles[-1].analysis)
    at = pd.DatetimeIndex(analysis["valid_time"])
    real = truth.at(at, analysis["latitude_deg"].to_numpy(), analysis["longitude_deg"].to_numpy())
    error = np.log(analysis["fof2_mhz"] / real.fof2_mhz)
    assert np.sqrt((error**2).mean()) < 0.05
    assert np.sqrt(((analysis["hmf2_km"] - real.hmf2_km) ** 2).mean()) < 12.0
    within = np.abs(error) < 2.0 * analysis["fof2_mhz_sd"] / analysis["fof2_mhz"]
    assert within.mean() > 0.7


def test_every_sounder_has_its_tier_and_its_error(
    cycles: list[Cycle], network: list[SimulatedSounder]
) -> None:
    last = to_frame(cycles[-1].sounders).set_index("sounder_id")
    made = {sounder.sounder_id: sounder for sounder in network}
    for sounder_id, row in last.iterrows():
        sounder = made[str(sounder_id)]
        if row["n_delay_innovations"] < 50:
            continue
        # With so few others, what is expected is wrong in ways that count as noise.
        assert 0.6 < row["delay_sd_ms"] / sounder.delay_sd_ms < 2.0
        assert abs(row["delay_bias_ms"] - sounder.delay_bias_ms) < 4.0 * row["delay_bias_sd_ms"]
        assert row["tier_delay"] == sounder.tier
    assert last.loc["NVIS-P01", "tier"] == "PLATINUM"
    assert last.loc["NVIS-P01", "weight_signal"] == 56.25


def test_an_observation_of_a_better_tier_moves_the_analysis_more(cycles: list[Cycle]) -> None:
    feedback = to_frame(cycles[-1].feedback)
    errors = feedback[feedback["quantity"] == "fof2_mhz"].set_index("sounder_id")["obs_error"]
    platinum = errors[errors.index.str.startswith("NVIS-P")].median()
    gold = errors[errors.index.str.startswith("NVIS-G")].median()
    assert platinum < gold
    before = to_frame(cycles[-2].sounders).set_index("sounder_id")["tier"]
    tiers = feedback.drop_duplicates("sounder_id").set_index("sounder_id")["tier"]
    assert len(tiers) > 3
    assert (tiers == before[tiers.index]).all()
    information = cycles[-1].metadata["stations"]
    best = max(information, key=lambda name: information[name]["information_gain_nats"])
    assert best.startswith("NVIS-P")


def test_every_echo_of_the_window_is_told(cycles: list[Cycle], heard: Heard) -> None:
    echoes = to_frame(cycles[-1].echoes)
    end = pd.Timestamp(START + timedelta(hours=1.25))
    rows = heard.measurements
    of_window = rows[(rows["observed_at"] > end - pd.Timedelta("15min")) & (rows["observed_at"] <= end)]
    assert echoes["n_combined"].sum() == len(of_window)
    assert {"used", "not_chosen"} <= set(echoes["outcome"])
    limits = dict(zip(("P", "G", "S", "B"), KERNEL.sounders.limit.as_list(), strict=True))
    n_fitted = echoes[echoes["outcome"] != "not_chosen"].groupby("sounder_id").size()
    for sounder_id, n in n_fitted.items():
        assert n <= limits[str(sounder_id)[5]]


def test_arrival_order_and_threads_change_no_bit(heard: Heard, background: Background) -> None:
    shuffled = heard.measurements.sample(frac=1.0, random_state=1).reset_index(drop=True)
    one = cycle_at(0.5, heard, background, threads=1)
    other = cycle_at(0.5, replace(heard, measurements=shuffled), background, threads=2)
    assert one.metadata == other.metadata
    for part in ("analysis", "feedback", "verification", "sounders", "echoes"):
        assert getattr(one, part).equals(getattr(other, part)), part


def test_what_is_remembered_of_a_sounder_changes_the_cycle_and_its_name(
    heard: Heard, cycles: list[Cycle], background: Background
) -> None:
    again = cycle_at(0.5, heard.after(cycles[0].sounders), background)
    assert again.metadata["cycle_id"] == cycles[1].metadata["cycle_id"]
    assert again.sounders.equals(cycles[1].sounders)
    forgetful = cycle_at(0.5, heard, background)
    assert forgetful.metadata["cycle_id"] != again.metadata["cycle_id"]


def test_without_measurements_a_cycle_is_what_it_was(background: Background) -> None:
    silent = Heard(to_frame(arrow_schema("measurements").empty_table()), NO_RECORD, {})
    assert silent.is_silent
    none = cycle_at(0.5, silent, background)
    assert none.metadata["climatology_only"]
    assert (none.sounders.num_rows, none.echoes.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("change", "outcomes"),
    [
        (
            {
                "tx_latitude_deg": 48.0,
                "rx_latitude_deg": 48.0,
                "tx_longitude_deg": 11.0,
                "rx_longitude_deg": 11.0,
            },
            None,
        ),
        ({"tx_longitude_deg": 179.5, "rx_longitude_deg": -179.5}, None),
        ({"elevation_deg": np.nan, "snr_db": np.nan}, None),
        ({"group_delay_ms": 0.01}, {"faster_than_light"}),
        ({"group_delay_ms": 15.0}, {"delay_too_long"}),
        ({"frequency_mhz": 28.0}, {"above_ceiling"}),
        ({"group_delay_ms": np.nan}, {"no_delay"}),
        ({"tx_latitude_deg": 30.0}, {"path_too_long"}),
    ],
)
def test_odd_measurements_have_a_defined_outcome(
    heard: Heard, background: Background, change: dict[str, float], outcomes: set[str] | None
) -> None:
    rows = heard.measurements
    odd = rows[(rows["sounder_id"] == "NVIS-G01")].assign(**change)
    assert len(odd)
    valid_at = pd.Timestamp(START + timedelta(hours=1))
    soundings = sound(
        replace(heard, measurements=odd),
        valid_at=valid_at,
        available_at=valid_at,
        kernel=KERNEL,
        background=background,
        ig12=70.0,
        threads=1,
    )
    seen = set(soundings.echoes["outcome"])
    if outcomes is not None:  # a few of its own delays are out of range already
        assert outcomes <= seen <= outcomes | {"faster_than_light", "delay_too_long"}
    observations = soundings.observations
    assert has_possible_errors(observations).all()
    values = observations[list(ERROR_OF)].to_numpy(dtype=float)
    assert np.isfinite(values[~np.isnan(values)]).all()
    if outcomes is not None and outcomes & {"path_too_long"}:
        assert observations.empty


def test_a_far_too_high_frequency_moves_nothing(heard: Heard, background: Background) -> None:
    """An interferer at 28 MHz among good echoes is not taken for a ceiling."""
    rows = heard.measurements
    own = rows[rows["sounder_id"] == "NVIS-P01"]
    wrong = own.head(3).assign(frequency_mhz=28.0, observation_id=["x1", "x2", "x3"])

    def of(measurements: pd.DataFrame) -> pd.Series[Any]:
        valid_at = pd.Timestamp(START + timedelta(minutes=15))
        soundings = sound(
            replace(heard, measurements=measurements),
            valid_at=valid_at,
            available_at=valid_at,
            kernel=KERNEL,
            background=background,
            ig12=70.0,
            threads=1,
        )
        return soundings.observations.iloc[0]

    good, spoiled = of(own), of(pd.concat([own, wrong]))
    assert spoiled["fof2_mhz"] == pytest.approx(good["fof2_mhz"], rel=0.03)


def test_noise_of_a_poor_clock_is_not_read_as_the_ceiling(heard: Heard, background: Background) -> None:
    """A delay that is too long has two readings, a wave next to its ceiling or noise; of a sounder of some ms only one is likely."""
    rows = heard.measurements
    late = rows[rows["sounder_id"].str.startswith("NVIS-B")].assign(
        frequency_mhz=3.6, mode="O", group_delay_ms=3.4
    )
    alone = replace(heard, measurements=late.reset_index(drop=True))
    at = pd.Timestamp(START + timedelta(hours=1))
    told = sound(
        alone, valid_at=at, available_at=at, kernel=KERNEL, background=background, ig12=80.0, threads=1
    )
    assert set(told.echoes["outcome"]) == {"ceiling_only"}
    share = told.observations[ERROR_OF["fof2_mhz"]] / told.observations["fof2_mhz"]
    assert len(told.observations) > 0
    assert not (share < 0.1).any(), told.observations[["fof2_mhz", ERROR_OF["fof2_mhz"]]]


def test_soundings_and_ionograms_stand_side_by_side(
    heard: Heard, background: Background, truth: SimulatedTruth
) -> None:
    valid_at = pd.Timestamp(START + timedelta(minutes=30))
    layers = truth.at(pd.DatetimeIndex([valid_at]), np.array([50.0]), np.array([9.0]))
    ionogram = NONE.reindex(range(1)).assign(
        observation_id="i1",
        sounder_id="JR055",
        observed_at=valid_at,
        available_at=valid_at,
        latitude_deg=50.0,
        longitude_deg=9.0,
        confidence_score=90.0,
        fof2_mhz=layers.fof2_mhz,
        hmf2_km=layers.hmf2_km,
        revision=0.0,
    )
    both = cycle_at(0.5, heard, background, observations=ionogram)
    feedback = to_frame(both.feedback)
    assert {"JR055", "NVIS-P01"} <= set(feedback["sounder_id"])
    assert (feedback.loc[feedback["sounder_id"] == "JR055", "qc_flag"] == "accepted").all()
