"""One submitted item against its contract: the verdict that a door gives at once and that curation comes to later.

Curation judges whole batches, with frames and Great Expectations; a door has microseconds for an item. Both follow the
rules that `tasks.contracts` compiled, cast by the functions of this file and give reasons in the same words, so that
what a receipt calls accepted is not quarantined afterwards. No pandas here: the gateway does without.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

from tasks.contracts import TIME_PATTERN, Column, Contract, ContractError, Rule, load_contract
from tasks.revisions import REVISION, row_key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
INTEGER_LIMITS = {"int32": 2**31, "int64": 2**53}
LARGEST = 1.7976931348623157e308

_YEAR_ONE = datetime(1, 1, 2, tzinfo=UTC)
_TIME = re.compile(TIME_PATTERN[:-1] + r"\Z")
Row = Mapping[str, Any]
Limits = Mapping[str, datetime]
Test = Callable[[Any], bool]


class Verdict(NamedTuple):
    """What became of an item: the reasons against it, none if it is accepted; its identity, as far as it has one."""

    reasons: Sequence[str]
    observation_id: str | None
    key: int = 0
    """Of an accepted item a hash of what tells it from others, as `tasks.revisions` says."""
    content: int = 0
    """Of an accepted item a hash of all that its sender says. Both hold within one process only."""
    revision: int = 0


def reason_code(reason: str) -> str:
    """The stable code that a reason text begins with."""
    return reason.split(":", 1)[0]


def shown(value: Any) -> str:
    """A value as it may stand in a reason: short, on one line, strings quoted."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if type(value).__module__ == "numpy":
        value = value.item()
    if isinstance(value, list | tuple | Mapping):
        return f"{type(value).__name__} of {len(value)} entries"
    try:
        text = json.dumps(value[:80]) if isinstance(value, str) else ascii(value)
    except ValueError:  # Python does not write out integers of thousands of digits
        text = f"{type(value).__name__} too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def time_limits(now: datetime, *, max_future_s: float, max_age_d: float) -> dict[str, datetime]:
    """The parameters of the contracts' rules on time: the latest and the oldest observation accepted at `now`."""
    age = min(timedelta(days=max_age_d), now - _YEAR_ONE)
    return {"latest": now + timedelta(seconds=max_future_s), "oldest": now - age}


def identity_fault(value: Any, sounder_id: str | None) -> str | None:
    """Why an item is not its sender's own; `sounder_id` is who sent it, where that is known for sure."""
    if sounder_id is None or not isinstance(value, dict):
        return None
    claimed = value.get("sounder_id")
    if claimed is None or claimed == sounder_id:
        return None
    return f"sounder_id_mismatch: the item says {shown(claimed)}, it was sent as {shown(sounder_id)}"


def micros(value: Any) -> int | str:
    """Microseconds since 1970 of an ISO 8601 text or datetime, or the failure without its column."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value if value[-1:] != "z" else value[:-1] + "Z")
        except ValueError:
            return f"format: {shown(value)} is not an ISO 8601 time such as 2022-10-24T00:15:00Z"
        if len(value) <= 10:
            return f"format: {shown(value)} has no time of day; write it as 2022-10-24T00:15:00Z"
    elif not isinstance(value, datetime):
        return f"type: {shown(value)} is not a text with an ISO 8601 time such as 2022-10-24T00:15:00Z"
    if moment.tzinfo is None:
        return f"zone: {shown(value)} has no zone; add Z or an offset"
    if isinstance(value, str):
        # fromisoformat takes more than we tell senders: week dates, any character before the time of day.
        if _TIME.match(value) is None:
            return f"format: {shown(value)} is not an ISO 8601 time such as 2022-10-24T00:15:00Z"
    elif hasattr(moment, "to_pydatetime"):  # pandas' own
        moment = moment.to_pydatetime(warn=False)
    since = moment - EPOCH
    if not 1 < moment.year < 9999 and not _FIRST <= since <= _LAST:
        return f"format: {shown(value)} is not in the years 1 to 9999 UTC"
    return int((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


_FIRST = datetime.min.replace(tzinfo=UTC) - EPOCH
_LAST = datetime.max.replace(tzinfo=UTC) - EPOCH


def cast_failure(column: Column, value: Any) -> str | None:
    """Why a value (not None) is not of its column's type, number, text or time; None when it is."""
    name, kind = column.name, column.physical_type
    if kind == "string":
        if not isinstance(value, str):
            return f"{name}_type: {shown(value)} is not a text"
        if not value.isascii() and not _is_utf8(value):
            return f"{name}_type: {shown(value)} is not valid Unicode"
        return None
    if kind.startswith("timestamp"):
        outcome = micros(value)
        return f"{name}_{outcome}" if isinstance(outcome, str) else None
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"{name}_type: {shown(value)} is not a number"
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        return f"{name}_finite: {shown(value)} is not a finite number; write null for a missing value"
    limit = INTEGER_LIMITS.get(kind)
    if limit is not None and (number != math.floor(number) or abs(number) >= limit):
        return f"{name}_type: {shown(value)} is not a whole number of type {kind}"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can carry and Parquet cannot
        return False
    return True


