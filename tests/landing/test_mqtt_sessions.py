"""Sessions against real brokers: versions of the protocol, several consumers, retained copies, what is too large."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from services.broker import KINDS, Broker, Kind
from tasks import lake
from tasks.curation import curate_batch, pending_batches
from tasks.landing import mqtt
from tasks.landing.mqtt import (
    KEPT_BYTES,
    MESSAGE_BYTES,
    BrokerUnavailable,
    DrainResult,
    create_session,
    drain,
    publish_many,
)
from tasks.landing.retained import Retained
from tasks.landing.spool import Record, collect, read_segment, sealed_segments
from tasks.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parents[2]


def session(broker: Broker, home: Path, **changes: object) -> Settings:
    """Settings with a persistent session of its own."""
    settings = Settings(
        home=home,
        mqtt_url=broker.consumer_url,
        mqtt_client_id=f"autonvis-{secrets.token_hex(4)}",
        **changes,  # type: ignore[arg-type]
    )
    create_session(
        broker.consumer_url,
        settings.mqtt_client_id,
        version=settings.mqtt_version,
        share=settings.mqtt_share,
    )
    return settings


def landed(home: Path) -> list[Record]:
    return [record for path in sealed_segments(home / "spool" / "mqtt") for record in read_segment(path)]


def curate(settings: Settings) -> None:
    collect(settings.spool_root, settings.lake_root)
    for batch in pending_batches(settings):
        curate_batch(batch, settings=settings)


def observations(sounder_id: str, n_items: int) -> list[bytes]:
    model = {"latitude_deg": 50.0, "longitude_deg": 8.0, "fof2_mhz": 5.5}
    return [
        json.dumps({**model, "observed_at": f"2026-01-02T{number // 60:02d}:{number % 60:02d}:00Z"}).encode()
        for number in range(n_items)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_made_again_keeps_its_queue(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of(kind)
    settings = session(broker, tmp_path)
    n_sent = 300 if kind == "mosquitto" else 1500
    publish_many(broker.url, ((f"nvis/ionograms/S{number}", b"%d" % number) for number in range(n_sent)))
    create_session(broker.consumer_url, settings.mqtt_client_id)
    deadline_s = time.monotonic() + 60
    while {record.payload for record in landed(tmp_path)} != {b"%d" % number for number in range(n_sent)}:
        assert time.monotonic() < deadline_s
        drain(settings)


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_mosquitto_by_both_versions(
    broker_of: Callable[[Kind], Broker], tmp_path: Path, version: str
) -> None:
    broker = broker_of("mosquitto")
    settings = session(broker, tmp_path, mqtt_version=version)
    sent = [(f"nvis/ionograms/S{number}", b"%d" % number) for number in range(200)]
    publish_many(broker.url, sent[:100], version="3.1.1")
    publish_many(broker.url, sent[100:], version="5")
    time.sleep(1.5)  # longer than a session without an expiry would live
    assert drain(settings) == DrainResult(200, 490, True, sealed_segments(tmp_path / "spool" / "mqtt"))
    assert Counter((f"nvis/ionograms/{r.sounder_id}", r.payload) for r in landed(tmp_path)) == Counter(sent)
    assert drain(settings).n_messages == 0


@pytest.mark.parametrize("kind", ["rabbitmq", "nats", "embedded"])
def test_a_broker_without_mqtt_5_is_named(kind: Kind, broker_of: Callable[[Kind], Broker]) -> None:
    with pytest.raises(BrokerUnavailable, match=r"AUTONVIS_MQTT_VERSION=3\.1\.1|rotocol"):
        create_session(broker_of(kind).consumer_url, "autonvis-five", version="5")


def test_by_mqtt_5_a_message_that_nobody_takes_is_an_error(broker_of: Callable[[Kind], Broker]) -> None:
    with pytest.raises(BrokerUnavailable, match="No matching subscribers"):
        publish_many(broker_of("mosquitto").url, [("nobody/listens", b"1")], version="5")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_two_consumers_share_a_queue(
    broker_of: Callable[[Kind], Broker], tmp_path: Path, version: str
) -> None:
    broker = broker_of("mosquitto")
    share = f"land-{secrets.token_hex(4)}"
    both = [session(broker, tmp_path, mqtt_share=share, mqtt_version=version) for _ in range(2)]
    messages = observations("S", 160)
    queued, live = messages[:80], messages[80:]
    publish_many(broker.url, (("nvis/ionograms/S", payload) for payload in queued))
    counts = [0, 0]
    is_ending = threading.Event()

    def race(number: int) -> None:
        while True:
            was_ending = is_ending.is_set()
            n_messages = drain(both[number]).n_messages
            counts[number] += n_messages
            if was_ending and not n_messages:
                return

    threads = [threading.Thread(target=race, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    publish_many(broker.url, (("nvis/ionograms/S", payload) for payload in live))
    is_ending.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert min(counts) > 0  # the work was shared
    assert {record.payload for record in landed(tmp_path)} == set(messages)  # nothing is lost
    curate(both[0])
    rows = lake.read("ionograms", settings=both[0])
    assert len(rows) == rows["observed_at"].nunique() == len(messages)  # nothing is doubled


def test_a_killed_consumer_of_a_shared_queue_loses_nothing(
    broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of("mosquitto")
    share = f"land-{secrets.token_hex(4)}"
    both = [session(broker, tmp_path, mqtt_share=share, mqtt_version="5") for _ in range(2)]
    messages = observations("S", 200)
    publish_many(broker.url, (("nvis/ionograms/S", payload) for payload in messages))
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import paho.mqtt.client as paho
        from tasks.landing.mqtt import drain
        from tasks.settings import Settings
        paho.Client.ack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        drain(Settings(home=Path(sys.argv[1]), mqtt_url=sys.argv[2], mqtt_client_id=sys.argv[3], mqtt_share=sys.argv[4],
                       mqtt_version="5"))
    """)
    arguments = [str(tmp_path), broker.consumer_url, both[0].mqtt_client_id, share]
    child = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, timeout=60, check=False, env=os.environ
    )
    assert child.returncode == -signal.SIGKILL
    deadline_s = time.monotonic() + 30
    for settings in both:
        while drain(settings).n_messages:
            assert time.monotonic() < deadline_s
    assert {record.payload for record in landed(tmp_path)} == set(messages)
    curate(both[0])
    assert len(lake.read("ionograms", settings=both[0])) == len(messages)


