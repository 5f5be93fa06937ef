"""MQTT landing against real brokers: everything lands as it came, and nothing is acknowledged before it is on disk."""

from __future__ import annotations

import errno
import secrets
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.broker import KINDS, Broker, Kind, NotInstalled, start_broker
from tasks.landing import mqtt, spool
from tasks.landing.mqtt import BrokerUnavailable, DrainResult, broker_url, create_session, drain, publish_many
from tasks.landing.spool import Record, SpoolError, read_segment, recover, sealed_segments
from tasks.metrics.broker_queue import broker_queue_length
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def settings_for(broker: Broker, home: Path, **changes: object) -> Settings:
    client_id = f"land-{secrets.token_hex(4)}"
    return Settings(home=home, mqtt_url=broker.url, mqtt_client_id=client_id, **changes)  # type: ignore[arg-type]


def landed(home: Path) -> list[Record]:
    return [record for path in sealed_segments(home / "spool" / "mqtt") for record in read_segment(path)]


def drain_until(settings: Settings, numbers: set[int]) -> int:
    """Drains until the payloads landed are `numbers`; returns how many messages that took."""
    n_messages = 0
    deadline_s = time.monotonic() + 90
    while {int(record.payload[:8]) for record in landed(settings.home)} != numbers:
        assert time.monotonic() < deadline_s, "messages are missing"
        n_messages += drain(settings).n_messages
    return n_messages


