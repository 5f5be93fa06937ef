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
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.tcp_proxy import BadNetwork


def test_stations_behind_a_bad_network(trial: Trial, start_gateway: Callable[..., GatewayProcess]) -> None:
    gateway = start_gateway()
    n_bad = len(trial.runs(15, 300))
    with (
        BadNetwork(gateway.port, trial.chance, mean_bytes=20_000, n_bad=n_bad) as network,
        sending(trial.ledger, f"http://127.0.0.1:{network.port}", timeout_s=1.0) as stations,
    ):
        while network.n_left:
            stations.wait_for(202, 1, 120)
        stations.wait_for(202, 3)
    gateway.stop()
    trial.conclude("HTTP connections cut or half-open", n_bad)


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
    trial.conclude("MQTT connections cut or half-open", n_bad)
