"""The background against PyIRI, its limits, and its behaviour as a library."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rust_core
from tasks.background import Background, SolarLevels, coefficient_folder, f107_to_ig12, ig12_to_r12

#: Poles, near-poles, equator, both sides of the date line, mid-latitudes in both hemispheres.
LATITUDE_DEG = np.array([90, -90, 89.99, -89.9, 0, 0, 5, 5, 60, 60, 41.3, -45.5, 55.2, -77])
LONGITUDE_DEG = np.array([0, 10, 33, 250, 0, -140, 180, -180, 179.999, -179.999, -71.5, 250, 13.4, 120])
#: Our names, and the names of PyIRI's dictionaries.
F2_FIELDS = {"fof2_mhz": "fo", "hmf2_km": "hm", "m3000f2": "M3000", "b0_km": "B0", "b1": "B1"}


@pytest.fixture(scope="module")
def background() -> Background:
    return Background(n_threads=2)


@pytest.fixture(scope="module")
def pyiri() -> Any:
    import PyIRI.sh_library

    return PyIRI.sh_library


def pyiri_state(pyiri: Any, day: datetime, hours: np.ndarray, f107_sfu: float) -> dict[str, np.ndarray]:
    """PyIRI at LATITUDE_DEG, LONGITUDE_DEG: arrays (hours, points).

    PyIRI cuts the time to whole minutes by arithmetic that may fall one short; a nudge of 4 microseconds helps it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f2, _, e, _, _, _, _ = pyiri.IRI_density_1day(
            day.year,
            day.month,
            day.day,
            hours + 1e-9,
            LONGITUDE_DEG,
            LATITUDE_DEG,
            np.array([300.0]),
            f107_sfu,
            old_output=False,
        )
    state = {ours: f2[theirs] for ours, theirs in F2_FIELDS.items()}
    return {**state, "foe_mhz": e["fo"], "solar_zenith_deg": e["solzen"]}


def assert_parity(
    background: Background, pyiri: Any, day: datetime, hours: np.ndarray, f107_sfu: float
) -> None:
    expected = pyiri_state(pyiri, day, hours, f107_sfu)
    floors = dict(zip(F2_FIELDS, background.floors, strict=True))
    for row, hour in enumerate(hours):
        moment = day + timedelta(minutes=round(hour * 60))
        found = background.on_grid(moment, LATITUDE_DEG, LONGITUDE_DEG, f107_to_ig12(f107_sfu))
        for name, values in expected.items():
            reference = np.maximum(values[row], floors.get(name, -np.inf))
            np.testing.assert_allclose(
                getattr(found, name),
                reference,
                rtol=1e-6,
                atol=0,
                err_msg=f"{name} {moment} F10.7={f107_sfu}",
            )


@pytest.mark.parametrize("month", range(1, 13))
def test_parity_with_pyiri_in_every_month(background: Background, pyiri: Any, month: int) -> None:
    day = datetime(2010 + month, month, 3 + 2 * month, tzinfo=UTC)
    assert_parity(background, pyiri, day, np.arange(0, 24, 3) + month / 60, 65.0 + 15 * month)


@pytest.mark.parametrize(
    "day",
    [
        datetime(2022, 12, 15, tzinfo=UTC),  # the turn of the year takes apex coordinates of two years
        datetime(2022, 12, 31, tzinfo=UTC),
        datetime(2023, 1, 1, tzinfo=UTC),
        datetime(2023, 1, 14, tzinfo=UTC),
        datetime(2023, 1, 15, tzinfo=UTC),
        datetime(2024, 2, 29, tzinfo=UTC),
        datetime(1958, 7, 14, tzinfo=UTC),
        datetime(2030, 12, 31, tzinfo=UTC),  # the last year of apex coordinates
        datetime(2034, 5, 5, tzinfo=UTC),  # beyond it
    ],
    ids=str,
)
@pytest.mark.parametrize("f107_sfu", [60.0, 290.0])
def test_parity_with_pyiri_at_the_edges(
    background: Background, pyiri: Any, day: datetime, f107_sfu: float
) -> None:
    assert_parity(background, pyiri, day, np.array([0.0, 6.25, 12.0, 23 + 59 / 60]), f107_sfu)


