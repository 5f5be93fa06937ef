"""Retrieval of soundings: twins with a known profile, errors that hold, modes, ceilings, order of arrival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.group_delay import ceilings_mhz, delays_ms
from tasks.kernel_config import load_kernel_config
from tasks.profile import Peaks
from tasks.retrieval import Retrieved, Waves, retrieve

Array = NDArray[np.float64]

CONFIG = load_kernel_config().sounders
PRIOR_SD = CONFIG.prior_sd.as_array()
N_ECHOES = 10
CLIMATOLOGY_SD = np.array([0.15, 20.0, 0.20])
"""How far the climatology is off: ln foF2, km, ln B0."""


@dataclass
class Twin:
    truth: Array
    prior: Peaks
    waves: Waves
    is_wrong: NDArray[np.bool_]

    def found(self) -> Retrieved:
        return retrieve(self.prior, PRIOR_SD, self.waves, least_information=CONFIG.least_information)


def twin(seed: int, n: int, *, wrong: float = 0.0, mode: str | None = None, sd_ms: float = 0.1) -> Twin:
    """Ten ordinary and extraordinary echoes each, from 0.5 to 0.99 of their ceilings, closer together towards them.

    Day and night, 0 to 100 km, the rest of the profile known; a wrong delay is anything from 1 to 6 ms.
    """
    random = np.random.default_rng(seed)
    is_day = random.random(n) < 0.5
    fof2 = np.where(is_day, random.uniform(6, 12, n), random.uniform(3, 6, n))
    hmf2 = np.where(is_day, random.uniform(240, 330, n), random.uniform(270, 370, n))
    b0 = np.where(is_day, random.uniform(70, 120, n), random.uniform(50, 80, n))
    known: dict[str, Any] = {
        "m3000f2": np.full(n, 3.0),
        "b1": random.uniform(1.7, 2.8, n),
        "foe_mhz": np.where(is_day, np.minimum(random.uniform(2, 3.5, n), 0.4 * fof2), 0.5),
        "solar_zenith_deg": np.where(is_day, random.uniform(30, 75, n), 130.0),
        "r12": np.full(n, 80.0),
    }
    error = CLIMATOLOGY_SD * random.standard_normal((n, 3))
    truth = Peaks(fof2_mhz=fof2, hmf2_km=hmf2, b0_km=b0, **known)
    prior = Peaks(
        fof2_mhz=fof2 * np.exp(error[:, 0]),
        hmf2_km=hmf2 + error[:, 1],
        b0_km=b0 * np.exp(error[:, 2]),
        **known,
    )
    path = np.repeat(np.arange(n), N_ECHOES)
    is_x = np.tile(np.arange(N_ECHOES) % 3 == 2, n)
    gyrofrequency, dip = random.uniform(0.8, 1.5, n)[path], random.uniform(40, 75, n)[path]
    distance = random.uniform(0, 100, n)[path]
    frequency = np.tile(1 - np.geomspace(0.5, 0.01, N_ECHOES), n) * ceilings_mhz(
        truth, path, is_x, distance, gyrofrequency, dip
    )
    delay = delays_ms(truth, path, frequency, is_x, distance, gyrofrequency, dip)
    delay += sd_ms * random.standard_normal(path.size)
    is_wrong = random.random(path.size) < wrong
    delay[is_wrong] = random.uniform(1.0, 6.0, int(is_wrong.sum()))
    said = np.where(is_x, "X", "O") if mode is None else np.full(path.size, mode)
    error_ms = np.full(path.size, np.hypot(sd_ms, CONFIG.profile_error_ms))
    waves = Waves(path, frequency, said.astype(object), delay, error_ms, distance, gyrofrequency, dip)
    return Twin(np.column_stack([np.log(fof2), hmf2, np.log(b0)]), prior, waves, is_wrong)


def rms(values: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(values**2, axis=0)))


@pytest.fixture(scope="module")
def clean() -> list[tuple[Twin, Retrieved]]:
    return [(made, made.found()) for made in (twin(1, 100), twin(2, 100))]


def test_ten_echoes_give_the_profile_back(clean: list[tuple[Twin, Retrieved]]) -> None:
    error = rms(np.concatenate([found.fitted - made.truth for made, found in clean]))
    assert error[0] < 0.02
    assert error[1] < 8.0
    for made, found in clean:
        assert rms(np.log(made.prior.fof2_mhz) - made.truth[:, 0]) > 0.12
        assert (found.freedom[:, 0] > 0.5).all()
        assert np.mean(found.outcome == "used") > 0.98


def test_with_a_fifth_of_wrong_echoes_errors_stay_within_twice_that() -> None:
    made = twin(1, 100, wrong=0.2)
    found = made.found()
    error = rms(found.fitted - made.truth)
    assert error[0] < 0.04
    assert error[1] < 16.0
    is_stopped = np.isin(found.outcome, ["outlier", "above_ceiling"])
    # Next to the ceiling a disturbance moves a delay by as much.
    is_low = np.tile(np.arange(N_ECHOES) < N_ECHOES // 2, 100)
    assert is_stopped[made.is_wrong & is_low].mean() > 0.7
    assert is_stopped[~made.is_wrong].mean() < 0.03


def test_the_observation_has_the_errors_that_it_says(clean: list[tuple[Twin, Retrieved]]) -> None:
    error = np.concatenate([found.value - made.truth for made, found in clean])
    covariance = np.concatenate([found.covariance for _, found in clean])
    # As it enters the analysis: no sounding is better than this.
    precision = np.linalg.inv(covariance + np.diag(CONFIG.least_error.as_array() ** 2))
    score = np.einsum("ni,nij,nj->n", error, precision, error) / 3
    # A third of a chi2 of 3 degrees of freedom: median 0.79, nine in ten below 2.08.
    assert np.median(score) < 1.0
    assert np.mean(score < 2.08) > 0.88


def test_the_climatology_is_taken_out_again(clean: list[tuple[Twin, Retrieved]]) -> None:
    """With the climatology the observation gives the fit, but in directions of which the echoes say next to nothing."""
    made, found = clean[0]
    prior = np.column_stack([np.log(made.prior.fof2_mhz), made.prior.hmf2_km, np.log(made.prior.b0_km)])
    for row in range(20):
        precision = np.linalg.inv(found.covariance[row])
        total = precision + np.diag(PRIOR_SD**-2)
        mean = np.linalg.solve(total, precision @ found.value[row] + prior[row] / PRIOR_SD**2)
        np.testing.assert_allclose((mean - found.fitted[row]) / PRIOR_SD, 0.0, atol=0.03)


def test_neither_order_nor_threads_change_a_bit() -> None:
    made = twin(5, 6, wrong=0.2)
    order = np.random.default_rng(0).permutation(60)
    one = retrieve(made.prior, PRIOR_SD, made.waves, least_information=0.02, threads=1)
    other = retrieve(made.prior, PRIOR_SD, made.waves.take(order), least_information=0.02, threads=2)
    for name in ("value", "covariance", "fitted", "freedom"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("delay_ms", "weight", "is_extraordinary", "outcome"):
        expected = getattr(one, name)[order]
        is_number = expected.dtype.kind == "f"
        assert np.array_equal(expected, getattr(other, name), equal_nan=is_number), name


TRUE = {"fof2_mhz": 6.0, "hmf2_km": 290.0, "m3000f2": 3.0, "b0_km": 85.0, "b1": 2.0}
NIGHT = {"foe_mhz": 0.6, "solar_zenith_deg": 120.0, "r12": 60.0}


def one_sounding(**layers: float) -> Peaks:
    return Peaks(**{name: np.array([value]) for name, value in {**TRUE, **NIGHT, **layers}.items()})


def waves_of(
    frequency: Array, mode: str, delay: Array | float, *, sd_ms: float = 0.02, distance: float = 100.0
) -> Waves:
    n = frequency.size
    return Waves(
        np.zeros(n, dtype=np.int64),
        frequency,
        np.full(n, mode, dtype=object),
        np.broadcast_to(np.asarray(delay, dtype=np.float64), n).copy(),
        np.full(n, sd_ms),
        np.full(n, distance),
        np.full(n, 1.2),
        np.full(n, 62.0),
    )


@pytest.mark.parametrize("mode", ["O", "U"])
def test_an_echo_above_the_o_ceiling_is_recognized_as_x(mode: str) -> None:
    frequency = np.array([3.0, 4.0, 5.0, 5.5, 5.8, 5.95, 6.2, 6.4])
    is_x = frequency > 6.01
    delay = delays_ms(one_sounding(), 0, frequency, is_x, 100.0, 1.2, 62.0)
    found = retrieve(
        one_sounding(fof2_mhz=5.5), PRIOR_SD, waves_of(frequency, mode, delay), least_information=0.02
    )
    assert np.array_equal(found.is_extraordinary, is_x)
    assert set(found.outcome) == {"used"}
    assert np.exp(found.fitted[0, 0]) == pytest.approx(6.0, rel=0.01)


def test_an_echo_without_delay_bounds_the_ceiling_from_below() -> None:
    low, high = (
        retrieve(one_sounding(), PRIOR_SD, waves_of(np.array([f]), "O", np.nan), least_information=0.02)
        for f in (3.0, 7.0)
    )
    assert low.outcome.tolist() == ["ceiling_only"]
    # Far below the ceiling it says nothing; above the climatology's it moves foF2 up.
    assert low.fitted[0, 0] == pytest.approx(np.log(6.0), abs=0.01)
    assert low.freedom.max() < 0.05
    assert np.exp(high.fitted[0, 0]) > 6.8
    assert np.exp(high.value[0, 0]) > 7.0


def test_without_echoes_the_observation_says_nothing() -> None:
    found = retrieve(
        one_sounding(), PRIOR_SD, waves_of(np.empty(0), "O", np.empty(0)), least_information=0.02
    )
    np.testing.assert_allclose(found.fitted[0], [np.log(6.0), 290.0, np.log(85.0)])
    assert (np.sqrt(np.diagonal(found.covariance[0])) > 6 * PRIOR_SD).all()
    none = retrieve(
        Peaks(**{name: np.empty(0) for name in (*TRUE, *NIGHT)}),
        PRIOR_SD,
        waves_of(np.empty(0), "O", np.empty(0)),
        least_information=0.02,
    )
    assert none.value.shape == (0, 3)


@given(
    frequency=st.lists(st.floats(1.0, 12.0), max_size=6),
    delay=st.floats(0.0, 20.0),
    mode=st.sampled_from(["O", "X", "U"]),
    distance=st.floats(0.0, 600.0),
    sd_ms=st.floats(0.01, 8.0),
)
@settings(max_examples=40, deadline=None)
def test_whatever_is_reported_gives_finite_numbers(
    frequency: list[float], delay: float, mode: str, distance: float, sd_ms: float
) -> None:
    waves = waves_of(np.array(frequency), mode, delay, sd_ms=sd_ms, distance=distance)
    found = retrieve(one_sounding(), PRIOR_SD, waves, least_information=0.02)
    assert np.isfinite(found.value).all()
    scaled = found.covariance[0] / np.outer(PRIOR_SD, PRIOR_SD)
    assert (np.linalg.eigvalsh(scaled) > 0).all()
    assert ((found.weight >= 0) & (found.weight <= 1)).all()
