"""Connections that are cut or fall silent in the middle of a request, of an answer, of an acknowledgement."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tasks.landing import mqtt
from tasks.landing.mqtt import BrokerUnavailable, drain, publish_many
from tasks.settings import Settings
from tests.faults.conftest import Trial
from tests.faults.gateway_process import Address, GatewayProcess, sending
from tests.faults.tcp_proxy import BadNetwork


def test_stations_behind_a_bad_network(trial: Trial, start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = start_gateway()
    host, http_port, tcp_port = gateway.address
    n_bad = len(trial.runs(10, 200))
    with (
        BadNetwork(http_port, trial.chance, mean_bytes=20_000, n_bad=n_bad) as http,
        BadNetwork(tcp_port, trial.chance, mean_bytes=20_000, n_bad=n_bad) as lines,
        sending(trial.ledger, Address(host, http.port, lines.port), timeout_s=1.0) as stations,
    ):
        while http.n_left or lines.n_left:
            stations.wait_for(202, 1, 120)
            stations.wait_for("tcp 202", 1, 120)
        stations.wait_for(202, 3)
        stations.wait_for("tcp 202", 3)
    gateway.stop()
    trial.conclude("proxy cuts or silences HTTP and TCP", 2 * n_bad)


def test_a_drain_behind_a_bad_network(
    trial: Trial, mqtt_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "CLOSE_TIMEOUT_S", 0.5)  # silence costs this every time
    monkeypatch.setattr(mqtt, "CONNECT_TIMEOUT_S", 5.0)
    url = str(mqtt_settings.mqtt_url)
    port = urlsplit(url).port
    assert port is not None
    topic = f"nvis/ionograms/{trial.ledger.sounder_id}"
    n_bad = len(trial.runs(4, 60))
    with BadNetwork(port, trial.chance, mean_bytes=40_000, n_bad=n_bad) as network:
        behind = mqtt_settings.model_copy(update={"mqtt_url": url.replace(str(port), str(network.port))})
        while network.n_left:
            items = trial.ledger.items(100)
            publish_many(url, ((topic, json.dumps(item).encode()) for item in items))
            trial.ledger.acknowledge(items)
            try:
                drain(behind, idle_s=0.5)
            except BrokerUnavailable:
                continue
    while drain(mqtt_settings).n_messages:
        pass
    trial.conclude("proxy cuts or silences MQTT", n_bad)
