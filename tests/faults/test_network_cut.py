"""The network between stations and landing zones is cut so that no end is told: connections stay half-open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from services.processes import free_port
from tasks.landing import mqtt
from tasks.landing.mqtt import BrokerUnavailable, drain
from tasks.settings import Settings
from tests.faults.conftest import Trial
from tests.faults.gateway_process import Address, GatewayProcess, Stations, sending
from tests.faults.network_namespace import CUTS, Namespace, NoNamespace
from tests.faults.tcp_proxy import BadNetwork
from tests.faults.test_kill_broker import publish

PATIENCE_S = 1.0
"""Of the stations; every cut lasts longer."""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    try:
        network = Namespace()
    except NoNamespace as error:
        pytest.skip(f"no network namespace can be made here, only test_bad_network.py cuts: {error}")
    yield network
    network.close()


@contextmanager
def over_mqtt(trial: Trial, settings: Settings, enter: Callable[[], None]) -> Iterator[list[int]]:
    """A station that publishes and a consumer that drains, both behind the network; yields what each drain brought."""
    is_ending = threading.Event()
    drained: list[int] = []

    def consume() -> None:
        enter()
        while not is_ending.is_set():
            try:
                drained.append(drain(settings, idle_s=0.5).n_messages)
            except BrokerUnavailable:
                is_ending.wait(0.1)

    def station() -> None:
        enter()
        publish(trial, str(settings.mqtt_url), is_ending)

    threads = [threading.Thread(target=consume), threading.Thread(target=station)]
    for thread in threads:
        thread.start()
    try:
        yield drained
    finally:
        is_ending.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def test_a_cut_that_nobody_is_told_of_loses_and_doubles_nothing(
    trial: Trial,
    namespace: Namespace,
    start_gateway: Callable[..., GatewayProcess],
    mqtt_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "CLOSE_TIMEOUT_S", PATIENCE_S)
    gateway = start_gateway(at=Address(namespace.host, free_port(), free_port()))
    url = str(mqtt_settings.mqtt_url)
    port = urlsplit(url).port
    assert port is not None
    runs = trial.runs(3, 40)
    # The broker listens on the loopback address: a relay with no faults of its own stands for it on the cable.
    with BadNetwork(port, trial.chance, host=namespace.host) as relay:
        there = f"{namespace.host}:{relay.port}"
        # What a drain brought is known when it ends, and with this publisher there is never silence.
        far = mqtt_settings.model_copy(
            update={"mqtt_url": url.replace(f"127.0.0.1:{port}", there), "mqtt_drain_s": 2.0}
        )
        with (
            sending(trial.ledger, gateway.address, timeout_s=PATIENCE_S, enter=namespace.enter) as stations,
            over_mqtt(trial, far, namespace.enter) as drained,
        ):
            for number in runs:
                all_arrive(stations, drained)
                namespace.cut(CUTS[number % len(CUTS)])
                time.sleep(trial.chance.uniform(1.2, 2.5) * PATIENCE_S)
                namespace.mend()
            all_arrive(stations, drained)
    n_failures = sum(n for answer, n in stations.answers.items() if answer not in (202, "tcp 202"))
    assert n_failures >= len(runs)
    while drain(mqtt_settings).n_messages:
        pass
    gateway.stop()
    trial.conclude("network cut, no reset: HTTP, TCP, MQTT", len(runs))


def all_arrive(stations: Stations, drained: list[int]) -> None:
    n_drained, deadline_s = sum(drained), time.monotonic() + 60
    stations.wait_for(202, 1)
    stations.wait_for("tcp 202", 1)
    while sum(drained) <= n_drained:
        assert time.monotonic() < deadline_s, "nothing arrives by MQTT"
        time.sleep(0.02)
