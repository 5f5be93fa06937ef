"""Planetary index Kp beside observations: how disturbed the field was, for strata of the skill."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.observation_files import ObservationFileError, read_frame
from tasks.window import microseconds

OLDEST_H = 6.0
"""An interval of three hours is known after its end: live, the newest known one began up to six hours ago."""
INTERVAL_H = 3
AP_OF_KP = (
    0,
    2,
    3,
    4,
    5,
    6,
    7,
    9,
    12,
    15,
    18,
    22,
    27,
    32,
    39,
    48,
    56,
    67,
    80,
    94,
    111,
    132,
    154,
    179,
    207,
    236,
    300,
    400,
)
"""ap of Kp = 0, 1/3, 2/3 ... 9 (Bartels; Matzka et al. 2021, doi 10.1029/2020SW002641)."""  # fmt: skip


def kp_at(indices: pd.DataFrame, observed_at: pd.Series[Any]) -> NDArray[np.float64]:
    """Kp of the newest three-hour interval that began before each time, at most `OLDEST_H` before; NaN without one.

    Args:
        indices: rows of the dataset `indices`, revisions of an interval in any order; the one available last counts.
        observed_at: times, UTC, shape (n,).
    """
    result = np.full(len(observed_at), np.nan)
    rows = indices[indices["index_name"] == "kp"].sort_values(
        ["observed_at", "available_at", "observation_id"]
    )
    rows = rows.drop_duplicates("observed_at", keep="last")
    if rows.empty:
        return result
    begin_us, time_us = microseconds(rows["observed_at"]), microseconds(observed_at)
    at = np.searchsorted(begin_us, time_us, side="right") - 1
    is_known = (at >= 0) & (time_us - begin_us[at] <= OLDEST_H * 3.6e9)
    result[is_known] = rows["value"].to_numpy(dtype=np.float64)[at[is_known]]
    return result


def read_kp(path: Path) -> pd.DataFrame:
    """Kp of a file, as rows of the dataset `indices`, available when the interval began.

    Formats: CSV or Parquet with the contract's columns; IRI's `apf107` (eight three-hour ap a day, UTC), plain or gzipped.

    Raises:
        tasks.observation_files.ObservationFileError: the file cannot be used; the message names the line and what to do.
    """
    rows = _read_apf107(path) if "apf107" in path.name else read_frame(path, dataset="indices")
    rows = rows[rows["index_name"] == "kp"].copy()
    rows["value"] = pd.to_numeric(rows["value"], errors="coerce")
    rows = rows[rows["value"].between(0.0, 9.0) & rows["observed_at"].notna()]
    if rows.empty:
        raise ObservationFileError(
            f"{path} holds no Kp: rows with index_name kp and a value in 0..9 are needed"
        )
    rows["available_at"] = rows["observed_at"]
    rows["observation_id"] = rows["observed_at"].astype(str)
    return rows[["observation_id", "observed_at", "available_at", "index_name", "value"]].reset_index(
        drop=True
    )


def _read_apf107(path: Path) -> pd.DataFrame:
    """Fixed columns of three: year of the century, month, day, then ap of 00-03 ... 21-24 UT."""
    try:
        payload = path.read_bytes()
        text = (gzip.decompress(payload) if path.suffix == ".gz" else payload).decode("ascii")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ObservationFileError(f"{path} cannot be read: {error}") from error
    kp_of_ap = {ap: number / 3.0 for number, ap in enumerate(AP_OF_KP)}
    times, values = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            year, month, day, *aps = (int(line[3 * part : 3 * part + 3]) for part in range(11))
            midnight = pd.Timestamp(
                year=year + (1900 if year >= 58 else 2000), month=month, day=day, tz="UTC"
            )
        except ValueError as error:
            raise ObservationFileError(
                f"{path}, line {number} is none of apf107 (year, month, day and eight ap in columns of three): {line[:40]!r}"
            ) from error
        for part, ap in enumerate(aps):
            if ap in kp_of_ap:  # -1 where it is not known yet
                times.append(midnight + pd.Timedelta(hours=INTERVAL_H * part))
                values.append(kp_of_ap[ap])
    observed_at = pd.Series(pd.DatetimeIndex(times, tz="UTC").as_unit("us"), dtype="datetime64[us, UTC]")
    return pd.DataFrame({"observed_at": observed_at, "index_name": "kp", "value": values})
