"""From submitted items to rows that keep the contract, and the reasons of those that do not.

`build_frame` casts, `validate_batch` judges (Great Expectations, with the rules compiled from the contract), and
`find_duplicates` tells a repeated observation from a contradicting one. All three are pure functions on frames; who
reads the lake and who writes the quarantine is `tasks.curation`'s business.

Great Expectations takes seconds to import: nothing here imports it before a batch is judged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from tasks.contracts import Column, Contract, Rule, load_contract

logger = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NOT_A_TIME = np.iinfo(np.int64).min  # numpy's NaT
MAX_UNKNOWN_NAMES = 20  # names of unknown fields that are reported; the rest is only counted

# Great Expectations keeps its current project in a global of the process, and two threads on one asset get each
# other's results (silently): one batch at a time. It holds the interpreter lock throughout, so nothing is lost by it.
_ENGINE_LOCK = threading.Lock()

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


def reason_code(reason: str) -> str:
    """The stable code that a reason text begins with."""
    return reason.split(":", 1)[0]


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
        -180..0; a missing `observation_id` is computed. Unknown fields are no failure: `frame.attrs["unknown_fields"]`
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
            micros = series.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
            parts.append(["" if value == NOT_A_TIME else value for value in micros.tolist()])
        elif column.unit == "MHz":
            parts.append(["" if math.isnan(value) else round(value * 1000) for value in series.tolist()])
        else:
            parts.append([value if isinstance(value, str) else "" for value in series.tolist()])
    texts = ("|".join(map(str, (dataset, *values))) for values in zip(*parts, strict=True))
    return [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]


def _flat_items(contract: Contract, items: Sequence[Any], failures: Reasons) -> list[Mapping[str, Any]]:
    """Items as flat mappings; what is no mapping becomes an empty one with a failure."""
    groups: dict[str, dict[str, str]] = {}
    for column in contract.columns:
        if column.nested_path:
            group, name = column.nested_path
            groups.setdefault(group, {})[name] = column.name
    rows: list[Mapping[str, Any]] = []
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            failures.setdefault(index, []).append(f"item_type: {_shown(item)} is not a JSON object")
            rows.append({})
        elif groups and not groups.keys().isdisjoint(item):
            rows.append(_flattened(item, groups, failures, index))
        else:
            rows.append(item)
    return rows


def _flattened(
    item: Mapping[str, Any], groups: Mapping[str, Mapping[str, str]], failures: Reasons, index: int
) -> dict[str, Any]:
    flat = {name: value for name, value in item.items() if name not in groups}
    for group, names in groups.items():
        inner = item.get(group)
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            failures.setdefault(index, []).append(f"{group}_type: {_shown(inner)} is not a JSON object")
            continue
        for name, value in inner.items():
            column = names.get(name)
            if column is None:
                flat[f"{group}.{name}"] = value  # counted as an unknown field
            elif flat.get(column) is not None and flat[column] != value:
                failures.setdefault(index, []).append(
                    f"{column}_ambiguous: {_shown(flat[column])} and {group}.{name} {_shown(value)} contradict each other"
                )
            else:
                flat[column] = value
    return flat


def _count_unknown(contract: Contract, rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    known = set(contract.column_names)
    counts: Counter[str] = Counter()
    for row in rows:
        if not row.keys() <= known:
            for name in row.keys() - known:
                label = str(name)[:64]
                counts[label if label in counts or len(counts) < MAX_UNKNOWN_NAMES else "(others)"] += 1
    return counts


def _shown(value: Any) -> str:
    """A value as it may stand in a reason: short, on one line, strings quoted."""
    if isinstance(value, pd.Timestamp | datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple | Mapping):
        return f"{type(value).__name__} of {len(value)} entries"
    try:
        text = json.dumps(value[:80]) if isinstance(value, str) else ascii(value)
    except ValueError:  # Python does not write out integers of thousands of digits
        text = f"{type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _cast_numbers(
    column: Column, values: list[Any], failures: Reasons
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if set(map(type, values)) <= {float, int, type(None)}:
        try:
            numbers = np.array(values, dtype=np.float64)
        except OverflowError:
            numbers = _cast_each_number(column, values, failures)
        else:
            for index in np.flatnonzero(~np.isfinite(numbers)).tolist():
                if values[index] is not None:
                    numbers[index] = np.nan
                    _fail_not_finite(column, values[index], index, failures)
    else:
        numbers = _cast_each_number(column, values, failures)
    if column.physical_type in ("int32", "int64"):
        limit = 2**31 if column.physical_type == "int32" else 2**53
        for index in np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) >= limit)).tolist():
            if not math.isnan(numbers[index]):
                numbers[index] = np.nan
                failures.setdefault(index, []).append(
                    f"{column.name}_type: {_shown(values[index])} is not a whole number of type {column.physical_type}"
                )
    if column.is_longitude:
        numbers = np.where((numbers > 180) & (numbers <= 360), numbers - 360, numbers)
    return numbers


def _cast_each_number(
    column: Column, values: list[Any], failures: Reasons
) -> np.ndarray[Any, np.dtype[np.float64]]:
    numbers = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        if value is None:
            continue
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | np.integer | np.floating
        ):
            failures.setdefault(index, []).append(f"{column.name}_type: {_shown(value)} is not a number")
            continue
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            numbers[index] = number
        else:
            _fail_not_finite(column, value, index, failures)
    return numbers


def _fail_not_finite(column: Column, value: Any, index: int, failures: Reasons) -> None:
    failures.setdefault(index, []).append(
        f"{column.name}_finite: {_shown(value)} is not a finite number; write null for a missing value"
    )


def _cast_strings(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    texts = values
    if not set(map(type, values)) <= {str, type(None)} or not all(v is None or v.isascii() for v in values):
        texts = []
        for index, value in enumerate(values):
            if value is not None and not isinstance(value, str):
                failures.setdefault(index, []).append(f"{column.name}_type: {_shown(value)} is not a text")
                value = None
            elif value is not None and not _is_utf8(value):
                failures.setdefault(index, []).append(
                    f"{column.name}_type: {_shown(value)} is not valid Unicode"
                )
                value = None
            texts.append(value)
    return pd.Series(texts, dtype=object)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and Parquet cannot
        return False
    return True


def _cast_times(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    parsed: dict[str, int | str] = {
        value: _micros(value) for value in {v for v in values if isinstance(v, str)}
    }
    micros = np.full(len(values), NOT_A_TIME, dtype=np.int64)
    outcome: int | str = NOT_A_TIME
    previous = None  # the items of one record share one time of reception
    for index, value in enumerate(values):
        if value is None or value is pd.NaT:
            continue
        if value is not previous:
            previous, outcome = value, parsed[value] if isinstance(value, str) else _micros(value)
        if isinstance(outcome, int):
            micros[index] = outcome
        else:
            failures.setdefault(index, []).append(f"{column.name}_{outcome}")
    return pd.Series(pd.DatetimeIndex(micros.view("datetime64[us]")).tz_localize("UTC"))


def _micros(value: Any) -> int | str:
    """Microseconds since 1970 of an ISO 8601 text or datetime, or the failure without its column."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.replace("z", "Z"))
        except ValueError:
            return f"format: {_shown(value)} is not an ISO 8601 time such as 2022-10-24T00:15:00Z"
        if len(value) <= 10:
            return f"format: {_shown(value)} has no time of day; write it as 2022-10-24T00:15:00Z"
    elif not isinstance(value, datetime):
        return f"type: {_shown(value)} is not a text with an ISO 8601 time such as 2022-10-24T00:15:00Z"
    if moment.tzinfo is None:
        return f"zone: {_shown(value)} has no zone; add Z or an offset"
    if isinstance(moment, pd.Timestamp):
        moment = moment.to_pydatetime(warn=False)
    return int((moment - EPOCH) // MICROSECOND)


def _cast_booleans(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    flags = []
    for index, value in enumerate(values):
        if value is not None and not isinstance(value, bool | np.bool_):
            failures.setdefault(index, []).append(
                f"{column.name}_type: {_shown(value)} is neither true nor false"
            )
            value = None
        flags.append(value)
    return pd.Series(flags, dtype=object)


def _cast_bytes(column: Column, values: list[Any], failures: Reasons) -> pd.Series[Any]:
    for index, value in enumerate(values):
        if value is not None and not isinstance(value, bytes):
            failures.setdefault(index, []).append(f"{column.name}_type: {_shown(value)} is not bytes")
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
    now: datetime,
    max_future_s: float = 300.0,
    max_age_d: float = 36_500.0,
    cast_failures: Mapping[int, list[str]] | None = None,
) -> Validation:
    """Judge every row of a batch by the contract of `dataset`.

    Repeated observations are not judged here (see `find_duplicates`): sending twice is no error of the second row.

    Args:
        frame: the contract's columns, as `build_frame` makes them; any unique index.
        now: aware time that future and age are measured from.
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
    if now.tzinfo is None:
        raise ValueError(f"now: {now!r} has no time zone")
    if not frame.index.is_unique:
        raise ValueError("frame: the index has repeated labels")
    judged = _engine_frame(contract, frame)
    latest = pd.Timestamp(now + timedelta(seconds=max_future_s)).tz_convert("UTC")
    oldest = pd.Timestamp(max(now - EPOCH - timedelta(days=max_age_d), _YEAR_ONE) + EPOCH).tz_convert("UTC")
    limits = {"latest": latest.as_unit("us"), "oldest": oldest.as_unit("us")}
    failed = _judge(contract, judged, limits)
    labels = frame.index.to_numpy()
    reasons: Reasons = {int(label): list(texts) for label, texts in (cast_failures or {}).items() if texts}
    unread = {label: _unread_columns(contract, texts) for label, texts in reasons.items()}
    for rule, rows in failed:
        texts = _reason_texts(rule, judged.iloc[rows], limits)
        for row, text in zip(rows, texts, strict=True):
            label = int(labels[row])
            if unread and not unread.get(label, _NOTHING).isdisjoint(rule.columns):
                continue
            reasons.setdefault(label, []).append(text)
    accepted = frame[~frame.index.isin(list(reasons))] if reasons else frame
    return Validation(accepted=accepted, reasons=dict(sorted(reasons.items())))


_NOTHING: frozenset[str] = frozenset()
_YEAR_ONE = datetime(1, 1, 2, tzinfo=UTC) - EPOCH
_DTYPES: Mapping[str, tuple[str, ...]] = {
    "string": ("object", "str", "string"),
    "double": ("float64",),
    "int32": ("float64", "int32", "int64"),
    "int64": ("float64", "int64"),
    "boolean": ("bool", "object"),
    "binary": ("object",),
    "timestamp[us, UTC]": ("datetime64[us, UTC]",),
}


def _unread_columns(contract: Contract, reasons: Sequence[str]) -> frozenset[str]:
    """Columns about which the cast failures of a row already said what is wrong."""
    columns: set[str] = set()
    for reason in reasons:
        stem, _, suffix = reason_code(reason).rpartition("_")
        if stem in contract.column_names:
            columns.add(stem)
        elif suffix == "type":  # the item, or a whole group of a nested item
            columns |= {c.name for c in contract.columns if stem == "item" or c.nested_path[:1] == (stem,)}
    return frozenset(columns)


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


@lru_cache(maxsize=1)
def _context() -> Any:
    """The process's Great Expectations context: in memory only, silent."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # It sets its own level and announces a temporary folder.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return context


@lru_cache(maxsize=16)
def _suite(dataset: str) -> tuple[Any, Any]:
    """The suite of a dataset, each expectation carrying its reason code, and where its batches come in."""
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    expectations = [
        get_expectation_impl(rule.expectation)(**rule.kwargs, meta={"rule": rule.code})
        for rule in load_contract(dataset).rules
    ]
    suite = gx.ExpectationSuite(name=dataset, expectations=expectations)
    asset = _context().data_sources.add_or_update_pandas(dataset).add_dataframe_asset(dataset)
    return suite, asset.add_batch_definition_whole_dataframe(dataset)


def _judge(
    contract: Contract, frame: pd.DataFrame, limits: Mapping[str, pd.Timestamp]
) -> list[tuple[Rule, list[int]]]:
    """Run the suite; the failing rows of each row rule, in the contract's order."""
    rules = {rule.code: rule for rule in contract.rules}
    with _ENGINE_LOCK:
        suite, definition = _suite(contract.dataset)
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
        f"{start} the newest of {len(frame)} observations is of {_shown(newest)}, accepted are those after "
        f"{_shown(limits['oldest'])}. {rule.description}"
    )


