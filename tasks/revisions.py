"""Which rows are the same observation, and which of its revisions counts.

A row is told from others by sounder, `observation_id`, UTC day of observation and `revision`; the same one again is a
repetition, or a conflict if it says something else. Rows that differ in `revision` alone are one observation and its
corrections: the lake keeps them all, and of those available at a moment the highest revision counts. So neither depends
on the order of arrival. The sounder is part of it so that nobody can correct, or forestall, what another observed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

REVISION = "revision"
OBSERVATION = ("sounder_id", "observation_id")
CONFLICT = "observation_id_conflict"
"""Reason code of a row that contradicts one with the same revision."""


def row_key(dataset: str, sounder_id: str, observation_id: str, day: int, revision: int) -> int:
    """A hash, good within one process, of what tells a row of `dataset` from others; `day` is counted from 1970."""
    return hash((dataset, sounder_id, observation_id, day, revision))


def how_to_correct(revision: int) -> str:
    """What the sender of a conflict is told; `revision` is the one that was taken already."""
    return f"a correction is sent with the same observation_id and revision {revision + 1}"


def row_numbers(rows: pd.DataFrame) -> pd.Series[int]:
    """A number per row that those share which are the same row; datasets without `revision` have no corrections."""
    of_row = [*OBSERVATION, REVISION] if REVISION in rows else [*OBSERVATION]
    return rows.groupby([*of_row, rows["observed_at"].dt.floor("D")], sort=False).ngroup()


def known_at(rows: pd.DataFrame, available_at: datetime) -> pd.DataFrame:
    """The rows that were available at a moment and that no higher revision, available then too, supersedes; in order.

    Args:
        rows: of the dataset `ionograms` or `measurements`, of whole UTC days: a correction may move an observation
            within its day, out of the span that is looked at.
    """
    rows = rows[rows["available_at"] <= available_at]
    if not (rows[REVISION] > 0).any():
        return rows
    ordered = rows.assign(_day=rows["observed_at"].dt.floor("D")).sort_values(REVISION, kind="stable")
    is_superseded = ordered.duplicated([*OBSERVATION, "_day"], keep="last")
    return ordered.loc[~is_superseded].sort_index().drop(columns="_day")
