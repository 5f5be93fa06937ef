"""The web service on a free port within the test's process, and a small lake that the real chain made: what its tests share."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.http_server import Server, listen
from services.web import http_config
from tasks import catalog, cycles
from tasks.curation import curate_batches, pending_batches
from tasks.landing.spool import Record, SpoolWriter, collect
from tasks.products import publish_products
from tasks.quality_pages import write_report
from tasks.quality_report import gather, summarize
from tasks.revisions import known_at
from tasks.settings import Settings
from tasks.simulated_sounders import draw_network
from tasks.simulated_sounders import listen as hear
from tasks.simulated_truth import SimulatedTruth
from tasks.simulation import simulate_network

START = datetime(2026, 3, 20, 8, tzinfo=UTC)
END = START + timedelta(hours=1)
REGION = "48,6,52,14"


class WebServer:
    """The service in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self.listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.port: int = self.listener.getsockname()[1]
        config = http_config(settings)
        self.app: Any = config.app
        self.server = Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.listener.close()


def settings_of(home: Path, **more: Any) -> Settings:
    return Settings(home=home, region=REGION, grid_step_deg=2.0, leads_h="", threads=1, **more)


def fill(settings: Settings) -> None:
    """Ionosondes and two NVIS sounders, landed and curated; two cycles, products, and the day's report."""
    truth = SimulatedTruth(4, START)
    network = draw_network(4, n_by_tier={"PLATINUM": 1, "GOLD": 1})
    echoes = [item for sounder in network for item in hear(sounder, truth, START, 1.0, 4)]
    sounder_id = str(echoes[0]["sounder_id"])
    details = {
        "equipment": "professional",
        "calibration": "calibrated",
        "phone": "555-0100",
        "tier": "PLATINUM",
    }
    catalog.register_sounder(
        catalog.open_catalog(settings), sounder_id, kind="nvis", name="Hill", latitude_deg=50.123456,
        longitude_deg=8.654321, altitude_m=321.0, details=details, now=START,
    )  # fmt: skip
    ionograms = simulate_network(START - timedelta(hours=2), hours=3.0, seed=7)
    spool(settings, [{**item, "source": "file"} for item in ionograms], "ionograms", "file")
    spool(settings, echoes, "measurements", "simulated")
    collect(settings.spool_root, settings.lake_root)
    curate_batches(pending_batches(settings), settings=settings)
    for valid_time in (END - timedelta(minutes=15), END):
        run_cycle(settings, valid_time, is_published=valid_time == END)
    day = gather(settings, END.date())
    write_report(settings, day, summarize(day), cycles.kernel_config(settings))


def run_cycle(settings: Settings, valid_time: datetime, *, is_published: bool) -> None:
    """What the flow `nowcast` does."""
    plan = cycles.plan_cycle(settings, valid_time)
    observations, heard = cycles.read_window(settings, [plan]), cycles.read_heard(settings, [plan])
    cycle = cycles.assimilate(settings, plan, observations, heard)
    cycles.store_cycle(settings, plan, cycle)
    if is_published:
        seen = (known_at(rows, plan.available_until) for rows in (observations, heard.measurements))
        publish_products(settings, cycle, *seen)


def spool(settings: Settings, items: list[dict[str, Any]], dataset: str, source: str) -> None:
    writer = SpoolWriter(settings.spool_root / "http")
    now = datetime.now(UTC)
    bodies = [json.dumps(items[first : first + 200]).encode() for first in range(0, len(items), 200)]
    writer.append_many(
        [Record("http", dataset, None, now, "application/json", body, source, None) for body in bodies]
    )
    writer.seal()