@pytest.mark.parametrize("kind", ["rabbitmq", "nats", "embedded"])
def test_a_broker_without_shared_subscriptions_is_found_out(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "IDLE_S", 1.0)
    with pytest.raises((SettingsError, BrokerUnavailable), match=r"AUTONVIS_MQTT_SHARE|does not grant"):
        session(broker_of(kind), tmp_path, mqtt_share="land")


@pytest.mark.parametrize("kind", KINDS)
def test_two_drains_of_one_session_do_not_meet(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of(kind)
    settings = session(broker, tmp_path)
    messages = observations("S", 100)
    publish_many(broker.url, (("nvis/ionograms/S", payload) for payload in messages))
    results: list[DrainResult] = []
    # The second begins within the first, as its first messages are committed.
    first = drain(settings, on_progress=lambda _: results.append(drain(settings)))
    assert set(map(str, results)) == {str(DrainResult(0, 0, False, []))}
    assert first.n_messages == len(messages) == len(landed(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_retained_message_lands_once(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of(kind)
    station = f"R{secrets.token_hex(4)}"
    topic = f"nvis/ionograms/{station}"
    first, second = observations(station, 2)
    publish_many(broker.url, [(topic, first)], is_retained=True)  # before the session
    settings = session(broker, tmp_path)
    publish_many(broker.url, [(topic, second)], is_retained=True)
    for _ in range(4):
        drain(settings, idle_s=1.0)
    own = [record.payload for record in landed(tmp_path) if record.sounder_id == station]
    assert own.count(second) in (1, 2)  # as it came, and the retained copy
    assert own.count(first) <= 1
    n_landed = len(landed(tmp_path))
    for _ in range(3):
        assert drain(settings, idle_s=1.0).n_messages == 0
    assert len(landed(tmp_path)) == n_landed
    curate(settings)
    rows = lake.read("ionograms", settings=settings)
    assert len(rows[rows["sounder_id"] == station]) == len(set(own))
    publish_many(broker.url, [(topic, b"")], is_retained=True)  # takes it away


def test_what_is_known_of_retained_copies_survives_and_may_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "retained.json"
    retained = Retained(path)
    assert retained.is_new("a", b"1")
    assert not retained.is_new("a", b"1")
    assert retained.is_new("b", b"1")
    assert Retained(path).is_new("a", b"1")  # not saved: it may not be durable
    retained.save()
    assert not Retained(path).is_new("a", b"1")
    assert Retained(path).is_new("a", b"2")
    for broken in (b"{", b"[]", b"\xff"):
        path.write_bytes(broken)
        assert Retained(path).is_new("a", b"1")


@pytest.mark.parametrize("kind", ["rabbitmq", "mosquitto"])
def test_the_broker_refuses_what_is_too_large(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of(kind)
    settings = session(broker, tmp_path)
    with pytest.raises(BrokerUnavailable):
        publish_many(broker.url, [("nvis/ionograms/BIG", bytes(MESSAGE_BYTES + 2**17))], timeout_s=10)
    publish_many(broker.url, [("nvis/ionograms/S", b"x" * (MESSAGE_BYTES - 1000))])
    assert drain(settings).n_messages == 1
    assert [(record.sounder_id, len(record.payload)) for record in landed(tmp_path)] == [
        ("S", MESSAGE_BYTES - 1000)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_drain_keeps_the_beginning_of_what_is_too_large_once(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "MESSAGE_BYTES", 100_000)
    monkeypatch.setattr(mqtt, "BATCH_BYTES", 200_000)
    broker = broker_of(kind)
    settings = session(broker, tmp_path)
    large = b'[{"fof2_mhz": "' + b"x" * 120_000 + b'"}]'
    (good,) = observations("S", 1)
    messages = [large, good, large[:-1], b"\xff", large[:-2]]
    publish_many(broker.url, (("nvis/ionograms/S", payload) for payload in messages))
    assert drain(settings).n_messages == 5
    assert drain(settings).n_messages == 0  # it does not come again
    curate(settings)
    assert len(lake.read("ionograms", settings=settings)) == 1
    kept = lake.read("quarantine", settings=settings)
    assert len(kept) == 4
    cut_off = kept[kept["raw"].map(len) == KEPT_BYTES]
    assert len(cut_off) == 3
    for reasons in cut_off["reasons"]:
        assert "too large: only its beginning was kept (from a message of 120" in reasons
