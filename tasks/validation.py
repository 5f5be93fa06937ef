"""From submitted items to rows that keep the contract, and the reasons of those that do not.

`build_frame` casts, `validate_batch` judges (Great Expectations, with the rules compiled from the contract), and
`find_duplicates` tells a repeated observation from a contradicting one. All three are pure functions on frames; who
reads the lake and who writes the quarantine is `tasks.curation`'s business.

Great Expectations takes seconds to import: nothing here imports it before a batch is judged.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pandas as pd

from tasks.contracts import SENT_AT, Column, Contract, Rule, load_contract
from tasks.item_check import (
    EPOCH,
    INTEGER_LIMITS,
    cast_failure,
    flattened,
    meaning_id,
    micros,
    nested_groups,
    parameters,
    reason_text,
    shown,
    time_limits,
    unread_columns,
)
from tasks.revisions import CONFLICT, REVISION, how_to_correct, row_numbers

logger = logging.getLogger(__name__)

NOT_A_TIME = np.iinfo(np.int64).min  # numpy's NaT
SAID_TO_DOORS = ("dataset", SENT_AT)  # fields of an item that tell the landing something and no dataset keeps
MAX_UNKNOWN_NAMES = 20  # names of unknown fields that are reported; the rest is only counted

# Great Expectations keeps its current project in a global of the process, and two threads on one asset get each
# other's results (silently): one batch at a time. It holds the interpreter lock throughout, so nothing is lost by it.
_ENGINE_LOCK = threading.Lock()

HOLDS_OF_NULLS = frozenset(
    {
        "expect_column_values_to_be_between",
        "expect_column_values_to_be_in_set",
        "expect_column_values_to_match_regex",
        "expect_column_value_lengths_to_be_between",
    }
)

Reasons = dict[int, list[str]]


class BatchRejected(ValueError):  # noqa: N818 - reads as the sentence it is raised with
    """The batch as a whole cannot be used: wrong columns, no or too many rows, or nothing recent in it."""


@dataclass(frozen=True)
class Validation:
    """Outcome of one batch: the rows that keep the contract and, per index label of the rest, every reason."""

    accepted: pd.DataFrame
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True)
class Duplicates:
    """Rows whose observation is already there: with the same content, or contradicting it (with the reason)."""

    identical: list[int]
    conflicts: Reasons


def build_frame(dataset: str, items: Sequence[Any]) -> tuple[pd.DataFrame, Reasons]:
    """Cast submitted items to a frame with the contract's columns.

    Args:
        items: one mapping per item, as decoded from JSON. Numbers must be numbers, missing is None or absent (NaN is
            refused), times are ISO 8601 texts with a zone or aware datetimes. Measurements may be nested. Columns that
            the landing fills (`received_at`, `source`, …) are taken from the item as well: the caller sets them and
            thereby overrules what a sender wrote there.

    Returns:
        The frame, one row per item in order, RangeIndex, float64 with NaN / datetime64[us, UTC] / object columns; and
        the cast failures per row. A field that failed is null in the frame. Longitudes of 180..360 are turned into
        -180..0; a missing `observation_id` is computed, another missing value is the contract's default. Unknown fields are no failure: `frame.attrs["unknown_fields"]`
        counts them by name.
    """
    contract = load_contract(dataset)
    failures: Reasons = {}
    rows = _flat_items(contract, items, failures)
    named: set[str] = set().union(*rows)
    unknown = _count_unknown(contract, rows) if not named <= set(contract.column_names) else Counter()
    data: dict[str, Any] = {}
    for column in contract.columns:
        cast = _CASTS[column.physical_type]
        if column.name in named:
            data[column.name] = cast(column, [row.get(column.name) for row in rows], failures)
        else:  # no item names it: one null, repeated
            null = pd.Series(cast(column, [None], failures))
            data[column.name] = null.repeat(len(rows)).reset_index(drop=True)
        if column.default is not None:
            data[column.name] = pd.Series(data[column.name]).fillna(column.default)
    frame = pd.DataFrame(data, index=pd.RangeIndex(len(rows)))
    if contract.meaning_key:
        missing = frame["observation_id"].isna().to_numpy()
        if missing.any():
            ids = frame["observation_id"].to_numpy(dtype=object, copy=True)
            ids[missing] = meaning_ids(dataset, frame[missing])
            frame["observation_id"] = pd.Series(ids, index=frame.index, dtype=object)
    if unknown:
        logger.warning(
            "%s: %d items have fields the contract does not know: %s", dataset, len(rows), dict(unknown)
        )
    frame.attrs["unknown_fields"] = dict(unknown)
    return frame, failures


def meaning_ids(dataset: str, frame: pd.DataFrame) -> list[str]:
    """The identity of each row by what it means: a hash of sounder, integer microseconds and what else the contract's
    meaningKey names (a frequency counts in whole kHz). The same observation sent twice has the same id.
    """
    contract = load_contract(dataset)
    parts: list[list[Any]] = []
    for name in contract.meaning_key:
        column, series = contract.column(name), frame[name]
        if column.physical_type.startswith("timestamp"):
            since = series.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
            parts.append(["" if value == NOT_A_TIME else value for value in since.tolist()])
        elif column.unit == "MHz":
            parts.append(["" if math.isnan(value) else round(value * 1000) for value in series.tolist()])
        else:
            parts.append([value if isinstance(value, str) else "" for value in series.tolist()])
    return [meaning_id(dataset, values) for values in zip(*parts, strict=True)]


def _flat_items(contract: Contract, items: Sequence[Any], failures: Reasons) -> list[Mapping[str, Any]]:
    """Items as flat mappings; what is no mapping becomes an empty one with a failure."""
    groups = nested_groups(contract.dataset)
    rows: list[Mapping[str, Any]] = []
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            failures.setdefault(index, []).append(f"item_type: {shown(item)} is not a JSON object")
            rows.append({})
        elif groups and not groups.keys().isdisjoint(item):
            flat, failed = flattened(item, groups)
            if failed:
                failures.setdefault(index, []).extend(failed)
            rows.append(flat)
        else:
            rows.append(item)
    return rows


def _count_unknown(contract: Contract, rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    known = {*contract.column_names, *SAID_TO_DOORS}
    counts: Counter[str] = Counter()
    for row in rows:
        if not row.keys() <= known:
            for name in row.keys() - known:
                label = str(name)[:64]
                counts[label if label in counts or len(counts) < MAX_UNKNOWN_NAMES else "(others)"] += 1
    return counts


def _cast_numbers(
    column: Column, values: list[Any], failures: Reasons
) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = None
    if set(map(type, values)) <= {float, int, type(None)}:
        with suppress(OverflowError):  # an integer beyond all floats
            numbers = np.array(values, dtype=np.float64)
    if numbers is None:
        failed = {index: cast_failure(column, v) for index, v in enumerate(values) if v is not None}
        numbers = np.array(
            [np.nan if v is None or failed[index] else float(v) for index, v in enumerate(values)],
            dtype=np.float64,
        )
    else:
        is_doubtful = ~np.isfinite(numbers)
        if column.physical_type in INTEGER_LIMITS:
            limit = INTEGER_LIMITS[column.physical_type]
            is_doubtful |= (numbers != np.floor(numbers)) | (np.abs(numbers) >= limit)
        failed = {
            index: cast_failure(column, values[index])
            for index in np.flatnonzero(is_doubtful).tolist()
            if values[index] is not None
        }
    for index, failure in failed.items():
        if failure is not None:
            numbers[index] = np.nan
            failures.setdefault(index, []).append(failure)
    if column.is_longitude:
        numbers = np.where((numbers > 180) & (numbers <= 360), numbers - 360, numbers)
    return numbers


def _cast_strings(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    texts = values
    if not set(map(type, values)) <= {str, type(None)} or not all(v is None or v.isascii() for v in values):
        texts = []
        for index, value in enumerate(values):
            failure = None if value is None else cast_failure(column, value)
            if failure is not None:
                failures.setdefault(index, []).append(failure)
            texts.append(value if failure is None else None)
    return pd.Series(texts, dtype=object)


def _cast_times(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    parsed: dict[str, int | str] = {
        value: micros(value) for value in {v for v in values if isinstance(v, str)}
    }
    found = np.full(len(values), NOT_A_TIME, dtype=np.int64)
    outcome: int | str = NOT_A_TIME
    previous = None  # the items of one record share one time of reception
    for index, value in enumerate(values):
        if value is None or value is pd.NaT:
            continue
        if value is not previous:
            previous, outcome = value, parsed[value] if isinstance(value, str) else micros(value)
        if isinstance(outcome, int):
            found[index] = outcome
        else:
            failures.setdefault(index, []).append(f"{column.name}_{outcome}")
    return pd.Series(pd.DatetimeIndex(found.view("datetime64[us]")).tz_localize("UTC"))


def _cast_booleans(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    flags = []
    for index, value in enumerate(values):
        if value is not None and not isinstance(value, bool | np.bool_):
            failures.setdefault(index, []).append(
                f"{column.name}_type: {shown(value)} is neither true nor false"
            )
            value = None
        flags.append(value)
    return pd.Series(flags, dtype=object)


def _cast_bytes(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    for index, value in enumerate(values):
        if value is not None and not isinstance(value, bytes):
            failures.setdefault(index, []).append(f"{column.name}_type: {shown(value)} is not bytes")
    return pd.Series([value if isinstance(value, bytes) else None for value in values], dtype=object)


_CASTS: Mapping[str, Callable[[Column, list[Any], Reasons], Any]] = {
    "string": _cast_strings,
    "double": _cast_numbers,
    "int32": _cast_numbers,
    "int64": _cast_numbers,
    "boolean": _cast_booleans,
    "binary": _cast_bytes,
    "timestamp[us, UTC]": _cast_times,
}


def validate_batch(
    dataset: str,
    frame: pd.DataFrame,
    *,
    now: datetime | pd.Series[Any],
    max_future_s: float = 300.0,
    max_age_d: float = 36_500.0,
    cast_failures: Mapping[int, list[str]] | None = None,
) -> Validation:
    """Judge every row of a batch by the contract of `dataset`.

    Repeated observations are not judged here (see `find_duplicates`): sending twice is no error of the second row.

    Args:
        frame: the contract's columns, as `build_frame` makes them; any unique index.
        now: aware time that future and age are measured from; a series, indexed as the frame, of one per row
            (null where a row has no time to be judged).
        max_future_s: seconds an observation may lie in the future.
        max_age_d: days an observation may lie in the past.
        cast_failures: what `build_frame` returned, by index label. A rule says nothing more about a field that
            could not be read.

    Returns:
        The accepted rows under their index labels, and all reasons, cast failures first, of each other row.

    Raises:
        BatchRejected: columns or their types are not the contract's, there are no rows or too many, or even the newest
            observation is older than `max_age_d`.
    """
    contract = load_contract(dataset)
    moments = now if isinstance(now, pd.Series) else pd.Series(pd.Timestamp(now), index=frame.index)
    if not isinstance(moments.dtype, pd.DatetimeTZDtype):
        raise ValueError(f"now: {now!r} has no time zone")
    if not frame.index.is_unique:
        raise ValueError("frame: the index has repeated labels")
    judged = _engine_frame(contract, frame)
    # The rules on time compare with one moment: each row's time is moved by as much as its own moment lies before that.
    reference = pd.Timestamp(EPOCH) if moments.isna().all() else moments.max()
    age = {"max_future_s": max_future_s, "max_age_d": max_age_d}
    limits = {
        name: pd.Timestamp(moment).tz_convert("UTC").as_unit("us")
        for name, moment in time_limits(reference.to_pydatetime(), **age).items()
    }
    timed = {name for rule in contract.rules if parameters(rule) for name in rule.columns}
    late = (reference - moments).reset_index(drop=True).fillna(pd.Timedelta(0))
    if late.any():
        judged = judged.assign(**{name: judged[name] + late for name in timed})
    failed = _judge(contract, judged, limits)
    labels = frame.index.to_numpy()
    reasons: Reasons = {int(label): list(texts) for label, texts in (cast_failures or {}).items() if texts}
    unread = {label: unread_columns(contract, texts) for label, texts in reasons.items()}
    for rule, rows in failed:
        records = frame.iloc[rows][list(rule.columns)].to_dict("records")
        for row, values in zip(rows, records, strict=True):
            label = int(labels[row])
            if unread and not unread.get(label, _NOTHING).isdisjoint(rule.columns):
                continue
            own = time_limits(moments.iloc[row].to_pydatetime(), **age) if parameters(rule) else {}
            reasons.setdefault(label, []).append(reason_text(rule, cast(dict[str, Any], values), own))
    accepted = frame[~frame.index.isin(list(reasons))] if reasons else frame
    return Validation(accepted=accepted, reasons=dict(sorted(reasons.items())))


_NOTHING: frozenset[str] = frozenset()
_DTYPES: Mapping[str, tuple[str, ...]] = {
    "string": ("object", "str", "string"),
    "double": ("float64",),
    "int32": ("float64", "int32", "int64"),
    "int64": ("float64", "int64"),
    "boolean": ("bool", "object"),
    "binary": ("object",),
    "timestamp[us, UTC]": ("datetime64[us, UTC]",),
}


def _engine_frame(contract: Contract, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a RangeIndex and numpy-backed columns (the engine is slow or fails on Arrow-backed ones)."""
    columns: dict[str, Any] = {}
    for name in frame.columns:
        series = frame[name].reset_index(drop=True)
        if name in contract.column_names:
            column = contract.column(name)
            if str(series.dtype) not in _DTYPES[column.physical_type]:
                raise BatchRejected(
                    f"{contract.dataset}: batch refused: batch_schema: column {name} holds {series.dtype}, "
                    f"the contract asks for {_DTYPES[column.physical_type][0]}"
                )
            if column.physical_type == "string" and series.dtype != object:
                series = series.astype(object)
        columns[name] = series
    return pd.DataFrame(columns, index=pd.RangeIndex(len(frame)))


