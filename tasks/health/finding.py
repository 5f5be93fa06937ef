"""What a check says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """How bad it is; the worst one is the exit code."""

    OK = 0
    WARNING = 1
    FAULT = 2


@dataclass(frozen=True)
class Finding:
    """One sentence on one thing; `next_step` says what to do, `runbook` is the entry that says more."""

    check: str
    level: Level
    sentence: str
    next_step: str = ""
    runbook: str = "health"

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "level": self.level.name.lower()}


def duration(seconds: float) -> str:
    """A time span as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
