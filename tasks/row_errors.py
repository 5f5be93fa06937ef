"""Errors that observations bring themselves: of each value, and how those of one sounding go together.

A retrieval fits several parameters to one sounding at once and says how well it knows each of them, and that it may have
taken one too high where it took another too low. Where a row says nothing, the error of its class of confidence counts
(`tasks/kernel.toml`), and its errors are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.kernel_config import QUANTITIES, KernelConfig

Array = NDArray[np.float64]

ERROR_OF = {name: f"{name}_error" for name in ("fof2_mhz", "hmf2_km", "b0_km")}
"""Column with one standard deviation of a quantity, in its unit."""
CORRELATION_OF = {
    ("fof2_mhz", "hmf2_km"): "fof2_hmf2_correlation",
    ("fof2_mhz", "b0_km"): "fof2_b0_correlation",
    ("hmf2_km", "b0_km"): "hmf2_b0_correlation",
}
"""Column with the correlation of the errors of two quantities; the same for a value and for its logarithm."""
COLUMNS = (*ERROR_OF.values(), *CORRELATION_OF.values())
SMALLEST_EIGENVALUE = 1e-6
"""Of the correlations of a sounding: below it they contradict one another, or two of its values are one."""


def carried(rows: pd.DataFrame) -> list[str]:
    """The columns of `COLUMNS` in which any of the rows says something."""
    return [name for name in COLUMNS if name in rows and rows[name].notna().any()]


def error_of(rows: pd.DataFrame, name: str, kernel: KernelConfig) -> Array:
    """One standard deviation of the quantity at every row in its unit, shape (n,): the row's own, or its class'."""
    confidence = rows["confidence_score"].to_numpy(dtype=np.float64)
    of_class = kernel.quantity(name).obs_error.of(confidence, kernel.confidence)
    own = _column(rows, ERROR_OF.get(name))
    return of_class if own is None else np.where(np.isnan(own), of_class, own)


def has_possible_errors(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows (n,) whose own errors are positive and whose correlations there can be."""
    possible = np.ones(len(rows), dtype=np.bool_)
    for column in ERROR_OF.values():
        own = _column(rows, column)
        if own is not None:
            possible &= np.isnan(own) | ((own > 0) & np.isfinite(own))
    matrix = np.tile(np.eye(len(ERROR_OF)), (len(rows), 1, 1))
    number = {name: k for k, name in enumerate(ERROR_OF)}
    for (one, other), column in CORRELATION_OF.items():
        correlation = _column(rows, column)
        if correlation is not None:
            value = np.where(np.isinf(correlation), 2.0, np.nan_to_num(correlation))
            matrix[:, number[one], number[other]] = matrix[:, number[other], number[one]] = value
    if carried(rows):
        possible &= np.linalg.eigvalsh(matrix)[:, 0] > SMALLEST_EIGENVALUE
    return possible


@dataclass(frozen=True)
class ErrorPairs:
    """Numbers of observations whose errors are correlated, (K, 2), and by how much, (K,)."""

    pair: NDArray[np.int64]
    correlation: Array

    def renumbered(self, number: NDArray[np.int64]) -> ErrorPairs:
        """The pairs by the new `number` (n,) of each observation; those that lose one, numbered -1, are none."""
        pair = number[self.pair]
        is_whole = np.all(pair >= 0, axis=1)
        return ErrorPairs(pair[is_whole], self.correlation[is_whole])

    def __len__(self) -> int:
        return self.correlation.size

    def arguments(self) -> dict[str, Any]:
        """As `rust_core` takes them; none where no errors go together."""
        return {"error_pair": self.pair, "error_correlation": self.correlation} if len(self) else {}


NO_PAIRS = ErrorPairs(np.zeros((0, 2), dtype=np.int64), np.zeros(0))


def error_pairs(rows: pd.DataFrame, rows_of: dict[str, NDArray[np.int64]]) -> ErrorPairs:
    """Pairs of observations with correlated errors, numbered quantity by quantity as `rows_of` has their rows."""
    pairs, correlations = [NO_PAIRS.pair], [NO_PAIRS.correlation]
    first = dict(
        zip(QUANTITIES, np.cumsum([0, *(rows_of[name].size for name in QUANTITIES[:-1])]), strict=True)
    )
    number = {}
    for name in QUANTITIES:
        number[name] = np.full(len(rows), -1, dtype=np.int64)
        number[name][rows_of[name]] = first[name] + np.arange(rows_of[name].size)
    for (one, other), column in CORRELATION_OF.items():
        correlation = _column(rows, column)
        if correlation is None:
            continue
        pair = np.column_stack([number[one], number[other]])
        is_pair = np.all(pair >= 0, axis=1) & ~np.isnan(correlation) & (correlation != 0.0)
        pairs.append(pair[is_pair])
        correlations.append(correlation[is_pair])
    return ErrorPairs(np.concatenate(pairs), np.concatenate(correlations))


def _column(rows: pd.DataFrame, name: str | None) -> Array | None:
    if name is None or name not in rows:
        return None
    return rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
