"""The effective index: recovery with gross errors, limits, weights, bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.effective_index import estimate_effective_index


def network(
    ig12: float, *, seed: int, n: int = 2000, sd: float = 0.08
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low = rng.uniform(3.0, 8.0, n)
    high = low * rng.uniform(1.3, 1.8, n)
    truth = low + (high - low) * ig12 / 100
    return truth * np.exp(rng.normal(0, sd, n)), low, high


@pytest.mark.parametrize("ig12", [-15.0, 0.0, 63.0, 187.5])
def test_recovers_known_index_despite_gross_errors(ig12: float) -> None:
    # sd 0.02 per value leaves a sampling error of 0.1 in the index: what is tested is the pull of the gross errors.
    obs, low, high = network(ig12, seed=1, sd=0.02)
    wrong = np.random.default_rng(2).random(obs.size) < 0.15
    obs[wrong] *= 2.5
    assert estimate_effective_index(obs, low, high) == pytest.approx(ig12, abs=0.5)


@given(ig12=st.floats(-20, 200), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_exact_data_give_the_index_to_the_grid_step(ig12: float, seed: int) -> None:
    obs, low, high = network(ig12, seed=seed, n=40, sd=0.0)
    assert estimate_effective_index(obs, low, high) == pytest.approx(ig12, abs=0.011)


def test_stays_within_bounds() -> None:
    obs, low, high = network(50, seed=3)
    assert estimate_effective_index(obs * 5, low, high) == 200
    assert estimate_effective_index(obs / 5, low, high) == -20


def test_weights_choose_the_newest_and_order_does_not_matter() -> None:
    old, low, high = network(20, seed=4, sd=0.02)
    new, _, _ = network(120, seed=4, sd=0.02)
    weights = np.where(np.arange(old.size) % 2, 1.0, 0.0)
    mixed = np.where(weights > 0, new, old)
    found = estimate_effective_index(mixed, low, high, weights)
    assert found == pytest.approx(120, abs=0.7)
    order = np.random.default_rng(5).permutation(old.size)
    assert estimate_effective_index(mixed[order], low[order], high[order], weights[order]) == pytest.approx(
        found, abs=0.011
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"obs_fof2_mhz": [5.0, -1.0]}, r"obs_fof2_mhz\[1\] = -1.0"),
        ({"fof2_at_0": [np.nan, 3.0]}, r"fof2_at_0\[0\] = nan"),
        ({"fof2_at_100": [4.0]}, "fof2_at_100 has 1 values"),
        ({"weights": [0.0, 0.0]}, "not all zero"),
        ({"obs_fof2_mhz": []}, "obs_fof2_mhz is empty"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, list[float]], message: str) -> None:
    arguments = {
        "obs_fof2_mhz": [5.0, 6.0],
        "fof2_at_0": [3.0, 3.0],
        "fof2_at_100": [6.0, 6.0],
        "weights": [1.0, 1.0],
    }
    with pytest.raises(ValueError, match=message):
        estimate_effective_index(**{**arguments, **change})
