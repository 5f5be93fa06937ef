"""How much foF2 varies from day to day within a month, by latitude, local time, season and solar activity.

Source: Recommendation ITU-R P.1239, tables 2 and 3, the decile factors Fl and Fu: 10 % of a month's days lie below Fl
times the monthly median and 10 % above Fu times it. `p1239.csv` holds their nodes.
"""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

TABLE = Path(__file__).with_name("p1239.csv")
#: Nodes of the table along each axis, in the order of its dimensions.
R12_CLASSES = ("<50", "50-100", ">100")
SEASONS = ("winter", "equinox", "summer")
LATITUDES_DEG = tuple(range(0, 91, 10))
LOCAL_TIMES = ("lt00", "lt04", "lt08", "lt12", "lt16", "lt20")

#: The classes' centres lie this far apart, the lowest at half of it: 25, 75 and 125.
R12_CLASS_WIDTH = 50.0
LATITUDE_STEP_DEG = 10.0
LOCAL_TIME_STEP_H = 4.0
DAY_H = 24.0
YEAR_D = 365.25
#: 21 December: northern winter is centred on it, and a quarter of a year later lies within 3 d of every solstice and equinox.
NORTHERN_WINTER_DAY = 355.0
#: From a normal distribution's 10 % to its 90 % point, in standard deviations: 2 x 1.2816.
DECILE_SPAN_SD = 2.0 * NormalDist().inv_cdf(0.9)


def sd_ln_fof2(
    latitude_deg: ArrayLike, local_time_h: ArrayLike, day_of_year: ArrayLike, r12: ArrayLike
) -> Array:
    """Standard deviation of ln foF2 about its monthly median, `(ln Fu - ln Fl) / (2 x 1.2816)`; 0.07-0.34.

    The arguments broadcast and the result has their common shape: geographic latitude in degrees; local time in hours,
    of any day (24 h periodic); day of the year, 1 January 00:00 is 1.0; the 12-month mean R12 of the sunspot number.

    Linear between the nodes of ITU-R P.1239 (tables 2 and 3) in each of them: absolute latitude; local time across
    midnight; season across New Year, with winter, equinox and summer a quarter of a year apart and exchanged south of
    the equator, where the table has winter equal to summer and so makes no step; R12 between the centres of the classes, 25,
    75 and 125, and held beyond them. Raises ValueError for values that are not finite, a latitude outside -90..90, a day
    outside 1..367, or shapes that do not broadcast.
    """
    latitude = _finite("latitude_deg", latitude_deg)
    hour = _finite("local_time_h", local_time_h)
    day = _finite("day_of_year", day_of_year)
    sunspots = _finite("r12", r12)
    _within("latitude_deg", latitude, -90.0, 90.0)
    _within("day_of_year", day, 1.0, 367.0)

    from_winter_d = np.abs((day - NORTHERN_WINTER_DAY + YEAR_D / 2) % YEAR_D - YEAR_D / 2)
    northern_season = from_winter_d / (YEAR_D / 4)  # 0 winter, 1 equinox, 2 summer
    return _multilinear(
        _sd_at_nodes(),
        np.clip(sunspots / R12_CLASS_WIDTH - 0.5, 0.0, len(R12_CLASSES) - 1.0),
        np.where(latitude < 0, 2.0 - northern_season, northern_season),
        np.abs(latitude) / LATITUDE_STEP_DEG,
        hour % DAY_H / LOCAL_TIME_STEP_H,
    )


@functools.cache
def _sd_at_nodes() -> Array:
    """Shape (3 R12, 3 seasons, 10 latitudes, 7 local times): 24 h repeats 0 h."""
    factors = pd.read_csv(TABLE, comment="#").set_index(["decile", "r12", "season", "latitude_deg"])
    rows = pd.MultiIndex.from_product([R12_CLASSES, SEASONS, LATITUDES_DEG])
    lower, upper = (
        factors.loc[decile].loc[rows, list(LOCAL_TIMES)].to_numpy(np.float64) for decile in ("lower", "upper")
    )
    shape = (len(R12_CLASSES), len(SEASONS), len(LATITUDES_DEG), len(LOCAL_TIMES))
    sd = (np.log(upper / lower) / DECILE_SPAN_SD).reshape(shape)
    return np.concatenate([sd, sd[..., :1]], axis=-1)


def _multilinear(table: Array, *positions: Array) -> Array:
    """`table` at positions counted in nodes along each of its axes, which broadcast and lie within it."""
    below = [
        np.minimum(position.astype(np.intp), n - 2)
        for position, n in zip(positions, table.shape, strict=True)
    ]
    above_share = [position - node for position, node in zip(positions, below, strict=True)]
    total: Array = np.zeros(())
    for corner in itertools.product((0, 1), repeat=table.ndim):
        weight = functools.reduce(
            np.multiply,
            (share if side else 1.0 - share for side, share in zip(corner, above_share, strict=True)),
        )
        total = total + weight * table[tuple(node + side for node, side in zip(below, corner, strict=True))]
    return np.asarray(total)


def _finite(name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]}")
    return array


def _within(name: str, values: Array, lowest: float, highest: float) -> None:
    outside = values[(values < lowest) | (values > highest)]
    if outside.size:
        raise ValueError(f"{name} must lie in {lowest:g}..{highest:g}, got {outside[0]:g}")
