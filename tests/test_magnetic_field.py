"""The main field against PyIRI's IGRF, its own potential, published values and a dipole; magnetic local time against PyIRI."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rust_core
from tasks.background import Background, coefficient_folder
from tasks.magnetic_field import extraordinary_mhz, gyrofrequency_mhz, magnetic_field, read_igrf

Array = NDArray[np.float64]
RNG = np.random.default_rng(4)
LATITUDE_DEG = np.concatenate(
    [[90.0, -90.0, 0.0, 0.0, 60.0, -45.5], np.degrees(np.arcsin(RNG.uniform(-1, 1, 400)))]
)
LONGITUDE_DEG = np.concatenate([[0.0, 10.0, 0.0, 180.0, -179.99, 250.0], RNG.uniform(-180, 360, 400)])


@pytest.fixture(scope="module")
def igrf() -> Any:
    import PyIRI.igrf_library

    return PyIRI.igrf_library


def right_derivatives(igrf: Any) -> Any:
    """PyIRI's Legendre functions with the derivatives of 2 <= m < n that Langel (1987) gives.

    PyIRI 0.1.7 halves only the first of the two terms in dP(n,m)/d(theta) = (a P(n,m-1) - b P(n,m+1)) / 2.
    """
    original = igrf.legendre_poly

    def legendre_poly(nmax: int, theta: Array) -> Array:
        functions = original(nmax, theta)
        for n in range(2, nmax + 1):
            for m in range(2, n):
                missing = 0.5 * np.sqrt((n + m + 1.0) * (n - m)) * functions[n, m + 1]
                functions[m, n + 1] += missing
        return functions

    return legendre_poly


@pytest.mark.parametrize("height_km", [0.0, 300.0, 1200.0])
@pytest.mark.parametrize("year", [1900, 1957, 2015, 2022, 2025, 2031])
def test_parity_with_pyiri(igrf: Any, monkeypatch: pytest.MonkeyPatch, year: int, height_km: float) -> None:
    monkeypatch.setattr(igrf, "legendre_poly", right_derivatives(igrf))
    moment = datetime(year, 7, 1, tzinfo=UTC)
    decimal_year = year + (moment - datetime(year, 1, 1, tzinfo=UTC)) / (
        datetime(year + 1, 1, 1, tzinfo=UTC) - datetime(year, 1, 1, tzinfo=UTC)
    )
    folder = str(coefficient_folder())
    inclination, north, east, down, declination, _, total = igrf.inclination(
        folder, decimal_year, LONGITUDE_DEG, LATITUDE_DEG, height_km, only_inc=False
    )
    found = magnetic_field(moment, LATITUDE_DEG, LONGITUDE_DEG, height_km)
    # Components pass zero: to 1e-9 of the whole field. PyIRI's colatitude near a pole is good to 1e-8.
    for ours, theirs in [
        (found.north_nt, north),
        (found.east_nt, east),
        (found.down_nt, down),
        (found.intensity_nt, total),
    ]:
        assert np.abs(ours - theirs).max() < 1e-7 * total.max()
    np.testing.assert_allclose(found.inclination_deg, inclination, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.declination_deg[2:], declination[2:], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(
        found.modip_deg, igrf.inc2modip(inclination, LATITUDE_DEG), rtol=1e-6, atol=1e-7
    )
    dip_latitude = igrf.inc2magnetic_dip_latitude(inclination)
    np.testing.assert_allclose(found.dip_latitude_deg, dip_latitude, rtol=1e-6, atol=1e-7)


def test_pyiri_as_it_is_differs_where_its_derivative_is_wrong_only(igrf: Any) -> None:
    """Up and east do not need the derivative; when this fails PyIRI has been mended and the patch above can go."""
    arguments = (str(coefficient_folder()), 2022.0, LONGITUDE_DEG, LATITUDE_DEG, 300.0)
    _, north, east, _, *_ = igrf.inclination(*arguments, only_inc=False)
    found = magnetic_field(datetime(2022, 1, 1, tzinfo=UTC), LATITUDE_DEG, LONGITUDE_DEG)
    np.testing.assert_allclose(found.east_nt, east, atol=1e-3)
    assert np.abs(found.north_nt - north).max() > 100


def test_published_values() -> None:
    """The test values of the World Magnetic Model 2015 (NOAA, degree 12), which IGRF-13 meets to some 20 nT."""
    published = [
        (0.0, 80.0, 0.0, 6627.1, -445.9, 54432.3),
        (0.0, 0.0, 120.0, 39518.2, 392.9, -11252.4),
    ]
    for height_km, latitude, longitude, *components in published:
        found = magnetic_field(datetime(2015, 1, 1, tzinfo=UTC), latitude, longitude, height_km)
        ours = [found.north_nt[0], found.east_nt[0], found.down_nt[0]]
        np.testing.assert_allclose(ours, components, atol=40)


def test_field_is_the_slope_of_its_potential() -> None:
    """B = -grad V, with V summed here from the coefficients and SciPy's Legendre functions."""
    from scipy.special import factorial, lpmv

    epochs, coefficients = read_igrf(coefficient_folder() / "IGRF" / "IGRF13.shc")
    now = coefficients[list(epochs).index(2020.0)]

    def potential(x: float, y: float, z: float) -> float:
        r = np.sqrt(x * x + y * y + z * z)
        phi = np.arctan2(y, x)
        total, at = 0.0, 0
        for n in range(1, 14):
            for m in range(n + 1):
                schmidt = (-1) ** m * np.sqrt((2 - (m == 0)) * factorial(n - m) / factorial(n + m))
                g, h = (now[at], 0.0) if m == 0 else (now[at], now[at + 1])
                at += 1 if m == 0 else 2
                angle = g * np.cos(m * phi) + h * np.sin(m * phi)
                total += 6371.2 * (6371.2 / r) ** (n + 1) * angle * schmidt * lpmv(m, n, z / r)
        return total

    for latitude, longitude, height in [(51.0, 13.0, 300.0), (-33.3, 251.0, 0.0), (84.0, -120.0, 110.0)]:
        phi, lam = np.radians([latitude, longitude])
        curvature = 6378.137 / np.sqrt(1 - (2 - 1 / 298.257223563) / 298.257223563 * np.sin(phi) ** 2)
        squash = (1 - 1 / 298.257223563) ** 2
        place = np.array(
            [
                (curvature + height) * np.cos(phi) * np.cos(lam),
                (curvature + height) * np.cos(phi) * np.sin(lam),
                (curvature * squash + height) * np.sin(phi),
            ]
        )
        step = 0.5
        slope = [
            (potential(*(place + step * axis)) - potential(*(place - step * axis))) / (2 * step)
            for axis in np.eye(3)
        ]
        north = [-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)]
        east = [-np.sin(lam), np.cos(lam), 0.0]
        down = [-np.cos(phi) * np.cos(lam), -np.cos(phi) * np.sin(lam), -np.sin(phi)]
        found = magnetic_field(datetime(2020, 1, 1, tzinfo=UTC), latitude, longitude, height)
        for ours, axis in [(found.north_nt, north), (found.east_nt, east), (found.down_nt, down)]:
            assert ours[0] == pytest.approx(-np.dot(slope, axis), abs=0.01)


