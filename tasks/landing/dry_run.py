"""What the doors would say of a file of observations, without sending it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.landing.receipts import Judge, Sent, known_dataset
from tasks.observation_files import ObservationFileError, read_observations
from tasks.settings import Settings
from tasks.submissions import DecodeError, read_delivery


@dataclass
class DryRun:
    """How many of a file's items would be accepted, and why the others would not."""

    n_items: int = 0
    n_rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected items per reason code."""
    examples: dict[str, str] = field(default_factory=dict)
    """Per reason code the first reason in full, with the number of its item in the file."""


def dry_run(path: Path, dataset: str, *, settings: Settings, now: datetime) -> DryRun:
    """Judges the items of a file or folder (`tasks.observation_files`), or of `.json` and `.jsonl` as the doors take
    them, by the check of the doors.

    Raises:
        ObservationFileError: the file cannot be read as a whole.
        FileNotFoundError: there is none.
    """
    result = DryRun()
    judge = Judge(settings, sounder_id=None, licence=None, received_at=now)
    for value, fault in _items(path, dataset):
        result.n_items += 1
        answer, _ = judge.receipt(Sent(known_dataset(value, dataset), value, fault))
        if answer["status"] != "rejected":
            continue
        result.n_rejected += 1
        for code, reason in zip(answer["codes"], answer["reasons"], strict=True):
            result.reasons[code] += 1
            result.examples.setdefault(code, f"item {result.n_items}: {reason}")
    return result


def _items(path: Path, dataset: str) -> Iterator[tuple[Any, str | None]]:
    """The items of a file, with the reason of those that have no value to be trusted."""
    if path.suffix not in (".json", ".jsonl"):
        yield from ((value, None) for value in read_observations(path, dataset=dataset))
        return
    bodies = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    n_items = 0
    for number, body in enumerate(bodies, 1):
        if path.suffix == ".jsonl" and not body.strip():
            continue
        try:
            delivery = read_delivery(body)
        except DecodeError as error:
            raise ObservationFileError(f"{path}, line {number}: {error}") from error
        for position, value in enumerate(delivery.values):
            n_items += 1
            yield value, delivery.faults.get(position)
    if not n_items:
        raise ObservationFileError(f"{path} holds no observation")
