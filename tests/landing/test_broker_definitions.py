"""RabbitMQ's definitions, as it exports them itself, for the backup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.broker import NotInstalled, start_broker
from services.broker_definitions import export_definitions
from tasks.backup import make_backup
from tasks.restore import restore
from tasks.settings import Settings


def test_definitions_of_a_running_rabbitmq_go_into_the_backup(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", backup_to=str(tmp_path / "backups"))
    assert export_definitions(settings.home) is None
    try:
        broker = start_broker(settings.home, kind="rabbitmq")
    except NotInstalled as error:
        pytest.skip(str(error))
    try:
        definitions = export_definitions(settings.home)
    finally:
        broker.stop()
    assert definitions is not None
    said = json.loads(definitions)
    names = {user["name"] for user in said["users"]}
    parameters = json.loads((settings.home / "broker" / "rabbitmq" / "parameters.json").read_text())
    assert {parameters["username"], parameters["consumer"]} <= names
    assert parameters["password"].encode() not in definitions
    make_backup(settings, definitions=definitions)
    drill = settings.model_copy(update={"home": tmp_path / "drill"})
    restore(drill)
    assert (drill.home / "broker" / "definitions.json").read_bytes() == definitions
