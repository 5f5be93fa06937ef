"""What was sent and acknowledged, and the check of it against the lake: the judge of every fault in this folder.

Ids are random and the sounder is new in every run, so that a stray sender of another run shows as a phantom.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks import lake
from tasks.curation import curate_batch, pending_batches
from tasks.landing.spool import collect
from tasks.settings import Settings

FIRST_OBSERVED_AT = datetime(2022, 10, 24, 20, tzinfo=UTC)
BAD_SHARE = 10
"""Every so many items one is physically impossible and must end in quarantine."""

_ID = re.compile(rb'"observation_id": ?"([0-9a-f]{32})"')


@dataclass(frozen=True)
class Verdict:
    """Counts of ids: lost (acknowledged, in neither place it belongs), doubled, phantom (stored, but not by right)."""

    n_acknowledged: int
    n_quarantined: int
    lost: frozenset[str]
    doubled: frozenset[str]
    phantoms: frozenset[str]


@dataclass
class Ledger:
    """Safe to share between threads."""

    sounder_id: str = field(default_factory=lambda: f"F{secrets.token_hex(6)}")
    sent: dict[str, bool] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def items(self, n: int) -> list[dict[str, Any]]:
        """`n` new ionograms; one in `BAD_SHARE` is to be rejected."""
        with self._lock:
            return [self._item() for _ in range(n)]

    def _item(self) -> dict[str, Any]:
        number, observation_id = len(self.sent), secrets.token_hex(16)
        is_good = number % BAD_SHARE != BAD_SHARE - 1
        self.sent[observation_id] = is_good
        return {
            "observation_id": observation_id,
            "sounder_id": self.sounder_id,
            "observed_at": (FIRST_OBSERVED_AT + timedelta(seconds=number)).isoformat(),
            "latitude_deg": 50.0,
            "longitude_deg": 8.0,
            "fof2_mhz": 5.5 if is_good else 99.0,
        }

    def acknowledge(self, items: Iterable[dict[str, Any]]) -> None:
        with self._lock:
            self.acknowledged.update(item["observation_id"] for item in items)

    def check(self, settings: Settings) -> Verdict:
        """Compares the ledger with the lake and its quarantine as they are now."""
        rows = lake.read_table("ionograms", settings=settings, columns=["observation_id"])
        stored = Counter(rows.column(0).to_pylist())
        kept = lake.read("quarantine", settings=settings, columns=["raw", "replayed_at"])
        raws = kept["raw"][kept["replayed_at"].isna()]
        quarantined = {found.decode() for raw in raws for found in _ID.findall(raw)}
        good = {name for name, is_good in self.sent.items() if is_good}
        bad = self.sent.keys() - good
        lost = (self.acknowledged & good) - stored.keys() | (self.acknowledged & bad) - quarantined
        doubled = {name for name, count in stored.items() if count > 1} | (stored.keys() & quarantined)
        phantoms = (stored.keys() - good) | (quarantined - self.sent.keys())
        return Verdict(
            len(self.acknowledged), len(raws), frozenset(lost), frozenset(doubled), frozenset(phantoms)
        )


def land_everything(settings: Settings) -> None:
    """What the flow `land` does after its arrivals, in this process: collect, then curate oldest first."""
    collect(settings.spool_root, settings.lake_root)
    for batch in pending_batches(settings):
        curate_batch(batch, settings=settings)
