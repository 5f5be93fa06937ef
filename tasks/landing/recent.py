"""The observations a door has taken lately: what tells a repetition and a contradiction from something new.

Kept in memory, bounded, as two 64-bit hashes per observation: which it is (as `tasks.revisions` tells them apart,
which curation goes by too) and what was said of it. What is pushed out is forgotten: its repetition is called accepted, and
dropped by curation. Two observations are taken for one once in some 10^13.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import Enum
from pathlib import Path

from tasks.item_check import Verdict
from tasks.landing.receipts import DATASETS, Judge, Sent
from tasks.landing.spool import SegmentError, read_segment, sealed_segments
from tasks.settings import Settings
from tasks.submissions import DecodeError, read_delivery

log = logging.getLogger(__name__)

KEPT = 800_000
"""Observations remembered at most: some 100 MB. At least half of them are the newest ones."""
RELOAD_S = 2.0
RELOAD_BYTES = 16 * 2**20
"""What a starting door reads again of what landed last, in time and size."""


class Standing(Enum):
    """What an observation is to those known before it."""

    NEW = "new"
    REPEATED = "repeated"
    CONTRADICTING = "contradicting"


class RecentObservations:
    """Used from one event loop; or before it begins."""

    def __init__(self, n_kept: int = KEPT) -> None:
        self._n_half = n_kept // 2
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self.n_released = 0
        """Grows whenever something taken for known turned out not to be stored."""

    def __len__(self) -> int:
        return len(self._newer) + len(self._older)

    def claim(self, verdicts: Iterable[Verdict]) -> list[Standing | None]:
        """Notes the accepted ones as taken; says of each what it is to those before it, None of the rejected."""
        standings: list[Standing | None] = []
        for verdict in verdicts:
            if verdict.reasons:
                standings.append(None)
                continue
            key, content = verdict.key, verdict.content
            known = self._newer.get(key)
            if known is None:
                known = self._older.get(key)
            if known is None:
                self._newer[key] = content
                if len(self._newer) > self._n_half:
                    self._older, self._newer = self._newer, {}
                standings.append(Standing.NEW)
            else:
                standings.append(Standing.REPEATED if known == content else Standing.CONTRADICTING)
        return standings

    def release(self, verdicts: Iterable[Verdict], standings: Sequence[Standing | None]) -> None:
        """Takes back the claims that were new: their bytes were not stored."""
        for verdict, standing in zip(verdicts, standings, strict=True):
            if standing is Standing.NEW:
                self._newer.pop(verdict.key, None)
                self._older.pop(verdict.key, None)
                self.n_released += 1


def recall(settings: Settings, recent: RecentObservations) -> int:
    """Fills the memory from what landed last, in the spool or already in the lake, and returns how many it knows.

    As far as `RELOAD_S` and `RELOAD_BYTES` go, newest segments first: the rest is forgotten.
    """
    begun_s = time.monotonic()
    n_bytes = 0
    read: list[tuple[datetime, list[Verdict]]] = []
    for path in _landed(settings):
        try:
            n_bytes += path.stat().st_size
            if n_bytes > RELOAD_BYTES or time.monotonic() - begun_s > RELOAD_S:
                break
            read += _verdicts(path, settings)
        except (
            FileNotFoundError,
            SegmentError,
        ) as error:  # it has moved on, or curation will say what is wrong
            log.info("event=not-recalled segment=%s reason=%r", path.name, str(error))
    # The first one counts, as it did then. Names of segments tell the time too coarsely for that.
    for _, verdicts in sorted(read, key=lambda received: received[0]):
        recent.claim(verdicts)
    log.info("event=recalled observations=%d seconds=%.2f", len(recent), time.monotonic() - begun_s)
    return len(recent)


def _landed(settings: Settings) -> Iterator[Path]:
    """Sealed segments, newest first as far as their names tell, which begin with their time: the spool, then the lake."""
    spooled = (path for folder in settings.spool_root.glob("*/") for path in sealed_segments(folder))
    yield from sorted(spooled, key=lambda path: path.name, reverse=True)
    for day in sorted((settings.lake_root / "landing").glob("date=*"), reverse=True):
        yield from sorted(day.glob("*.seg"), reverse=True)


def _verdicts(path: Path, settings: Settings) -> list[tuple[datetime, list[Verdict]]]:
    """Of every record of a segment, when it was received and what the door says of its observations."""
    received = []
    for record in read_segment(path):
        if record.dataset not in DATASETS:
            continue
        try:
            delivery = read_delivery(record.payload, record.content_type)
        except DecodeError:
            continue
        judge = Judge(
            settings,
            sounder_id=record.sounder_id,
            licence=record.licence,
            received_at=record.received_at,
        )
        verdicts = [
            judge.verdict(Sent(record.dataset, value, delivery.faults.get(position)))
            for position, value in enumerate(delivery.values)
        ]
        received.append((record.received_at, verdicts))
    return received