class _LoadedWhenUsed(types.ModuleType):
    """Stands for a module until something in it is used. (The standard library's LazyLoader loads at the import.)"""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


@lru_cache(maxsize=1)
def _context() -> Any:
    """The process's Great Expectations context: in memory only, silent. Imports the engine, so nobody does before."""
    # It imports these for rules that no contract may have: 80 MB, and a third of the time its import takes.
    for name in ("scipy.stats", "altair"):
        sys.modules.setdefault(name, _LoadedWhenUsed(name))
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # It sets its own level and announces a temporary folder.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return context


@lru_cache(maxsize=64)
def _suite(dataset: str, codes: tuple[str, ...]) -> tuple[Any, Any]:
    """The suite of these rules of a dataset, each expectation carrying its reason code, and where its batches come in."""
    context = _context()
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    expectations = [
        get_expectation_impl(rule.expectation)(**rule.kwargs, meta={"rule": rule.code})
        for rule in load_contract(dataset).rules
        if rule.code in codes
    ]
    suite = gx.ExpectationSuite(name=dataset, expectations=expectations)
    asset = context.data_sources.add_or_update_pandas(dataset).add_dataframe_asset(dataset)
    return suite, asset.add_batch_definition_whole_dataframe(dataset)


def _judge(
    contract: Contract, frame: pd.DataFrame, limits: Mapping[str, pd.Timestamp]
) -> list[tuple[Rule, list[int]]]:
    """Run the suite; the failing rows of each row rule, in the contract's order."""
    unsaid = {name for name in frame.columns if frame[name].isna().all()}
    rules = {rule.code: rule for rule in contract.rules if not _holds_of_nulls(rule, unsaid)}
    with _ENGINE_LOCK:
        suite, definition = _suite(contract.dataset, tuple(rules))
        outcome = definition.get_batch(batch_parameters={"dataframe": frame}).validate(
            suite,
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
            expectation_parameters=dict(limits),
        )
    results = {result.expectation_config.meta["rule"]: result for result in outcome.results}
    for code in [code for code, rule in rules.items() if rule.is_batch]:
        if not results[code].success:
            _refuse(contract, rules[code], results[code], frame, limits)
    failed = []
    for code, rule in rules.items():
        result = results[code]
        if rule.is_batch:
            continue
        if error := _raised(result.exception_info):
            raise RuntimeError(f"{contract.dataset}: rule {code} could not be evaluated: {error}")
        if not result.success:
            failed.append((rule, [int(row) for row in result.result["unexpected_index_list"]]))
    return failed