def test_the_map_of_ccir_matches_pyiri(pyiri: Any) -> None:
    background = Background(n_threads=2, fof2_map="CCIR")
    hours = np.array([3.0, 16.5])
    maps = pyiri.IRI_sh_params(2021, 5, hours, LONGITUDE_DEG, LATITUDE_DEG, foF2_coeff="CCIR")
    for row, hour in enumerate(hours):
        moment = datetime(2021, 5, 15, tzinfo=UTC) + timedelta(hours=hour)
        levels = background.solar_levels(moment, LATITUDE_DEG, LONGITUDE_DEG)
        np.testing.assert_allclose(levels.fof2_mhz, maps[0][row].T, rtol=1e-9)
    with pytest.raises(ValueError, match="fof2_map 'NEQUICK' is neither"):
        Background(fof2_map="NEQUICK")  # type: ignore[arg-type]


def test_monthly_maps_match_pyiri_at_both_solar_levels(background: Background, pyiri: Any) -> None:
    hours = np.array([0.0, 7.5, 18.75])
    for month in range(1, 13):
        maps = pyiri.IRI_sh_params(2021, month, hours, LONGITUDE_DEG, LATITUDE_DEG)
        for row, hour in enumerate(hours):
            moment = datetime(2021, month, 15, tzinfo=UTC) + timedelta(hours=hour)
            levels = background.solar_levels(moment, LATITUDE_DEG, LONGITUDE_DEG)
            for name, number in {"fof2_mhz": 0, "hmf2_km": 1, "b0_km": 2, "b1": 3, "m3000f2": 4}.items():
                np.testing.assert_allclose(
                    getattr(levels, name), maps[number][row].T, rtol=1e-9, err_msg=name
                )


@pytest.mark.parametrize("ig12", [-20.0, 37.5, 100.0, 178.0, 200.0])
def test_solar_levels_give_the_state_at_any_index(background: Background, ig12: float) -> None:
    rng = np.random.default_rng(6)
    latitude, longitude = rng.uniform(-90, 90, 300), rng.uniform(-180, 180, 300)
    times = np.datetime64("2021-12-20") + rng.integers(0, 40 * 86400, 300).astype("timedelta64[s]")
    state = background.at(times, latitude, longitude, ig12)
    levels: SolarLevels = background.solar_levels(times, latitude, longitude)
    np.testing.assert_allclose(levels.fof2_at(ig12), state.fof2_mhz, rtol=1e-11)
    np.testing.assert_allclose(levels.hmf2_at(ig12), state.hmf2_km, rtol=1e-11)
    np.testing.assert_allclose(levels.m3000f2_at(ig12), state.m3000f2, rtol=1e-11)
    np.testing.assert_allclose(levels.b0_at(ig12), state.b0_km, rtol=1e-11)
    np.testing.assert_allclose(levels.b1_at(ig12), state.b1, rtol=1e-11)


def test_everything_stays_positive_where_the_maps_are_extrapolated(background: Background) -> None:
    latitude, longitude = (
        a.ravel() for a in np.meshgrid(np.arange(-90, 91, 6.0), np.arange(-180, 180, 12.0))
    )
    raw_minimum = np.inf
    for month in range(1, 13):
        for hour in (0, 8, 16):
            moment = datetime(2020, month, 15, hour, tzinfo=UTC)
            for ig12 in (-20.0, 200.0):
                state = background.on_grid(moment, latitude, longitude, ig12)
                for name, floor in zip(F2_FIELDS, background.floors, strict=True):
                    assert getattr(state, name).min() >= floor > 0, name
                assert state.foe_mhz.min() >= 0.7
            levels = background.solar_levels(moment, latitude, longitude)
            raw_minimum = min(raw_minimum, (levels.fof2_mhz[0] * 1.2 - levels.fof2_mhz[1] * 0.2).min())
    assert raw_minimum < background.floors[0], "the floor was never needed: this test shows nothing"


