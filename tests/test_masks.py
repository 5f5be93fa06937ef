"""Where sounders may stand and what counts: polygons over the date line and the poles, land, areas and demands."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.grid import Grid
from tasks.masks import box_mask, on_land, polygon_mask
from tasks.target_area import Area, AreaError, area_of, read_demand, with_demand, with_demand_places
from tasks.window import EARTH_RADIUS_KM

RING = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def holds(tmp_path: Path, document: dict[str, Any], *places: tuple[float, float]) -> list[bool]:
    """Whether the mask of a GeoJSON document allows places, latitude first."""
    path = tmp_path / "mask.geojson"
    path.write_text(json.dumps(document), encoding="utf-8")
    latitude, longitude = (np.array(axis, dtype=float) for axis in zip(*places, strict=True))
    return [bool(value) for value in polygon_mask(path)(latitude, longitude)]


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda geometry: geometry,
        lambda geometry: {"type": "Feature", "properties": None, "geometry": geometry},
        lambda geometry: {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": {}, "geometry": None},
                {"type": "Feature", "properties": {}, "geometry": geometry},
            ],
        },
        lambda geometry: {"type": "GeometryCollection", "geometries": [geometry]},
        lambda geometry: {"type": "MultiPolygon", "coordinates": [geometry["coordinates"]]},
    ],
)
def test_polygons_in_any_wrapping(tmp_path: Path, wrap: Any) -> None:
    hole = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]
    places = ((5, 2), (5, 5), (5, 12), (-1, 5), (5, 362), (5, -355))
    assert holds(tmp_path, wrap(polygon(RING, hole)), *places) == [True, False, False, False, True, False]
    outside = [[lon, lat - 60] for lon, lat in RING]
    many = {"type": "MultiPolygon", "coordinates": [[RING], [outside]]}
    assert holds(tmp_path, many, (5, 5), (-55, 5), (-20, 5)) == [True, True, False]


@pytest.mark.parametrize(
    "ring",
    [
        [[170, -20], [-170, -20], [-170, 10], [170, 10], [170, -20]],
        [[170, -20], [190, -20], [190, 10], [170, 10], [170, -20]],
        [[-190, -20], [-170, -20], [-170, 10], [-190, 10], [-190, -20]],
        [[-170, 10], [-170, -20], [170, -20], [170, 10], [-170, 10]],
    ],
)
def test_a_ring_over_the_date_line(tmp_path: Path, ring: list[list[float]]) -> None:
    places = ((0, 175), (0, -175), (0, 180), (0, -180), (0, 165), (0, -165), (0, 0), (20, 180))
    expected = [True, True, True, True, False, False, False, False]
    assert holds(tmp_path, polygon(ring), *places) == expected


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("hemisphere", [1, -1])
def test_a_ring_around_a_pole_holds_the_pole(tmp_path: Path, way: int, hemisphere: int) -> None:
    ring = [[float(way * longitude), 70.0 * hemisphere] for longitude in range(-180, 181, 40)]
    places = ((90, 0), (-90, 0), (80, 170), (-80, -170), (60, 0), (-60, 0))
    north = [True, False, True, False, False, False]
    south = [False, True, False, True, False, False]
    assert holds(tmp_path, polygon(ring), *places) == (north if hemisphere > 0 else south)


def test_the_whole_world_as_a_box(tmp_path: Path) -> None:
    ring = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
    places = ((0, 0), (90, 0), (-90, 0), (10, 180), (10, -180), (-45, 100))
    assert all(holds(tmp_path, polygon(ring), *places))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as GeoJSON"),
        ('{"type": "Point", "coordinates": [0, 0]}', "holds no Polygon"),
        ('{"features": []}', "is no GeoJSON"),
        ("[1, 2]", "is no GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "at least four positions"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 91], [2, 0], [0, 0]]]}', "longitude, latitude"),
        ('{"type": "Polygon", "coordinates": [[[0], [1], [2], [0]]]}', "is no GeoJSON|at least four"),
    ],
)
def test_a_faulty_mask_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mask.geojson"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AreaError, match=message) as caught:
        polygon_mask(path)
    assert str(path) in str(caught.value)
    with pytest.raises(AreaError, match="cannot be read"):
        polygon_mask(tmp_path / "none.geojson")


def test_boxes_and_land() -> None:
    latitude = np.array([0.0, 0.0, 0.0, 60.0])
    longitude = np.array([175.0, -175.0, 0.0, 180.0])
    assert box_mask(-10, 170, 10, -170)(latitude, longitude).tolist() == [True, True, False, False]
    assert box_mask(-90, -180, 90, 180)(latitude, longitude).all()
    # Prague, Canberra, the South Pole, Chukotka on both sides of the date line; Atlantic, North Pole, Lake Victoria.
    land = np.array([[50.1, 14.4], [-35.3, 149.0], [-90.0, 0.0], [67.0, 179.9], [67.0, -179.9]])
    water = np.array([[45.0, -30.0], [90.0, 0.0], [-1.0, 33.0], [0.0, 180.0], [0.0, -180.0]])
    assert on_land(*land.T).all()
    assert not on_land(*water.T).any()


def globe(step_deg: float = 10.0) -> Area:
    return area_of(lambda _: Grid.globe(step_deg))


def test_the_weights_of_an_area_are_its_surface() -> None:
    area = globe()
    assert area.weight.sum() == pytest.approx(1.0)
    assert area.surface_km2.sum() == pytest.approx(4.0 * np.pi * EARTH_RADIUS_KM**2, rel=1e-5)
    north = area.latitude_deg > 30.0
    assert area.weight[north].sum() == pytest.approx(0.5 * (1.0 - np.sin(np.radians(35.0))), rel=1e-9)
    assert area.is_round
    small = area_of(lambda step: Grid.box(-10.0, 170.0, 10.0, -170.0, step), most_points=100)
    assert (small.grid.step_deg, small.is_round, len(small)) == (2.5, False, 81)


def test_a_demand_weighs_and_is_checked(tmp_path: Path) -> None:
    area = globe()
    north = with_demand(area, lambda latitude, _: (latitude > 0).astype(float))
    assert north.weight.sum() == pytest.approx(1.0)
    assert not north.weight[area.latitude_deg < 0].any()
    for wrong, message in ((-1.0, "zero or more"), (np.nan, "zero or more"), (0.0, "zero everywhere")):
        with pytest.raises(AreaError, match=message):
            with_demand(area, partial(lambda value, latitude, _: np.full(latitude.size, value), wrong))
    path = tmp_path / "demand.csv"
    path.write_text("latitude_deg,longitude_deg,weight\n51,179.9,1\n49,-179.8,2\n0,181,1\n", encoding="utf-8")
    demanded = with_demand_places(area, read_demand(path))
    at = {
        (area.latitude_deg[i], area.longitude_deg[i]): demanded.weight[i]
        for i in np.flatnonzero(demanded.weight)
    }
    assert at == {(50.0, -180.0): pytest.approx(0.75), (0.0, -180.0): pytest.approx(0.25)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latitude_deg,longitude_deg\n1,2\n", "lacks the columns weight"),
        ("latitude_deg,longitude_deg,weight\n1,2,3\n91,2,3\n", "row 2 is no place"),
        ("latitude_deg,longitude_deg,weight\n1,2,-3\n", "row 1 is no place"),
        ("latitude_deg,longitude_deg,weight\n1,east,3\n", "row 1 is no place"),
        ("latitude_deg,longitude_deg,weight\n-60,2,3\n", "none of its 1 places has weight in the area"),
        ("latitude_deg,longitude_deg,weight\n", "none of its 0 places"),
        ("", "cannot be read"),
    ],
)
def test_a_faulty_demand_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "demand.csv"
    path.write_text(text, encoding="utf-8")
    area = area_of(lambda step: Grid.box(40.0, 0.0, 50.0, 20.0, step))
    with pytest.raises(AreaError, match=message) as caught:
        with_demand_places(area, read_demand(path))
    assert str(path) in str(caught.value)
