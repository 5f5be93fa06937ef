"""Who a message is from is what the broker has authenticated: stations with the credential of /register, real brokers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from services.broker import Broker, Kind
from tasks import catalog, credentials, lake
from tasks.curation import curate_batch, pending_batches
from tasks.landing.mqtt import BrokerUnavailable, create_session, drain, ping, publish_many
from tasks.landing.spool import collect, read_segment
from tasks.mosquitto_hash import mosquitto_hash
from tasks.settings import Settings
from tests.landing.door_server import IONOGRAM

ASKING: list[Kind] = ["rabbitmq", "mosquitto", "embedded"]
"""Kinds that know the stations by themselves; NATS has them in its configuration file."""


@dataclass
class Station:
    sounder_id: str
    credential: str
    address: str

    @property
    def url(self) -> str:
        return f"mqtt://{self.sounder_id}:{self.credential}@{self.address}"

    def publish(self, topic: str, payload: bytes = b"{}", *, version: str = "3.1.1") -> int:
        messages = [(topic, payload)]
        return publish_many(self.url, messages, client_id=self.sounder_id, version=version, timeout_s=10)


def register(broker: Broker, sounder_id: str | None = None) -> Station:
    """Registers at the broker's gateway and waits until the broker knows."""
    sounder_id = sounder_id or f"S.{secrets.token_hex(4)}"  # a dot: RabbitMQ has its own way with it
    answer = httpx.post(f"{broker.gateway}/register", json={"sounder_id": sounder_id})
    assert answer.status_code == 201, answer.text
    return Station(sounder_id, answer.json()["credential"], broker.stations)


def wait_until_admitted(station: Station) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        try:
            publish_many(station.url, [], client_id=station.sounder_id)
            return
        except BrokerUnavailable:  # Mosquitto learns it within seconds
            assert time.monotonic() < deadline_s
            time.sleep(0.2)


@pytest.fixture(scope="module")
def registered() -> dict[Kind, tuple[Station, Station]]:
    return {}


@pytest.fixture
def pair(
    broker_of: Callable[[Kind], Broker], kind: Kind, registered: dict[Kind, tuple[Station, Station]]
) -> tuple[Broker, Station, Station]:
    broker = broker_of(kind)
    if kind not in registered:
        registered[kind] = register(broker), register(broker)
        wait_until_admitted(registered[kind][1])
    return broker, *registered[kind]


def consumer(broker: Broker, home: Path) -> Settings:
    client_id = f"autonvis-{secrets.token_hex(4)}"
    create_session(broker.consumer_url, client_id)
    return Settings(home=home, mqtt_url=broker.consumer_url, mqtt_client_id=client_id)


def drained(settings: Settings) -> Counter[tuple[str | None, str | None, bytes]]:
    return Counter(
        (record.dataset, record.sounder_id, record.payload)
        for path in drain(settings, idle_s=1.0).segments
        for record in read_segment(path)
    )


@pytest.mark.parametrize("kind", ASKING)
def test_what_a_station_publishes_lands_as_its_own(
    pair: tuple[Broker, Station, Station], tmp_path: Path
) -> None:
    broker, mine, other = pair
    settings = consumer(broker, tmp_path)
    item = {**IONOGRAM, "sounder_id": mine.sounder_id}
    del item["dataset"]
    assert mine.publish(f"nvis/ionograms/{mine.sounder_id}", json.dumps(item).encode()) == 1
    assert mine.publish(f"nvis/measurements/{mine.sounder_id}", b"2") == 1
    false = json.dumps({**item, "sounder_id": other.sounder_id, "fof2_mhz": 9.0}).encode()
    assert mine.publish(f"nvis/ionograms/{mine.sounder_id}", false) == 1
    assert other.publish(f"nvis/ionograms/{other.sounder_id}", b"4") == 1
    assert drain(settings).n_messages == 4

    collect(settings.spool_root, settings.lake_root)
    for batch in pending_batches(settings):
        curate_batch(batch, settings=settings)
    rows = lake.read("ionograms", settings=settings)
    assert rows[["sounder_id", "fof2_mhz"]].values.tolist() == [[mine.sounder_id, 5.5]]
    kept = lake.read("quarantine", settings=settings)
    claimed = kept[kept["raw"] == false].iloc[0]
    assert claimed["sounder_id"] == mine.sounder_id  # who sent it, not whom it names
    assert "sounder_id_mismatch" in claimed["reasons"]