@lru_cache(maxsize=16)
def nested_groups(dataset: str) -> Mapping[str, Mapping[str, str]]:
    """The groups of the nested form of an item: per name inside the column it means."""
    groups: dict[str, dict[str, str]] = {}
    for column in load_contract(dataset).columns:
        if column.nested_path:
            group, name = column.nested_path
            groups.setdefault(group, {})[name] = column.name
    return groups


def flattened(item: Row, groups: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, Any], list[str]]:
    """The item without groups, and why some of them cannot be used."""
    flat = {name: value for name, value in item.items() if name not in groups}
    failures = []
    for group, names in groups.items():
        inner = item.get(group)
        if inner is None:
            continue
        if not isinstance(inner, Mapping):
            failures.append(f"{group}_type: {shown(inner)} is not a JSON object")
            continue
        for name, value in inner.items():
            column = names.get(name)
            if column is None:
                flat[f"{group}.{name}"] = value  # counted as an unknown field
            elif flat.get(column) is not None and flat[column] != value:
                failures.append(
                    f"{column}_ambiguous: {shown(flat[column])} and {group}.{name} {shown(value)} contradict each other"
                )
            else:
                flat[column] = value
    return flat, failures


def unread_columns(contract: Contract, failures: Sequence[str]) -> frozenset[str]:
    """Columns about which the cast failures of an item already said what is wrong."""
    columns: set[str] = set()
    for failure in failures:
        stem, _, suffix = reason_code(failure).rpartition("_")
        if stem in contract.column_names:
            columns.add(stem)
        elif suffix == "type":  # the item, or a whole group of a nested item
            columns |= {c.name for c in contract.columns if stem == "item" or c.nested_path[:1] == (stem,)}
    return frozenset(columns)


def reason_text(rule: Rule, row: Row, limits: Limits) -> str:
    """What a rule says of a row that breaks it: code, the value that failed, what the rule asks for."""
    if rule.expectation in ("expect_column_values_to_not_be_null", "expect_compound_columns_to_be_unique"):
        return f"{rule.code}: {rule.description}"
    if rule.expectation == "expect_column_pair_values_a_to_be_greater_than_b":
        a, b = rule.kwargs["column_A"], rule.kwargs["column_B"]
        return f"{rule.code}: {b} {shown(row[b])} {rule.description} ({a} {shown(row[a])})"
    used = parameters(rule)
    ending = "".join(f" ({name} accepted is {shown(limits[name])})" for name in used)
    return f"{rule.code}: {shown(row[rule.kwargs['column']])} {rule.description}{ending}"


def parameters(rule: Rule) -> list[str]:
    """The names of the limits that a rule is judged by."""
    return [
        value["$PARAMETER"]
        for value in rule.kwargs.values()
        if isinstance(value, dict) and "$PARAMETER" in value
    ]


def meaning_id(dataset: str, parts: Sequence[object]) -> str:
    """The identity of an observation by what it means: a hash of dataset and the values of the contract's meaningKey."""
    return hashlib.sha256("|".join(map(str, (dataset, *parts))).encode(errors="replace")).hexdigest()[:32]


