"""Stations by TLS: a private authority, real brokers with its certificate, and no plain text where TLS is required."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from autonvis.cli import main
from services.broker import WITH_TLS, Broker, BrokerError, Kind, NotInstalled, StationTls, start_broker
from services.certificates import Certificate, make_certificate
from services.processes import free_port
from tasks.landing.mqtt import BrokerUnavailable, create_session, drain, publish_many
from tasks.landing.spool import read_segment
from tasks.settings import Settings, SettingsError, load_settings
from tests.landing.door_server import IONOGRAM, Server
from tests.landing.test_mqtt_identity import Station, wait_until_admitted


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), ["localhost", "127.0.0.1"])


@pytest.fixture(scope="module", params=WITH_TLS)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Broker]:
    kind: Kind = request.param
    home = tmp_path_factory.mktemp(kind)
    gateway = Server(home)
    tls = StationTls("127.0.0.1", free_port(), certificate.certificate, certificate.key)
    try:
        started = start_broker(home, kind=kind, gateway=gateway.url, tls=tls)
    except BrokerError as error:
        gateway.stop()
        if isinstance(error, NotInstalled) or "not installed" in str(error):
            pytest.skip(str(error))
        raise
    assert start_broker(home, gateway=gateway.url, tls=tls).pid == started.pid
    yield started
    started.stop()
    gateway.stop()


def register(broker: Broker, sounder_id: str) -> str:
    answer = httpx.post(f"{broker.gateway}/register", json={"sounder_id": sounder_id})
    credential: str = answer.json()["credential"]
    return credential


# paho leaves the socket of a handshake that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_station_publishes_by_tls_and_only_where_it_trusts(
    broker: Broker, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broker.stations_url == f"mqtts://{broker.stations}"
    settings = Settings(home=tmp_path, mqtt_url=broker.consumer_url, mqtt_client_id="autonvis-tls")
    create_session(broker.consumer_url, "autonvis-tls")
    station = Station("TLS.1", register(broker, "TLS.1"), broker.stations)
    url = f"mqtts://{station.sounder_id}:{station.credential}@{broker.stations}"
    with pytest.raises(BrokerUnavailable, match="certificate"):  # the authority is not known to the system
        publish_many(url, [], client_id="TLS.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    monkeypatch.setattr(Station, "url", url)
    wait_until_admitted(station)
    assert publish_many(url, [("nvis/ionograms/TLS.1", b"{}")], client_id="TLS.1") == 1
    assert drain(settings, idle_s=1.0).n_messages == 1
    with pytest.raises(BrokerUnavailable):  # another's name is as closed as without TLS
        publish_many(
            url,
            [("nvis/ionograms/OTHER", b"{}")],
            client_id="TLS.1",
            version="5" if broker.kind == "mosquitto" else "3.1.1",
        )


def test_plain_text_and_old_protocols_are_refused_on_the_stations_port(
    broker: Broker, certificate: Certificate
) -> None:
    credential = register(broker, "PLAIN")
    with pytest.raises(BrokerUnavailable):
        publish_many(f"mqtt://PLAIN:{credential}@{broker.stations}", [], client_id="PLAIN", timeout_s=5)
    host, _, port = broker.stations.partition(":")
    for version, is_taken in ((ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True)):
        context = ssl.create_default_context(cafile=str(certificate.authority))
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection((host, int(port)), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            assert (wrapped.version() == version.name.replace("_", ".")) is is_taken
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), 10) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname="localhost")


def test_json_lines_speak_tls_only(certificate: Certificate, tmp_path: Path) -> None:
    server = Server(tmp_path, tls_cert=certificate.certificate, tls_key=certificate.key)
    try:
        context = ssl.create_default_context(cafile=str(certificate.authority))
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            wrapped.sendall(json.dumps(IONOGRAM).encode() + b"\n")
            assert b'"accepted"' in wrapped.recv(65_536)
        with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
            plain.sendall(json.dumps({**IONOGRAM, "fof2_mhz": 7.0}).encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                assert b"receipts" not in plain.recv(65_536)
    finally:
        landed = server.landed()
    assert len(landed) == 1


def test_the_authority_stays_when_a_certificate_is_renewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["certificates", str(tmp_path / "tls"), "nvis.example", "::1"])
    said = capsys.readouterr().out
    first = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert sorted(first) == ["ca.key", "ca.pem", "server.key", "server.pem"]
    assert f"AUTONVIS_TLS_CERT={tmp_path}/tls/server.pem" in said
    main(["certificates", str(tmp_path / "tls"), "nvis.example", "--days", "30"])
    second = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    assert [name for name in first if first[name] == second[name]] == [
        n for n in first if n.startswith("ca.")
    ]
    for name in ("ca.key", "server.key"):
        assert (tmp_path / "tls" / name).stat().st_mode & 0o777 == 0o600
    for wrong in ("a b", "../x", ""):
        with pytest.raises(ValueError, match="neither a host name nor an address"):
            make_certificate(tmp_path, [wrong])


def serial(host: str, port: int, certificate: Certificate) -> str:
    """Of the certificate that a connection is given now."""
    context = ssl.create_default_context(cafile=str(certificate.authority))
    with (
        socket.create_connection((host, port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        found = wrapped.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def wait_for_another(before: str, host: str, port: int, certificate: Certificate) -> None:
    deadline_s = time.monotonic() + 30
    while serial(host, port, certificate) == before:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def test_the_broker_takes_a_renewed_certificate_and_drops_nobody(
    broker: Broker,
    certificate: Certificate,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, _, port = broker.stations.partition(":")
    before = serial(host, int(port), certificate)
    context = ssl.create_default_context(cafile=str(certificate.authority))
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as open_one,
    ):
        make_certificate(certificate.authority.parent, ["localhost", "127.0.0.1"])
        monkeypatch.setenv("AUTONVIS_HOME", str(broker.home))
        main(["reload-certificates"])
        assert "that connect from now on" in capsys.readouterr().out
        wait_for_another(before, host, int(port), certificate)
        credential = register(broker, "STAYS")
        open_one.sendall(connect_packet("STAYS", credential))
        assert open_one.recv(1) == b"\x20"  # CONNACK, on the connection of before


def connect_packet(user: str, password: str) -> bytes:
    def text(value: str) -> bytes:
        return len(value).to_bytes(2, "big") + value.encode()

    body = text("MQTT") + b"\x04\xc2\x00\x3c" + text(user) + text(user) + text(password)
    return b"\x10" + bytes([len(body)]) + body


def test_json_lines_take_a_renewed_certificate_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.tcp.RENEWAL_POLL_S", 0.1)
    made = make_certificate(tmp_path / "tls", ["localhost"])
    other = make_certificate(tmp_path / "other", ["localhost"])
    server = Server(tmp_path / "home", tls_cert=made.certificate, tls_key=made.key)
    try:
        before = serial("127.0.0.1", server.port, made)
        context = ssl.create_default_context(cafile=str(made.authority))
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as open_one,
        ):
            whole = made.key.read_bytes()
            made.key.write_bytes(other.key.read_bytes())  # of another certificate
            time.sleep(0.5)
            assert serial("127.0.0.1", server.port, made) == before
            made.key.write_bytes(whole)
            make_certificate(tmp_path / "tls", ["localhost"])
            wait_for_another(before, "127.0.0.1", server.port, made)
            open_one.sendall(json.dumps(IONOGRAM).encode() + b"\n")
            assert b'"accepted"' in open_one.recv(65_536)
    finally:
        server.stop()


class Proxy:
    """What nginx does for HTTP: TLS outside, plain text to the gateway."""

    def __init__(self, certificate: Certificate, target: str) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certificate, certificate.key)
        inner = urlsplit(target)

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(65_536):
                    writer.write(chunk)
                    await writer.drain()
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inside = await asyncio.open_connection(inner.hostname, inner.port)
            await asyncio.gather(copy(reader, inside[1]), copy(inside[0], writer))

        self._loop = asyncio.new_event_loop()
        server = self._loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
        self.port = server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


# The proxy's loop is stopped with connections in it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_simulated_network_sends_by_tls(
    broker: Broker, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SSL_CERT_FILE", "")  # set by the command, and put back after the test
    monkeypatch.delenv("SSL_CERT_FILE")
    lines = Server(tmp_path / "lines", tls_cert=certificate.certificate, tls_key=certificate.key)
    assert broker.gateway is not None
    proxy = Proxy(certificate, broker.gateway)
    few = ["--hours", "0.5", "--start", "2026-03-20T11:00Z", "--platinum", "1", "--gold", "1", "--silver", "0", "--bronze", "0"]  # fmt: skip

    def play(to: str, *more: str) -> None:
        main(["simulate", "--out", str(tmp_path / "sim"), *few, "--to", to, *more])

    try:
        with pytest.raises(SystemExit):
            play(f"https://localhost:{proxy.port}")  # nobody trusts this authority
        trusting = ("--ca", str(certificate.authority))
        play(f"tls://localhost:{lines.port}", *trusting)  # another gateway, where nobody has registered
        play(f"https://localhost:{proxy.port}", *trusting)
        credentials = json.loads((tmp_path / "sim" / "credentials.json").read_text())
        n_items = len((tmp_path / "sim" / "measurements.jsonl").read_text().splitlines())
        settings = Settings(home=tmp_path / "drain", mqtt_url=broker.consumer_url, mqtt_client_id="simulated")
        create_session(broker.consumer_url, "simulated")
        for sounder_id, credential in credentials.items():
            wait_until_admitted(StationByTls(sounder_id, credential, broker.stations))
        play(f"mqtts://localhost:{broker.stations.rpartition(':')[2]}", *trusting)
        drain(settings, idle_s=1.0)
        sent = [
            (record.sounder_id, json.loads(record.payload))
            for path in (settings.spool_root / "mqtt").glob("*.seg")
            for record in read_segment(path)
        ]
        assert {name for name, _ in sent} == credentials.keys()
        assert sum(len(items) for _, items in sent) == n_items
    finally:
        proxy.stop()
        landed = lines.landed()
    assert sum(len(json.loads(record.payload)) for record in landed) == n_items


class StationByTls(Station):
    @property
    def url(self) -> str:
        return f"mqtts://{self.sounder_id}:{self.credential}@{self.address}"


def test_settings_that_are_half_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTONVIS_TLS_CERT", str(tmp_path / "none.pem"))
    load_settings.cache_clear()
    with pytest.raises(SettingsError, match="AUTONVIS_TLS_CERT and AUTONVIS_TLS_KEY belong together"):
        load_settings()
    load_settings.cache_clear()
    with pytest.raises(BrokerError, match=r"none\.pem.* cannot be read"):
        StationTls("127.0.0.1", 1, tmp_path / "none.pem", tmp_path / "none.key")
