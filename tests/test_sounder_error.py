"""A sounder's error: noise and bias found apart, with intervals that hold, whatever the map does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernel_config import ErrorScale, load_kernel_config
from tasks.sounder_error import SounderError, forget, prior_error, update

CONFIG = load_kernel_config().tiers
START = datetime(2026, 3, 20, tzinfo=UTC)
OBSERVABLES = {"delay": CONFIG.delay, "signal": CONFIG.signal}


def observe(
    random: np.random.Generator,
    scale: ErrorScale,
    *,
    noise: float,
    bias: float = 0.0,
    prior_sd: float,
    n_windows: int,
    n_each: int,
    expected_sd: float = 0.0,
    gross_share: float = 0.0,
) -> SounderError:
    """Windows of a quarter of an hour; what is expected is wrong by a slow autoregression of `expected_sd`."""
    prior = prior_error(prior_sd, scale, CONFIG)
    error, calm, wrong = prior, np.exp(-0.25 / CONFIG.field_memory_h), random.standard_normal()
    for number in range(n_windows):
        wrong = calm * wrong + np.sqrt(1 - calm**2) * random.standard_normal()
        e = bias + expected_sd * wrong + noise * random.standard_normal(n_each)
        e[random.random(n_each) < gross_share] += 20 * noise
        now = START + timedelta(minutes=15 * number)
        error = forget(error, prior, now, CONFIG)
        # Of a signal strength all of it is the link budget's, which the scale has.
        told_sd = expected_sd if scale is CONFIG.delay else 0.0
        by = np.column_stack([np.full(n_each, told_sd), np.zeros((n_each, 2))])
        error = update(error, e, by, np.ones(n_each), scale, CONFIG)
    return error


@pytest.mark.parametrize("name", OBSERVABLES)
@pytest.mark.parametrize("tier", ["PLATINUM", "GOLD", "SILVER", "BRONZE"])
@pytest.mark.parametrize("prior", ["PLATINUM", "SILVER"])
def test_the_noise_of_every_tier_is_found_from_a_wrong_prior(name: str, tier: str, prior: str) -> None:
    scale = OBSERVABLES[name]
    noise = getattr(scale.sd, tier)
    random = np.random.default_rng(1)
    error = observe(random, scale, noise=noise, prior_sd=getattr(scale.sd, prior), n_windows=100, n_each=20)
    assert error.sd == pytest.approx(noise, rel=0.12)


def test_the_interval_holds_the_noise_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(2), 0
    n_trials = 300
    for _ in range(n_trials):
        noise = 0.5 * np.exp(random.normal(0.0, 0.3))
        error = observe(
            random, CONFIG.delay, noise=noise, prior_sd=0.5, n_windows=8, n_each=8, expected_sd=0.2
        )
        low, high = error.interval
        held += low <= noise <= high
    assert 0.84 <= held / n_trials <= 0.96


@pytest.mark.parametrize(("name", "bias"), [("delay", 1.0), ("delay", -1.0), ("signal", 10.0)])
@pytest.mark.parametrize("tier", ["PLATINUM", "GOLD"])
def test_a_bias_is_recognized_within_a_hundred_observations(name: str, bias: float, tier: str) -> None:
    scale = OBSERVABLES[name]
    recognized = 0
    for seed in range(20):
        error = observe(
            np.random.default_rng(seed),
            scale,
            noise=getattr(scale.sd, tier),
            bias=bias,
            prior_sd=scale.sd.SILVER,
            n_windows=10,
            n_each=10,
            expected_sd=0.15 if name == "delay" else 2.0,
        )
        recognized += error.has_bias(scale, CONFIG) and np.sign(error.bias) == np.sign(bias)
    assert recognized >= 19


def test_a_bias_is_not_seen_where_there_is_none() -> None:
    seen = 0
    for seed in range(100):
        error = observe(
            np.random.default_rng(seed),
            CONFIG.delay,
            noise=0.1,
            prior_sd=0.5,
            n_windows=40,
            n_each=10,
            expected_sd=0.2,
        )
        seen += error.has_bias(CONFIG.delay, CONFIG)
    assert seen <= 3


def test_a_bias_does_not_count_as_noise() -> None:
    plain, biased = (
        observe(
            np.random.default_rng(3), CONFIG.delay, noise=0.2, bias=b, prior_sd=0.5, n_windows=20, n_each=10
        )
        for b in (0.0, 1.0)
    )
    assert biased.sd == pytest.approx(plain.sd, rel=0.05)


def test_a_tenth_of_gross_errors_leaves_the_tier() -> None:
    error = observe(
        np.random.default_rng(4),
        CONFIG.delay,
        noise=0.5,
        prior_sd=1.0,
        n_windows=40,
        n_each=10,
        gross_share=0.1,
    )
    assert 0.45 <= error.sd <= 0.8


def test_an_error_of_what_is_expected_is_neither_noise_nor_bias() -> None:
    error = observe(
        np.random.default_rng(5),
        CONFIG.delay,
        noise=0.1,
        prior_sd=0.5,
        n_windows=200,
        n_each=5,
        expected_sd=0.5,
    )
    assert error.sd == pytest.approx(0.1, rel=0.15)
    assert not error.has_bias(CONFIG.delay, CONFIG)


def test_without_innovations_the_prior_stays_and_long_silence_returns_to_it() -> None:
    prior = prior_error(2.0, CONFIG.delay, CONFIG)
    none = update(
        forget(prior, prior, START, CONFIG), np.empty(0), np.empty((0, 3)), np.empty(0), CONFIG.delay, CONFIG
    )
    assert (none.sd, none.bias, none.n_obs) == (2.0, 0.0, 0.0)
    taught = observe(
        np.random.default_rng(6), CONFIG.delay, noise=0.1, bias=1.0, prior_sd=2.0, n_windows=40, n_each=10
    )
    later = forget(taught, prior, START + timedelta(days=365), CONFIG)
    assert later.sd == pytest.approx(2.0, rel=1e-6)
    assert later.bias_sd == pytest.approx(CONFIG.delay.bias_sd, rel=1e-6)
    assert not later.has_bias(CONFIG.delay, CONFIG)


@given(
    e=st.lists(st.floats(-50, 50), min_size=1, max_size=30),
    expected=st.floats(0, 3),
    ratio=st.floats(0.01, 1.0),
    seed=st.integers(0, 100),
)
def test_any_innovations_leave_a_usable_estimate_that_their_order_does_not_change(
    e: list[float], expected: float, ratio: float, seed: int
) -> None:
    prior = forget(*(prior_error(0.7, CONFIG.delay, CONFIG),) * 2, START, CONFIG)
    values = np.array(e)
    rest = np.full((values.size, 3), expected), np.full(values.size, ratio)
    error = update(prior, values, *rest, CONFIG.delay, CONFIG)
    again = update(prior, np.random.default_rng(seed).permutation(values), *rest, CONFIG.delay, CONFIG)
    low, high = error.interval
    assert 0 < low < error.sd < high < np.inf
    assert 0 < error.bias_sd <= CONFIG.delay.bias_sd * (1 + 1e-9)
    assert again.sd == pytest.approx(error.sd, rel=1e-6)
    assert again.bias == pytest.approx(error.bias, rel=1e-6, abs=1e-9)
