"""What a broker has queued comes back with the root, on the port and under the passwords that stations know."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from services.broker import Kind, NotInstalled, start_broker
from tasks import catalog
from tasks.backup import make_backup
from tasks.landing.mqtt import create_session, drain, publish_many
from tasks.landing.spool import read_segment
from tasks.restore import restore
from tasks.settings import Settings

N_MESSAGES = 50
SAVED_S = 2.5
"""Mosquitto saves a second after a change."""


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_the_queue_of_a_running_broker_is_restored(kind: Kind, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path / "var",
        backup_to=str(tmp_path / "backups"),
        backup_passphrase=SecretStr("correct horse battery"),
    )
    try:
        broker = start_broker(settings.home, kind=kind)
    except NotInstalled as error:
        pytest.skip(str(error))
    payloads = [b'{"number": %d}' % number for number in range(N_MESSAGES)]
    try:
        create_session(broker.consumer_url, settings.mqtt_client_id)
        publish_many(broker.url, [("nvis/ionograms/TST01", payload) for payload in payloads])
        time.sleep(SAVED_S)
        make_backup(settings)  # of its files, since no AUTONVIS_MQTT_URL names it to be drained
    finally:
        broker.stop()
    catalog._open.cache_clear()
    shutil.rmtree(settings.home)
    restore(settings)

    again = start_broker(settings.home, kind=kind)
    try:
        assert again.url == broker.url
        settings = settings.model_copy(update={"mqtt_url": again.consumer_url})
        assert drain(settings).n_messages == N_MESSAGES
    finally:
        again.stop()
    landed = [
        record.payload
        for path in (settings.spool_root / "mqtt").glob("*.seg")
        for record in read_segment(path)
    ]
    assert sorted(landed) == sorted(payloads)
