"""The map: grids, solar geometry, coast lines, and what is seen in the picture."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.map import (
    WIDTH_PX,
    coastlines,
    contour_levels,
    contour_lines,
    cos_solar_zenith,
    draw_map,
    grid_of,
    subsolar_point,
)
from tasks.products import describe_stations
from tests.product_cycles import EUROPE, VALID_TIME, make_analysis, make_cycle, smooth_fof2

GLOBE = (np.arange(-90.0, 91.0, 5.0), np.arange(-180.0, 180.0, 5.0))


def render(analysis: pd.DataFrame, stations: pd.DataFrame, **changes: object) -> bytes:
    stream = io.BytesIO()
    arguments: dict[str, object] = {
        "valid_time": VALID_TIME,
        "title_note": "cycle 20221025T1000Z",
        "credit": "Observations: none.",
        "is_simulated": False,
        **changes,
    }
    draw_map(analysis, stations, path=stream, **arguments)  # type: ignore[arg-type]
    return stream.getvalue()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"), float)


def test_grid_interpolates_bilinearly_and_wraps() -> None:
    grid = grid_of(make_analysis(*GLOBE, VALID_TIME), ["fof2_mhz"])
    assert grid.is_global
    on_nodes = grid.at("fof2_mhz", [-90.0, 45.0, 90.0], [-180.0, 20.0, 175.0])
    expected = smooth_fof2(np.array([-90.0, 45.0, 90.0]), np.array([-180.0, 20.0, 175.0]))
    np.testing.assert_allclose(on_nodes, expected, rtol=1e-12)
    # between the last column (175) and the first (180), and the same place named twice
    seam = grid.at("fof2_mhz", [10.0, 10.0], [177.5, -182.5])
    sides = smooth_fof2(np.array([10.0, 10.0]), np.array([175.0, 180.0]))
    np.testing.assert_allclose(seam, sides.mean(), rtol=1e-12)


def test_grid_knows_what_lies_outside() -> None:
    grid = grid_of(make_analysis(np.arange(30.0, 61.0), np.arange(-10.0, 31.0), VALID_TIME), ["fof2_mhz"])
    assert not grid.is_global
    inside = np.isfinite(grid.at("fof2_mhz", [30.0, 60.0, 29.9, 45.0, 45.0], [-10.0, 30.0, 0.0, 30.1, -10.1]))
    assert inside.tolist() == [True, True, False, False, False]


def test_region_across_the_date_line_is_one_piece() -> None:
    analysis = make_analysis(np.arange(-20.0, 21.0, 2.0), np.arange(160.0, 201.0, 2.0), VALID_TIME)
    grid = grid_of(analysis, ["fof2_mhz"])
    assert not grid.is_global
    np.testing.assert_allclose(grid.longitude_deg, np.arange(160.0, 201.0, 2.0))
    assert np.isfinite(grid.at("fof2_mhz", 0.0, -175.0))
    assert np.isnan(grid.at("fof2_mhz", 0.0, -155.0))


def test_grid_takes_both_names_of_the_date_line_and_any_row_order() -> None:
    latitude, longitude = GLOBE
    closed = make_analysis(latitude, np.append(longitude, 180.0), VALID_TIME)
    closed.loc[closed.index % len(np.append(longitude, 180.0)) == len(longitude), "longitude_deg"] = 180.0
    shuffled = closed.sample(frac=1.0, random_state=1)
    expected = grid_of(make_analysis(latitude, longitude, VALID_TIME), ["fof2_mhz"])
    for analysis in (closed, shuffled):
        found = grid_of(analysis, ["fof2_mhz"]).fields["fof2_mhz"]
        np.testing.assert_allclose(found, expected.fields["fof2_mhz"], rtol=1e-12)


def test_grid_takes_the_shortest_lead() -> None:
    now = make_analysis(*GLOBE, VALID_TIME)
    later = now.assign(lead_h=3.0, fof2_mhz=now["fof2_mhz"] + 5.0)
    grid = grid_of(pd.concat([later, now]), ["fof2_mhz"])
    assert grid.fields["fof2_mhz"].max() == now["fof2_mhz"].max()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame.drop(columns="fof2_mhz"), "lacks the columns fof2_mhz"),
        (lambda frame: frame.iloc[:0], "no rows"),
        (lambda frame: frame[frame["latitude_deg"] == 0.0], "1 by 72 points"),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "same place twice"),
    ],
)
def test_grid_refuses_what_it_cannot_draw(spoil, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_of(spoil(make_analysis(*GLOBE, VALID_TIME)), ["fof2_mhz"])


@given(st.floats(-50, 50), st.floats(0, 60))
def test_levels_cover_the_field(low: float, span: float) -> None:
    levels = contour_levels(np.array([low, low + span, np.nan]))
    assert levels[0] <= low + 1e-9
    assert levels[-1] >= low + span - 1e-9
    assert len(levels) >= 2
    assert (np.diff(levels) > 0).all()
    symmetric = contour_levels(np.array([low, low + span]), is_symmetric=True)
    np.testing.assert_allclose(symmetric, -symmetric[::-1], atol=1e-12)
    assert symmetric[0] <= min(low, -low - span) + 1e-9
    assert len(symmetric) % 2 == 0, "zero lies inside the middle interval, not on a line"


def test_levels_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no finite value"):
        contour_levels(np.array([np.nan]))


def test_contour_lines_lie_on_their_level() -> None:
    grid = grid_of(make_analysis(*GLOBE, VALID_TIME), ["fof2_mhz"])
    lines = contour_lines(grid, "fof2_mhz", [6.0, 8.0, 99.0])
    assert set(lines) == {6.0, 8.0}
    for level, pieces in lines.items():
        for piece in pieces:
            np.testing.assert_allclose(grid.at("fof2_mhz", piece[:, 1], piece[:, 0]), level, atol=0.02)


@pytest.mark.parametrize(
    ("time", "declination", "longitude"),
    [
        # Equinox and solstices of 2022; equation of time by the Astronomical Almanac.
        (datetime(2022, 3, 20, 15, 33, tzinfo=UTC), 0.0, -51.4),
        (datetime(2022, 6, 21, 9, 14, tzinfo=UTC), 23.44, 42.0),
        (datetime(2022, 12, 21, 21, 48, tzinfo=UTC), -23.44, -147.5),
        (datetime(2022, 11, 3, 12, 0, tzinfo=UTC), -15.1, -4.1),
    ],
)
def test_subsolar_point(time: datetime, declination: float, longitude: float) -> None:
    latitude_deg, longitude_deg = subsolar_point(time)
    assert latitude_deg == pytest.approx(declination, abs=0.1)
    assert longitude_deg == pytest.approx(longitude, abs=0.25)


@given(st.integers(0, 20 * 365 * 96), st.floats(-90, 90), st.floats(-180, 180))
def test_sun_is_highest_below_it_and_opposite_at_the_antipode(
    quarters: int, latitude: float, longitude: float
) -> None:
    time = datetime(2005, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * quarters)
    declination, subsolar = subsolar_point(time)
    assert abs(declination) <= 23.45
    assert cos_solar_zenith(time, declination, subsolar) == pytest.approx(1.0)
    here = cos_solar_zenith(time, latitude, longitude)
    assert -1.0 - 1e-12 <= here <= 1.0 + 1e-12
    assert cos_solar_zenith(time, -latitude, longitude + 180.0) == pytest.approx(-float(here), abs=1e-12)


def test_sun_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        subsolar_point(datetime(2022, 10, 25, 10, 0))  # noqa: DTZ001


@pytest.mark.parametrize("resolution", ["c", "l"])
def test_coastlines_are_whole_and_in_place(resolution: str) -> None:
    lines = coastlines(resolution)
    points = np.concatenate(lines)
    assert np.abs(points[:, 0]).max() <= 180.0
    assert np.abs(points[:, 1]).max() <= 90.0
    for line in lines:
        assert np.abs(np.diff(line[:, 0])).max() < 20.0, "a seam was left in"
        assert not ((np.abs(line[:-1, 0]) > 179.99) & (np.abs(line[1:, 0]) > 179.99)).any()
    # Land's End, the Cape of Good Hope, and no coast in the middle of the South Pacific
    for latitude, longitude in ((50.07, -5.71), (-34.35, 18.47)):
        assert np.hypot(points[:, 1] - latitude, points[:, 0] - longitude).min() < 0.4
    assert np.hypot(points[:, 1] + 45.0, points[:, 0] + 130.0).min() > 10.0


def test_same_cycle_same_bytes_whatever_the_users_settings() -> None:
    import matplotlib as mpl

    cycle, _ = make_cycle()
    stations = describe_stations(cycle.feedback, VALID_TIME)
    first = render(cycle.analysis, stations)
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 50, "lines.linewidth": 9}):
        second = render(
            cycle.analysis.sample(frac=1, random_state=2), stations.sample(frac=1, random_state=2)
        )
    assert first == second
    assert b"Software" not in first
    assert b"matplotlib" not in first.lower()


@pytest.mark.parametrize("globe", [True, False])
def test_picture_has_colour_text_and_size(globe: bool) -> None:
    where = {"latitude_deg": GLOBE[0], "longitude_deg": GLOBE[1]} if globe else {}
    cycle, _ = make_cycle(**where)
    image = pixels(render(cycle.analysis, describe_stations(cycle.feedback, VALID_TIME)))
    assert image.shape[1] == WIDTH_PX
    assert 900 <= image.shape[0] <= 1500
    is_white = (image > 250).all(axis=2)
    assert 0.1 < is_white.mean() < 0.7
    # The frame of the picture stays white: nothing is cut off.
    for edge in (is_white[:4], is_white[-4:], is_white[:, :4], is_white[:, -4:]):
        assert edge.all()
    assert len(np.unique(image @ np.array([65_536.0, 256.0, 1.0]))) > 100


def test_dot_is_drawn_at_its_place_in_its_colour() -> None:
    """A sounder that disagrees with the map shows as a spot of its own colour where it stands."""
    import matplotlib as mpl

    latitude, longitude = GLOBE
    where = {"latitude_deg": latitude, "longitude_deg": longitude}
    cycle, _ = make_cycle(stations={"XX001": (-35.0, -100.0)}, **where)
    stations = describe_stations(cycle.feedback, VALID_TIME)
    image = pixels(render(cycle.analysis, stations.assign(fof2_mhz=9.9)))
    without = pixels(render(cycle.analysis, stations.assign(fof2_mhz=9.9, longitude_deg=100.0)))
    # The large map is 1288 by 644 pixels, its upper left corner at (56, 122).
    column = round(56 + (-100.0 + 180.0) / 360.0 * 1288)
    row = round(122 + (90.0 + 35.0) / 180.0 * 644)
    spot, before = image[row, column], without[row, column]
    levels = contour_levels(cycle.analysis["fof2_mhz"].to_numpy())
    colour = mpl.colormaps["viridis"]
    norm = mpl.colors.BoundaryNorm(levels, colour.N)
    np.testing.assert_allclose(spot, 255 * np.array(colour(norm(9.9)))[:3], atol=3)
    there = smooth_fof2(np.array(-35.0), np.array(-100.0))
    np.testing.assert_allclose(before, 255 * np.array(colour(norm(float(there))))[:3], atol=3)


def test_rejected_observation_and_simulation_are_marked_in_red() -> None:
    def n_red(png: bytes, rows: slice) -> int:
        return int((np.abs(pixels(png)[rows] - np.array([0xB3, 0x12, 0x3B])).max(axis=2) < 40).sum())

    cycle, _ = make_cycle()
    bad, _ = make_cycle(rejected="AT138")
    good_stations = describe_stations(cycle.feedback, VALID_TIME)
    plain = render(cycle.analysis, good_stations)
    rejected = render(bad.analysis, describe_stations(bad.feedback, VALID_TIME))
    simulated = render(cycle.analysis, good_stations, is_simulated=True)
    body, title = slice(130, 900), slice(0, 60)
    assert n_red(rejected, body) > n_red(plain, body) + 20
    assert n_red(plain, title) == 0
    assert n_red(simulated, title) > 50


def test_labels_never_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowd sixty sounders into Europe: every label that is drawn stays clear of the others and of the dots."""
    from matplotlib.figure import Figure

    generator = np.random.default_rng(4)
    crowd = {f"S{i:03d}": (generator.uniform(36, 60), generator.uniform(-10, 35)) for i in range(60)}
    cycle, _ = make_cycle(stations=crowd)
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    render(cycle.analysis, describe_stations(cycle.feedback, VALID_TIME))
    axes = drawn[0].axes[0]
    labels = [text for text in axes.texts if text.get_text()]
    frames = [text.get_window_extent() for text in labels]
    assert len(frames) > 20
    for i, one in enumerate(frames):
        assert axes.bbox.x0 < one.x0
        assert one.x1 < axes.bbox.x1
        for other in frames[i + 1 :]:
            assert not one.overlaps(other)
    dots = axes.transData.transform([(longitude, latitude) for latitude, longitude in crowd.values()])
    for frame in frames:
        assert not any(frame.contains(x, y) for x, y in dots)


def test_station_outside_the_region_is_not_drawn() -> None:
    cycle, _ = make_cycle()
    inside = describe_stations(cycle.feedback, VALID_TIME)
    far, _ = make_cycle(stations={**EUROPE, "JI91J": (-12.0, -76.8)})
    assert render(cycle.analysis, inside) == render(
        cycle.analysis, describe_stations(far.feedback, VALID_TIME)
    )


def test_map_without_stations_and_with_gaps() -> None:
    cycle, _ = make_cycle(stations={})
    analysis = cycle.analysis.copy()
    analysis.loc[analysis["latitude_deg"] > 60.0, ["fof2_mhz", "fof2_mhz_sd"]] = np.nan
    assert render(analysis, describe_stations(cycle.feedback, VALID_TIME))[:4] == b"\x89PNG"