class ItemCheck:
    """The compiled check of one dataset's items."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.contract = contract = load_contract(dataset)
        self.columns = [column for column in contract.columns if column.filled_by != "landing"]
        self.names = frozenset(column.name for column in self.columns)
        self.known_fields = self.names | frozenset(nested_groups(dataset))
        self._groups = nested_groups(dataset)
        own = frozenset(contract.column_names) - self.names
        self._rules = [
            (rule, _breaks(rule))
            for rule in contract.rules
            if not rule.is_batch and own.isdisjoint(rule.columns) and rule.code != "observation_id_missing"
        ]
        self._tests = {column.name: _test(column) for column in self.columns}
        self._required = tuple(
            column.name for column in self.columns if column.filled_by == "sender" and not column.nullable
        )
        tested = {code for column in self.columns for code in _codes_of(column)}
        self._row_rules = [
            breaks for rule, breaks in self._rules if rule.code not in tested and not parameters(rule)
        ]
        self._longitudes = [column.name for column in self.columns if column.is_longitude]
        self._said = tuple(
            column.name
            for column in self.columns
            if column.name not in ("observation_id", "observed_at", REVISION) and not column.is_longitude
        )
        self._is_mhz = {
            name: contract.column(name).unit == "MHz"
            for name in contract.meaning_key
            if name != "observed_at"
        }

    def judge(self, item: Row, limits: Limits, oldest: int, latest: int) -> Verdict:
        """The verdict on an item that has what its landing adds (`sounder_id`, `licence`).

        Args:
            limits: what `time_limits` gives; `oldest` and `latest` are the same in microseconds since 1970.
        """
        row: Row = item
        if self._groups and not self._groups.keys().isdisjoint(item):
            row, failures = flattened(item, self._groups)
            if failures:
                return self._reject(item, limits)
        tests = self._tests
        for name, value in row.items():
            if value is not None and (test := tests.get(name)) is not None and not test(value):
                return self._reject(item, limits)
        get = row.get
        for name in self._required:
            if get(name) is None:
                return self._reject(item, limits)
        for breaks in self._row_rules:
            if breaks(row, limits):
                return self._reject(item, limits)
        observed_at = micros(row["observed_at"])
        if isinstance(observed_at, str) or not oldest <= observed_at <= latest:
            return self._reject(item, limits)
        observation_id = get("observation_id") or self._meaning_id(row, observed_at)
        longitudes = (get(name) for name in self._longitudes)
        said = (
            observed_at,
            *(value - 360 if value is not None and value > 180 else value for value in longitudes),
            *map(get, self._said),
        )
        return self._accept(row, observation_id, observed_at, said)

    def _reject(self, item: Row, limits: Limits) -> Verdict:
        """The reasons in full, in the order of curation; there are none when `judge` was only being careful."""
        flat, failures = flattened(item, self._groups)
        row: dict[str, Any] = {}
        for column in self.columns:
            value = flat.get(column.name)
            failure = None if value is None else cast_failure(column, value)
            if failure is not None:
                failures.append(failure)
                value = None
            row[column.name] = value if value is None else _cast(column, value)
        unread = unread_columns(self.contract, failures)
        observed_at = row["observed_at"]
        observation_id = row["observation_id"]
        if observation_id is None and observed_at is not None and row["sounder_id"] is not None:
            observation_id = self._meaning_id(row, (observed_at - EPOCH) // MICROSECOND)
        broken = [
            reason_text(rule, row, limits)
            for rule, breaks in self._rules
            if unread.isdisjoint(rule.columns) and breaks(row, limits)
        ]
        if reasons := failures + broken:
            return Verdict(reasons, observation_id)
        since = (observed_at - EPOCH) // MICROSECOND
        said = (since, *(row[name] for name in self._longitudes), *map(row.get, self._said))
        return self._accept(row, observation_id, since, said)

    def _accept(self, row: Row, observation_id: str, observed_at: int, said: tuple[Any, ...]) -> Verdict:
        revision = int(row.get(REVISION) or 0)
        day = observed_at // 86_400_000_000
        key = row_key(self.dataset, row["sounder_id"], observation_id, day, revision)
        return Verdict((), observation_id, key, hash(said), revision)

    def _meaning_id(self, row: Row, observed_at: int) -> str:
        parts: list[object] = []
        for name in self.contract.meaning_key:
            value = observed_at if name == "observed_at" else row.get(name)
            if value is None:
                value = ""
            elif name != "observed_at" and self._is_mhz[name]:
                value = round(value * 1000)
            parts.append(value)
        return meaning_id(self.dataset, parts)


@lru_cache(maxsize=8)
def item_check(dataset: str) -> ItemCheck:
    """The check of the items of `dataset`, compiled once per process.

    Raises:
        ValueError: there is no such dataset.
    """
    return ItemCheck(dataset)


def _cast(column: Column, value: Any) -> Any:
    if column.physical_type == "string":
        return value
    if column.physical_type.startswith("timestamp"):
        return EPOCH + int(micros(value)) * MICROSECOND
    number = float(value)
    return number - 360 if column.is_longitude and 180 < number <= 360 else number


def _test(column: Column) -> Test:
    """Whether a value is certainly within its column's own rules; careful, not exact: `_reject` has the last word."""
    if column.physical_type.startswith("timestamp"):
        return lambda value: type(value) is str
    if column.physical_type == "string":
        pattern, enum = column.pattern, frozenset(column.enum)
        longest = column.max_length if column.max_length is not None else math.inf
        if pattern is not None:
            match = re.compile(pattern[:-1] + r"\Z").match
            return lambda value: type(value) is str and len(value) <= longest and match(value) is not None
        if enum:
            return lambda value: type(value) is str and value in enum
        return lambda value: type(value) is str and len(value) <= longest and value.isascii()
    low = -LARGEST if column.minimum is None else column.minimum
    high = LARGEST if column.maximum is None else column.maximum
    if column.is_longitude:
        high = 360
    if column.physical_type in INTEGER_LIMITS:
        limit = INTEGER_LIMITS[column.physical_type]
        return lambda value: (
            (type(value) is int or (type(value) is float and value.is_integer()))
            and low <= value <= high
            and -limit < value < limit
        )
    return lambda value: (type(value) is float or type(value) is int) and low <= value <= high


