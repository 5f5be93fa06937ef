"""Whether a contract's version announces what changed in it: what breaks its readers or senders is major, the rest minor.

Compared are snapshots (`tasks.contracts.snapshot`), so that the former one may come from a file, or from another commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Snapshot = Mapping[str, Any]

LOWER, UPPER, ACCEPTED = COMPARED = "min_value", "max_value", "value_set"
"""Arguments of rules of which more or less can be said than that they changed."""
NOT_COMPARED = "expect_table_columns_to_match_set"  # the columns say the same


def version_problems(released: Snapshot, current: Snapshot) -> list[str]:
    """Changes from the snapshot `released` to `current` that the version numbers do not announce.

    Major, since it breaks readers: a column removed (or renamed, which is the same to them), another type, another unit,
    a null where there was none, another meaning key. Major, since it refuses what was accepted: a rule that is new or
    judges more strictly (a narrower range, fewer values, another pattern) on columns that there were, and a column that
    senders must fill in from now on. Anything else that can be seen needs at least a minor version.
    """
    problems = []
    for dataset, before in released.items():
        if dataset not in current:
            problems.append(f"{dataset}: the dataset is gone; readers of the lake still have it")
            continue
        now = current[dataset]
        old_version, new_version = (
            tuple(int(part) for part in item["version"].split(".")) for item in (before, now)
        )
        breaks = [*_broken_readers(before, now), *_refused_now(before, now)]
        if breaks and new_version[0] <= old_version[0]:
            problems += [
                f"{dataset} {now['version']}: {text}: needs version {old_version[0] + 1}.0.0"
                for text in breaks
            ]
        elif _without_version(now) != _without_version(before) and new_version[:2] <= old_version[:2]:
            problems.append(
                f"{dataset} {now['version']}: columns or rules changed: needs a new minor version"
            )
        elif new_version < old_version:
            problems.append(
                f"{dataset}: version {now['version']} is older than the released {before['version']}"
            )
    return problems


def _without_version(contract: Snapshot) -> dict[str, Any]:
    return {name: value for name, value in contract.items() if name != "version"}


def _broken_readers(before: Snapshot, now: Snapshot) -> Iterator[str]:
    for name, column in before["columns"].items():
        if name not in now["columns"]:
            yield f"column {name} was removed"
            continue
        other = now["columns"][name]
        for what in ("type", "unit"):
            if other[what] != column[what]:
                yield f"{name} changed {what} from {column[what]} to {other[what]}"
        if other["nullable"] and not column["nullable"]:
            yield f"{name} may now be null"
    if now["meaning_key"] != before["meaning_key"]:
        yield f"the meaning key changed from {before['meaning_key']} to {now['meaning_key']}"


def _refused_now(before: Snapshot, now: Snapshot) -> Iterator[str]:
    for name, column in now["columns"].items():
        if name not in before["columns"] and column["is_demanded"]:
            yield f"senders must now give {name}"
    for code, rule in now["rules"].items():
        if rule["expectation"] == NOT_COMPARED:
            continue
        former = before["rules"].get(code)
        if former is None:
            if rule["columns"] and set(rule["columns"]) <= set(before["columns"]):
                yield f"rule {code} is new"
        elif former != rule and (text := _stricter(former, rule)):
            yield f"rule {code} {text}"


def _stricter(former: Snapshot, rule: Snapshot) -> str | None:
    """How `rule` refuses what `former` accepted; None if it certainly does not."""
    old, new = former["kwargs"], rule["kwargs"]
    if former["expectation"] != rule["expectation"] or _others(old) != _others(new):
        return "changed"
    for name in COMPARED:
        was, is_now = old.get(name), new.get(name)
        if is_now is None or was == is_now:
            continue
        if name == ACCEPTED:
            if missing := sorted(set(was or ()) - set(is_now)):
                return f"no longer accepts {', '.join(missing)}"
        elif not _is_wider(name, was, is_now):
            return f"narrowed {name} from {was} to {is_now}"
    return None


def _others(kwargs: Snapshot) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in COMPARED}


def _is_wider(name: str, was: Any, is_now: Any) -> bool:
    """Whether a bound gives way; one that was not there, or depends on the batch, never does."""
    if not isinstance(was, int | float) or not isinstance(is_now, int | float):
        return False
    return is_now < was if name == LOWER else is_now > was