@given(
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    minutes=st.integers(0, 366 * 24 * 60),
    ig12=st.floats(-20, 200),
)
@settings(max_examples=60, deadline=None)
def test_longitude_is_periodic_and_batches_do_not_matter(
    background: Background, latitude: float, longitude: float, minutes: int, ig12: float
) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    alone = background.at(moment, latitude, longitude, ig12)
    wrapped = background.at(moment, latitude, longitude + (360 if longitude <= 0 else -360), ig12)
    np.testing.assert_allclose(wrapped.fof2_mhz, alone.fof2_mhz, rtol=1e-9)
    np.testing.assert_allclose(wrapped.foe_mhz, alone.foe_mhz, rtol=1e-9)
    times = [moment, moment + timedelta(hours=5), moment]
    many = background.at(times, [latitude, 3.0, -latitude], [longitude, 4.0, 5.0], [ig12, 50.0, ig12])
    assert many.fof2_mhz[0] == alone.fof2_mhz[0]
    assert many.b0_km[0] == alone.b0_km[0]


def test_poles_have_one_value_and_the_date_line_is_smooth(background: Background) -> None:
    moment = datetime(2022, 10, 25, 11, 15, tzinfo=UTC)
    for pole in (90.0, -90.0):
        state = background.on_grid(moment, pole, np.arange(-180.0, 181.0, 20.0), 80.0)
        for values in vars(state).values():
            assert np.ptp(values) <= 1e-9 * abs(values[0])
    latitude = np.arange(-90.0, 91.0, 3.0)
    west, east = (background.on_grid(moment, latitude, side, 80.0) for side in (179.9999, -179.9999))
    for name in F2_FIELDS:
        np.testing.assert_allclose(getattr(west, name), getattr(east, name), rtol=1e-4, err_msg=name)


def test_time_is_continuous_within_a_day_and_seconds_count(background: Background) -> None:
    midnight = np.datetime64("2022-03-10T00:00:00")
    times = midnight + np.arange(0, 86400, 20).astype("timedelta64[s]")
    state = background.at(times, 52.0, 5.0, 80.0)
    assert np.abs(np.diff(np.log(state.fof2_mhz))).max() < 2e-3
    assert np.all(np.diff(state.solar_zenith_deg) != 0)


def test_times_in_any_form_are_the_same_instant(background: Background) -> None:
    expected = background.at(datetime(2022, 10, 25, 10, 30, tzinfo=UTC), 50.0, 14.0, 80.0).fof2_mhz[0]
    forms: list[Any] = [
        np.datetime64("2022-10-25T10:30"),
        np.array(["2022-10-25T10:30"], dtype="datetime64[us]"),
        pd.DatetimeIndex(["2022-10-25T12:30+02:00"]),
        pd.Series(pd.to_datetime(["2022-10-25T10:30Z"]), index=[7]),
        [datetime(2022, 10, 25, 10, 30)],  # noqa: DTZ001 - without a zone means UTC
        pd.Timestamp("2022-10-25T06:30-04:00"),
    ]
    for form in forms:
        assert background.at(form, 50.0, 14.0, 80.0).fof2_mhz.tolist() == [expected]


def test_thread_count_and_order_change_nothing(background: Background) -> None:
    rng = np.random.default_rng(7)
    n = 3000
    latitude, longitude = rng.uniform(-90, 90, n), rng.uniform(-180, 180, n)
    times = np.datetime64("2022-12-30") + rng.integers(0, 300, n).astype("timedelta64[m]") * 15
    ig12 = rng.choice([40.0, 80.0], n)
    one = Background(n_threads=1).at(times, latitude, longitude, ig12)
    order = rng.permutation(n)
    for n_threads in (2, 3):
        many = Background(n_threads=n_threads).at(
            times[order], latitude[order], longitude[order], ig12[order]
        )
        for name, values in vars(one).items():
            assert np.array_equal(getattr(many, name), values[order]), name


def test_thread_count_must_be_positive() -> None:
    with pytest.raises(ValueError, match="n_threads = 0"):
        Background(n_threads=0)


