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

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def receipt(
    dataset: str | None, item: Any, *, sounder_id: str | None, server_time: str, max_future_at: datetime
) -> dict[str, Any]:
    """The receipt of one item: observation_id (or None), status, reasons, server_time.

    Args:
        dataset: the dataset the item is sent to; None or an unknown name rejects it.
        item: as decoded from JSON.
        sounder_id: who sent it, when that is known for sure; an item that names another is rejected.
        max_future_at: an observation later than this is rejected.
    """
    reasons: list[str]
    observation_id = None
    if dataset not in DATASETS:
        reasons = [f"dataset: {_shown(dataset)} is unknown; known are {', '.join(DATASETS)}"]
    else:
        if sounder_id is not None and isinstance(item, dict) and item.get("sounder_id") is None:
            item = {**item, "sounder_id": sounder_id}  # as curation will
        try:
            reasons = _schema_faults(dataset, item)
            if isinstance(item, Mapping):
                observation_id, observed_at = identity(dataset, item, sounder_id)
                if observed_at is not None and observed_at > max_future_at:
                    reasons.append(f"observed_at: {_shown(item.get('observed_at'))} is in the future")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            reasons = [f"item: it cannot be read ({error})"]
        if isinstance(item, Mapping) and sounder_id is not None:
            claimed = item.get("sounder_id")
            if claimed is not None and claimed != sounder_id:
                reasons.append(
                    f"sounder_id: the item says {_shown(claimed)}, the credential is {sounder_id!r}'s"
                )
    return {
        "observation_id": observation_id,
        "status": "rejected" if reasons else "accepted",
        "reasons": [
            reason[:REASON_CHARACTERS].encode(errors="replace").decode() for reason in reasons[:REASONS]
        ],
        "server_time": server_time,
    }


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


def _schema_faults(dataset: str, item: Any) -> list[str]:
    validator = _validator(dataset)
    if validator.is_valid(item):
        return []
    faults = []
    for error in validator.iter_errors(item):
        path: Sequence[Any] = list(error.instance_path)
        value = _at(item, path)
        if isinstance(value, float) and not math.isfinite(value):
            message = f"{value} is not a number; a missing value is null"
        else:
            message = error.message
        faults.append(f"{'.'.join(map(str, path)) or 'item'}: {message}")
        if len(faults) == REASONS:
            break
    return faults or ["item: it does not follow the schema"]


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
