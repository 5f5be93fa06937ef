"""What is there to be seen when asked: spool, queue, disk, processes, and what the public sees."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from tasks.landing.mqtt import BrokerUnavailable
from tasks.landing.spool import count_records
from tasks.metrics import names
from tasks.metrics.broker_queue import broker_queue_length
from tasks.process_identity import find_process
from tasks.settings import Settings


class State:
    """Looks at a system; one for a service, since it remembers how far it has counted."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._counted: dict[tuple[int, int], tuple[int, int]] = {}
        """Records, and bytes that they take, of each segment by device and inode: a rename keeps both."""
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """The families, looked at now; takes some milliseconds, and longer where a spool is new and full."""
        with self._lock:
            yield from self._spool()
        yield from self._disk()
        yield from self._public()
        yield from self._backups()
        yield from self._processes()
        yield from _queue(self.settings)

    def _spool(self) -> Iterator[Metric]:
        messages = GaugeMetricFamily(*names.SPOOL_MESSAGES, labels=["channel"])
        n_bytes = GaugeMetricFamily(*names.SPOOL_BYTES, labels=["channel"])
        counted: dict[tuple[int, int], tuple[int, int]] = {}
        for folder in sorted(path for path in self.settings.spool_root.glob("*") if path.is_dir()):
            n_records = size = 0
            for path in [*folder.glob("*.seg"), *folder.glob("*.open")]:
                try:
                    found = path.stat()
                    key = (found.st_dev, found.st_ino)
                    known, end = self._counted.get(key, (0, 0))
                    new, end = count_records(path, end)
                except FileNotFoundError:  # `land` has just taken it
                    continue
                counted[key] = (known + new, end)
                n_records += known + new
                size += found.st_size
            messages.add_metric([folder.name], n_records)
            n_bytes.add_metric([folder.name], size)
        self._counted = counted
        yield messages
        yield n_bytes

    def _disk(self) -> Iterator[Metric]:
        free = GaugeMetricFamily(*names.DISK_FREE, labels=["folder"])
        size = GaugeMetricFamily(*names.DISK_SIZE, labels=["folder"])
        for name, folder in (("home", self.settings.home), ("lake", self.settings.lake_root)):
            if folder.is_dir():
                usage = shutil.disk_usage(folder)
                free.add_metric([name], usage.free)
                size.add_metric([name], usage.total)
        yield free
        yield size

    def _public(self) -> Iterator[Metric]:
        valid_time = public_valid_time(self.settings)
        if valid_time is not None:
            yield GaugeMetricFamily(*names.PUBLIC_VALID, value=valid_time.timestamp())

    def _backups(self) -> Iterator[Metric]:
        taken = GaugeMetricFamily(*names.BACKUP_TAKEN, labels=["kind"])
        for kind, time in backups(self.settings).items():
            taken.add_metric([kind], time.timestamp())
        yield taken

    def _processes(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(*names.PROCESS_UP, labels=["process"])
        memory = GaugeMetricFamily(*names.PROCESS_MEMORY, labels=["process"])
        cpu = CounterMetricFamily(*names.PROCESS_CPU, labels=["process"])
        for process in system_processes(self.settings):
            found = find_process(process["pid"], process["start_s"])
            up.add_metric([process["name"]], found is not None)
            if found is not None:
                memory.add_metric([process["name"]], resident_bytes(found))
                times = found.cpu_times()
                cpu.add_metric([process["name"]], times.user + times.system)
        yield from (up, memory, cpu)


def public_valid_time(settings: Settings) -> datetime | None:
    """Valid time of what `products/current` shows; None where nothing was published yet."""
    try:
        described = json.loads((settings.products_root / "current" / "cycle.json").read_text())
    except FileNotFoundError:
        return None
    return datetime.fromisoformat(described["valid_time"])


def backups(settings: Settings) -> dict[str, datetime]:
    """When the last backup of each kind (full, increment) was taken."""
    status = _json(settings.home / "run" / "backup.json") or {}
    return {kind: datetime.fromisoformat(made["taken_at"]) for kind, made in status.items()}


def system_processes(settings: Settings) -> list[dict[str, Any]]:
    """Name, pid and start of each process that `autonvis up` started, the broker too."""
    processes: list[dict[str, Any]] = []
    system = _json(settings.home / "run" / "system.json")
    if system is not None:
        processes += system["processes"]
    broker = _json(settings.home / "run" / "broker.json")
    if broker is not None:
        processes.append({"name": "broker", "pid": broker["pid"], "start_s": broker["start_s"]})
    return processes


def _queue(settings: Settings) -> Iterator[Metric]:
    try:
        length = broker_queue_length(settings)
    except BrokerUnavailable:  # that it is down shows in nvis_process_up
        return
    if length is not None:
        yield GaugeMetricFamily(*names.QUEUE, value=length)


def _running(process: dict[str, Any]) -> psutil.Process | None:
    from tasks.process_identity import find_process

    return find_process(process["pid"], process["start_s"])


def resident_bytes(process: psutil.Process) -> int:
    """Of a process and what it started: the worker's runs are its children."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found
