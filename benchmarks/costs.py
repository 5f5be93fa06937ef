"""What a system needs, for networks of several sizes: disk per day, CPU time and memory per run, and of the services that wait.

.venv/bin/python benchmarks/costs.py --sounders 10 40 160 --minutes 6

Prints a JSON line for the services and one per size; docs/operations/costs.md has its figures as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

HOURS = 30.0
"""The window of a cycle."""
CYCLES_PER_DAY = 96
ITEMS_PER_BATCH = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sounders", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="how long the live system is watched; 0 not at all"
    )
    parser.add_argument("--hours", type=float, default=HOURS, help="of observations in the lake")
    parser.add_argument("--step", default="1", metavar="DEG", help="grid spacing")
    parser.add_argument("--region", default="global", help="of the map: global, or south,west,north,east")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("AUTONVIS_", "PREFECT_"))]:
        del os.environ[name]
    os.environ |= {
        "AUTONVIS_GRID_STEP_DEG": arguments.step,
        "AUTONVIS_REGION": arguments.region,
        "PREFECT_LOGGING_LEVEL": "ERROR",
    }
    if arguments.minutes:
        print(json.dumps(watch_services(arguments.minutes)), flush=True)
    for n_sounders in arguments.sounders:
        print(json.dumps(measure(n_sounders, arguments.hours)), flush=True)


def watch_services(minutes: float) -> dict[str, Any]:
    """CPU and memory of a live system that hears of nobody: services, a landing each minute, what is due besides."""
    with tempfile.TemporaryDirectory() as folder:
        ports = {f"AUTONVIS_{name}_PORT": "0" for name in ("GATEWAY", "TCP", "WEB", "PREFECT")}
        environment = {**os.environ, **ports, "AUTONVIS_HOME": folder}
        autonvis = [sys.executable, "-m", "autonvis"]
        subprocess.run([*autonvis, "up"], env=environment, check=True, stdout=subprocess.DEVNULL)
        try:
            started = json.loads((Path(folder) / "run" / "system.json").read_text())["processes"]
            processes = {one["name"]: psutil.Process(one["pid"]) for one in started}
            before, began_s = {name: cpu_s(process) for name, process in processes.items()}, time.monotonic()
            peak: dict[str, float] = {}
            while time.monotonic() < began_s + minutes * 60:
                for name, process in processes.items():
                    peak[name] = max(peak.get(name, 0.0), memory_mb(process))
                time.sleep(1)
            lasted_h = (time.monotonic() - began_s) / 3600
            used = {name: (cpu_s(process) - before[name]) / lasted_h for name, process in processes.items()}
        finally:
            subprocess.run([*autonvis, "down"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return {
        "name": "services",
        "cpu_s_per_h": {name: round(value) for name, value in used.items()},
        "cpu_h_per_day": round(sum(used.values()) * 24 / 3600, 2),
        "peak_mb": {name: round(value) for name, value in peak.items()},
    }


def cpu_s(process: psutil.Process) -> float:
    """CPU time of a process, of what it started, and of what of that has ended."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_mb(process: psutil.Process) -> float:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:  # a run that has ended meanwhile
            continue
    return total / 1e6


def measure(n_sounders: int, hours: float) -> dict[str, Any]:
    """One network: what landing and cycles of it take, beside a Prefect server that waits."""
    from autonvis.environment import make_home, prefect_environment
    from autonvis.system import start_prefect_server
    from services.processes import free_port
    from tasks.settings import load_settings

    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings().model_copy(update={"home": Path(folder) / "var"})
        make_home(settings)
        environment = {**os.environ, "AUTONVIS_HOME": str(settings.home), **prefect_environment(settings)}
        server, url = start_prefect_server(settings, free_port())
        environment["PREFECT_API_URL"] = f"{url}/api"

        def run(*verb: str) -> tuple[float, float]:
            """CPU seconds and peak memory in MB of one command."""
            process = subprocess.Popen(
                [sys.executable, "-m", "autonvis", *verb], env=environment, stdout=subprocess.DEVNULL
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"{' '.join(verb)} ended with {process.returncode}")
            return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024

        try:
            end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
            n_items = spool(settings, n_sounders, end - timedelta(hours=hours), hours)
            while any(settings.spool_root.rglob("*.seg")):
                run("land")
            inputs = size(settings.lake_root)
            run("nowcast", "--valid-time", (end - timedelta(hours=1)).isoformat())
            outputs, cycles = size(settings.lake_root, settings.products_root), []
            for minutes in (45, 30, 15):
                cycles.append(run("nowcast", "--valid-time", (end - timedelta(minutes=minutes)).isoformat()))
            outputs = (size(settings.lake_root, settings.products_root) - outputs) / len(cycles)
            spool(settings, n_sounders, end, 1 / 60)
            landing = run("land")
        finally:
            server.stop()
    return {
        "name": "network",
        "n_sounders": n_sounders,
        "region": settings.region,
        "grid_step_deg": settings.grid_step_deg,
        "observations_per_day": round(n_items / hours * 24),
        "received_mb_per_day": round(inputs / hours * 24 / 1e6, 1),
        "computed_mb_per_day": round(outputs * CYCLES_PER_DAY / 1e6, 1),
        "cycle_cpu_s": round(sorted(cpu for cpu, _ in cycles)[1], 1),
        "cycle_peak_mb": round(max(memory for _, memory in cycles)),
        "landing_cpu_s": round(landing[0], 1),
        "landing_peak_mb": round(landing[1]),
    }


def spool(settings: Any, n_sounders: int, start: datetime, hours: float) -> int:
    """Put what a simulated network of all tiers hears into the spool, as HTTP would; returns how many measurements."""
    from tasks.landing.spool import Record, SpoolWriter
    from tasks.simulated_sounders import DEFAULT_NETWORK, draw_network, listen
    from tasks.simulated_truth import SimulatedTruth

    total = sum(DEFAULT_NETWORK.values())
    shares = {tier: max(1, round(n * n_sounders / total)) for tier, n in DEFAULT_NETWORK.items()}
    truth = SimulatedTruth(1, start)
    items = [
        item
        for sounder in draw_network(1, n_by_tier=shares)
        for item in listen(sounder, truth, start, hours, 1)
    ]
    writer = SpoolWriter(settings.spool_root / "http")
    writer.append_many(
        [
            Record(
                channel="http", dataset="measurements", sounder_id=None, received_at=datetime.now(UTC),
                content_type="application/json", payload=json.dumps(items[first : first + ITEMS_PER_BATCH]).encode(),
                source="simulated", licence=None,
            )
            for first in range(0, len(items), ITEMS_PER_BATCH)
        ]
    )  # fmt: skip
    writer.seal()
    return len(items)


def size(*folders: Path) -> int:
    """Bytes of the files below the folders, as the disk counts them."""
    return sum(
        path.stat().st_blocks * 512
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


if __name__ == "__main__":
    main()
