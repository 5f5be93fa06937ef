"""The check at the door: what a sender is told about each item at once.

It is `tasks.item_check`, which curation agrees with. What fails here lands all the same and is quarantined there for the
same reasons: a receipt informs, it does not throw away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from tasks.contracts import SENT_AT
from tasks.item_check import (
    EPOCH,
    MICROSECOND,
    Verdict,
    identity_fault,
    item_check,
    micros,
    reason_code,
    shown,
    time_limits,
)
from tasks.settings import Settings

DATASETS = ("ionograms", "measurements")
"""What sounders submit; other contracts are filled by ourselves."""
REASONS = 10
"""Reasons at most per receipt: a sender mends the first ones first."""
REASON_CHARACTERS = 300
CLOCK_WARNING_S = 10.0
"""A sender's clock that is off by more is named in its receipts."""


class Sent(NamedTuple):
    """One item as it came: the dataset it is sent to (None if unknown), its value or the reason it has none to be
    trusted, and what its envelope or request says of the time of sending.
    """

    dataset: str | None
    value: Any
    fault: str | None = None
    sent_at: Any = None


class Judge:
    """Judges what one sender sent at one moment.

    Args:
        sounder_id: who sent it, when that is known for sure; an item that names another is rejected.
        licence: of the whole delivery; it overrules the items' own.
        received_at: moment that future, age and clock offset are measured from.
    """

    def __init__(
        self, settings: Settings, *, sounder_id: str | None, licence: str | None, received_at: datetime
    ) -> None:
        self.sounder_id = sounder_id
        self.licence = licence
        self.received_at = received_at
        self.server_time = (
            received_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        self._limits = time_limits(
            received_at, max_future_s=settings.max_future_s, max_age_d=settings.max_age_d
        )
        self._oldest, self._latest, self._now = (
            (moment - EPOCH) // MICROSECOND
            for moment in (self._limits["oldest"], self._limits["latest"], received_at)
        )

    def receipt(self, sent: Sent) -> tuple[dict[str, Any], Verdict]:
        """The receipt of one item: observation_id (or None), status (accepted, accepted_with_warnings or rejected),
        codes, reasons, warnings, server_time, clock_offset_s; and the verdict it rests on.
        """
        verdict = self.verdict(sent)
        dataset, value, _, sent_at = sent
        warnings: Sequence[str] = ()
        if isinstance(value, dict):
            if dataset in DATASETS and not value.keys() <= (known := _known_fields(dataset)):
                warnings = [
                    f"{name[:64]}: the contract does not know it; it stays in the raw bytes only"
                    for name in sorted(value.keys() - known)[:REASONS]
                ]
            if SENT_AT in value:
                sent_at = value[SENT_AT] or sent_at
        offset_s = None
        if sent_at is not None:
            since = micros(sent_at)
            if isinstance(since, str):
                warnings = [f"{SENT_AT}_{since}", *warnings]
            else:
                offset_s = round((self._now - since) / 1e6, 3)
                if abs(offset_s) > CLOCK_WARNING_S:
                    side = "behind" if offset_s > 0 else "ahead of"
                    warnings = [f"clock: the sender's is {abs(offset_s):.0f} s {side} ours", *warnings]
        reasons = verdict.reasons
        receipt = {
            "observation_id": verdict.observation_id,
            "status": "rejected" if reasons else "accepted_with_warnings" if warnings else "accepted",
            "codes": [reason_code(reason) for reason in reasons[:REASONS]] if reasons else (),
            "reasons": [_text(reason) for reason in reasons[:REASONS]] if reasons else (),
            "warnings": [_text(warning) for warning in warnings[:REASONS]] if warnings else (),
            "server_time": self.server_time,
            "clock_offset_s": offset_s,
        }
        return receipt, verdict

    def verdict(self, sent: Sent) -> Verdict:
        dataset, value = sent.dataset, sent.value
        if dataset not in DATASETS:
            return Verdict(
                [f"dataset_unknown: {shown(dataset)} is unknown; known are {', '.join(DATASETS)}"], None
            )
        fault = sent.fault or identity_fault(value, self.sounder_id)
        if fault is not None:
            return Verdict([fault], None)
        if not isinstance(value, dict):
            return Verdict([f"item_type: {shown(value)} is not a JSON object"], None)
        # As the landing will: its word on sounder and licence is the last.
        if self.sounder_id is not None and value.get("sounder_id") is None:
            value = {**value, "sounder_id": self.sounder_id}
        if self.licence is not None:
            value = {**value, "licence": self.licence}
        return item_check(dataset).judge(value, self._limits, self._oldest, self._latest)


def _text(said: str) -> str:
    return said[:REASON_CHARACTERS].encode(errors="replace").decode()


@lru_cache(maxsize=8)
def _known_fields(dataset: str) -> frozenset[str]:
    own = {"dataset", "source", SENT_AT}  # said to the door, and curation's question whether it is simulated
    return item_check(dataset).known_fields | own


def known_dataset(item: Mapping[str, Any] | Any, default: str | None) -> str | None:
    """The dataset an item names itself, or else `default`; None when it is unknown."""
    named = item.get("dataset", default) if isinstance(item, dict) else default
    return named if isinstance(named, str) and named in DATASETS else None
