"""Coverage gaps: connected regions where the map knows little more than the climatology."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.great_circle import unit_vectors
from tasks.posterior import Targets
from tasks.target_area import Area

Array: TypeAlias = NDArray[np.float64]

OPEN_SHARE = 0.8
"""Of the background's sd: above, the observations took less than 36 % of the variance."""


@dataclass(frozen=True)
class Gap:
    """One region; its places are points of the area."""

    latitude_deg: float
    """Of its middle."""
    longitude_deg: float
    surface_km2: float
    demand_share: float
    """Of the area's weight."""
    sd_mhz: float
    """Root of the mean variance of foF2 there."""
    sd_share: float
    """Of the background's."""
    worst_latitude_deg: float
    """Where the sd is largest."""
    worst_longitude_deg: float
    worst_sd_mhz: float
    n_points: int


def find_gaps(targets: Targets, *, open_share: float = OPEN_SHARE) -> list[Gap]:
    """Regions whose sd is above a share of the background's, largest part of the demand first; places without demand count not.

    Neighbours are the four of a grid point, over the date line too; all points of a pole are one.
    """
    return [gap for gap, _ in _gaps(targets, open_share)]


def closed_shares(before: Targets, after: Targets, *, open_share: float = OPEN_SHARE) -> list[float]:
    """Of the surface of each gap of `find_gaps(before)`, the share that is none any more; both over one area."""
    surface = before.area.surface_km2
    is_closed = after.sd_share <= open_share
    return [
        float(surface[own & is_closed].sum() / surface[own].sum()) for _, own in _gaps(before, open_share)
    ]


def _gaps(targets: Targets, open_share: float) -> list[tuple[Gap, NDArray[np.bool_]]]:
    """Gaps and their points."""
    is_open = (targets.sd_share > open_share) & (targets.area.weight > 0)
    label = regions(is_open, targets.area)
    found = [
        (_describe(targets, own), own) for number in np.unique(label[label > 0]) for own in [label == number]
    ]
    return sorted(found, key=lambda one: (-one[0].demand_share, one[0].latitude_deg, one[0].longitude_deg))


def regions(is_open: NDArray[np.bool_], area: Area) -> NDArray[np.int64]:
    """A number from 1 for each point (n,) of a connected region, 0 elsewhere."""
    grid = is_open.reshape(area.shape)
    label, n_regions = ndimage.label(grid)
    same = np.arange(n_regions + 1)

    def join(a: int, b: int) -> None:
        low, high = sorted((same[a], same[b]))
        same[same == high] = low

    if area.is_round:
        for west, east in zip(label[:, 0], label[:, -1], strict=True):
            if west and east:
                join(west, east)
    for row, latitude in zip(label, area.grid.axes()[0], strict=True):
        if abs(latitude) == 90.0:
            for a, b in zip(row[row > 0][:-1], row[row > 0][1:], strict=True):
                join(a, b)
    return np.asarray(same[label].ravel(), dtype=np.int64)


def _describe(targets: Targets, own: NDArray[np.bool_]) -> Gap:
    area = targets.area
    surface = area.surface_km2[own]
    middle = surface @ unit_vectors(area.latitude_deg[own], area.longitude_deg[own])
    variance, prior = (
        float(np.average(targets.mhz2[own] * values[own], weights=surface))
        for values in (targets.ln_variance, targets.ln_prior_variance)
    )
    worst = int(np.flatnonzero(own)[np.argmax(targets.sd_mhz[own])])
    return Gap(
        latitude_deg=float(np.degrees(np.arctan2(middle[2], np.hypot(middle[0], middle[1])))),
        longitude_deg=float(np.degrees(np.arctan2(middle[1], middle[0]))),
        surface_km2=float(surface.sum()),
        demand_share=float(area.weight[own].sum()),
        sd_mhz=float(np.sqrt(variance)),
        sd_share=float(np.sqrt(variance / prior)),
        worst_latitude_deg=float(area.latitude_deg[worst]),
        worst_longitude_deg=float(area.longitude_deg[worst]),
        worst_sd_mhz=float(targets.sd_mhz[worst]),
        n_points=int(own.sum()),
    )
