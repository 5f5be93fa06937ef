"""What a disaster costs a live system with the shipped schedules: recovery point and time, measured.

A station publishes a message a second by MQTT to the system's own RabbitMQ, and keeps what was acknowledged. After some
increments everything is killed while one is being made, the worst moment, and the root is deleted, broker and all. The
restored root says which was the first message that is gone. Beside it what each increment before would have lost at its own
worst moment.

    PYTHONPATH=. python benchmarks/recovery.py --minutes 10
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from autonvis.environment import prefect_environment
from autonvis.system import down, start_missing, status
from services.broker import running_broker
from tasks.backup import make_backup
from tasks.backup_archive import read_manifest
from tasks.backup_store import Destination
from tasks.landing.mqtt import BrokerUnavailable, publish_many
from tasks.landing.spool import read_segment
from tasks.restore import restore
from tasks.settings import Settings

PAUSE_S = 1.0


class Station(threading.Thread):
    """Publishes its running number each second; `acknowledged` has when the broker said that it has it."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.acknowledged: dict[int, float] = {}
        self.is_ending = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            if self.is_ending.is_set():
                return
            item = {"sounder_id": "S1", "observed_at": datetime.now(UTC).isoformat(), "latitude_deg": 50.0, "longitude_deg": 8.0, "fof2_mhz": 5.5, "number": number}  # fmt: skip
            try:
                publish_many(self._url, [("nvis/ionograms/S1", json.dumps(item).encode())], timeout_s=5)
            except BrokerUnavailable:
                return
            self.acknowledged[number] = time.time()
            time.sleep(PAUSE_S)


def is_being_made(settings: Settings) -> bool:
    """Whether a backup has begun to write."""
    return any((settings.home / "staging").glob("*/members"))


def kill_everything(settings: Settings) -> None:
    broker = running_broker(settings.home)
    pids = [process.pid for process in status(settings)] + ([broker.pid] if broker else [])
    family = [child for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    for pid in [*pids, *(child.pid for child in family)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    psutil.wait_procs(family, timeout=20)


def numbers(settings: Settings) -> set[int]:
    """What landed or waits to land."""
    found = set()
    for root in (settings.spool_root, settings.lake_root / "landing"):
        for path in [*root.rglob("*.seg"), *root.rglob("*.open")]:
            found |= {json.loads(record.payload)["number"] for record in read_segment(path)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "var"
        os.environ |= {"AUTONVIS_HOME": str(home), "AUTONVIS_BACKUP_TO": f"{folder}/backups"}
        os.environ |= {f"AUTONVIS_{name}_PORT": "0" for name in ("GATEWAY", "TCP", "WEB", "PREFECT")}
        settings = Settings()
        (home / "prefect").mkdir(parents=True)
        os.environ.update(prefect_environment(settings))
        start_missing(settings)
        broker = running_broker(home)
        assert broker is not None
        station = Station(broker.url)
        station.start()
        make_backup(settings.model_copy(update={"mqtt_url": broker.consumer_url}))
        time.sleep(minutes * 60)
        while not is_being_made(settings):
            time.sleep(0.01)
        died_s = time.time()
        kill_everything(settings)
        station.is_ending.set()
        station.join()
        archives = Path(folder) / "backups" / "archives"
        made = sorted((path.stat().st_mtime, path.name) for path in archives.glob("*.zst"))
        taken = [
            read_manifest(Destination(settings.backup_address), name).taken_at.timestamp() for _, name in made
        ]
        worst = [later - before for before, (later, _) in zip(taken, made[1:], strict=False)]
        shutil.rmtree(home)
        restored = restore(settings)
        lost = station.acknowledged.keys() - numbers(settings)
        first_lost_s = min((station.acknowledged[number] for number in lost), default=died_s)
        print(
            json.dumps(
                {
                    "benchmark": "recovery",
                    "rpo_s": round(died_s - first_lost_s, 1),
                    "n_acknowledged": len(station.acknowledged),
                    "n_lost": len(lost),
                    "rto_s": round(restored.duration_s, 1),
                    "n_archives": len(made),
                    "worst_rpo_of_each_s": [round(one, 1) for one in worst],
                    "load": os.getloadavg()[1],
                }
            )
        )
        down(settings, say=lambda _: None)


if __name__ == "__main__":
    main()
