"""Metrics of processes that end: each kind of flow run adds what it measured to a file of its own.

Counts go on from run to run and through restarts; a gauge says what the last run measured. The file is replaced whole,
under a lock, in the format of node exporter's textfile collector, so either it or the gateway can show it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from tasks.metrics.families import add, read, write
from tasks.settings import Settings

log = logging.getLogger(__name__)


@contextmanager
def ledger(settings: Settings, name: str) -> Iterator[CollectorRegistry]:
    """A registry to measure into, whose content is added to `HOME/run/metrics/<name>.prom` at the end.

    A disk that refuses costs the measurements, with a warning, and never the run that made them.
    """
    registry = CollectorRegistry()
    yield registry
    try:
        _add_to(settings.metrics_root / f"{name}.prom", list(registry.collect()))
    except OSError as error:
        log.warning("the metrics of %s are lost: %s", name, error)


def read_ledgers(settings: Settings) -> Iterator[Metric]:
    """The families of every file, one file after the other."""
    for path in sorted(settings.metrics_root.glob("*.prom")):
        yield from _read(path)


def _add_to(path: Path, metrics: list[Metric]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            file.write(write(add(_read(path), metrics)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        os.close(descriptor)


def _read(path: Path) -> list[Metric]:
    try:
        return read(path.read_text())
    except FileNotFoundError:
        return []
    except ValueError as error:
        # Prometheus takes counts that begin anew for a restart.
        log.warning("%s cannot be read (%s): its counts begin anew", path, error)
        return []