def _holds_of_nulls(rule: Rule, unsaid: Set[str]) -> bool:
    """Whether a rule cannot fail since nobody says anything of its column: most of the engine's time goes by the rule."""
    if rule.expectation == "expect_column_pair_values_a_to_be_greater_than_b":
        return rule.kwargs["column_A"] in unsaid or rule.kwargs["column_B"] in unsaid
    return rule.expectation in HOLDS_OF_NULLS and rule.kwargs["column"] in unsaid


def _raised(exception_info: Mapping[str, Any]) -> str | None:
    """The message of an expectation's exception: the information comes flat or keyed by metric."""
    shapes = [exception_info, *(value for value in exception_info.values() if isinstance(value, Mapping))]
    for shape in shapes:
        if shape.get("raised_exception"):
            return str(shape.get("exception_message"))
    return None


def _refuse(
    contract: Contract, rule: Rule, result: Any, frame: pd.DataFrame, limits: Mapping[str, pd.Timestamp]
) -> None:
    """Raise what a failed batch rule means in words; return when the rule had nothing to judge."""
    start = f"{contract.dataset}: batch refused: {rule.code}:"
    if rule.expectation == "expect_table_columns_to_match_set":
        missing = [name for name in contract.column_names if name not in frame.columns]
        unexpected = [str(name) for name in frame.columns if name not in contract.column_names]
        parts = [f"column {', '.join(missing)} is missing"] if missing else []
        parts += [f"column {', '.join(unexpected)} is not in the contract"] if unexpected else []
        raise BatchRejected(f"{start} {' and '.join(parts)} (version {contract.version})")
    if error := _raised(result.exception_info):
        raise RuntimeError(f"{contract.dataset}: rule {rule.code} could not be evaluated: {error}")
    if rule.expectation == "expect_table_row_count_to_be_between":
        low, high = rule.kwargs["min_value"], rule.kwargs["max_value"]
        raise BatchRejected(f"{start} {len(frame)} rows, accepted are {low} to {high}")
    newest = frame[rule.columns[0]].max()
    if newest is pd.NaT:  # no row has a readable time: each row says so itself
        return
    raise BatchRejected(
        f"{start} the newest of {len(frame)} observations is of {shown(newest)}, accepted are those after "
        f"{shown(limits['oldest'])}. {rule.description}"
    )


