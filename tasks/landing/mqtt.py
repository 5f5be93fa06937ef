"""MQTT landing zone: drains the broker's queue into the spool, acknowledging only what is on disk.

Stations publish JSON with QoS 1 to `nvis/ionograms/{sounder_id}` and `nvis/measurements/{sounder_id}`. The broker
queues for our persistent session, which exists from `create_session` on. `drain` runs in one thread: paho's network
loop, the write to the spool and the acknowledgements follow one another, so no callback can die unseen and
nothing is acknowledged out of turn. An acknowledgement belongs to the connection its message came by: a lost
connection is replaced by a new client object, so identifiers of the old one cannot reach the new session.

Who sent a message is the topic's last part: the broker lets a sounder publish under its own name only
(`services/broker_auth.py`). Several consumers share the work by `AUTONVIS_MQTT_SHARE`, where the broker knows shared
subscriptions.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tasks.landing.retained import Retained
from tasks.landing.spool import Record, SpoolWriter, make_durable_directory
from tasks.settings import Settings, SettingsError
from tasks.submissions import CUT_OFF

log = logging.getLogger(__name__)

DATASETS = ("ionograms", "measurements")
TOPICS = tuple(f"nvis/{dataset}/#" for dataset in DATASETS)
"""All levels: to RabbitMQ a dot in a sounder's id is a level of its own, and `+` would leave it out unseen."""
BATCH_MESSAGES = 1000
"""Messages per fsync: the fastest of 20, 200, 1,000 and 5,000 measured; also the window asked of our own brokers."""
BATCH_BYTES = 64 * 2**20
"""Payload bytes in memory at which they are committed."""
MARKERS = "nvis/marker/"
MESSAGE_BYTES = 8 * 2**20
"""A larger message, where the broker lets it through, lands as its beginning only and is quarantined."""
KEPT_BYTES = 64 * 2**10
"""Of a message that is too large."""
NEVER = 0xFFFFFFFF
"""Session expiry of MQTT 5; a session of 3.1.1 without a clean start does not expire by itself."""

CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60
QUIET_S = 0.005
"""A pause this long in the stream commits what has come: a broker with a small window sends no more until then."""
SETTLE_S = 0.05
AGAIN_S = 7.0
"""NATS sends again every `ack_wait`, 5 s, and only to a consumer that is connected then."""
SETTLE_AGAIN_S = 1.0
IDLE_S = 5.0
"""Silence after which the queue counts as empty when the marker does not come back (publishing not permitted)."""
RECONNECTS = 3
LOCK_POLL_S = 0.1
CLOSE_TIMEOUT_S = 120.0
"""Mosquitto that saves on every change handles about 400 acknowledgements a second."""
_DISCONNECT = b"\xe0\x00"
IN_FLIGHT = 1000
"""Unacknowledged messages at most while publishing."""


class BrokerUnavailable(ConnectionError):  # noqa: N818 - a state of the world, not a fault of ours
    """The broker cannot be reached, refuses us, or went away; the message names it and says what to do."""


@dataclass(frozen=True)
class DrainResult:
    """What a drain brought in; `is_empty` says that everything queued at its start was taken."""

    n_messages: int
    n_bytes: int
    is_empty: bool
    segments: list[Path]


@dataclass(frozen=True)
class _Address:
    host: str
    port: int
    username: str | None
    password: str | None
    is_tls: bool

    def __str__(self) -> str:
        user = f"{self.username}:***@" if self.username else ""
        return f"mqtt{'s' if self.is_tls else ''}://{user}{self.host}:{self.port}"


