"""The area that a network is judged by: points of a grid, each with its share of the surface and of the demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tasks.great_circle import unit_vectors
from tasks.grid import Grid

Array: TypeAlias = NDArray[np.float64]

STEPS_DEG = (0.25, 0.5, 1.0, 2.0, 2.5, 3.0, 5.0, 7.5, 10.0)
MOST_POINTS = 2_700
"""The globe at 5 degrees has 2,664: the weather term reaches 1,250 km along a meridian, so a finer sum gains nothing."""

Demand: TypeAlias = Callable[[Array, Array], Array]
"""Weights (n,) of places (n,), latitude and longitude in degrees; zero or more."""


class AreaError(ValueError):
    """An area, a demand or a mask was given that cannot be used; the message names it."""


@dataclass(frozen=True)
class Area:
    """Points (n,) in the order of the grid, with weights that sum to 1."""

    grid: Grid
    latitude_deg: Array
    longitude_deg: Array
    weight: Array
    surface_km2: Array

    def __len__(self) -> int:
        return self.latitude_deg.size

    @property
    def shape(self) -> tuple[int, int]:
        """Latitudes, longitudes."""
        latitudes, longitudes = self.grid.axes()
        return latitudes.size, longitudes.size

    @property
    def is_round(self) -> bool:
        """Whether the longitudes go once around the Earth."""
        return abs(self.shape[1] * self.grid.step_deg - 360.0) < 1e-6


def area_of(make_grid: Callable[[float], Grid], most_points: int = MOST_POINTS) -> Area:
    """The area of a region, as fine as `most_points` allow; every part of its surface counts alike.

    Args:
        make_grid: the region's grid for a spacing in degrees.
    """
    for step_deg in STEPS_DEG:
        grid = make_grid(step_deg)
        n_latitudes, n_longitudes = grid.shape()
        if n_latitudes * n_longitudes <= most_points:
            break
    latitude, longitude = grid.points()
    half = grid.step_deg / 2.0
    low, high = np.maximum(latitude - half, -90.0), np.minimum(latitude + half, 90.0)
    share = (np.sin(np.radians(high)) - np.sin(np.radians(low))) * np.radians(grid.step_deg)
    return Area(grid, latitude, longitude, share / share.sum(), share * 6371.0088**2)


def with_demand(area: Area, demand: Demand) -> Area:
    """The area with its parts weighted by a demand.

    Raises:
        AreaError: a weight is negative or no number, or the demand is zero everywhere.
    """
    wanted = np.asarray(demand(area.latitude_deg, area.longitude_deg), dtype=np.float64)
    if not np.isfinite(wanted).all() or (wanted < 0).any():
        raise AreaError("the demand must be a number of zero or more at every place")
    weight = area.weight * wanted
    if not weight.any():
        raise AreaError("the demand is zero everywhere in the area")
    return replace(area, weight=weight / weight.sum())


@dataclass(frozen=True)
class DemandPlaces:
    """Places that count."""

    name: str
    """What it is called in messages."""
    rows: pd.DataFrame
    """latitude_deg, longitude_deg and weight."""

    def __str__(self) -> str:
        return self.name


def read_demand(path: Path) -> DemandPlaces:
    """The places of a CSV file with latitude_deg, longitude_deg and weight.

    Raises:
        AreaError: the file cannot be read.
    """
    try:
        return DemandPlaces(str(path), pd.read_csv(path))
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise AreaError(f"demand {path}: cannot be read: {error}") from error


def with_demand_places(area: Area, demand: DemandPlaces) -> Area:
    """The area weighted by places; each counts at the nearest grid point, and those farther from it than the spacing are outside.

    Raises:
        AreaError: a column is missing, a value is none, or no place lies in the area.
    """
    names = ["latitude_deg", "longitude_deg", "weight"]
    rows = demand.rows
    if missing := [name for name in names if name not in rows]:
        raise AreaError(f"demand {demand}: lacks the columns {', '.join(missing)}")
    columns = [pd.to_numeric(rows[name], errors="coerce").to_numpy(np.float64) for name in names]
    latitude, longitude, weight = columns
    with np.errstate(invalid="ignore"):
        is_wrong = ~(
            (np.abs(latitude) <= 90) & (np.abs(longitude) <= 360) & (weight >= 0) & (weight < np.inf)
        )
    if is_wrong.any():
        row = int(np.flatnonzero(is_wrong)[0])
        raise AreaError(
            f"demand {demand}: row {row + 1} is no place with a weight of zero or more: "
            + ", ".join(str(rows[name].iloc[row]) for name in names)
        )
    tree = cKDTree(unit_vectors(area.latitude_deg, area.longitude_deg))
    distance, nearest = tree.query(unit_vectors(latitude, longitude))
    is_inside = distance <= np.radians(area.grid.step_deg)
    total = np.bincount(nearest[is_inside], weights=weight[is_inside], minlength=len(area))
    if not total.any():
        raise AreaError(f"demand {demand}: none of its {len(rows)} places has weight in the area")
    return replace(area, weight=total / total.sum())