def find_duplicates(dataset: str, frame: pd.DataFrame, known: pd.DataFrame | None = None) -> Duplicates:
    """Rows that an earlier row, or a row of `known`, already is, as `tasks.revisions` tells rows apart.

    The first one stays. A later one with the same content (all that the sender fills; when and how it reached us does
    not count) is `identical` and may be dropped; one with other content is a conflict, to be quarantined.

    Args:
        frame: validated rows of `dataset`, any unique index.
        known: rows of the lake with the contract's columns, or None.
    """
    contract = load_contract(dataset)
    compared = [column.name for column in contract.columns if column.filled_by != "landing"]
    n_known = 0 if known is None else len(known)
    stacked = (
        frame[compared] if known is None or n_known == 0 else pd.concat([known[compared], frame[compared]])
    )
    codes = row_numbers(stacked).to_numpy()
    _, first_of_code = np.unique(codes, return_index=True)
    first = first_of_code[codes]
    later = np.flatnonzero(first != np.arange(len(stacked)))
    later = later[later >= n_known]
    differs: dict[str, Any] = {}
    for name in compared:
        values = stacked[name]
        here, there = values.iloc[later].to_numpy(), values.iloc[first[later]].to_numpy()
        both_null = pd.isna(here) & pd.isna(there)
        differs[name] = (here != there) & ~both_null
    labels = frame.index.to_numpy()
    identical: list[int] = []
    conflicts: Reasons = {}
    is_conflict = np.any(list(differs.values()), axis=0)
    for position, row in enumerate(later.tolist()):
        label = int(labels[row - n_known])
        if not is_conflict[position]:
            identical.append(label)
            continue
        changes = [
            f"{name} {shown(stacked[name].iloc[row])} (first {shown(stacked[name].iloc[first[row]])})"
            for name in compared
            if differs[name][position]
        ]
        text = f"{CONFLICT}: {stacked['observation_id'].iloc[row]} is known with other content: {'; '.join(changes)}"
        if REVISION in stacked:
            text += f"; {how_to_correct(int(stacked[REVISION].iloc[row]))}"
        conflicts[label] = [text]
    return Duplicates(identical=identical, conflicts=conflicts)