@pytest.mark.parametrize("kind", ASKING)
@pytest.mark.parametrize("dataset", ["ionograms", "measurements"])
def test_nobody_publishes_as_another(
    kind: Kind, dataset: str, pair: tuple[Broker, Station, Station], tmp_path: Path
) -> None:
    broker, mine, other = pair
    settings = consumer(broker, tmp_path)
    for topic in (
        f"nvis/{dataset}/{other.sounder_id}",
        f"nvis/{dataset}/{mine.sounder_id}/x",
        f"nvis/{dataset}",
        f"nvis/marker/{settings.mqtt_client_id}",
        "elsewhere",
    ):
        # RabbitMQ hangs up, Mosquitto says so by MQTT 5; by 3.1.1 there is no answer but an acknowledgement.
        version = "5" if kind == "mosquitto" else "3.1.1"
        with contextlib.nullcontext() if kind == "embedded" else pytest.raises(BrokerUnavailable):
            mine.publish(topic, version=version)
    assert drained(settings) == Counter()


@pytest.mark.parametrize("kind", ASKING)
@pytest.mark.parametrize("is_retained", [False, True])
def test_a_will_is_not_left_in_anothers_name(
    is_retained: bool, pair: tuple[Broker, Station, Station], tmp_path: Path
) -> None:
    broker, mine, other = pair
    settings = consumer(broker, tmp_path)
    for will in (other, mine):
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=mine.sounder_id)
        client.username_pw_set(mine.sounder_id, mine.credential)
        client.will_set(f"nvis/ionograms/{will.sounder_id}", b"last words", qos=1, retain=is_retained)
        host, _, port = mine.address.partition(":")
        client.connect(host, int(port))
        deadline_s = time.monotonic() + 10
        while not client.is_connected() and time.monotonic() < deadline_s:
            if client.loop(0.1):
                break
        if client.is_connected():
            client._sock_close()  # without a word
        time.sleep(0.5)
    assert set(drained(settings)) <= {("ionograms", mine.sounder_id, b"last words")}
    publish_many(broker.url, [(f"nvis/ionograms/{mine.sounder_id}", b"")], is_retained=True)  # takes it away


@pytest.mark.parametrize("kind", ASKING)
def test_a_station_reads_nothing(pair: tuple[Broker, Station, Station]) -> None:
    broker, mine, _ = pair
    heard: list[str] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=mine.sounder_id, reconnect_on_failure=False)
    client.username_pw_set(mine.sounder_id, mine.credential)
    client.on_message = lambda _, __, message: heard.append(message.topic)
    client.on_connect = lambda *_: client.subscribe([("nvis/#", 1), (f"nvis/ionograms/{mine.sounder_id}", 1)])
    host, _, port = mine.address.partition(":")
    client.connect(host, int(port))
    deadline_s = time.monotonic() + 2
    while time.monotonic() < deadline_s:
        client.loop(0.1)
        if client.is_connected():
            break
    publish_many(broker.url, [(f"nvis/ionograms/{mine.sounder_id}", b"{}")])
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        client.loop(0.1)
    assert heard == []


@pytest.mark.parametrize("kind", ASKING)
def test_who_is_not_registered_or_has_no_such_credential_is_refused(
    kind: Kind, pair: tuple[Broker, Station, Station]
) -> None:
    broker, mine, other = pair
    for name, password in (
        (mine.sounder_id, "wrong"),
        (mine.sounder_id, ""),
        (mine.sounder_id, other.credential),
        ("nobody", mine.credential),
        ("nobody", "x"),
    ):
        with pytest.raises(BrokerUnavailable):
            publish_many(f"mqtt://{name}:{password}@{mine.address}", [], client_id=name)
    with pytest.raises(BrokerUnavailable):
        ping(f"mqtt://{mine.address}")  # no user at all
    with pytest.raises(BrokerUnavailable):
        ping(f"mqtt://{broker.address}")


