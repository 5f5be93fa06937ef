"""Where an analysis is computed: the points of the globe or of a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDEST_STEP_DEG = 90.0
MOST_POINTS = 2_000_000
"""The globe at a quarter of a degree has 1,038,240 points and takes a cycle 1.5 GB."""


@dataclass(frozen=True)
class Grid:
    """Points of an analysis: a box in degrees, edges included; `west` > `east` crosses the date line."""

    south: float
    west: float
    north: float
    east: float
    step_deg: float

    @classmethod
    def globe(cls, step_deg: float = 1.0) -> Grid:
        """The whole globe; 65,160 points at 1 degree. Raises ValueError for a spacing that cannot be."""
        return cls(-90.0, -180.0, 90.0, 180.0 - step_deg, step_deg)

    @classmethod
    def box(cls, south: float, west: float, north: float, east: float, step_deg: float) -> Grid:
        """A region. Raises ValueError that names the edge or the spacing at fault."""
        if not -90 <= south < north <= 90:
            raise ValueError(
                f"south and north must satisfy -90 <= south < north <= 90, got {south} and {north}"
            )
        if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east):
            raise ValueError(f"west and east must lie in -180..180 and differ, got {west} and {east}")
        return cls(south, west, north, east, step_deg)

    def __post_init__(self) -> None:
        if not 0 < self.step_deg <= WIDEST_STEP_DEG:
            raise ValueError(
                f"the spacing must be above 0 and at most {WIDEST_STEP_DEG:g} degrees, got {self.step_deg:g}"
            )
        n_latitudes, n_longitudes = self.shape()
        if n_latitudes * n_longitudes > MOST_POINTS:
            raise ValueError(
                f"{n_latitudes * n_longitudes:,} points {self.step_deg:g} degrees apart are more than {MOST_POINTS:,}: "
                "take a wider spacing or a smaller region"
            )

    def shape(self) -> tuple[int, int]:
        """How many latitudes and longitudes."""
        span = self.east - self.west + (360.0 if self.east < self.west else 0.0)
        return (
            int(np.floor((self.north - self.south) / self.step_deg + 1e-9)) + 1,
            int(np.floor(span / self.step_deg + 1e-9)) + 1,
        )

    def axes(self) -> tuple[Array, Array]:
        """Latitudes and longitudes, both rising; longitudes go on beyond 180 where the box crosses the date line."""
        n_latitudes, n_longitudes = self.shape()
        return (
            self.south + self.step_deg * np.arange(n_latitudes, dtype=np.float64),
            self.west + self.step_deg * np.arange(n_longitudes, dtype=np.float64),
        )

    def points(self) -> tuple[Array, Array]:
        """Latitude and longitude (-180..180) of every point, south to north, west to east, shapes (n,)."""
        latitudes, longitudes = self.axes()
        longitudes = np.where(longitudes > 180.0, longitudes - 360.0, longitudes)
        latitude, longitude = np.meshgrid(latitudes, longitudes, indexing="ij")
        return latitude.ravel(), longitude.ravel()