@pytest.mark.parametrize("kind", KINDS)
def test_everything_lands_as_it_came(kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path) -> None:
    broker = broker_of(kind)
    settings = settings_for(broker, tmp_path)
    create_session(broker.url, settings.mqtt_client_id)
    sent = [
        ("nvis/ionograms/ONE", b'{"fof2_mhz": 5.5}'),
        ("nvis/measurements/TWO", b"[1, 2]"),
        ("nvis/ionograms/POISON", b"\xff\x00 not { json"),
        ("nvis/ionograms/EMPTY", b""),
        ("nvis/ionograms/LARGE", secrets.token_bytes(2 * 2**20)),
        *((f"nvis/ionograms/S{number % 10}", b"%d" % number) for number in range(200)),
    ]
    assert publish_many(broker.url, iter(sent)) == len(sent)
    progress: list[int] = []
    result = drain(settings, on_progress=progress.append)
    records = landed(tmp_path)
    assert Counter((f"nvis/{r.dataset}/{r.sounder_id}", r.payload) for r in records) == Counter(sent)
    assert {(r.channel, r.source) for r in records} == {("mqtt", "mqtt")}
    assert result.n_messages == len(sent) == progress[-1]
    assert result.n_bytes == sum(len(payload) for _, payload in sent)
    assert result.is_empty
    assert result.segments == sealed_segments(tmp_path / "spool" / "mqtt")
    assert drain(settings) == DrainResult(0, 0, True, [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_disk_leaves_the_messages_with_the_broker(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_of(kind)
    settings = settings_for(broker, tmp_path)
    create_session(broker.url, settings.mqtt_client_id)
    publish_many(broker.url, ((f"nvis/ionograms/S{number}", b"%d" % number) for number in range(100)))

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "fdatasync", fail)
        with pytest.raises(SpoolError, match="No space left"):
            drain(settings)
    assert landed(tmp_path) == []
    drain_until(settings, set(range(100)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_killed_before_it_acknowledges_gets_everything_again(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of(kind)
    settings = settings_for(broker, tmp_path)
    create_session(broker.url, settings.mqtt_client_id)
    publish_many(broker.url, ((f"nvis/ionograms/S{number}", b"%d" % number) for number in range(300)))
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import paho.mqtt.client as paho
        from tasks.landing.mqtt import drain
        from tasks.settings import Settings
        acknowledge = paho.Client.ack
        left = [40]
        def ack(self, mid, qos):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return acknowledge(self, mid, qos)
        paho.Client.ack = ack
        drain(Settings(home=Path(sys.argv[1]), mqtt_url=sys.argv[2], mqtt_client_id=sys.argv[3]))
    """)
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), broker.url, settings.mqtt_client_id],
        cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL
    recover(tmp_path / "spool" / "mqtt")
    n_first = len(landed(tmp_path))
    assert n_first >= 40
    n_again = 0
    deadline_s = time.monotonic() + 120
    while n_again < 260:  # all but those acknowledged
        assert time.monotonic() < deadline_s, f"{n_again} messages came again"
        n_again += drain(settings).n_messages
    assert {int(record.payload) for record in landed(tmp_path)} == set(range(300))


@pytest.mark.parametrize("kind", KINDS)
def test_a_drain_that_stops_early_is_continued(
    kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path
) -> None:
    broker = broker_of(kind)
    settings = settings_for(broker, tmp_path, mqtt_drain_messages=200)
    create_session(broker.url, settings.mqtt_client_id)
    n_sent = 400 if kind == "mosquitto" else 4000  # it saves on every change: slow
    publish_many(broker.url, ((f"nvis/measurements/S{number}", b"%d" % number) for number in range(n_sent)))
    first = drain(settings)
    assert 200 <= first.n_messages <= n_sent
    drain_until(settings, set(range(n_sent)))


class CuttingProxy:
    """Forwards TCP to `port`, and cuts each of the first connections after so many bytes from the server."""

    def __init__(self, port: int, cut_after_bytes: list[int]) -> None:
        self.target, self.cuts = port, cut_after_bytes
        self.n_connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self.target)) as server:
                limit = self.cuts[self.n_connections] if self.n_connections < len(self.cuts) else None
                self.n_connections += 1
                self._forward(client, server, limit)

    def _forward(self, client: socket.socket, server: socket.socket, limit: int | None) -> None:
        n_bytes = 0
        while limit is None or n_bytes < limit:
            for source in select.select([client, server], [], [], 10)[0]:
                try:
                    data = source.recv(4096)
                except OSError:
                    return
                if not data:
                    return
                n_bytes += len(data) if source is server else 0
                (client if source is server else server).sendall(data)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


@pytest.fixture
def cutting_proxy(broker_of: Callable[[Kind], Broker]) -> Iterator[tuple[Broker, CuttingProxy]]:
    broker = broker_of("rabbitmq")
    proxy = CuttingProxy(int(broker.address.rpartition(":")[2]), [3_000, 200_000])
    yield broker, proxy
    proxy.close()


def test_a_lost_connection_is_replaced_and_nothing_is_lost(
    cutting_proxy: tuple[Broker, CuttingProxy], tmp_path: Path
) -> None:
    broker, proxy = cutting_proxy
    settings = settings_for(broker, tmp_path)
    create_session(broker.url, settings.mqtt_client_id)
    publish_many(broker.url, (("nvis/ionograms/S", b"%08d" % number * 20) for number in range(3000)))
    url = broker.url.rpartition(":")[0] + f":{proxy.port}"
    result = drain(settings.model_copy(update={"mqtt_url": url}))
    assert result.is_empty
    assert proxy.n_connections == 3
    assert {int(record.payload[:8]) for record in landed(tmp_path)} == set(range(3000))
    assert drain(settings).n_messages == 0


def test_a_broker_that_is_down_is_named_without_its_password(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = Settings(home=tmp_path, mqtt_url=f"mqtt://someone:s3cret@127.0.0.1:{port}")
    with pytest.raises(
        BrokerUnavailable, match=rf"someone:\*\*\*@127.0.0.1:{port}.*AUTONVIS_MQTT_URL"
    ) as caught:
        drain(settings)
    assert "s3cret" not in str(caught.value)
    assert landed(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_password_is_refused(kind: Kind, broker_of: Callable[[Kind], Broker], tmp_path: Path) -> None:
    broker = broker_of(kind)
    user = broker.url.split("//")[1].split(":")[0]
    with pytest.raises(BrokerUnavailable, match=r"refuses client|closed the connection|closed it"):
        create_session(f"mqtt://{user}:wrong@{broker.address}", "someone")


def test_silent_server_does_not_hang(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BrokerUnavailable, match="did not answer CONNECT within 1 s"):
            mqtt.ping(f"mqtt://127.0.0.1:{port}", timeout_s=1.0)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:1883", "mqtt://:1883", "mqtt://h:99999"])
def test_a_malformed_url_says_what_is_expected(url: str) -> None:
    with pytest.raises(ValueError, match="MQTT URL"):
        mqtt.ping(url)


def test_broker_url_without_a_broker(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="autonvis up"):
        broker_url(Settings(home=tmp_path, mqtt_url=None))


@pytest.mark.parametrize("kind", ["rabbitmq", "mosquitto", "nats"])
def test_a_broker_says_how_many_messages_wait(kind: Kind, tmp_path: Path) -> None:
    """One of its own: sessions of other tests keep messages too."""
    try:
        broker = start_broker(tmp_path / "home", kind=kind)
    except NotInstalled as error:
        pytest.skip(str(error))
    of_broker = Settings(home=broker.home)

    def wait_for(length: int) -> None:
        deadline_s = time.monotonic() + 60  # RabbitMQ and Mosquitto count every 5 s
        while (said := broker_queue_length(of_broker)) != length:
            assert time.monotonic() < deadline_s, said
            time.sleep(0.5)

    try:
        settings = settings_for(broker, tmp_path)
        create_session(broker.consumer_url, settings.mqtt_client_id)
        publish_many(broker.url, [("nvis/ionograms/TST01", b"{}")] * 25)
        wait_for(25)
        assert drain(settings).n_messages == 25
        wait_for(0)
    finally:
        broker.stop()
    assert broker_queue_length(of_broker) is None


def test_a_broker_that_does_not_say_has_no_queue_length(broker_of: Callable[[Kind], Broker]) -> None:
    assert broker_queue_length(Settings(home=broker_of("embedded").home)) is None
