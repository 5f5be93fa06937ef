"""What the doors would say of a file of observations, without sending it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.landing.door import Problem, dataset_of, parse
from tasks.landing.receipts import receipt
from tasks.observation_files import ObservationFileError, read_observations
from tasks.settings import Settings


@dataclass
class DryRun:
    """How many of a file's items would be accepted, and why the others would not."""

    n_items: int = 0
    n_rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected items per field at fault."""
    examples: dict[str, str] = field(default_factory=dict)
    """Per field at fault the first reason in full, with the number of its item in the file."""


def dry_run(path: Path, dataset: str, *, settings: Settings, now: datetime) -> DryRun:
    """Judges the items of a file or folder (`tasks.observation_files`), or of `.json` and `.jsonl` as the doors take
    them, by the check of the doors.

    Raises:
        ObservationFileError: the file cannot be read as a whole.
        FileNotFoundError: there is none.
    """
    result = DryRun()
    max_future_at = now + timedelta(seconds=settings.max_future_s)
    for item in _items(path, dataset):
        result.n_items += 1
        answer = receipt(
            dataset_of(item, dataset), item, sounder_id=None, server_time="", max_future_at=max_future_at
        )
        if answer["status"] != "rejected":
            continue
        result.n_rejected += 1
        for name, reason in {reason.partition(":")[0]: reason for reason in answer["reasons"]}.items():
            result.reasons[name] += 1
            result.examples.setdefault(name, f"item {result.n_items}: {reason}")
    return result


def _items(path: Path, dataset: str) -> Iterator[Any]:
    if path.suffix not in (".json", ".jsonl"):
        yield from read_observations(path, dataset=dataset)
        return
    bodies = path.read_bytes().splitlines() if path.suffix == ".jsonl" else [path.read_bytes()]
    n_items = 0
    for number, body in enumerate(bodies, 1):
        if path.suffix == ".jsonl" and not body.strip():
            continue
        try:
            document = parse(body)
        except Problem as problem:
            raise ObservationFileError(f"{path}, line {number}: not JSON: {problem.detail}") from problem
        if isinstance(document, dict) and isinstance(document.get("items"), list):
            document = document["items"]
        for item in document if isinstance(document, list) else [document]:
            n_items += 1
            yield item
    if not n_items:
        raise ObservationFileError(f"{path} holds no observation")
