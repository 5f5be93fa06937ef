"""A network at full size: 10,000 sounders hold a TCP connection each and send 1,000 observations/s in all for 5 minutes.

    python -m benchmarks.streams [--sounders 10000] [--rate 1000] [--seconds 300] [--land-every 60]

Every sounder is registered, opens with its credential, and sends one line each 10 s. Meanwhile flow `land` runs each
minute in a process of its own on a Prefect server, as the worker runs it (the deployment does so every 5 minutes). At
the end the lake is compared with the receipts. Memory is resident memory at its highest: of the gateway (HTTP and TCP),
of a landing run, and of both at one moment; the Prefect server's is given beside it.

Ends with an error when an acknowledged observation is not in the lake exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path

import psutil
import sqlalchemy

from autonvis.environment import make_home, prefect_environment
from autonvis.system import PROJECT_ROOT, start_gateway, start_prefect_server
from services.processes import free_port
from tasks import catalog, lake
from tasks.settings import Settings

CONNECTING = 200  # connections being opened at one time
TICK_S = 0.005
SAMPLE_S = 0.1
ANSWER_TIMEOUT_S = 60.0
LAND = "from flows.land import land; land()"


class Sounder(asyncio.Protocol):
    """One sounder's connection: what it has sent and not yet got an answer to, and the answers' ids and delays."""

    def __init__(self, number: int, credential: str, network: Network) -> None:
        self.number = number
        self.credential = credential
        self.network = network
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_s: deque[float] = deque()
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        opening = {"credential": self.credential, "dataset": "ionograms"}
        transport.write(json.dumps(opening).encode() + b"\n")

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if not self.opened.done():
                assert answer["sounder_id"] == name(self.number), answer
                self.opened.set_result(None)
                continue
            self.network.seconds.append(time.perf_counter() - self.sent_s.popleft())
            for receipt in answer.get("receipts", [{"status": f"problem {answer.get('status')}"}]):
                self.network.statuses[receipt["status"]] += 1
                if receipt["status"].startswith("accepted"):
                    self.network.acknowledged.append(receipt["observation_id"])

    def connection_lost(self, error: Exception | None) -> None:
        if not self.network.is_over:
            self.network.n_cut += 1

    def send(self) -> None:
        """One ionogram of this moment."""
        now = datetime.now(UTC)
        ionogram = {
            "observed_at": now.isoformat().replace("+00:00", "Z"),
            "latitude_deg": -60.0 + self.number % 121,
            "longitude_deg": float(self.number % 360 - 180),
            "fof2_mhz": 4.0 + now.microsecond % 500 / 100,
            "hmf2_km": 260.0,
            "m3000f2": 3.1,
            "confidence_score": 80,
        }
        self.sent_s.append(time.perf_counter())
        self.transport.write(json.dumps(ionogram).encode() + b"\n")


class Network:
    """All sounders and what they were answered."""

    def __init__(self) -> None:
        self.sounders: list[Sounder] = []
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.n_cut = 0
        self.is_over = False

    async def connect(self, port: int, credentials: list[str]) -> None:
        """Opens every connection and waits until each has been let in."""
        gate = asyncio.Semaphore(CONNECTING)

        async def open_one(number: int, credential: str) -> None:
            async with gate:
                _, sounder = await asyncio.get_running_loop().create_connection(
                    lambda: Sounder(number, credential, self), "127.0.0.1", port
                )
                await asyncio.wait_for(sounder.opened, ANSWER_TIMEOUT_S)
                self.sounders.append(sounder)

        await asyncio.gather(*(open_one(number, one) for number, one in enumerate(credentials)))

    async def send(self, rate: float, seconds: float) -> float:
        """Lets the sounders send in turn, `rate` lines per second in all; returns the seconds it took."""
        began_s = time.perf_counter()
        n_sent, n_wanted = 0, round(rate * seconds)
        while n_sent < n_wanted:
            n_due = min(n_wanted, int((time.perf_counter() - began_s) * rate))
            for turn in range(n_sent, n_due):
                self.sounders[turn % len(self.sounders)].send()
            n_sent = n_due
            await asyncio.sleep(TICK_S)
        sent_s = time.perf_counter() - began_s
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while self.statuses.total() < n_sent:
                await asyncio.sleep(TICK_S)
        return sent_s

    def close(self) -> None:
        """Ends every connection."""
        self.is_over = True
        for sounder in self.sounders:
            sounder.transport.close()


class Memory:
    """The highest resident memory, in MB, of the gateway, of landing runs, of both together and of the server."""

    def __init__(self, gateway: int, server: int) -> None:
        self.gateway, self.server = psutil.Process(gateway), psutil.Process(server)
        self.landing: psutil.Process | None = None
        self.highest_mb: Counter[str] = Counter()

    async def watch(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            parts = {"gateway": resident_mb(self.gateway), "land": 0.0, "server": resident_mb(self.server)}
            if self.landing is not None:
                parts["land"] = resident_mb(self.landing)
            parts["together"] = parts["gateway"] + parts["land"]
            self.highest_mb |= Counter({part: round(mb) for part, mb in parts.items()})
            await asyncio.sleep(SAMPLE_S)


def resident_mb(process: psutil.Process) -> float:
    """Resident memory of a process; 0 once it has ended."""
    try:
        return float(process.memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0


class Landing:
    """Flow `land`, a process per run."""

    def __init__(self, environment: dict[str, str], log: Path, memory: Memory) -> None:
        self.environment, self.log, self.memory = environment, log, memory
        self.seconds: list[float] = []

    async def run(self) -> None:
        """One run to its end.

        Raises:
            RuntimeError: it failed.
        """
        began_s = time.perf_counter()
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", LAND, cwd=PROJECT_ROOT, env=self.environment, stdout=log, stderr=log
            )
        self.memory.landing = psutil.Process(process.pid)
        code = await process.wait()
        self.memory.landing = None
        if code:
            raise RuntimeError(f"land failed:\n{self.log.read_text()[-2000:]}")
        self.seconds.append(time.perf_counter() - began_s)

    async def repeat(self, every_s: float) -> None:
        """A run each `every_s` until cancelled; none begins while another runs."""
        due_s = time.perf_counter()
        while True:
            due_s = max(due_s + every_s, time.perf_counter())
            await asyncio.sleep(due_s - time.perf_counter())
            await asyncio.shield(self.run())


def name(number: int) -> str:
    """The id of a sounder."""
    return f"S{number:05d}"


def register(settings: Settings, n_sounders: int) -> list[str]:
    """Registers the sounders; returns their credentials."""
    catalog.open_catalog(settings)
    engine = sqlalchemy.create_engine(settings.catalog_url)  # one connection kept: 10,000 take seconds
    now = datetime.now(UTC)
    found = [
        catalog.register_sounder(engine, name(number), kind="ionosonde", now=now)
        for number in range(n_sounders)
    ]
    return [credential for credential in found if credential is not None]


async def benchmark(home: Path, n_sounders: int, rate: float, seconds: float, land_every_s: float) -> None:
    """Runs the whole of it and prints one JSON line."""
    settings = Settings(home=home, max_connections=max(10_000, n_sounders), sounder_items_per_s=0)
    make_home(settings)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    credentials = await asyncio.to_thread(register, settings, n_sounders)
    port = free_port()
    server, server_url = start_prefect_server(settings, free_port())
    gateway, _ = start_gateway(settings, free_port(), port)
    environment = {
        **os.environ,
        **prefect_environment(settings),
        "PREFECT_API_URL": f"{server_url}/api",
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    network = Network()
    try:
        memory = Memory(gateway.pid, server.pid)
        landing = Landing(environment, settings.log_root / "land.log", memory)
        watching = asyncio.create_task(memory.watch())
        began_s = time.perf_counter()
        await network.connect(port, credentials)
        connected_s = time.perf_counter() - began_s
        connected_mb = resident_mb(memory.gateway)
        repeating = asyncio.create_task(landing.repeat(land_every_s))
        sent_s = await network.send(rate, seconds)
        repeating.cancel()
        while memory.landing is not None:
            await asyncio.sleep(SAMPLE_S)
        network.close()
        gateway.stop()
        await landing.run()  # what the last one left
        watching.cancel()
    finally:
        gateway.stop()
        server.stop()
    stored = Counter(
        lake.read_table("ionograms", settings=settings, columns=["observation_id"])[0].to_pylist()
    )
    acknowledged = set(network.acknowledged)
    cuts = statistics.quantiles(network.seconds, n=100)
    n_lost, n_doubled = len(acknowledged - stored.keys()), sum(stored.values()) - len(stored)
    line = {
        "name": "streams",
        "rate": round(len(network.seconds) / sent_s),
        "unit": "durable observations/s",
        "sounders": n_sounders,
        "tcp_connections": len(network.sounders),
        "seconds": round(sent_s, 1),
        "answers": dict(network.statuses),
        "connections_cut": network.n_cut,
        "p50_ms": round(cuts[49] * 1e3, 1),
        "p99_ms": round(cuts[98] * 1e3, 1),
        "max_ms": round(max(network.seconds) * 1e3, 1),
        "acknowledged": len(network.acknowledged),
        "in_lake": stored.total(),
        "lost": n_lost,
        "doubled": n_doubled,
        "connect_s": round(connected_s, 1),
        "gateway_connected_mb": round(connected_mb),
        **{f"{part}_max_mb": mb for part, mb in memory.highest_mb.items()},
        "land_runs_s": [round(one, 1) for one in landing.seconds],
    }
    print(json.dumps(line), flush=True)
    if n_lost or n_doubled or len(acknowledged) != len(network.acknowledged):
        raise SystemExit("acknowledged observations are not in the lake exactly once")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sounders", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=1_000.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--land-every", type=float, default=60.0, metavar="SECONDS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        asyncio.run(
            benchmark(Path(folder), options.sounders, options.rate, options.seconds, options.land_every)
        )


if __name__ == "__main__":
    main()
