"""Idempotency keys: a request repeated under its key gets the first answer again and lands only once.

The answers are kept in memory, bounded in number, size and time. A key that is no longer known (after a restart, or
pushed out by others) is a new key: the repeated request lands again, and curation drops its items by observation id.
So keys save work and keep receipts the same; that nothing doubles in the lake does not rest on them.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.landing.door import RETRY_LOAD_S, Problem
from tasks.landing.spool import Record

KEYS = 100_000
KEPT_BYTES = 64 * 2**20
KEPT_S = 24 * 3600.0
KEY_CHARACTERS = 255


@dataclass
class _Kept:
    digest: bytes
    answer: bytes | None
    """None while the first request is under way."""
    until_s: float


class Answers:
    """The answers kept by key; used from one event loop."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], _Kept] = OrderedDict()
        self._n_bytes = 0

    def begin(self, key: tuple[str, ...], digest: bytes) -> bytes | None:
        """The answer to repeat, or None: then this request is the first, and must end in `keep` or `forget`.

        Raises:
            Problem: 409, the first request is still under way; 422, it said something else.
        """
        now_s = time.monotonic()
        kept = self._kept.get(key)
        if kept is not None and kept.answer is not None and kept.until_s < now_s:
            self.forget(key)
            kept = None
        if kept is None:
            self._kept[key] = _Kept(digest, None, now_s + KEPT_S)
            return None
        if kept.digest != digest:
            detail = "the Idempotency-Key was used for another request: give each request its own"
            raise Problem(422, "Key used", detail)
        if kept.answer is None:
            detail = "the first request with this Idempotency-Key is still under way"
            raise Problem(409, "Under way", detail, Retry_After=str(RETRY_LOAD_S))
        return kept.answer

    def keep(self, key: tuple[str, ...], answer: bytes) -> None:
        """Keeps the answer of the first request; the oldest others give way."""
        self._kept[key].answer = answer
        self._kept.move_to_end(key)
        self._n_bytes += len(answer)
        while len(self._kept) > KEYS or self._n_bytes > KEPT_BYTES:
            oldest = next((one for one, kept in self._kept.items() if kept.answer is not None), None)
            if oldest is None:
                return
            self.forget(oldest)

    def forget(self, key: tuple[str, ...]) -> None:
        """Ends a request that was not answered 202: the next one with its key is a first one."""
        self._n_bytes -= len(self._kept.pop(key).answer or b"")


def digest(records: Sequence[Record]) -> bytes:
    """What a request says, whenever it arrives."""
    hashed = hashlib.sha256()
    for record in records:
        hashed.update(repr((record.dataset, record.source, record.licence, len(record.payload))).encode())
        hashed.update(record.payload)
    return hashed.digest()
