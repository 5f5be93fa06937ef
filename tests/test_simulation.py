"""The simulated network: the same seed is the same sky, its statistics are those it states, and it says what it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks import simulation
from tasks.background import Background
from tasks.simulation import STATIONS, SimulatedIonosphere, SmoothField, simulate_network
from tasks.validation import build_frame

START = datetime(2026, 3, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def background() -> Background:
    return Background()


def test_the_same_seed_gives_the_same_items_and_another_does_not(background: Background) -> None:
    once = simulate_network(START, 6, 7, background=background)
    assert once == simulate_network(START, 6, 7, background=background)
    assert once != simulate_network(START, 6, 8, background=background)


def test_every_item_is_an_ionogram_that_says_it_is_simulated(background: Background) -> None:
    items = simulate_network(START, 24, 1, background=background)
    frame, failures = build_frame("ionograms", items)
    assert failures == {}
    assert set(frame["sounder_id"]) == {name for name, _, _ in STATIONS}
    assert set(frame["source"]) == {"simulated"}
    assert frame["observation_id"].is_unique
    assert frame["observed_at"].min() >= START
    assert frame["observed_at"].max() <= START + timedelta(hours=24)
    assert list(frame["observed_at"]) == sorted(frame["observed_at"])
    assert len(frame) == pytest.approx(0.96 * 8 * 97, rel=0.05)


def test_observations_scatter_about_the_truth_by_the_stated_noise(background: Background) -> None:
    frame, _ = build_frame("ionograms", simulate_network(START, 72, 3, background=background))
    truth = SimulatedIonosphere(3, START, background).at(
        pd.DatetimeIndex(frame["observed_at"]), frame["latitude_deg"], frame["longitude_deg"]
    )
    error_mhz = frame["fof2_mhz"].to_numpy() - truth.fof2_mhz
    is_gross = np.abs(error_mhz) > 8 * simulation.FOF2_NOISE_MHZ
    assert 0.015 < is_gross.mean() < 0.04
    assert np.std(error_mhz[~is_gross]) == pytest.approx(simulation.FOF2_NOISE_MHZ, rel=0.15)
    assert np.std(frame["hmf2_km"] - truth.hmf2_km) == pytest.approx(simulation.HMF2_NOISE_KM, rel=0.1)
    assert np.std(frame["m3000f2"] - truth.m3000f2) == pytest.approx(simulation.M3000F2_NOISE, rel=0.1)


def test_the_truth_departs_smoothly_from_the_climatology(background: Background) -> None:
    ionosphere = SimulatedIonosphere(3, START, background)
    times = pd.date_range(START, periods=200, freq="15min")
    truth = ionosphere.at(times, 48.0, 10.0)
    quiet = background.at(times, 48.0, 10.0, simulation.TRUE_IG12)
    departure = np.log(truth.fof2_mhz / quiet.fof2_mhz)
    assert 0.03 < np.std(departure) < 0.3
    assert np.max(np.abs(np.diff(departure))) < 0.05
    assert np.all((truth.m3000f2 > quiet.m3000f2) == (truth.hmf2_km < quiet.hmf2_km))


def test_the_field_has_the_covariance_it_states() -> None:
    """Over many draws: variance sd^2, exp(-1/2) at one length scale (chord) or one time scale."""
    one_scale_deg = np.degrees(2 * np.arcsin(simulation.LENGTH_SCALE_KM / (2 * simulation.EARTH_RADIUS_KM)))
    hours = np.array([0.0, 0.0, simulation.TIME_SCALE_H])
    latitude_deg, longitude_deg = np.array([0.0, one_scale_deg, 0.0]), np.array([179.9, 179.9, -180.1])
    draws = np.array(
        [
            SmoothField.draw(2.0, np.random.default_rng(seed)).at(hours, latitude_deg, longitude_deg)
            for seed in range(4_000)
        ]
    )
    covariance = np.cov(draws.T)
    expected = 4.0 * np.exp(-0.5)
    assert covariance[0, 0] == pytest.approx(4.0, rel=0.1)
    assert covariance[0, 1] == pytest.approx(expected, rel=0.12)
    assert covariance[0, 2] == pytest.approx(expected, rel=0.12)


def test_bad_arguments_are_named(background: Background) -> None:
    with pytest.raises(ValueError, match="hours: 0 is not positive"):
        simulate_network(START, 0, 1, background=background)
    with pytest.raises(ValueError, match="start: 2026-03-20T00:00:00 carries no zone"):
        simulate_network(START.replace(tzinfo=None), 1, 1, background=background)
