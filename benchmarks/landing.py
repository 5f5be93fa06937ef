"""Durable landing rates: single posts, batches and lines through the gateway, and the drain of a broker's queue.

Every record counted is on disk. The peer of the drain is paho alone: automatic acknowledgement, nothing stored.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from services.broker import start_broker
from tasks.landing.mqtt import TOPICS, create_session, drain, publish_many
from tasks.landing.spool import Record, SpoolWriter, read_segment, recover, sealed_segments
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
N_POSTS = 5_000
CONNECTIONS = 32
N_BATCHES = 20
ITEMS_PER_BATCH = 5_000
LINE_CONNECTIONS = 8
LINES_PER_CONNECTION = 10_000
LINES_IN_FLIGHT = 200
N_MESSAGES = 20_000
IONOGRAM = {
    "sounder_id": "BENCH", "observed_at": "2026-01-02T11:00:00Z", "latitude_deg": 50.0, "longitude_deg": 8.0,
    "fof2_mhz": 5.5, "hmf2_km": 260.0, "m3000f2": 3.1,
}  # fmt: skip


def distinct(first: int, number: int) -> list[dict[str, object]]:
    """Observations that no other has sent: a millisecond apart."""
    start = datetime(2026, 1, 2, tzinfo=UTC)
    times = (start + timedelta(milliseconds=n) for n in range(first, first + number))
    return [{**IONOGRAM, "observed_at": time.isoformat()} for time in times]


async def post(host: str, port: int, path: str, bodies: list[bytes]) -> list[float]:
    """Posts one after another on one connection; returns the seconds each took."""
    reader, writer = await asyncio.open_connection(host, port)
    seconds = []
    for body in bodies:
        began = time.perf_counter()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 202 " in head.split(b"\r\n")[0], head
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        seconds.append(time.perf_counter() - began)
    writer.close()
    return seconds


async def send_lines(host: str, port: int, lines: list[bytes]) -> None:
    """Sends lines on one connection, so many before it waits for their answers."""
    reader, writer = await asyncio.open_connection(host, port)
    for first in range(0, len(lines), LINES_IN_FLIGHT):
        writer.write(b"".join(lines[first : first + LINES_IN_FLIGHT]))
        for _ in range(LINES_IN_FLIGHT):
            assert (await reader.readline()).startswith(b'{"receipts":')
    writer.close()


async def gateway(home: Path) -> None:
    environment = {
        **os.environ, "AUTONVIS_HOME": str(home), "PYTHONPATH": str(ROOT), "AUTONVIS_SOUNDER_ITEMS_PER_S": "0",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "services.gateway", "--port", "0", "--tcp-port", "0"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline().decode()
        while "url=" not in line:
            line = process.stderr.readline().decode()
        listening = line
        host, _, port = listening.split("url=http://")[1].split()[0].partition(":")
        bodies = [json.dumps(item).encode() for item in distinct(0, N_POSTS)]
        await post(host, int(port), "/ionogram", bodies[:200])  # warm
        began = time.perf_counter()
        results = await asyncio.gather(
            *(
                post(host, int(port), "/ionogram", bodies[number::CONNECTIONS])
                for number in range(CONNECTIONS)
            )
        )
        elapsed_s = time.perf_counter() - began
        seconds = sorted(second for result in results for second in result)
        cuts = statistics.quantiles(seconds, n=100)
        report(
            "gateway_single_posts", len(seconds) / elapsed_s, "durable posts/s",
            connections=CONNECTIONS, p50_ms=round(cuts[49] * 1e3, 1), p99_ms=round(cuts[98] * 1e3, 1),
        )  # fmt: skip
        batches = [
            json.dumps(
                {"dataset": "ionograms", "items": distinct(10**6 + n * ITEMS_PER_BATCH, ITEMS_PER_BATCH)}
            )
            for n in range(N_BATCHES)
        ]
        began = time.perf_counter()
        await post(host, int(port), "/batch", [batch.encode() for batch in batches])
        elapsed_s = time.perf_counter() - began
        report("gateway_batches", N_BATCHES * ITEMS_PER_BATCH / elapsed_s, "durable observations/s")
        host, _, port = listening.split("lines=tcp://")[1].split()[0].partition(":")
        lines = [
            [json.dumps({"dataset": "ionograms", **item}).encode() + b"\n" for item in items]
            for items in (distinct(n * 10**7, LINES_PER_CONNECTION) for n in range(2, 2 + LINE_CONNECTIONS))
        ]
        began = time.perf_counter()
        await asyncio.gather(*(send_lines(host, int(port), of_one) for of_one in lines))
        elapsed_s = time.perf_counter() - began
        report(
            "tcp_lines", LINE_CONNECTIONS * LINES_PER_CONNECTION / elapsed_s, "durable lines/s",
            connections=LINE_CONNECTIONS, in_flight=LINES_IN_FLIGHT,
        )  # fmt: skip
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def mqtt(home: Path) -> None:
    broker = start_broker(home)
    payload = json.dumps(IONOGRAM).encode()
    try:
        settings = Settings(home=home, mqtt_url=broker.url, mqtt_drain_messages=10**9, mqtt_drain_s=600)
        create_session(broker.url, settings.mqtt_client_id)
        create_session(broker.url, "peer")
        n_messages = N_MESSAGES // 10 if broker.kind == "mosquitto" else N_MESSAGES
        began = time.perf_counter()
        publish_many(
            broker.url, ((f"nvis/ionograms/B{number % 100}", payload) for number in range(n_messages))
        )
        publish_s = time.perf_counter() - began
        began = time.perf_counter()
        result = drain(settings)
        ours_s = time.perf_counter() - began
        assert result.n_messages == n_messages
        peer_s = paho_alone(broker.url, n_messages)
        report(
            "mqtt_drain", n_messages / ours_s, "durable messages/s", broker=broker.kind,
            publish_per_s=round(n_messages / publish_s),
            ours_s=round(ours_s, 3), peer="paho, automatic acknowledgement, not stored", peer_s=round(peer_s, 3),
            ratio=round(peer_s / ours_s, 2),
        )  # fmt: skip
    finally:
        broker.stop()


def paho_alone(url: str, n_messages: int) -> float:
    user, _, address = url.removeprefix("mqtt://").partition("@")
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="peer", clean_session=False)
    client.username_pw_set(*user.split(":"))
    n_received = 0

    def count(*_: object) -> None:
        nonlocal n_received
        n_received += 1

    client.on_message = count
    host, _, port = address.partition(":")
    began = time.perf_counter()
    client.connect(host, int(port))
    client.subscribe([(topic, 1) for topic in TOPICS])
    client.loop_start()
    while n_received < n_messages:
        time.sleep(0.001)
    elapsed_s = time.perf_counter() - began
    client.disconnect()
    client.loop_stop()
    return elapsed_s


def spool(home: Path) -> None:
    payload = json.dumps(IONOGRAM).encode()
    group = [Record("http", "ionograms", None, datetime.now(UTC), "application/json", payload, "http")] * 100
    began = time.perf_counter()
    with SpoolWriter(home / "spool") as writer:
        for _ in range(500):
            writer.append_many(group)
    write_s = time.perf_counter() - began
    recover(home / "spool")
    began = time.perf_counter()
    n_read = sum(1 for path in sealed_segments(home / "spool") for _ in read_segment(path))
    read_s = time.perf_counter() - began
    report(
        "spool_append",
        n_read / write_s,
        "durable records/s",
        per_fsync=100,
        read_per_s=round(n_read / read_s),
    )


def report(name: str, rate: float, unit: str, **more: object) -> None:
    print(json.dumps({"name": name, "rate": round(rate), "unit": unit, **more}), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        spool(Path(folder) / "spool")
        asyncio.run(gateway(Path(folder) / "gateway"))
        mqtt(Path(folder) / "mqtt")
