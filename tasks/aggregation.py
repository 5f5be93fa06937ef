"""Fast sounders combined, and the echoes of a sounder's window chosen that say most: by observation time, never by arrival.

Combining is per path window, clock interval, frequency and mode with inverse-variance weights; the correlated part of an error
stays. Choosing is greedy by how much an echo reduces the uncertainty of foF2, hmF2 and B0 (D-optimal design; a greedy choice
by mutual information is within 1 - 1/e of the best, Krause, Singh and Guestrin 2008).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.kernel_config import SounderConfig

Array: TypeAlias = NDArray[np.float64]

AVERAGED = ("group_delay_ms", "signal_strength_dbm", "snr_db", "elevation_deg")
KHZ_PER_MHZ = 1000.0


def fast_windows(rows: pd.DataFrame, config: SounderConfig) -> NDArray[np.bool_]:
    """Rows of windows in which their sounder observed more often than `config.fast_per_h`, shape (n,)."""
    n_rows = rows.groupby(["sounder_id", "window"], sort=False)["observed_at"].transform("size")
    return np.asarray(n_rows * 60.0 / config.window_minutes > config.fast_per_h, dtype=np.bool_)


def combine(rows: pd.DataFrame, error: pd.DataFrame, config: SounderConfig) -> pd.DataFrame:
    """One row for the echoes of a fast sounder with one frequency, mode, outcome and clock interval; others as they are.

    Args:
        rows: as `tasks.echoes.prepare` gives them.
        error: delay_ms and signal_db, the error (1 sd) of each row.

    Returns:
        The rows in their order (of a combination, that of its first), with `delay_error_ms`, `signal_error_db`, `n_combined`
        and `members`, a tuple of row numbers of the argument. Averages weigh by inverse variance; of k like errors the
        variance is the correlated share plus the rest over k. Positions, window and ids are the first row's, the time is the
        mean.
    """
    interval_us = np.int64(config.combined_s * 1e6)
    time_us = pd.DatetimeIndex(rows["observed_at"]).as_unit("us").asi8
    kilohertz = np.round(rows["frequency_mhz"].to_numpy(dtype=np.float64) * KHZ_PER_MHZ).astype(np.int64)
    is_fast = fast_windows(rows, config)
    own = np.arange(len(rows))
    key = pd.DataFrame(
        {
            "sounder_id": rows["sounder_id"],
            "window": rows["window"],
            "outcome": rows["outcome"],
            "mode": rows["mode"],
            "khz": kilohertz,
            "interval": time_us // interval_us,
            "alone": np.where(is_fast, -1, own),
        }
    )
    group = key.groupby(list(key.columns), sort=False).ngroup().to_numpy()
    n_groups = int(group.max(initial=-1)) + 1
    first = np.full(n_groups, len(rows))
    np.minimum.at(first, group, own)
    n_combined = np.bincount(group, minlength=n_groups)
    combined = rows.iloc[first].reset_index(drop=True)

    weight_of = {
        "group_delay_ms": error["delay_ms"].to_numpy() ** -2.0,
        "signal_strength_dbm": error["signal_db"].to_numpy() ** -2.0,
    }
    for name in AVERAGED:
        value = rows[name].to_numpy(dtype=np.float64)
        weight = np.where(np.isnan(value), 0.0, weight_of.get(name, weight_of["signal_strength_dbm"]))
        total = np.bincount(group, weights=weight, minlength=n_groups)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(group, weights=weight * np.nan_to_num(value), minlength=n_groups) / total
        # Of one row its own number, not the quotient of two products.
        combined[name] = np.where(n_combined == 1, value[first], mean)
    for column, name, of in (
        ("delay_error_ms", "delay_ms", "group_delay_ms"),
        ("signal_error_db", "signal_db", "signal_strength_dbm"),
    ):
        has_value = ~rows[of].isna().to_numpy()
        weight = np.where(has_value, error[name].to_numpy() ** -2.0, 0.0)
        n_own = np.maximum(np.bincount(group, weights=has_value, minlength=n_groups), 1.0)
        # Mean variance by weight: with one error for all of a sounder's rows it is that error's.
        total = np.bincount(group, weights=weight, minlength=n_groups)
        with np.errstate(divide="ignore"):
            variance = np.where(total > 0, n_own / total, error[name].to_numpy()[first] ** 2)
        share = config.correlated_share
        combined[column] = np.sqrt(variance * (share + (1.0 - share) / n_own))
    mean_us = np.bincount(group, weights=(time_us - time_us[first][group]), minlength=n_groups) / n_combined
    combined["observed_at"] = pd.to_datetime(
        time_us[first] + np.round(mean_us).astype(np.int64), unit="us", utc=True
    )
    combined["available_at"] = rows["available_at"].groupby(group).max().reset_index(drop=True)
    combined["n_combined"] = n_combined
    order = np.argsort(group, kind="stable")
    combined["members"] = (
        [tuple(part) for part in np.split(order, np.cumsum(n_combined)[:-1])] if n_groups else []
    )
    return combined.sort_values("members", key=lambda column: column.map(min), kind="stable").reset_index(
        drop=True
    )


def most_informative(
    sensitivity: Array, error: Array, ceiling_rank: Array, prior_sd: Array, n_most: int
) -> NDArray[np.int64]:
    """Which of n echoes to keep, ascending: those that together say most of the profile.

    Args:
        sensitivity: derivatives of each delay by ln foF2, hmF2 and ln B0, shape (n, 3); a row of NaN says nothing by its delay.
        error: of each delay, 1 sd in ms, shape (n,).
        ceiling_rank: how near each frequency is to the ceiling of its mode, shape (n,): the highest is kept in any case, since
            the ceiling must lie above it.
        prior_sd: of the three, shape (3,).
        n_most: number to keep.

    Ties go to the earlier row, so rows must come in an order of their own.
    """
    n = error.size
    if n <= n_most:
        return np.arange(n)
    scaled = np.nan_to_num(sensitivity * prior_sd) / error[:, None]
    kept = [int(np.argmax(ceiling_rank))]
    covariance = np.eye(scaled.shape[1])
    while True:
        row = scaled[kept[-1]]
        along = covariance @ row
        covariance = covariance - np.outer(along, along) / (1.0 + row @ along)
        if len(kept) == n_most:
            return np.sort(np.array(kept, dtype=np.int64))
        gain = np.einsum("ij,jk,ik->i", scaled, covariance, scaled)
        gain[kept] = -1.0
        kept.append(int(np.argmax(gain)))