def _codes_of(column: Column) -> Iterator[str]:
    """The rules that `_test` and the look at the required fields stand for."""
    given = {
        "missing": not column.nullable,
        "range": column.minimum is not None or column.maximum is not None,
        "enum": bool(column.enum),
        "pattern": column.pattern is not None,
        "length": column.max_length is not None,
    }
    return (f"{column.name}_{suffix}" for suffix, is_given in given.items() if is_given)


def _breaks(rule: Rule) -> Callable[[Row, Limits], bool]:
    """Whether a cast row breaks a rule, as Great Expectations judges it.

    Raises:
        ContractError: the rule is of a kind that says nothing of one row alone.
    """
    given, kind = rule.kwargs, rule.expectation.removeprefix("expect_column_")
    if kind == "pair_values_a_to_be_greater_than_b":
        a, b, or_equal = given["column_A"], given["column_B"], given.get("or_equal", False)

        def is_above(row: Row, _: Limits) -> bool:
            high, low = row.get(a), row.get(b)
            return high is not None and low is not None and (high < low or (high == low and not or_equal))

        return is_above
    name = given.get("column", "")
    holds = _condition(given["row_condition"]) if "row_condition" in given else None
    fails = _fails(kind, given)
    if kind == "values_to_not_be_null":
        return lambda row, _: row.get(name) is None and (holds is None or holds(row))

    def breaks(row: Row, limits: Limits) -> bool:
        value = row.get(name)
        return value is not None and (holds is None or holds(row)) and fails(value, limits)

    return breaks


def _fails(kind: str, given: Mapping[str, Any]) -> Callable[[Any, Limits], bool]:
    if kind == "values_to_be_between":
        low, high = given.get("min_value"), given.get("max_value")

        def is_outside(value: Any, limits: Limits) -> bool:
            least = limits[low["$PARAMETER"]] if isinstance(low, dict) else low
            most = limits[high["$PARAMETER"]] if isinstance(high, dict) else high
            return (least is not None and value < least) or (most is not None and value > most)

        return is_outside
    if kind == "values_to_be_in_set":
        allowed = frozenset(given["value_set"])
        return lambda value, _: value not in allowed
    if kind == "values_to_match_regex":
        match = re.compile(given["regex"]).match
        return lambda value, _: match(value) is None
    if kind == "value_lengths_to_be_between":
        longest = given["max_value"]
        return lambda value, _: len(value) > longest
    if kind == "values_to_not_be_null":
        return lambda value, _: False
    raise ContractError(f"rule {kind} says nothing of one row alone: it must be one of the batch")


def _condition(condition: Mapping[str, Any]) -> Callable[[Row], bool]:
    if condition["type"] == "and":
        parts = [_condition(part) for part in condition["conditions"]]
        return lambda row: all(part(row) for part in parts)
    name = condition["column"]["name"]
    if condition["type"] == "nullity":
        is_null = condition["is_null"]
        return lambda row: (row.get(name) is None) == is_null
    parameter = condition["parameter"]
    return lambda row: row.get(name) == parameter
