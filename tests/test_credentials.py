"""Credentials end: replaced, expired or revoked they open no door, and what is open is closed within a known time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import Engine, text

from autonvis.cli import main
from services import ended_sessions
from services.broker import Broker, Kind
from tasks import catalog, credentials
from tasks.landing import door
from tasks.landing.mqtt import BrokerUnavailable, publish_many
from tasks.settings import Settings
from tests.landing.conftest import broker_of  # noqa: F401 - a fixture
from tests.landing.door_server import IONOGRAM, Lines, Server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return catalog.open_catalog(Settings(home=tmp_path))


def register(engine: Engine, sounder_id: str = "TST01", now: datetime = NOW) -> str:
    credential = catalog.register_sounder(engine, sounder_id, kind="nvis", now=now)
    assert credential is not None
    return credential


def owner(engine: Engine, credential: str, now: datetime) -> str | None:
    return catalog.credential_owner(engine, credential, now=now)


def test_a_new_credential_ends_the_old_at_once_or_after_an_overlap(engine: Engine) -> None:
    first = register(engine)
    second = credentials.rotate(engine, "TST01", now=NOW + HOUR)
    assert [owner(engine, one, NOW + HOUR) for one in (first, second)] == [None, "TST01"]
    third = credentials.rotate(engine, "TST01", now=NOW + 2 * HOUR, overlap=HOUR)
    assert [owner(engine, one, NOW + 2.9 * HOUR) for one in (first, second, third)] == [
        None,
        "TST01",
        "TST01",
    ]
    assert [owner(engine, one, NOW + 3 * HOUR) for one in (first, second, third)] == [None, None, "TST01"]
    with pytest.raises(ValueError, match="'XX999' is not registered"):
        credentials.rotate(engine, "XX999", now=NOW)
    with pytest.raises(ValueError, match="is past"):
        credentials.rotate(engine, "TST01", now=NOW + HOUR, expires_at=NOW)
    with pytest.raises(ValueError, match="negative"):
        credentials.rotate(engine, "TST01", now=NOW + HOUR, overlap=-HOUR)
    assert owner(engine, third, NOW + 4 * HOUR) == "TST01"  # what was refused has ended nothing


def test_a_credential_expires_and_is_not_renewed_by_registering_again(engine: Engine) -> None:
    register(engine)
    credential = credentials.rotate(engine, "TST01", now=NOW, expires_at=NOW + HOUR)
    assert owner(engine, credential, NOW + HOUR - timedelta(seconds=1)) == "TST01"
    assert owner(engine, credential, NOW + HOUR) is None
    assert catalog.mosquitto_hashes(engine, now=NOW + HOUR) == []
    assert catalog.register_sounder(engine, "TST01", kind="nvis", now=NOW + 2 * HOUR) is None
    (issued,) = credentials.list_credentials(engine, now=NOW)
    assert (issued.sounder_id, issued.expires_at, issued.state) == ("TST01", NOW + HOUR, "valid")
    assert credentials.list_credentials(engine, now=NOW + HOUR) == []
    states = [one.state for one in credentials.list_credentials(engine, now=NOW + HOUR, with_ended=True)]
    assert sorted(states) == ["expired", "revoked"]


def test_revoking_ends_every_credential_of_one_sounder_only(engine: Engine) -> None:
    mine, others = register(engine), register(engine, "OTHER")
    second = credentials.rotate(engine, "TST01", now=NOW, overlap=HOUR)
    assert credentials.revoke(engine, "TST01", now=NOW + HOUR / 2) == 2
    assert credentials.revoke(engine, "TST01", now=NOW + HOUR / 2) == 0
    found = [owner(engine, one, NOW + HOUR / 2) for one in (mine, second, others)]
    assert found == [None, None, "OTHER"]
    assert credentials.ended_between(engine, NOW, NOW + HOUR / 2) == {"TST01"}
    assert credentials.ended_between(engine, NOW + HOUR / 2, NOW + HOUR) == set()


def test_nothing_of_a_credential_is_at_rest_but_hashes(engine: Engine, tmp_path: Path) -> None:
    given = [register(engine), credentials.rotate(engine, "TST01", now=NOW, overlap=HOUR)]
    with engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM credentials")).all())
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for credential in given:
        assert credential not in stored
        assert not any(credential.encode() in content for content in files)


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path))
    engine = catalog.open_catalog(Settings(home=tmp_path))
    old = register(engine, now=datetime.now(UTC))

    def run(*arguments: str) -> str:
        main(["credentials", *arguments])
        return capsys.readouterr().out

    assert len(run("list").splitlines()) == 2
    new = run("rotate", "TST01", "--expires", "2999-01-01T00:00Z").strip()
    assert owner(engine, new, datetime.now(UTC)) == "TST01"
    assert owner(engine, old, datetime.now(UTC)) is None
    listed = run("list", "TST01", "--ended")
    assert "2999-01-01T00:00Z valid" in listed
    assert "revoked" in listed
    assert new not in listed
    assert "1 revoked" in run("revoke", "TST01")
    assert "nothing to revoke" in run("revoke", "TST01")
    assert owner(engine, new, datetime.now(UTC)) is None
    for wrong, said in (
        (["revoke", "NOBODY"], "is not registered"),
        (["rotate", "TST01", "--expires", "x"], "--expires"),
    ):
        with pytest.raises(SystemExit):
            main(["credentials", *wrong])
        assert said in capsys.readouterr().err


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(door, "CREDENTIAL_CACHE_S", 0.3)  # ten seconds, in the time of a test
    started = Server(tmp_path)
    yield started
    started.stop()


def end(engine: Engine, how: str) -> None:
    if how == "revoked":
        credentials.revoke(engine, "TST01", now=datetime.now(UTC))
        return
    with engine.begin() as connection:  # as if it had been given an end that is now
        connection.execute(
            text("UPDATE credentials SET expires_at = :now"), {"now": datetime.now(UTC).isoformat(" ")[:26]}
        )


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_http_and_tcp_refuse_what_has_ended_also_on_an_open_connection(server: Server, how: str) -> None:
    engine = catalog.open_catalog(server.settings)
    credential = register(engine)
    headers = {"authorization": f"Bearer {credential}"}
    lines = Lines(server)
    lines.send({"credential": credential}, IONOGRAM)
    assert lines.answer()["sounder_id"] == "TST01"
    assert lines.statuses(1) == [["accepted"]]
    with httpx.Client(base_url=server.url, headers=headers, timeout=30) as client:
        assert client.post("/ionogram", json={**IONOGRAM, "fof2_mhz": 5.6}).status_code == 202
        end(engine, how)
        # In the moment in which it is still known here, it must not fetch itself another.
        again = client.post("/register", json={"sounder_id": "TST01", "name": "new"})
        assert "credential" not in again.json()
        time.sleep(0.4)
        for method, path in (("POST", "/ionogram"), ("POST", "/register"), ("GET", "/sounders/TST01")):
            answer = client.request(method, path, json=IONOGRAM)
            assert (answer.status_code, answer.json()["title"]) == (401, "Not authorized")
            assert "expired or was revoked" in answer.json()["detail"]
    lines.send({**IONOGRAM, "fof2_mhz": 5.7})
    assert lines.answer()["status"] == 401
    assert lines.is_closed()
    lines.close()
    without = httpx.post(f"{server.url}/ionogram", json=IONOGRAM)
    assert without.status_code == 401  # it stays registered: nobody takes its name
    assert httpx.post(f"{server.url}/register", json={"sounder_id": "TST01"}).status_code == 409
    assert len(server.landed()) == 2


def connect(broker: Broker, sounder_id: str, credential: str) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=sounder_id, reconnect_on_failure=False)
    client.username_pw_set(sounder_id, credential)
    host, _, port = broker.stations.partition(":")
    deadline_s = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            client.connect(host, int(port))
            for _ in range(50):
                if client.loop(0.1) or client.is_connected():
                    break
        if client.is_connected():
            return client
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


@pytest.mark.parametrize("kind", [pytest.param("rabbitmq", marks=pytest.mark.slow), "mosquitto"])
def test_an_open_mqtt_connection_ends_with_its_credential(
    kind: Kind,
    broker_of: Callable[[Kind], Broker],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "CREDENTIAL_CACHE_S", 0.3)
    monkeypatch.setattr(ended_sessions, "CACHED", timedelta(seconds=11.5))  # RabbitMQ's own cache is real
    broker = broker_of(kind)
    answer = httpx.post(f"{broker.gateway}/register", json={"sounder_id": "OPEN.1"})
    credential = answer.json()["credential"]
    client = connect(broker, "OPEN.1", credential)
    engine = catalog.open_catalog(Settings(home=broker.home))
    credentials.revoke(engine, "OPEN.1", now=datetime.now(UTC))
    began_s = time.monotonic()
    while client.loop(0.2) == paho.MQTT_ERR_SUCCESS and client.is_connected():
        assert time.monotonic() - began_s < 90  # rabbitmqctl alone takes 10 s on a busy machine
        client.publish("nvis/ionograms/OPEN.1", json.dumps({}), qos=1)
    print(f"{kind}: closed after {time.monotonic() - began_s:.1f} s")
    with pytest.raises(BrokerUnavailable):
        publish_many(f"mqtt://OPEN.1:{credential}@{broker.stations}", [], client_id="OPEN.1")
    fresh = credentials.rotate(engine, "OPEN.1", now=datetime.now(UTC))
    connect(broker, "OPEN.1", fresh).disconnect()


@pytest.mark.slow
def test_rabbitmq_closes_the_connections_of_one_sounder_only(broker_of: Callable[[Kind], Broker]) -> None:  # noqa: F811
    broker = broker_of("rabbitmq")
    clients = {}
    for sounder_id in ("ENDED.1", "STAYS"):
        answer = httpx.post(f"{broker.gateway}/register", json={"sounder_id": sounder_id})
        clients[sounder_id] = connect(broker, sounder_id, answer.json()["credential"])
    ended_sessions.close_connections(Settings(home=broker.home), ["ENDED.1", "NOBODY", "autonvis-x"])
    deadline_s = time.monotonic() + 5
    while clients["ENDED.1"].loop(0.1) == paho.MQTT_ERR_SUCCESS:
        assert time.monotonic() < deadline_s
    for _ in range(5):
        assert clients["STAYS"].loop(0.1) == paho.MQTT_ERR_SUCCESS
    clients["STAYS"].disconnect()