def test_far_away_the_field_is_a_dipole() -> None:
    """At 50,000 km the higher degrees have faded: tan(dip) = 2 tan(magnetic latitude) about the dipole's axis."""
    epochs, coefficients = read_igrf(coefficient_folder() / "IGRF" / "IGRF13.shc")
    g10, g11, h11 = coefficients[list(epochs).index(2020.0)][:3]
    axis = -np.array([g11, h11, g10]) / np.linalg.norm([g11, h11, g10])
    phi, lam = np.radians(LATITUDE_DEG), np.radians(LONGITUDE_DEG)
    place = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    found = magnetic_field(datetime(2020, 1, 1, tzinfo=UTC), LATITUDE_DEG, LONGITUDE_DEG, 50_000.0)
    expected = np.degrees(np.arcsin(np.clip(axis @ place, -1, 1)))
    assert np.abs(found.dip_latitude_deg - expected).max() < 3.0
    moment_nt = np.linalg.norm([g11, h11, g10])
    strength = moment_nt * (6371.2 / 56_371.2) ** 3 * np.sqrt(1 + 3 * np.sin(np.radians(expected)) ** 2)
    np.testing.assert_allclose(found.intensity_nt, strength, rtol=0.06)


def test_gyrofrequency_is_that_of_the_field() -> None:
    """Dourbes at 300 km: close to 1.2 MHz; the South Atlantic anomaly near 0.6 MHz."""
    moment = datetime(2022, 10, 25, tzinfo=UTC)
    dourbes, anomaly = gyrofrequency_mhz(moment, [50.1, -26.0], [4.6, -55.0])
    assert dourbes == pytest.approx(1.19, abs=0.02)
    assert anomaly == pytest.approx(0.55, abs=0.03)
    field = magnetic_field(moment, LATITUDE_DEG, LONGITUDE_DEG)
    np.testing.assert_allclose(field.gyrofrequency_mhz, field.intensity_nt * 2.7992489872e-5, rtol=1e-9)


