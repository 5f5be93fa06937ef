"""How long the web service takes to answer, over what a cycle of the default simulated network (37 sounders, 2 h, the globe at 1 degree) left.

    python -m benchmarks.web

Each path is asked by one client, one request after the other, when its answer is known (warm); every what-if and every placement
is another question, so that each is computed. `first_s` is the first what-if after a new cycle, which solves it. Beside each: the
same question to the verbs' code in this process, without HTTP. Prints one JSON line.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from services.processes import free_port
from tasks import cycles
from tasks.curation import curate_batches, pending_batches
from tasks.landing.spool import Record, SpoolWriter, collect
from tasks.masks import on_land
from tasks.network_question import Known, Question
from tasks.products import publish_products
from tasks.settings import Settings
from tasks.simulated_sounders import draw_network, listen
from tasks.simulated_truth import SimulatedTruth

ROOT = Path(__file__).resolve().parents[1]
START = datetime(2026, 3, 20, 10, tzinfo=UTC)
HOURS = 2.0
N_WARM, N_COMPUTED, N_PLACED = 400, 60, 12
API = "/api/nvis"
WARM = {
    "front": "/",
    "map": "/products/current/map.png",
    "analysis": f"{API}/network/analysis",
    "sounders": f"{API}/sounders",
    "sounder": f"{API}/sounder/NVIS-P01",
    "recommend": f"{API}/placement/recommend?n=1",
    "heatmap": f"{API}/placement/heatmap",
    "heatmap_png": f"{API}/placement/heatmap?format=png",
}


@dataclass(frozen=True)
class Client:
    """One connection that is kept."""

    connection: http.client.HTTPConnection

    def ask(self, path: str, body: dict[str, Any] | None = None) -> float:
        """Seconds until the whole answer is here."""
        began = time.perf_counter()
        text = None if body is None else json.dumps(body).encode()
        self.connection.request("GET" if body is None else "POST", path, text)
        answer = self.connection.getresponse()
        content = answer.read()
        took_s = time.perf_counter() - began
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {content[:300]!r}")
        return took_s


def fill(settings: Settings) -> cycles.CyclePlan:
    """What the sounders heard, landed, curated and analysed."""
    truth = SimulatedTruth(1, START)
    items = [item for one in draw_network(1) for item in listen(one, truth, START, HOURS, 1)]
    writer = SpoolWriter(settings.spool_root / "http")
    body, now = json.dumps(items).encode(), datetime.now(UTC)
    writer.append_many(
        [Record("http", "measurements", None, now, "application/json", body, "simulated", None)]
    )
    writer.seal()
    collect(settings.spool_root, settings.lake_root)
    curate_batches(pending_batches(settings), settings=settings)
    for number in range(2):
        plan = cycles.plan_cycle(settings, START + timedelta(hours=HOURS, minutes=15 * (number - 1)))
        observations, heard = cycles.read_window(settings, [plan]), cycles.read_heard(settings, [plan])
        cycle = cycles.assimilate(settings, plan, observations, heard)
        cycles.store_cycle(settings, plan, cycle)
        publish_products(settings, cycle, observations, heard.measurements)
    return plan


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In ms."""
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50_ms": round(1e3 * hundredths[49], 1), "p99_ms": round(1e3 * hundredths[98], 1)}


def places(n: int) -> list[tuple[float, float]]:
    """Latitudes and longitudes, each another."""
    return [(-60.0 + 120.0 * k / n, (-180.0 + 137.5 * k) % 360.0 - 180.0) for k in range(n)]


def measure(client: Client, plan: cycles.CyclePlan, settings: Settings) -> dict[str, Any]:
    def what_if(latitude: float, longitude: float) -> dict[str, Any]:
        return {"latitude_deg": latitude, "longitude_deg": longitude}

    found: dict[str, Any] = {"first_s": round(client.ask(f"{API}/placement/simulate", what_if(51.0, 9.0)), 2)}
    for name, path in WARM.items():
        client.ask(path)
        found[name] = percentiles([client.ask(path) for _ in range(N_WARM)])
    asked = places(N_COMPUTED)
    found["simulate"] = percentiles([client.ask(f"{API}/placement/simulate", what_if(*at)) for at in asked])
    rates = [1.0 + number / 10.0 for number in range(N_PLACED)]
    path = f"{API}/placement/heatmap?format=grid&per_h="
    found["new_heatmap"] = percentiles([client.ask(f"{path}{rate}") for rate in rates])

    question = Question(Known(settings, plan))
    question.known.solve()
    found["simulate"]["peer_p50_ms"] = percentiles(
        [timed(lambda at=at: question.what_if(*at, "GOLD")) for at in asked]
    )["p50_ms"]
    found["new_heatmap"]["peer_p50_ms"] = percentiles(
        [timed(lambda rate=rate: question.place(1, "GOLD", on_land, rate)) for rate in rates]
    )["p50_ms"]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        plan = fill(settings)
        port = free_port()
        command = [sys.executable, "-m", "services.web", "--port", str(port)]
        environment = {**os.environ, "AUTONVIS_HOME": folder}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        try:
            deadline_s = time.monotonic() + 60
            while True:
                client = Client(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
                try:
                    client.ask("/openapi.json")
                    break
                except OSError:
                    if time.monotonic() > deadline_s or process.poll() is not None:
                        raise
                    time.sleep(0.1)
            found = measure(client, plan, settings)
        finally:
            process.terminate()
            process.wait(60)
    print(json.dumps({"name": "web", "peer": "the verbs' code in this process", **found}))


if __name__ == "__main__":
    main()
