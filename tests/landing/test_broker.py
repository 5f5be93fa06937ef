"""Private brokers: they start, keep what they promise to keep, and stop, and nothing else does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services import broker as broker_module
from services.broker import KINDS, Broker, BrokerError, Kind, running_broker, start_broker, stop_broker
from services.processes import stop_process
from tasks.landing.mqtt import create_session, drain, ping, publish_many
from tasks.process_identity import is_running, started_s
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", KINDS)
def test_state_file_lets_another_process_find_it(kind: Kind, broker_of: Callable[[Kind], Broker]) -> None:
    broker = broker_of(kind)
    assert running_broker(broker.home) == broker
    assert start_broker(broker.home) == broker  # a second start attaches
    assert (broker.home / "run" / "broker.json").stat().st_mode & 0o077 == 0
    assert broker.is_durable == (kind == "rabbitmq")
    other: Kind = "embedded" if kind != "embedded" else "mosquitto"
    with pytest.raises(BrokerError, match=f"a {kind} broker runs"):
        start_broker(broker.home, kind=other)
    for secret in (broker.url.split("//")[1].split("@")[0].split(":")[1],):
        command_lines = [
            " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
        ]
        assert not any(secret in line for line in command_lines)


@pytest.fixture
def own_home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stop_broker(tmp_path)


def start(home: Path, kind: Kind) -> Broker:
    try:
        return start_broker(home, kind=kind)
    except BrokerError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize(("kind", "end"), [("rabbitmq", "kill"), ("mosquitto", "stop"), ("nats", "kill")])
def test_the_queue_survives_a_restart(kind: Kind, end: str, own_home: Path) -> None:
    broker = start(own_home, kind)
    settings = Settings(home=own_home)
    create_session(broker.url, settings.mqtt_client_id)
    publish_many(broker.url, (("nvis/ionograms/S", b"%d" % number) for number in range(200)))
    if end == "kill":
        os.kill(broker.pid, signal.SIGKILL)  # it may still be dying when the next is asked for
    else:
        broker.stop()
        assert not (own_home / "run" / "broker.json").exists()
    again = start(own_home, kind)
    assert again.pid != broker.pid
    assert again.url == broker.url  # stations keep their address and password
    n_messages, deadline_s = 0, time.monotonic() + 30
    while n_messages < 200:
        assert time.monotonic() < deadline_s
        n_messages += drain(settings).n_messages
    assert n_messages == 200


def test_a_broker_that_runs_but_does_not_answer_is_not_handed_out(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = start_broker(own_home, kind="embedded")
    os.kill(broker.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(broker_module, "END_WAIT_S", 0.1)
        with pytest.raises(BrokerError, match=f"process {broker.pid}, runs but does not answer"):
            start_broker(own_home)
    os.kill(broker.pid, signal.SIGKILL)
    again = start_broker(own_home, kind="embedded")
    assert again.pid != broker.pid
    ping(again.url)


def test_a_broker_that_asks_another_gateway_is_started_again(own_home: Path) -> None:
    first = start_broker(own_home, kind="embedded", gateway="http://127.0.0.1:1")
    assert start_broker(own_home) == first
    assert start_broker(own_home, gateway="http://127.0.0.1:1") == first
    second = start_broker(own_home, gateway="http://127.0.0.1:2", kind="embedded")
    assert (second.gateway, second.url) == ("http://127.0.0.1:2", first.url)
    assert second.pid != first.pid


def test_another_process_stops_it(own_home: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from services.broker import start_broker; "
        "print(start_broker(Path(sys.argv[1]), kind='embedded').pid)"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(own_home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    pid = int(child.stdout)
    broker = running_broker(own_home)
    assert broker is not None
    assert broker.pid == pid
    ping(broker.url)
    assert stop_broker(own_home)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not stop_broker(own_home)


def test_a_foreign_process_with_the_same_id_is_left_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        start_s = started_s(child.pid)
        assert not stop_process(child.pid, start_s - 100)
        assert is_running(child.pid, start_s)
        assert stop_process(child.pid, start_s)
        assert child.wait(5) == -signal.SIGTERM
    with pytest.raises(ProcessLookupError, match="no process"):
        started_s(2**22 + 1)


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert stop_process(child.pid, started_s(child.pid), grace_s=0.2)
        assert child.wait(5) == -signal.SIGKILL


def test_a_broker_that_fails_to_start_says_where_its_log_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module.sys, "executable", "/bin/false")
    begin_s = time.monotonic()
    with pytest.raises(BrokerError, match=r"embedded ended with status 1 on start; its log is .*broker\.log"):
        start_broker(tmp_path, kind="embedded")
    assert time.monotonic() - begin_s < 10


def test_without_any_installed_it_falls_to_the_embedded_one(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(broker_module.Path, "glob", lambda *_: iter(()))
    broker = start_broker(own_home)
    assert broker.kind == "embedded"
    assert "memory only" in broker.durability


def test_a_broker_whose_port_was_taken_meanwhile_says_that_it_moves(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker_module, "PORT_WAIT_S", 0.1)
    first = start_broker(own_home, kind="embedded")
    first.stop()
    host, _, port = first.address.rpartition(":")
    with socket.create_server((host, int(port))):
        second = start_broker(own_home, kind="embedded")
    assert second.address != first.address
    assert f"port {port} is taken: the broker moves to" in caplog.text


def test_a_taken_port_is_named(tmp_path: Path, broker_of: Callable[[Kind], Broker]) -> None:
    port = int(broker_of("embedded").address.rpartition(":")[2])
    with pytest.raises(BrokerError, match=f"port {port} is taken"):
        start_broker(tmp_path, port=port)