def _reason_texts(rule: Rule, rows: pd.DataFrame, limits: Mapping[str, pd.Timestamp]) -> list[str]:
    """One reason per failing row: code, the value that failed, what the rule asks for."""
    if rule.expectation in ("expect_column_values_to_not_be_null", "expect_compound_columns_to_be_unique"):
        return [f"{rule.code}: {rule.description}"] * len(rows)
    if rule.expectation == "expect_column_pair_values_a_to_be_greater_than_b":
        a, b = rule.kwargs["column_A"], rule.kwargs["column_B"]
        pairs = zip(rows[a].tolist(), rows[b].tolist(), strict=True)
        return [
            f"{rule.code}: {b} {_shown(low)} {rule.description} ({a} {_shown(high)})" for high, low in pairs
        ]
    used = [
        value["$PARAMETER"]
        for value in rule.kwargs.values()
        if isinstance(value, dict) and "$PARAMETER" in value
    ]
    ending = "".join(f" ({name} accepted is {_shown(limits[name])})" for name in used)
    values = rows[rule.kwargs["column"]].tolist()
    return [f"{rule.code}: {_shown(value)} {rule.description}{ending}" for value in values]


def find_duplicates(dataset: str, frame: pd.DataFrame, known: pd.DataFrame | None = None) -> Duplicates:
    """Rows whose `observation_id` an earlier row, or a row of `known`, already has.

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
    codes, _ = pd.factorize(stacked["observation_id"])
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
            f"{name} {_shown(stacked[name].iloc[row])} (first {_shown(stacked[name].iloc[first[row]])})"
            for name in compared
            if differs[name][position]
        ]
        conflicts[label] = [
            f"observation_id_conflict: {stacked['observation_id'].iloc[row]} is known with other content: {'; '.join(changes)}"
        ]
    return Duplicates(identical=identical, conflicts=conflicts)
