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
