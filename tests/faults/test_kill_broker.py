"""kill -9 of the broker while stations publish and a queue waits; it comes back on its port with its queue."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

from services.broker import Broker, start_broker, stop_broker
from tasks.landing.mqtt import BrokerUnavailable, drain, publish_many
from tasks.process_identity import is_running
from tasks.settings import Settings
from tests.faults.conftest import Trial


def publish(trial: Trial, url: str, is_ending: threading.Event) -> None:
    topic = f"nvis/ionograms/{trial.ledger.sounder_id}"
    while not is_ending.is_set():
        items = trial.ledger.items(10)
        while not is_ending.is_set():  # again, as a station does that was not answered
            try:
                publish_many(url, [(topic, json.dumps(item).encode()) for item in items], timeout_s=5)
            except BrokerUnavailable:
                is_ending.wait(0.1)
                continue
            trial.ledger.acknowledge(items)
            break


def kill(broker: Broker) -> None:
    os.kill(broker.pid, signal.SIGKILL)
    deadline_s = time.monotonic() + 20
    while is_running(broker.pid, broker.start_s):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_killed_broker_keeps_what_it_acknowledged(
    trial: Trial, mqtt_settings: Settings, broker_home: Path
) -> None:
    url = str(mqtt_settings.mqtt_url)
    is_ending = threading.Event()
    station = threading.Thread(target=publish, args=(trial, url, is_ending))
    station.start()
    runs = trial.runs(1, 12)
    try:
        for _ in runs:
            n_before, deadline_s = len(trial.ledger.acknowledged), time.monotonic() + 60
            while len(trial.ledger.acknowledged) <= n_before:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            time.sleep(trial.chance.uniform(0.0, 0.5))
            kill(start_broker(broker_home, kind="rabbitmq"))
            assert start_broker(broker_home, kind="rabbitmq").url == url
            if trial.chance.random() < 0.5:  # else the queue grows over several lives
                drain(mqtt_settings)
    finally:
        is_ending.set()
        station.join(60)
    while drain(mqtt_settings).n_messages:
        pass
    trial.conclude("kill -9 of the broker (RabbitMQ)", len(runs))


def test_a_broker_stopped_in_good_order_comes_back_with_its_queue(
    trial: Trial, mqtt_settings: Settings, broker_home: Path
) -> None:
    items = trial.ledger.items(100)
    topic = f"nvis/ionograms/{trial.ledger.sounder_id}"
    publish_many(str(mqtt_settings.mqtt_url), ((topic, json.dumps(item).encode()) for item in items))
    trial.ledger.acknowledge(items)
    assert stop_broker(broker_home)
    assert start_broker(broker_home, kind="rabbitmq").url == mqtt_settings.mqtt_url
    while drain(mqtt_settings).n_messages:
        pass
    trial.conclude("broker restarted with a queue", 1)