@pytest.mark.parametrize("kind", ["rabbitmq", "mosquitto"])
def test_a_station_cannot_take_the_consumers_session(
    kind: Kind, pair: tuple[Broker, Station, Station], tmp_path: Path
) -> None:
    broker, mine, other = pair
    settings = consumer(broker, tmp_path)
    other.publish(f"nvis/ionograms/{other.sounder_id}", b"1")
    with contextlib.suppress(BrokerUnavailable):  # a clean session of that name would delete the queue
        publish_many(mine.url, [], client_id=settings.mqtt_client_id)
    with contextlib.suppress(BrokerUnavailable):
        publish_many(mine.url, [], client_id=other.sounder_id)
    assert drained(settings) == Counter([("ionograms", other.sounder_id, b"1")])


@pytest.mark.parametrize("kind", ["rabbitmq", "mosquitto", "nats", "embedded"])
def test_the_consumer_may_read_only(kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path) -> None:
    broker = broker_of(kind)
    settings = consumer(broker, tmp_path)
    with contextlib.suppress(BrokerUnavailable):
        publish_many(broker.consumer_url, [("nvis/ionograms/X", b"forged")], timeout_s=10)
    publish_many(broker.url, [("nvis/ionograms/X", b"true")])
    assert drained(settings) == Counter([("ionograms", "X", b"true")])


def test_a_new_credential_replaces_the_old_one(
    broker_of: Callable[[Kind], Broker],
) -> None:
    broker = broker_of("mosquitto")
    station = register(broker)
    wait_until_admitted(station)
    engine = catalog.open_catalog(Settings(home=broker.home))
    now = catalog.get_sounder(engine, station.sounder_id)
    assert now is not None
    fresh = credentials.rotate(engine, station.sounder_id, now=now.registered_at)
    wait_until_admitted(Station(station.sounder_id, fresh, station.address))
    with pytest.raises(BrokerUnavailable):
        publish_many(station.url, [], client_id=station.sounder_id)


@pytest.mark.parametrize("kind", ASKING)
def test_a_sounder_named_like_the_system_has_no_user(kind: Kind, broker_of: Callable[[Kind], Broker]) -> None:
    broker = broker_of(kind)
    station = register(broker, f"Autonvis-{secrets.token_hex(3)}")
    later = register(broker)
    wait_until_admitted(later)
    with pytest.raises(BrokerUnavailable):
        publish_many(station.url, [], client_id=station.sounder_id)


def test_nats_with_a_station_in_its_file(broker_of: Callable[[Kind], Broker], tmp_path: Path) -> None:
    broker = broker_of("nats")
    settings = consumer(broker, tmp_path)
    path = broker.home / "broker" / "nats" / "nats.conf"
    line = (
        '    { user: "X", password: "secret", permissions: { publish: ["nvis.ionograms.X", "nvis.measurements.X"], '
        'subscribe: { deny: ">" } } }\n'
    )
    text = path.read_text()
    head, end, tail = text.rpartition("  ]\n")
    path.write_text(head + line + end + tail)

    os.kill(broker.pid, signal.SIGHUP)
    station = Station("X", "secret", broker.stations)
    wait_until_admitted(station)
    assert station.publish("nvis/ionograms/X", b"1") == 1
    assert station.publish("nvis/ionograms/Y", b"2") == 1  # acknowledged, and dropped: so does NATS
    with pytest.raises(BrokerUnavailable):
        publish_many(f"mqtt://X:wrong@{broker.stations}", [], client_id="X")
    assert drained(settings) == Counter([("ionograms", "X", b"1")])
    assert station.publish("nvis/ionograms/X", b"1") == 1


def test_hash_is_salted() -> None:
    assert mosquitto_hash("a") != mosquitto_hash("a")
    assert mosquitto_hash("a").startswith("$7$101$")
