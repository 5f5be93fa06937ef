"""Whether what arrived has landed, and passed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from tasks import catalog
from tasks.health.finding import Finding, Level, duration
from tasks.landing.mqtt import BrokerUnavailable
from tasks.metrics.broker_queue import broker_queue_length
from tasks.settings import Settings

OVERDUE = timedelta(minutes=15)
"""Land runs every minute."""
QUEUE_MESSAGES = 100_000
"""Five minutes of 300 a second."""
QUARANTINE_SHARE = 0.2
LEAST_ITEMS = 20


def check_spool(settings: Settings, now: datetime) -> Iterator[Finding]:
    """What waits in the spool and in the broker's queue."""
    waiting = [path for path in settings.spool_root.glob("*/*.seg")]
    oldest_s = min((path.stat().st_mtime for path in waiting if path.exists()), default=now.timestamp())
    age_s = now.timestamp() - oldest_s
    try:
        queued = broker_queue_length(settings)
    except BrokerUnavailable:
        queued = None  # that the broker does not answer is said elsewhere
    told = f"{len(waiting)} segments wait in the spool" + (
        "" if queued is None else f", {queued} messages in the queue"
    )
    if age_s > OVERDUE.total_seconds():
        sentence = f"{told}, the oldest for {duration(age_s)}"
        yield Finding(
            "spool",
            Level.FAULT,
            sentence,
            "see the last run of land, or run one: .venv/bin/autonvis land",
            "nvisbacklog",
        )
    elif queued is not None and queued > QUEUE_MESSAGES:
        yield Finding(
            "spool",
            Level.WARNING,
            told,
            "see whether land keeps up: its runs in the Prefect UI",
            "nvisbacklog",
        )
    else:
        yield Finding("spool", Level.OK, told)


def check_quarantine(settings: Settings, now: datetime) -> Iterator[Finding]:
    """How much of the last hour's items failed their contract."""
    since = now - timedelta(hours=1)
    batches = catalog.batches_since(catalog.open_catalog(settings), since)
    n_items = sum(batch.counts.get("n_items", 0) for batch in batches)
    n_bad = sum(batch.counts.get("n_quarantined", 0) for batch in batches)
    sentence = f"{n_bad} of {n_items} items of the last hour are in quarantine"
    if n_items >= LEAST_ITEMS and n_bad > QUARANTINE_SHARE * n_items:
        yield Finding(
            *("quarantine", Level.WARNING, sentence),
            f"read the reasons: {settings.lake_root / 'quarantine'}, newest file",
            "nvisquarantine",
        )
    else:
        yield Finding("quarantine", Level.OK, sentence)
