"""Quality control of a station by itself: a value that leaves its own neighbours in time is no ionosphere.

It comes before the checks that need the covariance, and so also spares them: a cluster of gross errors at one station
would speak for itself in a leave-one-out score. In pandas, whose rolling median is compiled; nothing here is quadratic.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

HALF_WIDTH_H = 1.5
"""Neighbours are at most that far in time: longer, and sunrise is no line any more."""
MIN_NEIGHBOURS = 5
"""With fewer, one of them decides the median: hourly stations are left to the other checks."""
ROBUST_SD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
FEWEST_REPEATS, SHORTEST_STILL_H = 5, 3.0
"""A value is suspected of standing still from so many readings and hours on: of 236,000 real foF2 none does."""
STILL_SHARE = 0.5
"""Of the rate check's limit, that the climatology must have moved meanwhile: a flat night read in steps of 0.1 MHz has not."""


def leaves_its_neighbours(
    series: NDArray[np.int64], time_h: Array, departure: Array, floor: Array, limit_sd: float
) -> NDArray[np.bool_]:
    """Which rows differ from the running median of their own series by more than `limit_sd` robust standard deviations.

    The deviation is the series' own (its median absolute difference from its running median), `floor` at least.

    Args:
        series: number of the series (a station's quantity) of each row, ascending from 0 or with gaps, shape (n,).
        time_h: hours, shape (n,), in any order.
        departure: from the climatology in the unit of the innovations, shape (n,); NaN is no neighbour and is not judged.
        floor: standard deviation that a series is granted, in the unit of `departure`, shape (n,).
        limit_sd: positive.
    """
    if not departure.size:
        return np.zeros(0, dtype=np.bool_)
    # One axis of time for all series, each too far from the one before to reach it: one pass and no loop over stations.
    stride_h = np.ptp(time_h) + 3.0 * HALF_WIDTH_H
    axis_h = (time_h - time_h.min()) + stride_h * series
    order = np.argsort(axis_h, kind="stable")
    rows = pd.Series(departure[order], index=pd.to_timedelta(np.round(axis_h[order] * 3.6e6), unit="ms"))
    window = rows.rolling(
        pd.Timedelta(hours=2.0 * HALF_WIDTH_H), center=True, closed="both", min_periods=MIN_NEIGHBOURS + 1
    )
    difference = np.empty_like(departure)
    difference[order] = (rows - window.median()).to_numpy()
    sd = pd.Series(np.abs(difference)).groupby(series).transform("median").to_numpy() * ROBUST_SD
    # Rows without enough neighbours have no difference: a comparison with NaN is false.
    is_off: NDArray[np.bool_] = np.abs(difference) > limit_sd * np.fmax(sd, floor)
    return is_off


def stands_still(
    series: NDArray[np.int64], time_h: Array, value: Array, departure: Array, floor: Array, limit_sd: float
) -> NDArray[np.bool_]:
    """Which rows belong to a run of one repeated value while the climatology moved: a feed or an autoscaler that hangs.

    Such rows confirm one another, in the running median and in the leave-one-out score alike.

    Args:
        series, time_h, departure, floor, limit_sd: as of `leaves_its_neighbours`.
        value: as read, in the quantity's unit, shape (n,); NaN is no reading and interrupts no run.
    """
    is_still = np.zeros(value.size, dtype=np.bool_)
    rows = np.flatnonzero(~np.isnan(value) & ~np.isnan(departure))
    if not rows.size:
        return is_still
    rows = rows[np.lexsort((time_h[rows], series[rows]))]
    is_new = np.ones(rows.size, dtype=np.bool_)
    is_new[1:] = (np.diff(series[rows]) != 0) | (np.diff(value[rows]) != 0)
    frame = pd.DataFrame({"run": np.cumsum(is_new), "time_h": time_h[rows], "departure": departure[rows]})
    runs = frame.groupby("run").agg(
        n=("time_h", "nunique"),
        first_h=("time_h", "min"),
        last_h=("time_h", "max"),
        lowest=("departure", "min"),
        highest=("departure", "max"),
    )
    # While the value stands still, its departure moves as the climatology does.
    moved = (runs["highest"] - runs["lowest"]).to_numpy() > STILL_SHARE * limit_sd * floor[rows][is_new]
    is_long = (runs["n"] >= FEWEST_REPEATS) & (runs["last_h"] - runs["first_h"] >= SHORTEST_STILL_H)
    is_still[rows] = (is_long.to_numpy() & moved)[frame["run"].to_numpy() - 1]
    return is_still
