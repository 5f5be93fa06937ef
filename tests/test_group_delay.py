"""Virtual heights, group delays and ceilings: against brute force, closed forms, limits and differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.group_delay import ceilings, ceilings_mhz, delays_ms, echoes, virtual_heights_km
from tasks.magnetic_field import extraordinary_mhz
from tasks.profile import Peaks
from tests.reference.virtual_height import virtual_height_km

LIGHT_KM_PER_MS = 299.792458
NOON = {"fof2_mhz": 8.0, "hmf2_km": 290.0, "m3000f2": 3.1, "b0_km": 95.0, "b1": 1.9, "foe_mhz": 3.2, "solar_zenith_deg": 40.0, "r12": 70.0}  # fmt: skip
NIGHT = {"fof2_mhz": 4.0, "hmf2_km": 330.0, "m3000f2": 2.9, "b0_km": 70.0, "b1": 2.7, "foe_mhz": 0.7, "solar_zenith_deg": 130.0, "r12": 70.0}  # fmt: skip


def random_profile(rng: np.random.Generator) -> dict[str, float]:
    fof2 = rng.uniform(2, 15)
    is_day = rng.random() < 0.6
    return {
        "fof2_mhz": fof2,
        "hmf2_km": rng.uniform(220, 450),
        "m3000f2": 3.0,
        "b0_km": rng.uniform(40, 180),
        "b1": rng.uniform(1.4, 3.8),
        "foe_mhz": min(rng.uniform(1.5, 4.2) if is_day else rng.uniform(0.3, 0.9), 0.75 * fof2),
        "solar_zenith_deg": rng.uniform(0, 85) if is_day else rng.uniform(100, 170),
        "r12": 80.0,
    }


@pytest.mark.parametrize("seed", range(12))
def test_heights_are_those_of_brute_force_to_10_m(seed: int) -> None:
    """foF2 2-15 MHz, dip 0-90, both modes, up to 0.999 of the ceiling, about foE and in the valley above it."""
    rng = np.random.default_rng(seed)
    values = random_profile(rng)
    peaks = Peaks(**values)
    foe = values["foe_mhz"]
    gyrofrequency = rng.uniform(0.7, 1.6)
    dip = [0.0, 90.0, rng.uniform(0, 90), rng.uniform(80, 90)][seed % 4]
    n_checked = 0
    for is_x in (False, True):
        ceiling = ceilings_mhz(peaks, 0, is_x, 0.0, gyrofrequency, dip)[0]
        shares = np.array([0.2, rng.uniform(0.3, 0.9), 0.95, 0.99, 0.999])
        for frequency in np.concatenate([shares * ceiling, foe * np.array([0.98, 1.02, 1.3])]):
            if not frequency < ceiling or (is_x and frequency < 1.02 * gyrofrequency):
                continue
            found = virtual_heights_km(peaks, 0, frequency, is_x, gyrofrequency, dip)[0]
            expected = virtual_height_km(
                lambda height: peaks.density(height)[:, 0],
                values["hmf2_km"],
                frequency,
                gyrofrequency,
                dip,
                is_x,
            )
            assert found == pytest.approx(expected, abs=0.010), (values, is_x, frequency, dip)
            n_checked += 1
    assert n_checked >= 10


def test_the_first_height_that_reaches_the_level_reflects() -> None:
    """Below foE from the E layer, above it from F2: the height jumps, and both sides of the cusp are high."""
    peaks = Peaks(**NOON)
    below, at_cusp, above, far = virtual_heights_km(peaks, 0, [2.5, 3.1999, 3.2001, 4.0], False, 0.0, 60.0)
    assert 95 < below < 115
    assert below < at_cusp
    assert above > far > 150
    frequency = np.linspace(3.25, 7.9, 200)
    heights = virtual_heights_km(peaks, 0, frequency, False, 1.2, 60.0)
    assert np.all(heights[1:] > 130)
    assert np.all(np.diff(heights[frequency > 6.5]) > 0)


def test_above_the_ceiling_nothing_comes_back() -> None:
    for values in (NOON, NIGHT):
        peaks = Peaks(**values)
        critical = [values["fof2_mhz"], float(extraordinary_mhz(values["fof2_mhz"], 1.2))]
        for is_x, expected in zip((False, True), critical, strict=True):
            found = ceilings(peaks, 0, is_x, [0.0, 200.0, 500.0], 1.2, 62.0)
            assert found.mhz[0] == pytest.approx(expected, rel=1e-12)
            assert np.all(np.diff(found.mhz) > 0)
            below = delays_ms(peaks, 0, found.mhz * 0.9999, is_x, [0.0, 200.0, 500.0], 1.2, 62.0)
            above = delays_ms(peaks, 0, found.mhz * 1.0001, is_x, [0.0, 200.0, 500.0], 1.2, 62.0)
            assert np.all(np.isfinite(below))
            assert np.all(np.isnan(above))
    assert np.isnan(delays_ms(Peaks(**NIGHT), 0, 1.2, True, 0.0, 1.2, 62.0)[0])


@pytest.mark.parametrize("values", [NOON, NIGHT])
@pytest.mark.parametrize("is_extraordinary", [False, True])
@pytest.mark.parametrize("distance_km", [0.0, 120.0, 450.0])
def test_derivatives_are_those_of_differences(
    values: dict[str, float], is_extraordinary: bool, distance_km: float
) -> None:
    frequency = values["fof2_mhz"] * np.array([0.45, 0.6, 0.8, 0.93, 0.98])
    path = (is_extraordinary, distance_km, 1.2, 62.0)
    found = echoes(Peaks(**values), 0, frequency, *path)
    ceiling = ceilings(Peaks(**values), 0, *path)
    for index, (name, step) in enumerate((("fof2_mhz", 1e-4), ("hmf2_km", 1e-2), ("b0_km", 1e-4))):
        moved = []
        for sign in (1, -1):
            value = values[name] + sign * step if name == "hmf2_km" else values[name] * np.exp(sign * step)
            moved.append(Peaks(**{**values, name: value}))
        up, down = (delays_ms(peaks, 0, frequency, *path) for peaks in moved)
        expected = (up - down) / (2 * step)
        scale = 1e-2 if name == "hmf2_km" else 1.0
        np.testing.assert_allclose(found.delay_by[:, index], expected, rtol=3e-3, atol=2e-3 * scale)
        up, down = (ceilings_mhz(peaks, 0, *path) for peaks in moved)
        np.testing.assert_allclose(ceiling.by[0, index], (up[0] - down[0]) / (2 * step), rtol=2e-3, atol=1e-3)


waves = {
    "share": st.floats(0.15, 0.98),
    "is_extraordinary": st.booleans(),
    "distance_km": st.floats(0.0, 500.0),
    "gyrofrequency_mhz": st.floats(0.6, 1.7),
    "dip_deg": st.floats(-90.0, 90.0),
}


@given(seed=st.integers(0, 10_000), wave=st.fixed_dictionaries(waves))
@settings(max_examples=150, deadline=None)
def test_what_holds_of_every_echo(seed: int, wave: dict[str, Any]) -> None:
    share = wave.pop("share")
    values = random_profile(np.random.default_rng(seed))
    peaks = Peaks(**values)
    ceiling = ceilings_mhz(peaks, 0, **wave)[0]
    frequency = share * ceiling
    assume(not wave["is_extraordinary"] or frequency > 1.6 * wave["gyrofrequency_mhz"])
    found = echoes(peaks, 0, frequency, **wave)
    delay, height, equivalent = found.delay_ms[0], found.virtual_height_km[0], found.equivalent_mhz[0]
    # Longer than light takes over the ground, and over the height; up to the ceiling there is an echo.
    assert delay > 2 * height / LIGHT_KM_PER_MS * (1 - 1e-12)
    assert delay > wave["distance_km"] / LIGHT_KM_PER_MS
    assert height > 60
    assert 0 < equivalent <= frequency
    # The virtual height is the vertical one of the equivalent frequency.
    vertical = virtual_heights_km(
        peaks, 0, equivalent, wave["is_extraordinary"], wave["gyrofrequency_mhz"], wave["dip_deg"]
    )
    assert vertical[0] == pytest.approx(height, rel=1e-6)
    # North and south; with derivatives, and without by vector instructions.
    mirrored = delays_ms(peaks, 0, frequency, **{**wave, "dip_deg": -wave["dip_deg"]})
    assert mirrored[0] == pytest.approx(delay, rel=1e-7)


def test_limits() -> None:
    peaks = Peaks(**NIGHT)
    # Towards a distance of 0: vertical.
    near, vertical = delays_ms(peaks, 0, 3.0, False, [1e-3, 0.0], 1.2, 60.0)
    assert near == pytest.approx(vertical, rel=1e-9)
    # Towards low frequencies: the foot of the E layer.
    assert 55 < virtual_heights_km(peaks, 0, 0.1, False, 0.0, 60.0)[0] < 110
    # Towards a vertical field: no step, and beyond the last twentieth of a degree none at all.
    heights = virtual_heights_km(peaks, 0, 3.0, False, 1.2, [89.0, 89.5, 89.9, 89.97, 90.0])
    assert np.all(np.abs(np.diff(heights)) < 1.0)
    assert heights[3] == heights[4]
    # Without a field both modes are one.
    ordinary, extraordinary = virtual_heights_km(peaks, 0, 3.0, [False, True], 0.0, 60.0)
    assert ordinary == pytest.approx(extraordinary, rel=1e-9)
    # A weak field changes little.
    assert virtual_heights_km(peaks, 0, 3.0, False, 1e-6, 60.0)[0] == pytest.approx(ordinary, abs=0.2)


def test_threads_and_batches_change_nothing() -> None:
    rng = np.random.default_rng(3)
    profiles = [random_profile(rng) for _ in range(20)]
    peaks = Peaks(**{name: np.array([p[name] for p in profiles]) for name in profiles[0]})
    which = rng.integers(0, 20, 700)
    arguments = (
        which,
        rng.uniform(1.7, 9.0, 700),
        rng.random(700) < 0.4,
        rng.choice([0.0, 90.0, 300.0], 700),
        rng.uniform(0.7, 1.6, 700),
        rng.uniform(-90, 90, 700),
    )
    together = echoes(peaks, *arguments, n_threads=3)
    alone = echoes(peaks, *arguments, n_threads=1)
    for name, values in vars(together).items():
        assert np.array_equal(values, vars(alone)[name], equal_nan=True), name
    np.testing.assert_allclose(delays_ms(peaks, *arguments), together.delay_ms, rtol=1e-7)
    assert np.isfinite(together.delay_ms).sum() > 300
    one = Peaks(**profiles[which[5]])
    row = [np.asarray(column)[5] for column in arguments[1:]]
    assert np.array_equal(echoes(one, 0, *row).delay_ms, together.delay_ms[5:6], equal_nan=True)
    assert delays_ms(peaks, np.empty(0, dtype=int), 3.0, False, 0.0, 1.0, 60.0).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"which": 1}, r"which\[0\] = 1 is none of the 1 profiles"),
        ({"which": -1}, r"which\[0\] = -1 is none"),
        ({"which": 0.5}, "which is float64, not whole numbers"),
        ({"is_extraordinary": 2}, "is_extraordinary is int64, not true or false"),
        ({"frequency_mhz": [3.0, np.nan]}, r"frequency_mhz\[1\] = NaN is outside"),
        ({"distance_km": 1501.0}, r"distance_km\[0\] = 1501 is outside 0..1500"),
        ({"dip_deg": [1.0, 2.0], "distance_km": [1.0, 2.0, 3.0]}, "dip_deg has 2 values where 1 or 3"),
        ({"gyrofrequency_mhz": -0.1}, r"gyrofrequency_mhz\[0\] = -0.1 is outside"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "which": 0, "frequency_mhz": 3.0, "is_extraordinary": False, "distance_km": 0.0,
        "gyrofrequency_mhz": 1.2, "dip_deg": 60.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        delays_ms(Peaks(**NOON), **{**given, **change})