def test_missing_coefficient_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="package PyIRI"):
        coefficient_folder()


@pytest.mark.parametrize("name", ["fof2", "b1", "qd_longitude_sin"])
def test_damaged_coefficients_are_named(name: str) -> None:
    arrays = {key: np.zeros((2, 12, 11, 900)) for key in ("fof2", "hmf2", "m3000f2", "b0", "b1")}
    arrays |= {key: np.zeros((3, 441)) for key in ("qd_latitude", "qd_longitude_cos", "qd_longitude_sin")}
    damaged = arrays[name].copy()
    damaged.flat[17] = np.nan
    with pytest.raises(ValueError, match=f"{name} holds the coefficient NaN"):
        rust_core.Climatology(**{**arrays, name: damaged}, first_year=2020)
    with pytest.raises(ValueError, match=f"{name} has shape"):
        rust_core.Climatology(**{**arrays, name: arrays[name][..., 1:].copy()}, first_year=2020)


def test_no_points_give_no_values(background: Background) -> None:
    assert background.at([], [], [], 80.0).fof2_mhz.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latitude_deg": [50.0, 90.1]}, r"latitude_deg\[1\] = 90.1 is outside -90..90"),
        ({"latitude_deg": [np.nan, 0.0]}, r"latitude_deg\[0\] = NaN"),
        ({"longitude_deg": [0.0, np.inf]}, r"longitude_deg\[1\] = inf"),
        ({"ig12": 200.5}, r"ig12\[0\] = 200.5 is outside -20..200"),
        ({"ig12": float("nan")}, r"ig12\[0\] = NaN"),
        ({"latitude_deg": [1.0, 2.0, 3.0], "ig12": 80.0}, "times has 2 values where 1 or 3 are needed"),
        ({"times": [datetime(1066, 10, 14, tzinfo=UTC)]}, r"times\[0\] lies in the year 1066"),
        ({"times": [pd.NaT]}, r"times\[0\] is not a time"),
        ({"times": 20221025}, "is a number, not a time"),
        ({"times": "yesterday at noon"}, "times: "),
    ],
)
def test_bad_arguments_are_named(background: Background, change: dict[str, Any], message: str) -> None:
    moment = datetime(2022, 10, 25, tzinfo=UTC)
    arguments: dict[str, Any] = {
        "times": [moment, moment],
        "latitude_deg": [50.0, 51.0],
        "longitude_deg": [14.0, 15.0],
        "ig12": 80.0,
    }
    with pytest.raises(ValueError, match=message):
        background.at(**{**arguments, **change})


def test_solar_indices_match_pyiri() -> None:
    import PyIRI.main_library as reference

    for f107_sfu in (62.0, 70.0, 115.0, 200.0, 297.0):
        assert f107_to_ig12(f107_sfu) == pytest.approx(reference.F107_2_IG12(f107_sfu), rel=1e-12)
    for ig12 in (-20.0, 0.0, 80.0, 177.0):
        assert ig12_to_r12(ig12) == pytest.approx(reference.IG12_2_R12(ig12), rel=1e-12)
    # Beyond the top of the relation PyIRI's index falls again, and its inverse is not a number: ours stay at the top.
    assert f107_to_ig12(400.0) == pytest.approx(178.01, abs=0.01)
    assert ig12_to_r12(200.0) == pytest.approx(247.29, abs=0.01)
    with pytest.raises(ValueError, match="f107_sfu = -1"):
        f107_to_ig12(-1.0)


def test_quasi_dipole_matches_pyiri(background: Background, pyiri: Any) -> None:
    for year in (1950, 2022):
        latitude, longitude = pyiri.Apex(LATITUDE_DEG, LONGITUDE_DEG, datetime(year, 7, 1), "GEO_2_QD")  # noqa: DTZ001
        found_latitude, found_longitude = background.quasi_dipole(LATITUDE_DEG, LONGITUDE_DEG, year)
        np.testing.assert_allclose(found_latitude, latitude, rtol=1e-9)
        np.testing.assert_allclose(found_longitude % 360, longitude, rtol=1e-9)
