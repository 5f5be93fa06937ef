"""Measurements become echoes: each bad one has its outcome, arrival order has none, and combining keeps the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.aggregation import combine, most_informative
from tasks.echoes import OUTCOMES, prepare
from tasks.great_circle import distance_km, midpoint
from tasks.kernel_config import load_kernel_config

CONFIG = load_kernel_config().sounders
NOW = pd.Timestamp("2026-03-20T12:00Z")


def measurement(minutes_ago: float = 1.0, **columns: Any) -> dict[str, Any]:
    at = NOW - pd.Timedelta(minutes=minutes_ago)
    return {
        "observation_id": f"{minutes_ago}-{sorted(columns.items())}",
        "sounder_id": "A",
        "observed_at": at,
        "available_at": at + pd.Timedelta(seconds=5),
        "tx_latitude_deg": 48.0,
        "tx_longitude_deg": 11.0,
        "rx_latitude_deg": 48.0,
        "rx_longitude_deg": 11.0,
        "frequency_mhz": 5.0,
        "mode": "O",
        "elevation_deg": np.nan,
        "group_delay_ms": 2.0,
        "signal_strength_dbm": -80.0,
        "snr_db": 20.0,
        "revision": 0,
        **columns,
    }


def prepared(*items: dict[str, Any], lookback_h: float = 24.0) -> pd.DataFrame:
    return prepare(pd.DataFrame(items), valid_at=NOW, available_at=NOW, lookback_h=lookback_h, config=CONFIG)


@pytest.mark.parametrize(
    ("columns", "outcome"),
    [
        ({}, "usable"),
        ({"snr_db": np.nan, "signal_strength_dbm": np.nan}, "usable"),
        ({"elevation_deg": 85.0}, "usable"),
        ({"group_delay_ms": np.nan}, "no_delay"),
        ({"tx_latitude_deg": 51.0, "group_delay_ms": 1.0}, "faster_than_light"),
        ({"group_delay_ms": 10.5}, "delay_too_long"),
        ({"tx_latitude_deg": 58.0, "group_delay_ms": 4.5}, "path_too_long"),
        ({"mode": None}, "usable"),
        ({"frequency_mhz": 29.0}, "usable"),
    ],
)
def test_every_odd_measurement_has_its_outcome(columns: dict[str, Any], outcome: str) -> None:
    rows = prepared(measurement(**columns))
    assert list(rows["outcome"]) == [outcome]
    assert outcome in OUTCOMES
    assert rows["mode"][0] in "OXU"


def test_a_path_over_the_date_line_has_its_middle_there() -> None:
    rows = prepared(measurement(tx_longitude_deg=179.0, rx_longitude_deg=-179.0, group_delay_ms=3.0))
    assert abs(rows["longitude_deg"][0]) == pytest.approx(180.0)
    assert rows["latitude_deg"][0] == pytest.approx(48.0, abs=0.02)
    assert rows["distance_km"][0] == pytest.approx(148.8, abs=0.2)
    # Over the pole.
    latitude, _ = midpoint(89.0, 0.0, 89.0, 180.0)
    assert latitude == pytest.approx(90.0)


@given(
    ends=st.tuples(st.floats(-90, 90), st.floats(-180, 180), st.floats(-90, 90), st.floats(-180, 180)),
)
def test_the_middle_is_as_far_from_both_ends(ends: tuple[float, float, float, float]) -> None:
    latitude, longitude = midpoint(*ends)
    whole = float(distance_km(*ends))
    if whole > 19_900:  # of antipodes every place of a circle is the middle
        return
    halves = distance_km(ends[0], ends[1], latitude, longitude), distance_km(latitude, longitude, *ends[2:])
    assert halves[0] == pytest.approx(whole / 2, abs=1e-4)
    assert halves[1] == pytest.approx(whole / 2, abs=1e-4)


def test_one_id_from_two_places_at_once_keeps_the_path_with_most_rows() -> None:
    far = {"tx_latitude_deg": 40.0, "rx_latitude_deg": 40.0}
    rows = prepared(measurement(5), measurement(4), measurement(3, **far), measurement(20, **far))
    assert list(rows["outcome"]) == ["usable", "usable", "usable", "elsewhere"]
    # The window before is its own: a sounder that moves is taken where it is.
    assert list(rows["window"]) == [rows["window"][0], *[rows["window"][0] + 1] * 3]


def test_a_sounder_that_reports_from_everywhere_keeps_one_path() -> None:
    random = np.random.default_rng(1)
    n = 5_000
    at = NOW - pd.Timedelta(minutes=1)
    item = measurement(1.0)
    rows = pd.DataFrame([item]).loc[[0] * n].reset_index(drop=True)
    place = random.uniform(30.0, 60.0, n)
    rows = rows.assign(
        observation_id=[str(k) for k in range(n)], tx_latitude_deg=place, rx_latitude_deg=place
    )
    prepared_rows = prepare(rows, valid_at=NOW, available_at=NOW, lookback_h=1.0, config=CONFIG)
    kept = prepared_rows[prepared_rows["outcome"] == "usable"]
    assert (prepared_rows["observed_at"] == at).all()
    assert 1 <= len(kept) < n / 50
    assert np.ptp(kept["latitude_deg"]) < 0.2


def test_the_window_ends_with_the_minute_of_the_cycle() -> None:
    rows = prepared(measurement(0.0, available_at=NOW), measurement(14.99), measurement(15.0))
    windows = rows.set_index("observed_at")["window"]
    assert windows[NOW] == windows[NOW - pd.Timedelta(minutes=14.99)]
    assert windows[NOW - pd.Timedelta(minutes=15)] == windows[NOW] - 1


def test_what_came_later_is_not_seen_and_a_correction_is() -> None:
    late = measurement(3, available_at=NOW + pd.Timedelta(minutes=1))
    first = measurement(2, observation_id="x", group_delay_ms=9.0)
    better = {**first, "revision": 1, "group_delay_ms": 2.5}
    rows = prepared(late, first, better)
    assert list(rows["group_delay_ms"]) == [2.5]


def fast_rows(n: int = 60, sd: tuple[float, ...] = (0.5,)) -> tuple[pd.DataFrame, pd.DataFrame]:
    items = [
        measurement(
            14.9 - 14.8 * k / n,
            observation_id=str(k),
            frequency_mhz=(3.0, 5.0)[k % 2],
            mode=("O", "X")[k // 2 % 2],
            group_delay_ms=2.0 + 0.01 * k,
        )
        for k in range(n)
    ]
    rows = prepared(*items)
    error = pd.DataFrame({"delay_ms": np.resize(sd, n), "signal_db": np.full(n, 4.0)})
    return rows, error


def test_combining_never_mixes_frequencies_modes_or_minutes_and_keeps_every_row() -> None:
    rows, error = fast_rows()
    combined = combine(rows, error, CONFIG)
    members = [member for group in combined["members"] for member in group]
    assert sorted(members) == list(range(len(rows)))
    assert (combined["n_combined"] > 1).any()
    for _, row in combined.iterrows():
        own = rows.iloc[list(row["members"])]
        assert own["frequency_mhz"].nunique() == own["mode"].nunique() == 1
        assert own["observed_at"].dt.floor("60s").nunique() == 1
        assert row["group_delay_ms"] == pytest.approx(own["group_delay_ms"].mean())


def test_the_error_of_a_combination_keeps_its_correlated_part() -> None:
    rows, error = fast_rows(n=600)
    combined = combine(rows, error, CONFIG)
    k = combined["n_combined"].to_numpy()
    share = CONFIG.correlated_share
    assert combined["delay_error_ms"].to_numpy() == pytest.approx(0.5 * np.sqrt(share + (1 - share) / k))
    assert combined["delay_error_ms"].min() >= 0.5 * np.sqrt(share)


def test_the_better_echo_of_a_combination_counts_by_its_variance() -> None:
    rows, error = fast_rows(n=60)
    error["delay_ms"] = np.where(np.arange(60) % 8 < 4, 0.1, 1.0)
    combined = combine(rows, error, CONFIG)
    several = combined[combined["n_combined"] > 1]
    for _, row in several.iterrows():
        own = list(row["members"])
        weight = error["delay_ms"].to_numpy()[own] ** -2
        mean = np.average(rows["group_delay_ms"].to_numpy()[own], weights=weight)
        assert row["group_delay_ms"] == pytest.approx(mean)


def test_a_slow_sounder_is_left_as_it_is() -> None:
    rows, error = fast_rows(n=15)
    combined = combine(rows, error, CONFIG)
    assert (combined["n_combined"] == 1).all()
    pd.testing.assert_series_equal(combined["group_delay_ms"], rows["group_delay_ms"])
    assert (combined["delay_error_ms"] == 0.5).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 80))
def test_the_order_of_arrival_changes_nothing(seed: int, n: int) -> None:
    random = np.random.default_rng(seed)
    items = [
        measurement(
            float(random.integers(0, 1800)) / 60.0,
            observation_id=str(k),
            sounder_id=random.choice(["A", "B"]),
            frequency_mhz=float(random.choice([3.0, 5.0])),
            mode=str(random.choice(["O", "X", "U"])),
            group_delay_ms=float(random.uniform(1, 4)),
            tx_latitude_deg=float(random.choice([48.0, 48.0, 44.0])),
        )
        for k in range(n)
    ]

    def outcome(order: list[int]) -> pd.DataFrame:
        rows = prepared(*[items[k] for k in order])
        error = pd.DataFrame({"delay_ms": np.full(len(rows), 0.5), "signal_db": np.full(len(rows), 4.0)})
        return combine(rows, error, CONFIG)

    pd.testing.assert_frame_equal(outcome(list(range(n))), outcome(list(random.permutation(n))))


def test_the_most_informative_are_kept_with_the_highest_frequency() -> None:
    random = np.random.default_rng(1)
    n = 40
    sensitivity = random.normal(size=(n, 3)) * [1.0, 0.01, 0.5]
    error, rank = random.uniform(0.1, 2.0, n), random.uniform(0, 1, n)
    prior_sd = np.array([0.3, 40.0, 0.35])
    kept = most_informative(sensitivity, error, rank, prior_sd, 10)
    assert kept.size == 10
    assert np.argmax(rank) in kept

    def information(rows: Any) -> float:
        scaled = sensitivity[rows] * prior_sd / error[rows, None]
        return float(np.linalg.slogdet(np.eye(3) + scaled.T @ scaled)[1])

    best_of_random = max(information(random.permutation(n)[:10]) for _ in range(500))
    assert information(kept) > best_of_random
    assert list(most_informative(sensitivity, error, rank, prior_sd, n)) == list(range(n))
    silent = most_informative(np.full((n, 3), np.nan), error, rank, prior_sd, 5)
    assert silent.size == 5
