"""Where an analysis is computed: the points of the globe or of a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
        """The whole globe; 65,160 points at 1 degree."""
        if not 0 < step_deg <= 90:
            raise ValueError(f"step_deg must lie in 0..90, got {step_deg}")
        return cls(-90.0, -180.0, 90.0, 180.0 - step_deg, step_deg)

    @classmethod
    def box(cls, south: float, west: float, north: float, east: float, step_deg: float) -> Grid:
        """A region. Raises ValueError that names the edge at fault."""
        if not -90 <= south < north <= 90:
            raise ValueError(
                f"south and north must satisfy -90 <= south < north <= 90, got {south} and {north}"
            )
        if not (-180 <= west <= 180 and -180 <= east <= 180 and west != east):
            raise ValueError(f"west and east must lie in -180..180 and differ, got {west} and {east}")
        if not 0 < step_deg <= 90:
            raise ValueError(f"step_deg must lie in 0..90, got {step_deg}")
        return cls(south, west, north, east, step_deg)

    def axes(self) -> tuple[Array, Array]:
        """Latitudes and longitudes, both rising; longitudes go on beyond 180 where the box crosses the date line."""
        span = self.east - self.west + (360.0 if self.east < self.west else 0.0)
        n_latitudes = int(np.floor((self.north - self.south) / self.step_deg + 1e-9)) + 1
        n_longitudes = int(np.floor(span / self.step_deg + 1e-9)) + 1
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
