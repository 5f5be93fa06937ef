"""`autonvis simulate`: a network of NVIS sounders over a known ionosphere, written to files or sent to landing zones."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.simulated_sounders import SimulatedSounder, draw_network, listen, truth_table
from tasks.simulated_truth import SimulatedTruth, Storm

Item = dict[str, Any]

ITEMS_PER_MESSAGE = 200
TRUTH_MINUTES = 15
CREDENTIALS = "credentials.json"
TIMEOUT_S = 60.0


class SimulateError(RuntimeError):
    """The network cannot be simulated or sent; the message says why."""


@dataclass(frozen=True)
class Network:
    """What is played."""

    start: datetime
    hours: float
    seed: int
    region: tuple[float, float, float, float]
    n_by_tier: Mapping[str, int]
    storm_onset_h: float | None
    """Hours after the start; None for a quiet span."""
    n_withheld: int
    """Places of which nothing is sent, to score by."""


def simulate(
    network: Network, out: Path, *, to: str | None, pace: float | None, say: Callable[[str], None]
) -> None:
    """Play a network.

    Args:
        out: folder for `measurements.jsonl`, `sounders.json` (what was made, with biases and noise), and `truth.parquet`
            (the ionosphere at the withheld places and above every sounder, each 15 minutes).
        to: landing zone, http(s)://, tcp:// or tls://, mqtt(s):// with host and port; None writes files only. By HTTP every
            sounder registers first, and its credential is kept in `out` for the next time and for the others. MQTT with a
            user in the address sends everything as that one, which must be the operator.
        pace: how many times faster than the clock items are sent; None as fast as they are taken.

    Raises:
        SimulateError: the landing zone cannot be reached or refuses; ValueError: the network is none.
    """
    if to is not None:
        _sender(to)  # before the work
    sounders = draw_network(network.seed, network.region, network.n_by_tier)
    storm = None if network.storm_onset_h is None else Storm(network.storm_onset_h)
    truth = SimulatedTruth(network.seed, network.start, storm=storm)
    items: list[Item] = []
    for number, sounder in enumerate(sounders, 1):
        items += listen(sounder, truth, network.start, network.hours, network.seed)
        if number % 10 == 0 or number == len(sounders):
            say(f"{number} of {len(sounders)} sounders heard {len(items)} echoes")
    items.sort(key=lambda item: (item["observed_at"], item["sounder_id"]))
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "measurements.jsonl", "".join(json.dumps(item) + "\n" for item in items))
    _write(out / "sounders.json", json.dumps([sounder.describe() for sounder in sounders], indent=1) + "\n")
    table = truth_of(network, truth, sounders)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), out / "truth.parquet.partial")
    os.replace(out / "truth.parquet.partial", out / "truth.parquet")
    say(f"{out}: measurements.jsonl, sounders.json, truth.parquet ({len(table)} rows)")
    if to is not None:
        send(items, sounders, to, out, pace=pace, say=say)


def truth_of(network: Network, truth: SimulatedTruth, sounders: Sequence[SimulatedSounder]) -> pd.DataFrame:
    """The truth at the withheld places (`sounder_id` null) and above the sounders, each quarter of an hour."""
    south, west, north, east = network.region
    random = np.random.default_rng([network.seed, 31])
    sine = random.uniform(np.sin(np.radians(south)), np.sin(np.radians(north)), network.n_withheld)
    longitude = west + random.uniform(0.0, (east - west) % 360.0 or 360.0, network.n_withheld)
    withheld = pd.DataFrame(
        {
            "sounder_id": None,
            "latitude_deg": np.degrees(np.arcsin(sine)),
            "longitude_deg": (longitude + 180.0) % 360.0 - 180.0,
        }
    )
    above = pd.DataFrame(
        [(sounder.sounder_id, *sounder.midpoint) for sounder in sounders],
        columns=["sounder_id", "latitude_deg", "longitude_deg"],
    )
    first = pd.Timestamp(network.start).tz_convert(UTC).ceil(f"{TRUTH_MINUTES}min")
    last = pd.Timestamp(network.start + timedelta(hours=network.hours)).tz_convert(UTC)
    times = pd.date_range(first, last, freq=f"{TRUTH_MINUTES}min")
    places = pd.concat([withheld.astype({"sounder_id": object}), above], ignore_index=True)
    return truth_table(truth, times, places)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


# --- sending ------------------------------------------------------------------------------------------------------


def send(
    items: list[Item],
    sounders: Sequence[SimulatedSounder],
    to: str,
    out: Path,
    *,
    pace: float | None,
    say: Callable[[str], None],
) -> None:
    """Send the items in order of time to one landing zone."""
    sender = _sender(to)
    batches = list(_batches(items, pace))
    try:
        n_sent = sender(batches, sounders, to, out, say)
    except (OSError, httpx.HTTPError) as error:
        raise SimulateError(f"{to} cannot be reached: {error}") from error
    say(f"{to}: {n_sent} of {len(items)} measurements accepted")
    if n_sent < len(items):
        raise SimulateError(f"{to} refused {len(items) - n_sent} measurements; the reasons are printed above")


def _sender(to: str) -> Callable[..., int]:
    """What sends to such an address."""
    senders: dict[str, Callable[..., int]] = {
        "http": _by_http, "https": _by_http, "tcp": _by_tcp, "tls": _by_tcp, "mqtt": _by_mqtt, "mqtts": _by_mqtt
    }  # fmt: skip
    sender = senders.get(urlsplit(to).scheme)
    if sender is None:
        raise SimulateError(
            f"--to {to!r} is not http://, https://, tcp://, tls://, mqtt:// or mqtts:// with host and port"
        )
    return sender


def _batches(items: list[Item], pace: float | None) -> Iterator[tuple[float, str, list[Item]]]:
    """Seconds after the first at which to send, sounder, and its items, in order of time."""
    if not items:
        return
    origin = datetime.fromisoformat(items[0]["observed_at"])
    open_batches: dict[str, list[Item]] = {}
    most = ITEMS_PER_MESSAGE if pace is None else 1
    for item in items:
        own = open_batches.setdefault(item["sounder_id"], [])
        own.append(item)
        if len(own) == most:
            yield _due(own, origin, pace), item["sounder_id"], open_batches.pop(item["sounder_id"])
    for sounder_id, own in open_batches.items():
        yield _due(own, origin, pace), sounder_id, own


def _due(own: list[Item], origin: datetime, pace: float | None) -> float:
    if pace is None:
        return 0.0
    return (datetime.fromisoformat(own[-1]["observed_at"]) - origin).total_seconds() / pace


def _paced(
    batches: list[tuple[float, str, list[Item]]], say: Callable[[str], None]
) -> Iterator[tuple[str, list[Item]]]:
    began, told = time.monotonic(), time.monotonic()
    for number, (due_s, sounder_id, own) in enumerate(batches, 1):
        time.sleep(max(0.0, began + due_s - time.monotonic()))
        yield sounder_id, own
        if time.monotonic() - told > 10.0:
            told = time.monotonic()
            say(f"{number} of {len(batches)} messages sent")


def _credentials(out: Path) -> dict[str, str]:
    path = out / CREDENTIALS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _register(
    client: httpx.Client, sounders: Sequence[SimulatedSounder], to: str, out: Path
) -> dict[str, str]:
    """Credentials of the sounders: those kept, and new ones."""
    credentials = _credentials(out)
    try:
        for sounder in sounders:
            if sounder.sounder_id in credentials:
                continue
            answer = client.post(
                f"{to.rstrip('/')}/register",
                json={
                    "sounder_id": sounder.sounder_id,
                    "kind": "sounder",
                    "latitude_deg": sounder.rx_latitude_deg,
                    "longitude_deg": sounder.rx_longitude_deg,
                    **sounder.declared,
                },
            )
            if answer.status_code == 429:
                raise SimulateError(
                    f"{to} registers no more sounders at the moment: run again, or raise AUTONVIS_REGISTRATIONS_PER_MIN"
                )
            if answer.status_code != 201:
                raise SimulateError(f"{to} does not register {sounder.sounder_id}: {_problem(answer)}")
            credentials[sounder.sounder_id] = answer.json()["credential"]
    finally:
        descriptor = os.open(out / CREDENTIALS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(credentials, file, indent=1)
    return credentials


def _problem(answer: httpx.Response) -> str:
    try:
        return f"{answer.status_code} {answer.json().get('detail')}"
    except ValueError:
        return f"{answer.status_code} {answer.text[:200]}"


def _by_http(
    batches: list[tuple[float, str, list[Item]]],
    sounders: Sequence[SimulatedSounder],
    to: str,
    out: Path,
    say: Callable[[str], None],
) -> int:
    n_sent = 0
    with httpx.Client(timeout=TIMEOUT_S) as client:
        credentials = _register(client, sounders, to, out)
        for sounder_id, own in _paced(batches, say):
            answer = client.post(
                f"{to.rstrip('/')}/batch",
                json={"dataset": "measurements", "source": "simulated", "items": own},
                headers={"Authorization": f"Bearer {credentials[sounder_id]}"},
            )
            if answer.status_code not in (200, 202):
                raise SimulateError(f"{to} refuses: {_problem(answer)}")
            n_sent += _n_accepted(answer.json()["receipts"], say)
    return n_sent


def _by_tcp(
    batches: list[tuple[float, str, list[Item]]],
    sounders: Sequence[SimulatedSounder],
    to: str,
    out: Path,
    say: Callable[[str], None],
) -> int:
    address = urlsplit(to)
    n_sent = 0
    credentials = _credentials(out)
    present: str | None = None
    with (
        _connect(address.scheme, address.hostname or "", address.port or 8001) as connection,
        connection.makefile("rb") as lines,
    ):
        for sounder_id, own in _paced(batches, say):
            if sounder_id != present and sounder_id in credentials:
                _answer(
                    connection, lines, {"credential": credentials[sounder_id], "dataset": "measurements"}, to
                )
            present = sounder_id
            answer = _answer(connection, lines, [{"dataset": "measurements", **item} for item in own], to)
            n_sent += _n_accepted(answer["receipts"], say)
    return n_sent


def _connect(scheme: str, host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), TIMEOUT_S)
    if scheme == "tcp":
        return connection
    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except OSError:
        connection.close()
        raise


def _n_accepted(receipts: list[dict[str, Any]], say: Callable[[str], None]) -> int:
    """Items of a message that were taken; says the first that was not."""
    refused = [receipt for receipt in receipts if receipt["status"] == "rejected"]
    if refused:
        say(f"refused: {refused[0]}")
    return len(receipts) - len(refused)


def _answer(connection: socket.socket, lines: BinaryIO, message: Any, to: str) -> dict[str, Any]:
    """What the landing zone answers to one line."""
    connection.sendall(json.dumps(message).encode() + b"\n")
    line = lines.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"detail": "the connection was closed"}
    if "detail" in answer:
        raise SimulateError(f"{to} refuses: {answer['detail']}")
    return answer


def _by_mqtt(
    batches: list[tuple[float, str, list[Item]]],
    sounders: Sequence[SimulatedSounder],
    to: str,
    out: Path,
    say: Callable[[str], None],
) -> int:
    from tasks.landing.mqtt import publish_many

    def messages(some: Iterable[tuple[str, list[Item]]]) -> Iterator[tuple[str, bytes]]:
        return ((f"nvis/measurements/{sounder_id}", json.dumps(own).encode()) for sounder_id, own in some)

    address = urlsplit(to)
    if address.username is not None:
        publish_many(to, messages(_paced(batches, say)))
        return sum(len(own) for _, _, own in batches)
    credentials = _credentials(out)
    unknown = sorted({sounder_id for _, sounder_id, _ in batches} - credentials.keys())
    if unknown:
        raise SimulateError(
            f"{out / CREDENTIALS} has no credential of {unknown[0]}: register by --to http://… first, or give the user of the operator"
        )
    # Each as itself: as few connections as the times allow.
    in_order = sorted(batches, key=lambda batch: (batch[0], batch[1]))
    for sounder_id, some in groupby(_paced(in_order, say), key=lambda message: message[0]):
        own_address = f"{address.scheme}://{quote(sounder_id)}:{quote(credentials[sounder_id], safe='')}@{address.netloc}"
        publish_many(own_address, messages(some), client_id=sounder_id)
    return sum(len(own) for _, _, own in batches)
