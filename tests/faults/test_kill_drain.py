"""kill -9 of the process that drains the broker's queue, at random moments, while stations publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from tasks.landing.mqtt import broker_url, drain, publish_many
from tasks.settings import Settings
from tests.faults import victims
from tests.faults.conftest import Trial, kill_after


def test_a_killed_drain_loses_and_doubles_nothing(
    trial: Trial, mqtt_settings: Settings, start_victim: Callable[..., BaseProcess]
) -> None:
    topic = f"nvis/ionograms/{trial.ledger.sounder_id}"
    n_killed, wanted = 0, len(trial.runs(6, 60))
    while n_killed < wanted:
        items = trial.ledger.items(100)
        process = start_victim(victims.drain_for_ever, mqtt_settings)
        publish_many(broker_url(mqtt_settings), ((topic, json.dumps(item).encode()) for item in items))
        trial.ledger.acknowledge(items)
        n_killed += kill_after(process, trial.chance.uniform(0.0, 0.3))
    while drain(mqtt_settings).n_messages:
        pass
    trial.conclude("kill -9 of the draining process", n_killed)
