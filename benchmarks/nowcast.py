"""One whole nowcast flow on 65,160 points, warm, beside the same steps without Prefect: what orchestration costs.

.venv/bin/python benchmarks/nowcast.py
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.settings import Settings

N_WARM = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTONVIS_HOME"] = folder
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
        from autonvis.environment import make_home, prefect_environment
        from autonvis.system import prefect_server
        from tasks.settings import load_settings

        settings = load_settings()
        make_home(settings)
        os.environ.update(prefect_environment(settings))
        with prefect_server(settings):
            measure(settings)


def measure(settings: Settings) -> None:
    """Land a simulated network, then time the flow and the bare steps in turns."""
    from flows.land import land
    from flows.nowcast import nowcast
    from tasks import cycles
    from tasks.landing.spool import Record, SpoolWriter
    from tasks.products import publish_products
    from tasks.simulation import simulate_network

    start = datetime(2026, 3, 20, tzinfo=UTC)
    items = simulate_network(start, hours=30.0, seed=1)
    writer = SpoolWriter(settings.spool_root / "http")
    payload = json.dumps(items).encode()
    writer.append_many(
        [
            Record(
                channel="http",
                dataset="ionograms",
                sounder_id=None,
                received_at=datetime.now(UTC),
                content_type="application/json",
                payload=payload,
                source="simulated",
                licence=None,
            )
        ]
    )
    writer.seal()
    land()
    nowcast(valid_time=start + timedelta(hours=24))  # cold: server start, imports, coefficient files

    flow_s, bare_s = [], []
    for number in range(N_WARM):
        valid_time = start + timedelta(hours=25 + number)
        began = time.perf_counter()
        nowcast(valid_time=valid_time)
        flow_s.append(time.perf_counter() - began)

        began = time.perf_counter()
        plan = cycles.plan_cycle(settings, valid_time + timedelta(minutes=15))
        observations = cycles.read_window(settings, [plan])
        cycle = cycles.assimilate(settings, plan, observations)
        cycles.check_cycles([cycle])
        cycles.store_cycle(settings, plan, cycle)
        publish_products(settings, cycle, observations)
        bare_s.append(time.perf_counter() - began)
    ours, peer = min(flow_s), min(bare_s)
    print(
        json.dumps(
            {
                "name": "nowcast",
                "ours_s": round(ours, 2),
                "peer": "the same steps without Prefect",
                "peer_s": round(peer, 2),
                "ratio": round(ours / peer, 2),
                "orchestration_s": round(ours - peer, 2),
                "n_points": 65_160,
                "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
