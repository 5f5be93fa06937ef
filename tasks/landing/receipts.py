"""The check at the door: what a sender is told about each item at once.

It is the contract's JSON Schema, so a few microseconds an item; the full validation follows in curation. What fails
here lands all the same and is quarantined there with every reason: a receipt informs, it does not throw away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import jsonschema_rs

from tasks.contracts import load_contract, submission_schema

DATASETS = ("ionograms", "measurements")
"""What sounders submit; other contracts are filled by ourselves."""
REASONS = 10
"""Reasons at most per receipt: a sender mends the first ones first."""
REASON_CHARACTERS = 300
CLOCK_WARNING_S = 10.0
"""A sender's clock that is off by more is named in its receipts."""
CODES = {
    "minimum": "range", "maximum": "range", "required": "required", "type": "type", "pattern": "format",
    "enum": "value",
}  # fmt: skip
"""What a rule of the schema is called in a reason code, after the name of the field: `fof2_mhz_range`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def receipt(
    dataset: str | None,
    item: Any,
    *,
    sounder_id: str | None,
    server_time: str,
    max_future_at: datetime,
    clock_offset_s: float | None = None,
) -> dict[str, Any]:
    """The receipt of one item: observation_id (or None), status, codes, reasons, warnings, server_time, clock_offset_s.

    Args:
        dataset: the dataset the item is sent to; None or an unknown name rejects it.
        item: as decoded from JSON.
        sounder_id: who sent it, when that is known for sure; an item that names another is rejected.
        max_future_at: an observation later than this is rejected.
        clock_offset_s: our clock minus the sender's, where the sender has said its time.
    """
    faults: list[tuple[str, str]]
    warnings: list[str] = []
    observation_id = None
    if dataset not in DATASETS:
        text = f"dataset: {_shown(dataset)} is unknown; known are {', '.join(DATASETS)}"
        faults = [("dataset_unknown", text)]
    else:
        if sounder_id is not None and isinstance(item, dict) and item.get("sounder_id") is None:
            item = {**item, "sounder_id": sounder_id}  # as curation will
        try:
            faults = _schema_faults(dataset, item)
            if isinstance(item, Mapping):
                observation_id, observed_at = identity(dataset, item, sounder_id)
                if observed_at is not None and observed_at > max_future_at:
                    text = f"observed_at: {_shown(item.get('observed_at'))} is in the future"
                    faults.append(("observed_at_future", text))
                warnings = [
                    f"{name[:64]}: the contract does not know it; it stays in the raw bytes only"
                    for name in item.keys() - _known_fields(dataset)
                ]
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            faults = [("item_unreadable", f"item: it cannot be read ({error})")]
        if isinstance(item, Mapping) and sounder_id is not None:
            claimed = item.get("sounder_id")
            if claimed is not None and claimed != sounder_id:
                text = f"sounder_id: the item says {_shown(claimed)}, the credential is {sounder_id!r}'s"
                faults.append(("sounder_id_mismatch", text))
    if clock_offset_s is not None and abs(clock_offset_s) > CLOCK_WARNING_S:
        side = "behind" if clock_offset_s > 0 else "ahead of"
        warnings.insert(0, f"clock: the sender's is {abs(clock_offset_s):.0f} s {side} ours")
    status = "rejected" if faults else "accepted_with_warnings" if warnings else "accepted"
    return {
        "observation_id": observation_id,
        "status": status,
        "codes": [code for code, _ in faults[:REASONS]],
        "reasons": [_text(reason) for _, reason in faults[:REASONS]],
        "warnings": [_text(warning) for warning in sorted(warnings)[:REASONS]],
        "server_time": server_time,
        "clock_offset_s": clock_offset_s,
    }


def _text(said: str) -> str:
    return said[:REASON_CHARACTERS].encode(errors="replace").decode()


@lru_cache(maxsize=8)
def _known_fields(dataset: str) -> frozenset[str]:
    own = {"dataset", "source"}  # said to the door, and curation's question whether it is simulated
    return frozenset(submission_schema(dataset)["properties"]) | own


def identity(
    dataset: str, item: Mapping[str, Any], sounder_id: str | None
) -> tuple[str | None, datetime | None]:
    """The item's observation_id, its own or by what it means as in `tasks.validation.meaning_ids`, and its time.

    Each is None where the item does not allow one.
    """
    contract = load_contract(dataset)
    parts: list[Any] = [dataset]
    observed_at: datetime | None = None
    is_whole = True
    for name in contract.meaning_key:
        column = contract.column(name)
        value: Any = item.get(name)
        if value is None and column.nested_path:
            group, inner = column.nested_path
            outer = item.get(group)
            value = outer.get(inner) if isinstance(outer, Mapping) else None
        if name == "sounder_id" and value is None:
            value = sounder_id
        if column.physical_type.startswith("timestamp"):
            moment = _time(value)
            is_whole &= moment is not None
            if moment is not None:
                observed_at = moment if name == "observed_at" else observed_at
                value = (moment - _EPOCH) // _MICROSECOND
        elif column.unit == "MHz":
            is_number = (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            )
            value = round(value * 1000) if is_number else ""
        elif not isinstance(value, str):
            is_whole &= name != "sounder_id"
            value = ""
        parts.append(value)
    own = item.get("observation_id")
    if isinstance(own, str):
        return own, observed_at
    if not is_whole:
        return None, observed_at
    return hashlib.sha256("|".join(map(str, parts)).encode(errors="replace")).hexdigest()[:32], observed_at


@lru_cache(maxsize=8)
def _validator(dataset: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(submission_schema(dataset))


def _schema_faults(dataset: str, item: Any) -> list[tuple[str, str]]:
    """Code and sentence of each rule that the item breaks."""
    validator = _validator(dataset)
    if validator.is_valid(item):
        return []
    faults = []
    for error in validator.iter_errors(item):
        path: Sequence[Any] = list(error.instance_path)
        name = ".".join(map(str, path))
        value = _at(item, path)
        code = CODES.get(error.kind.name, "schema")
        if isinstance(value, float) and not math.isfinite(value):
            code, message = "finite", f"{value} is not a number; a missing value is null"
        else:
            message = error.message
        field = getattr(error.kind, "property", name) if code == "required" else name
        faults.append((f"{field or 'item'}_{code}"[:100], f"{name or 'item'}: {message}"))
        if len(faults) == REASONS:
            break
    return faults or [("item_schema", "item: it does not follow the schema")]


def _at(item: Any, path: Sequence[Any]) -> Any:
    for key in path:
        item = item[key]
    return item


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment


def _shown(value: Any) -> str:
    return repr(value)[:80]
