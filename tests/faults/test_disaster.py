"""The host dies while stations send: the root is made again from its backups, elsewhere. Prints RTO and RPO."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tasks import catalog
from tasks.backup import make_backup
from tasks.landing.mqtt import broker_url, publish_many
from tasks.restore import restore
from tasks.settings import Settings
from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.ledger import land_everything
from tests.small_root import catalog_rows, checksums


def test_what_was_acknowledged_before_the_last_increment_is_there_once(
    trial: Trial, start_gateway: Callable[..., GatewayProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = trial.settings.model_copy(update={"backup_to": str(trial.settings.home.parent / "backups")})
    settings.home.mkdir()
    gateway = start_gateway()
    make_backup(settings)
    runs = trial.runs(2, 30)
    for number in runs:
        with sending(trial.ledger, gateway.address) as stations:
            for _ in range(3):
                stations.wait_for(202, 3)
                stations.wait_for("tcp 202", 3)
                land_everything(settings)  # segments move from spool to lake meanwhile
                before = set(trial.ledger.acknowledged)
                make_backup(settings, "increment" if number or trial.chance.random() < 0.8 else "full")
            stations.wait_for(202, 1)
            gateway.kill()
        died_at = datetime.now(UTC)
        catalog._open.cache_clear()
        shutil.rmtree(settings.home)

        restored = restore(settings)
        began_s = time.monotonic()
        assert before <= trial.ledger.acknowledged
        trial.ledger.acknowledged.intersection_update(before)  # the rest is what the disaster took
        land_everything(settings)
        lake, rows = checksums(settings.lake_root), catalog_rows(settings)
        gateway = start_gateway(at=gateway.address)  # and the stations go on sending
        ready_s = restored.duration_s + time.monotonic() - began_s
        rpo_s = (died_at - restored.state_at).total_seconds()
        with capsys.disabled():
            print(
                f"\nRTO {ready_s:.1f} s (restore {restored.duration_s:.1f} s), RPO {rpo_s:.1f} s, {len(before)} kept"
            )
        assert ready_s < 900
        assert rpo_s < 300
        assert len(rows["batches"]) > 0
        assert any(name.endswith(".parquet") for name in lake)
    with sending(trial.ledger, gateway.address) as stations:
        stations.wait_for(202, 1)
        stations.wait_for("tcp 202", 1)
    gateway.stop()
    trial.conclude("root destroyed, restored from backups", len(runs))


def test_what_waits_in_the_queue_of_the_broker_is_in_the_increment(
    trial: Trial, mqtt_settings: Settings
) -> None:
    """The broker's disk is lost with the host: what no `land` has drained is kept by the increment's own drain."""
    settings = mqtt_settings.model_copy(update={"backup_to": str(mqtt_settings.home.parent / "backups")})
    settings.home.mkdir()
    make_backup(settings)
    topic = f"nvis/ionograms/{trial.ledger.sounder_id}"
    runs = trial.runs(2, 20)
    for _ in runs:
        items = trial.ledger.items(50)
        publish_many(broker_url(settings), ((topic, json.dumps(item).encode()) for item in items))
        trial.ledger.acknowledge(items)
        acknowledged_at = datetime.now(UTC)
        made = make_backup(settings, "increment")
        assert made.notes == []
        assert made.taken_at >= acknowledged_at
        counted = (settings.metrics_root / "landing.prom").read_text()
        assert 'nvis_observations_total{door="mqtt",outcome="landed"} 50.0' in counted
        catalog._open.cache_clear()
        shutil.rmtree(settings.home)
        restore(settings)
        land_everything(settings)
    trial.conclude("root destroyed, messages in the broker's queue", len(runs))
