"""The simulated network: the same seed is the same, what it sends keeps the contract, and the truth is the truth."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autonvis.cli import main
from autonvis.simulate import Network, SimulateError, simulate
from tasks import lake
from tasks.great_circle import distance_km
from tasks.settings import Settings
from tasks.simulated_sounders import KINDS, LONGEST_PATH_KM, draw_network, listen
from tasks.simulated_truth import SimulatedTruth, Storm
from tests.landing.door_server import Server

START = datetime(2026, 3, 20, 11, tzinfo=UTC)
FEW = {"PLATINUM": 1, "GOLD": 1, "SILVER": 2, "BRONZE": 2}


@pytest.fixture(scope="module")
def truth() -> SimulatedTruth:
    return SimulatedTruth(3, START)


def test_a_network_stands_in_its_box_with_paths_of_nvis() -> None:
    network = draw_network(1)
    assert [sum(s.tier == tier for s in network) for tier in KINDS] == [2, 5, 10, 20]
    assert len({sounder.sounder_id for sounder in network}) == 37
    for sounder in network:
        assert 44.0 <= sounder.rx_latitude_deg <= 54.0
        assert 2.0 <= sounder.rx_longitude_deg <= 20.0
        assert sounder.path_km <= LONGEST_PATH_KM + 0.01
        ends = (sounder.tx_latitude_deg, sounder.tx_longitude_deg)
        assert distance_km(*ends, *sounder.midpoint) == pytest.approx(sounder.path_km / 2, abs=0.01)


def test_a_box_over_the_date_line_and_another_hemisphere() -> None:
    network = draw_network(1, (-30.0, 170.0, -10.0, -170.0), FEW)
    for sounder in network:
        assert -30.0 <= sounder.rx_latitude_deg <= -10.0
        assert abs(sounder.rx_longitude_deg) >= 170.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((50.0, 0.0, 40.0, 10.0), FEW), "south < north"),
        (((40.0, 0.0, 50.0, 10.0), {"PLATINUM": -1}), "numbers 0 or more"),
        (((40.0, 0.0, 50.0, 10.0), {"TIN": 1}), "'TIN'"),
        (((40.0, 0.0, 50.0, 10.0), {}), "no sounders"),
    ],
)
def test_what_is_no_network_is_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_network(1, *arguments)  # type: ignore[arg-type]


def test_the_same_seed_hears_the_same_and_another_does_not(truth: SimulatedTruth) -> None:
    gold = draw_network(3, n_by_tier=FEW)[1]
    one, again = (listen(gold, truth, START, 1.0, 3) for _ in range(2))
    assert one == again
    assert listen(gold, truth, START, 1.0, 4) != one


def test_rates_and_errors_are_those_of_the_tier(truth: SimulatedTruth) -> None:
    platinum = draw_network(3, n_by_tier=FEW)[0]
    items = listen(platinum, truth, START, 2.0, 3)
    assert len(items) == pytest.approx(2 * KINDS["PLATINUM"].per_h, rel=0.3)
    quiet = type(platinum)(**{**vars(platinum), "delay_sd_ms": 0.0, "delay_bias_ms": 0.0})
    exact = listen(quiet, truth, START, 2.0, 3)
    by_time = {(item["observed_at"], item["frequency_mhz"]): item["group_delay_ms"] for item in exact}
    error = np.array(
        [item["group_delay_ms"] - by_time[item["observed_at"], item["frequency_mhz"]] for item in items]
    )
    assert np.median(error) == pytest.approx(platinum.delay_bias_ms, abs=0.02)
    assert 1.4826 * np.median(np.abs(error - np.median(error))) == pytest.approx(
        platinum.delay_sd_ms, rel=0.15
    )


def test_nobody_hears_above_the_ceiling(truth: SimulatedTruth) -> None:
    gold = draw_network(3, n_by_tier=FEW)[1]
    for item in listen(gold, truth, START, 2.0, 3):
        at = pd.DatetimeIndex([pd.Timestamp(item["observed_at"])])
        layers = truth.at(at, *gold.midpoint)
        # Over 500 km a wave comes back up to some 1.6 times foF2, the extraordinary one half a gyrofrequency more.
        assert item["frequency_mhz"] < 1.7 * float(np.asarray(layers.fof2_mhz)[0]) + 0.8


def test_a_storm_empties_and_lifts_the_layer(truth: SimulatedTruth) -> None:
    stormy = SimulatedTruth(3, START, storm=Storm(onset_h=2.0))
    times = pd.date_range(START, periods=25, freq="1h")
    calm, storm = (one.at(times, 50.0, 10.0) for one in (truth, stormy))
    ratio = np.log(np.asarray(storm.fof2_mhz) / np.asarray(calm.fof2_mhz))
    assert np.abs(ratio[:3]).max() < 1e-12
    assert ratio.min() == pytest.approx(-0.25, abs=0.02)
    assert (np.asarray(storm.hmf2_km) - np.asarray(calm.hmf2_km)).max() == pytest.approx(40.0, abs=2.0)


def test_files_hold_what_was_heard_and_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path / "var"))
    counts = ["--platinum", "0", "--gold", "1", "--silver", "1", "--bronze", "1"]
    main(
        ["simulate", "--out", str(tmp_path / "sim"), "--start", "2026-03-20T11:00Z", "--hours", "1", *counts]
    )
    lines = (tmp_path / "sim" / "measurements.jsonl").read_text().splitlines()
    items = [json.loads(line) for line in lines]
    assert [item["observed_at"] for item in items] == sorted(item["observed_at"] for item in items)
    assert {item["source"] for item in items} == {"simulated"}
    made = json.loads((tmp_path / "sim" / "sounders.json").read_text())
    assert {one["sounder_id"] for one in made} == {"NVIS-G01", "NVIS-S01", "NVIS-B01"}
    real = pd.read_parquet(tmp_path / "sim" / "truth.parquet")
    assert len(real) == (50 + 3) * 5
    main(["validate", str(tmp_path / "sim" / "measurements.jsonl"), "--dataset", "measurements"])


@pytest.fixture
def door(tmp_path: Path) -> Server:
    return Server(tmp_path / "door")


def play(out: Path, to: str | None) -> list[str]:
    told: list[str] = []
    network = Network(START - timedelta(days=200), 0.5, 3, (44.0, 2.0, 54.0, 20.0), FEW, None, 2)
    simulate(network, out, to=to, pace=None, say=told.append)
    return told


def test_sending_by_http_registers_and_keeps_the_credentials(door: Server, tmp_path: Path) -> None:
    try:
        out = tmp_path / "sim"
        first = play(out, door.url)
        assert "measurements accepted" in first[-1]
        credentials = json.loads((out / "credentials.json").read_text())
        assert set(credentials) == {"NVIS-P01", "NVIS-G01", "NVIS-S01", "NVIS-S02", "NVIS-B01", "NVIS-B02"}
        assert (out / "credentials.json").stat().st_mode & 0o077 == 0
        assert play(out, door.url)[-1] == first[-1]
        by_tcp = play(out, f"tcp://127.0.0.1:{door.port}")[-1]
        assert by_tcp.split(": ")[1] == first[-1].split(": ")[1]
        with pytest.raises(SimulateError, match="does not register NVIS-P01"):
            play(tmp_path / "stranger", door.url)
    finally:
        door.stop()


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("ftp://x", "is not http://, https://, tcp://"),
        ("mqtts://127.0.0.1:9", "has no credential of NVIS-"),
        ("tls://127.0.0.1:9", "cannot be reached"),
        ("http://127.0.0.1:9", "cannot be reached"),
        ("tcp://127.0.0.1:9", "cannot be reached"),
    ],
)
def test_a_landing_zone_that_is_none_is_named(tmp_path: Path, to: str, message: str) -> None:
    with pytest.raises(SimulateError, match=message):
        play(tmp_path / "sim", to)


def test_nothing_of_the_simulation_needs_a_lake(tmp_path: Path) -> None:
    play(tmp_path / "sim", None)
    assert lake.files("measurements", settings=Settings(home=tmp_path)) == []