def test_extraordinary_frequency_ends_its_refractive_index() -> None:
    fof2, gyrofrequency = np.array([0.5, 3.0, 8.0, 15.0]), np.array([0.6, 1.2, 1.4, 1.7])
    fx = extraordinary_mhz(fof2, gyrofrequency)
    np.testing.assert_allclose((fof2 / fx) ** 2, 1 - gyrofrequency / fx, rtol=1e-12)
    assert extraordinary_mhz(6.0, 0.0) == 6.0


@given(
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    height=st.floats(0, 2000),
    minutes=st.integers(0, 12 * 525_600),
)
@settings(max_examples=60, deadline=None)
def test_batches_and_longitude_turns_do_not_matter(
    latitude: float, longitude: float, height: float, minutes: int
) -> None:
    moment = datetime(2015, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    alone = magnetic_field(moment, latitude, longitude, height)
    other = magnetic_field(
        [moment, datetime(1990, 3, 3, tzinfo=UTC), moment], [latitude, 3.0, latitude], [longitude, 4.0, longitude], height
    )  # fmt: skip
    for name, values in vars(alone).items():
        assert getattr(other, name)[0] == getattr(other, name)[2] == values[0]
    turned = magnetic_field(moment, latitude, longitude + (360 if longitude <= 0 else -360), height)
    np.testing.assert_allclose(turned.intensity_nt, alone.intensity_nt, rtol=1e-12)


def test_thread_count_changes_nothing() -> None:
    times = np.datetime64("2020-01-01") + np.arange(LATITUDE_DEG.size).astype("timedelta64[D]")
    one, three = (magnetic_field(times, LATITUDE_DEG, LONGITUDE_DEG, n_threads=n) for n in (1, 3))
    for name, values in vars(one).items():
        assert np.array_equal(getattr(three, name), values)


@pytest.mark.parametrize("day", [datetime(1950, 3, 1), datetime(2022, 10, 25), datetime(2022, 12, 31)])  # noqa: DTZ001
def test_magnetic_local_time_matches_pyiri(day: datetime) -> None:
    import PyIRI.sh_library as pyiri

    background = Background(n_threads=2)
    for hour in (0.0, 6.25, 17 + 50 / 60):
        moment = day + timedelta(minutes=round(hour * 60))
        latitude, local_time = pyiri.Apex(LATITUDE_DEG, LONGITUDE_DEG, moment, "GEO_2_MLT")
        found_latitude, _, found_time = background.magnetic_local_time(moment, LATITUDE_DEG, LONGITUDE_DEG)
        np.testing.assert_allclose(found_latitude, latitude, rtol=1e-9)
        assert np.abs((found_time - local_time + 12) % 24 - 12).max() < 1e-6


def test_magnetic_local_time_takes_each_point_at_its_time() -> None:
    background = Background(n_threads=2)
    times = np.datetime64("2021-12-31T21:00") + np.repeat(np.arange(40), 30).astype("timedelta64[h]")
    latitude, longitude = RNG.uniform(-90, 90, times.size), RNG.uniform(-180, 180, times.size)
    together = np.array(background.magnetic_local_time(times, latitude, longitude))
    order = RNG.permutation(times.size)
    shuffled = np.array(background.magnetic_local_time(times[order], latitude[order], longitude[order]))
    assert np.array_equal(shuffled, together[:, order])
    sun_latitude, sun_longitude = rust_core.subsolar_point(1_640_995_200_000_000)
    noon = background.magnetic_local_time("2022-01-01T00:00", sun_latitude, sun_longitude)
    assert noon[2][0] == pytest.approx(12.0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_km": -2.0}, r"height_km\[0\] = -2 is outside"),
        ({"height_km": np.nan}, r"height_km\[0\] = NaN"),
        ({"latitude_deg": 91.0}, r"latitude_deg\[0\] = 91"),
        ({"times": datetime(1066, 10, 14, tzinfo=UTC)}, r"times\[0\] lies in the year 1066"),
        ({"longitude_deg": [1.0, 2.0], "latitude_deg": [1.0, 2.0, 3.0]}, "longitude_deg has 2 values"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    arguments = {"times": datetime(2022, 1, 1, tzinfo=UTC), "latitude_deg": 0.0, "longitude_deg": 0.0}
    with pytest.raises(ValueError, match=message):
        magnetic_field(**{**arguments, **change})


def test_a_damaged_coefficient_file_is_named(tmp_path: Path) -> None:
    text = (coefficient_folder() / "IGRF" / "IGRF13.shc").read_text()
    damaged = tmp_path / "IGRF13.shc"
    damaged.write_text("\n".join(text.splitlines()[:-1]))
    with pytest.raises(ValueError, match=r"IGRF13.shc: its rows are not the 195 coefficients"):
        read_igrf(damaged)
