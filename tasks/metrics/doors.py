"""What the doors count in the memory of their process; Prometheus takes a fall to zero for the restart that it is."""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Sequence
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram

from tasks.metrics import names

INGESTION_LATENCY = Histogram(
    *names.INGESTION_LATENCY,
    ["door"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
OBSERVATIONS = Counter(*names.OBSERVATIONS, ["door", "outcome"])
ERRORS = Counter(*names.ERRORS, ["component"])
for _door in (
    "http",
    "tcp",
):  # from the start, as 0: Prometheus sees no first event of a series that it brings along
    INGESTION_LATENCY.labels(_door)
    for _outcome in ("accepted", "duplicate", "rejected"):
        OBSERVATIONS.labels(_door, _outcome)


def count_landed(door: str, receipts: Sequence[dict[str, Any]], seconds: float) -> None:
    """One delivery is on disk: what its receipts say, and how long its sender waited."""
    _latency(door).observe(seconds)
    if len(receipts) == 1:  # a thousand times a second
        _observations(door, receipts[0]["status"]).inc()
        return
    for outcome, number in Tally(receipt["status"] for receipt in receipts).items():
        _observations(door, outcome).inc(number)


# Looking a series up by its labels costs as much as counting.
_latency = cache(INGESTION_LATENCY.labels)
_observations = cache(OBSERVATIONS.labels)


class ErrorCounter(logging.Handler):
    """Counts what a service logs as an error, by the component that logs it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        ERRORS.labels(component_of(record.name)).inc()


def component_of(logger_name: str) -> str:
    """The component in a label: the module of ours that logs, anything else by its package."""
    parts = logger_name.split(".")
    return parts[-1] if parts[0] in ("services", "tasks", "flows", "autonvis") else parts[0]
