"""Rows of the datasets `sounders` and `echoes` from what a cycle learned of its sounders."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from tasks.contracts import load_contract
from tasks.kernel_config import KernelConfig
from tasks.sounder_record import Known, describe

IDENTITY = ("cycle_id", "valid_time")


def echo_rows(echoes: pd.DataFrame) -> pd.DataFrame:
    """Echoes of a cycle's window in the columns of their contract, without the cycle's identity."""
    return echoes[[column.name for column in load_contract("echoes").columns if column.name not in IDENTITY]]


def sounder_rows(echoes: pd.DataFrame, known: Mapping[str, Known], kernel: KernelConfig) -> pd.DataFrame:
    """One row per sounder in the columns of the contract, without the cycle's identity.

    Args:
        echoes: of the cycle's window.
        known: after its innovations.
    """
    columns = [column.name for column in load_contract("sounders").columns if column.name not in IDENTITY]
    if not known:
        return pd.DataFrame({name: [] for name in columns})
    frame = pd.DataFrame(
        [{"sounder_id": sounder_id, **describe(one, kernel.tiers)} for sounder_id, one in known.items()]
    )
    n_measurements = echoes.groupby("sounder_id")["n_combined"].sum()
    n_echoes = echoes["sounder_id"].value_counts()
    frame = frame.assign(
        n_measurements=frame["sounder_id"].map(n_measurements).fillna(0).astype(int),
        n_echoes=frame["sounder_id"].map(n_echoes).fillna(0).astype(int),
    )
    return frame[columns]