@dataclass
class _Connection:
    """One client and one network connection, never reconnected; used by one thread."""

    client: paho.Client
    address: _Address
    failure: str | None = None
    is_connected: bool = False
    had_session: bool = False
    """Whether the broker knew the session."""
    is_subscribed: bool = False
    messages: list[paho.MQTTMessage] = field(default_factory=list)
    n_message_bytes: int = 0
    n_published: int = 0

    def step(self, timeout_s: float) -> None:
        """Handles what the network has, waiting at most `timeout_s`.

        Raises:
            BrokerUnavailable: the connection is gone.
        """
        code = self.client.loop(timeout_s)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS or self.failure:
            raise BrokerUnavailable(
                f"the MQTT broker {self.address} {self.failure or f'closed the connection ({paho.error_string(code)})'}"
            )

    def take(self) -> list[paho.MQTTMessage]:
        """What has come and was not taken yet."""
        messages, self.messages, self.n_message_bytes = self.messages, [], 0
        return messages

    def wait_for(self, is_done: Callable[[], bool], what: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > deadline_s:
                raise BrokerUnavailable(
                    f"the MQTT broker {self.address} did not answer {what} within {timeout_s:g} s"
                )
            self.step(0.1)

    def subscribe(self, topics: Iterable[str]) -> None:
        """Asks for QoS 1; a refusal shows in `failure` when the answer comes."""
        wanted = [(topic, 1) for topic in topics]

        def on_subscribe(_: Any, __: Any, ___: int, reasons: list[Any], ____: Any) -> None:
            refused = [topic for (topic, _), reason in zip(wanted, reasons, strict=True) if reason.value != 1]
            if refused:
                self.failure = (
                    f"does not grant QoS 1 on {', '.join(refused)}: check the permissions of user "
                    f"{self.address.username!r}"
                )
            self.is_subscribed = True

        self.client.on_subscribe = on_subscribe
        self.client.subscribe(wanted)

    def settle(self) -> None:
        """Takes what is on the wire until the stream pauses; the broker's window bounds it while nothing is acknowledged.

        What a broker without a window (the embedded one) has sent need not be sent again.
        """
        deadline_s = time.monotonic() + CONNECT_TIMEOUT_S
        n_waiting = -1
        while (
            len(self.messages) > n_waiting
            and self.n_message_bytes < BATCH_BYTES
            and time.monotonic() < deadline_s
        ):
            n_waiting = len(self.messages)
            self.step(SETTLE_S)

    def close(self) -> None:
        """Sends everything queued, then DISCONNECT, and waits until the broker hangs up.

        paho closes the socket itself as soon as DISCONNECT is written; if anything unread is left then, the broker
        sees a reset and may drop acknowledgements it has not processed. That it hangs up proves that it has.
        """
        while self.client.want_write():
            self.step(0.1)
        sock: Any = self.client.socket()
        sock.settimeout(CLOSE_TIMEOUT_S)
        try:
            sock.sendall(_DISCONNECT)
            while sock.recv(65_536):
                pass
        except TimeoutError:
            log.warning("the MQTT broker %s is slow to close: some messages may come twice", self.address)
        except OSError as error:
            log.debug("the MQTT broker %s closed hard: %s", self.address, error)

    def abort(self) -> None:
        """Drops the connection without a word; the broker keeps what was not acknowledged."""
        sock: Any = self.client.socket()
        if sock is not None:
            sock.close()


def broker_url(settings: Settings) -> str:
    """The broker of this system: `AUTONVIS_MQTT_URL`, else the one that runs under the system's home.

    Raises:
        BrokerUnavailable: there is neither.
    """
    if settings.mqtt_url:
        return settings.mqtt_url
    try:
        state = json.loads((settings.home / "run" / "broker.json").read_text())
    except FileNotFoundError:
        raise BrokerUnavailable(
            f"no MQTT broker: set AUTONVIS_MQTT_URL or start one with `autonvis up` (none runs under {settings.home})"
        ) from None
    return str(state["consumer_url"])


def create_session(url: str, client_id: str, *, version: str = "3.1.1", share: str = "") -> None:
    """Creates the persistent session, so that the broker queues from now on; harmless when it exists.

    Args:
        url: the broker, with the consumer's user.
        client_id: name of the session.
        version: of MQTT, 3.1.1 or 5.
        share: group of the shared subscription; empty for none.

    Raises:
        BrokerUnavailable: see the message.
        SettingsError: the broker does not know shared subscriptions.
    """
    connection = _connect(url, client_id, version=version, manual_ack=True)  # what is queued stays queued
    marker_topic = _marker_topic(client_id)
    try:
        connection.subscribe(_filters(client_id, share))
        if share and not connection.had_session:
            connection.client.publish(marker_topic, b"", qos=1)
            _wait_for_marker(connection, marker_topic)
        connection.wait_for(lambda: connection.is_subscribed, "SUBSCRIBE")
        connection.close()
    finally:
        connection.abort()


def ping(url: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Connects with the URL's credentials and disconnects.

    Raises:
        BrokerUnavailable: see the message.
    """
    connection = _connect(
        url, f"autonvis-ping-{secrets.token_hex(4)}", clean_session=True, timeout_s=timeout_s
    )
    connection.close()
    connection.abort()


def read_retained(
    url: str, topics: Sequence[str], *, timeout_s: float = CONNECT_TIMEOUT_S
) -> dict[str, bytes]:
    """What the broker keeps under each of the topics.

    Raises:
        BrokerUnavailable: see the message; also where it keeps nothing under one of them.
    """
    client_id = f"autonvis-read-{secrets.token_hex(4)}"
    connection = _connect(url, client_id, clean_session=True, timeout_s=timeout_s)
    found: dict[str, bytes] = {}

    def has_all() -> bool:
        found.update({str(_topic(message)): bytes(message.payload) for message in connection.take()})
        return found.keys() >= set(topics)

    try:
        connection.subscribe(topics)
        connection.wait_for(has_all, f"what it keeps under {', '.join(topics)}", timeout_s)
    finally:
        connection.abort()
    return found


def publish_many(
    url: str,
    topic_payloads: Iterable[tuple[str, bytes]],
    *,
    client_id: str | None = None,
    version: str = "3.1.1",
    is_retained: bool = False,
    timeout_s: float = 60.0,
) -> int:
    """Publishes with QoS 1 and returns the number of messages when the broker has acknowledged every one.

    At most 1,000 messages are in flight; `timeout_s` bounds the wait for one more acknowledgement. By MQTT 3.1.1
    some brokers acknowledge what they refuse; by 5 they say so, and that nobody has subscribed.

    Raises:
        BrokerUnavailable: the message says how many were acknowledged, or which was refused.
    """
    client_id = client_id or f"autonvis-publish-{secrets.token_hex(4)}"
    connection = _connect(url, client_id, version=version, clean_session=True)
    n_sent = 0

    def on_publish(_: Any, __: Any, mid: int, reason: Any, ___: Any) -> None:
        if reason.value:
            connection.failure = f"does not take message {mid}: {reason}"
        else:
            connection.n_published += 1

    connection.client.on_publish = on_publish

    def wait_until(n_published: int) -> None:
        deadline_s = time.monotonic() + timeout_s
        seen = connection.n_published
        while connection.n_published < n_published:
            connection.step(0.1)
            if connection.n_published > seen:
                seen, deadline_s = connection.n_published, time.monotonic() + timeout_s
            elif time.monotonic() > deadline_s:
                raise BrokerUnavailable(
                    f"the MQTT broker {connection.address} sent no PUBACK for {timeout_s:g} s"
                )

    try:
        for topic, payload in topic_payloads:
            connection.client.publish(topic, payload, qos=1, retain=is_retained)
            n_sent += 1
            wait_until(n_sent - IN_FLIGHT)
        wait_until(n_sent)
        connection.close()
    except BrokerUnavailable as error:
        raise BrokerUnavailable(
            f"{error}; {connection.n_published} of {n_sent} messages were acknowledged"
        ) from error
    finally:
        connection.abort()
    return n_sent


def drain(
    settings: Settings,
    *,
    on_progress: Callable[[int], None] | None = None,
    idle_s: float = IDLE_S,
    wait_s: float = 0.0,
) -> DrainResult:
    """Moves what the broker has queued into sealed segments of `spool/mqtt`.

    Ends when everything that was queued at the start is taken (a marker published into the own session comes back),
    after `idle_s` of silence, after about `mqtt_drain_messages` messages, or after `mqtt_drain_s` seconds. Every
    message lands as raw bytes, whatever it holds; it is decoded later. A retained copy lands once. `on_progress` gets
    the running count after each commit. While another process of this home drains the same session, nothing is done:
    after `wait_s` it is left to that one.

    Raises:
        SettingsError: the broker does not know the shared subscription that is asked for.
        BrokerUnavailable: the broker cannot be reached, or was lost and did not come back. What was taken until
            then is in sealed segments.
        SpoolError: the spool cannot be written; the messages stay with the broker.
    """
    directory = settings.spool_root / "mqtt"
    make_durable_directory(directory)
    with _sole_use(directory / f"{quote(settings.mqtt_client_id, safe='')}.lock", wait_s) as is_sole:
        if is_sole:
            return _drain(settings, directory, idle_s, on_progress)
    log.info("another process drains session %s", settings.mqtt_client_id)
    return DrainResult(0, 0, False, [])


@contextmanager
def _sole_use(path: Path, wait_s: float) -> Iterator[bool]:
    """Holds the lock `path` if nobody does: two connections of one session would end each other for ever."""
    deadline_s = time.monotonic() + wait_s
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not (is_sole := _take(fd)) and time.monotonic() < deadline_s:
            time.sleep(LOCK_POLL_S)
        yield is_sole
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _drain(
    settings: Settings, directory: Path, idle_s: float, on_progress: Callable[[int], None] | None
) -> DrainResult:
    url = broker_url(settings)
    deadline_s = time.monotonic() + settings.mqtt_drain_s
    before = set(directory.glob("*.seg"))
    retained = Retained(directory / f"{quote(settings.mqtt_client_id, safe='')}.retained.json")
    # There from the beginning to the good end of a drain: found at the beginning, something may be unacknowledged.
    unsettled = directory / f"{quote(settings.mqtt_client_id, safe='')}.unsettled"
    drained = _Drain(
        settings,
        retained,
        deadline_s=deadline_s,
        idle_s=idle_s,
        on_progress=on_progress,
        is_owed=unsettled.exists(),
    )
    unsettled.touch()
    n_failures = 0
    with SpoolWriter(directory) as writer:
        while True:
            n_before = drained.n_messages
            try:
                drained.run(url, writer)
                break
            except BrokerUnavailable as error:
                n_failures = 1 if drained.n_messages > n_before else n_failures + 1
                wait_s = 0.2 * 4**n_failures
                if (
                    n_failures > RECONNECTS
                    or time.monotonic() + wait_s > deadline_s
                    or not drained.was_connected
                ):
                    raise
                log.warning("%s; connecting again in %.1f s", error, wait_s)
                time.sleep(wait_s)
    if drained.is_empty:
        unsettled.unlink(missing_ok=True)
    segments = sorted(set(directory.glob("*.seg")) - before)
    log.info("%d messages (%d bytes) drained from the MQTT queue", drained.n_messages, drained.n_bytes)
    return DrainResult(drained.n_messages, drained.n_bytes, drained.is_empty, segments)


@dataclass
class _Drain:
    settings: Settings
    retained: Retained
    deadline_s: float
    idle_s: float
    on_progress: Callable[[int], None] | None
    is_owed: bool
    """The drain before this one did not end well: messages may come again, on NATS only after some seconds."""
    came_again: bool = False
    owed_until_s: float = 0.0
    n_messages: int = 0
    n_bytes: int = 0
    is_empty: bool = False
    was_connected: bool = False

    def run(self, url: str, writer: SpoolWriter) -> None:
        """One connection's worth; see `drain`."""
        client_id, share = self.settings.mqtt_client_id, self.settings.mqtt_share
        limit = self.settings.mqtt_drain_messages
        connection = _connect(url, client_id, version=self.settings.mqtt_version, manual_ack=True)
        self.was_connected = True
        marker_topic = _marker_topic(client_id)
        marker = secrets.token_bytes(16)
        try:
            # Again on every connection: a session whose first subscription was cut short would stay deaf. Its answer is
            # not waited for: a broker may first want the queue acknowledged.
            connection.subscribe(_filters(client_id, share))
            connection.client.publish(marker_topic, marker, qos=1)
            heard_s = time.monotonic()
            self.owed_until_s = heard_s + AGAIN_S if self.is_owed else 0.0
            while (
                (not self.is_empty or time.monotonic() < self.owed_until_s)
                and self.n_messages < limit
                and time.monotonic() < self.deadline_s
            ):
                n_waiting = len(connection.messages)
                connection.step(QUIET_S if n_waiting else 0.1)
                if len(connection.messages) > n_waiting:
                    heard_s = time.monotonic()
                    if len(connection.messages) < BATCH_MESSAGES and connection.n_message_bytes < BATCH_BYTES:
                        continue
                if connection.messages:
                    self._commit(connection, writer, marker_topic, marker)
                elif time.monotonic() - heard_s > self.idle_s:
                    if share:
                        raise _no_sharing(connection)
                    self.is_empty = True
            if not self.is_empty:
                connection.settle()
            self._commit(connection, writer, marker_topic, marker)
            connection.close()
        finally:
            connection.abort()

    def _commit(self, connection: _Connection, writer: SpoolWriter, marker_topic: str, marker: bytes) -> None:
        messages = connection.take()
        records = []
        for message in messages:
            topic = _topic(message)
            if (topic or "").startswith(MARKERS):
                # Older ones are left from drains that stopped early; others are of other consumers.
                self.is_empty |= (topic, bytes(message.payload)) == (marker_topic, marker)
            elif not message.retain or self.retained.is_new(topic or "", message.payload):
                records.append(_record(topic, message.payload))
        writer.append_many(records)
        self.retained.save()
        for message in messages:
            connection.client.ack(message.mid, message.qos)
        self.came_again |= any(message.dup for message in messages)
        if self.came_again and self.is_empty:  # what is owed comes in one go
            self.owed_until_s = time.monotonic() + SETTLE_AGAIN_S
        self.n_messages += len(records)
        self.n_bytes += sum(len(record.payload) for record in records)
        if records and self.on_progress is not None:
            self.on_progress(self.n_messages)


def _record(topic: str | None, payload: bytes | bytearray) -> Record:
    parts = (topic or "").split("/")
    is_known = len(parts) >= 3 and parts[0] == "nvis" and parts[1] in DATASETS
    is_too_large = len(payload) > MESSAGE_BYTES
    return Record(
        channel="mqtt",
        dataset=parts[1] if is_known else None,
        # RabbitMQ gives a dot back as a slash, which no id has.
        sounder_id=(".".join(parts[2:]) or None) if is_known else None,
        received_at=datetime.now(UTC),
        content_type=CUT_OFF if is_too_large else "application/json",
        payload=bytes(payload[:KEPT_BYTES] if is_too_large else payload),
        source="mqtt",
        origin=f"a message of {len(payload)} bytes" if is_too_large else None,
    )


def _topic(message: paho.MQTTMessage) -> str | None:
    try:
        return message.topic
    except UnicodeDecodeError:
        return None


def _marker_topic(client_id: str) -> str:
    return f"{MARKERS}{client_id}"


def _filters(client_id: str, share: str) -> tuple[str, ...]:
    """What a session subscribes to.

    One subscription takes the messages and the marker behind them: NATS has a queue for each, and the marker of another
    would overtake. With sharing it is shared too, with nobody: it tells whether sharing works.
    """
    marker = _marker_topic(client_id)
    if not share:
        return ("nvis/#",)
    return (*(f"$share/{share}/{topic}" for topic in TOPICS), f"$share/{client_id}/{marker}")


def _wait_for_marker(connection: _Connection, marker_topic: str) -> None:
    deadline_s = time.monotonic() + IDLE_S
    while not any(_topic(message) == marker_topic for message in connection.messages):
        if time.monotonic() > deadline_s:
            raise _no_sharing(connection)
        connection.step(0.1)
    for message in connection.messages:
        if _topic(message) == marker_topic:
            connection.client.ack(message.mid, message.qos)


def _no_sharing(connection: _Connection) -> SettingsError:
    return SettingsError(
        f"the MQTT broker {connection.address} delivers nothing to a shared subscription: unset AUTONVIS_MQTT_SHARE "
        "(RabbitMQ 3.10 and NATS 2.9 know none, Mosquitto does), and let one consumer drain"
    )


def _address(url: str) -> _Address:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"the MQTT URL's port is not a number between 0 and 65535: {error}") from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise SettingsError(
            f"the MQTT URL must look like mqtt://user:password@host:port, got scheme {parts.scheme!r}"
        )
    is_tls = parts.scheme == "mqtts"
    return _Address(
        parts.hostname,
        port or (8883 if is_tls else 1883),
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        is_tls,
    )


def _connect(
    url: str,
    client_id: str,
    *,
    version: str = "3.1.1",
    clean_session: bool = False,
    manual_ack: bool = False,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> _Connection:
    address = _address(url)
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if version == "5" else clean_session,
        protocol=paho.MQTTv5 if version == "5" else paho.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=manual_ack,
    )
    if address.username is not None:
        client.username_pw_set(address.username, address.password)
    if address.is_tls:
        client.tls_set()
    client.max_inflight_messages_set(IN_FLIGHT)
    client.connect_timeout = timeout_s
    connection = _Connection(client, address)

    def on_connect(_: Any, __: Any, flags: Any, reason: Any, ___: Any) -> None:
        connection.had_session = flags.session_present
        if reason.is_failure:
            connection.failure = (
                f"refuses client {client_id!r}: {reason}; check user and password in AUTONVIS_MQTT_URL"
            )
        else:
            connection.is_connected = True

    def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
        connection.messages.append(message)
        connection.n_message_bytes += len(message.payload)

    client.on_connect = on_connect
    client.on_message = on_message
    try:
        if version == "5":
            wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            wanted.SessionExpiryInterval = 0 if clean_session else NEVER
            wanted.ReceiveMaximum = BATCH_MESSAGES
            client.connect(
                address.host, address.port, KEEP_ALIVE_S, clean_start=clean_session, properties=wanted
            )
        else:
            client.connect(address.host, address.port, KEEP_ALIVE_S)
    except OSError as error:
        raise BrokerUnavailable(
            f"cannot reach the MQTT broker {address}: {error.strerror or error}; is it running, and is "
            "AUTONVIS_MQTT_URL right? (`autonvis up` starts one)"
        ) from error
    try:
        connection.wait_for(lambda: connection.is_connected, "CONNECT", timeout_s)
    except BrokerUnavailable as error:
        connection.abort()
        if version == "5" and connection.failure is None:
            raise BrokerUnavailable(
                f"{error}; does it speak MQTT 5? AUTONVIS_MQTT_VERSION=3.1.1 if not"
            ) from error
        raise
    return connection
