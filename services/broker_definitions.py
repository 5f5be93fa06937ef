"""Users, permissions and queues of the private RabbitMQ of a home, as RabbitMQ itself exports them, for the backup."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from services.broker import BrokerError, rabbitmq_control, running_broker

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 60.0


def export_definitions(home: Path) -> bytes | None:
    """JSON of the definitions; None when no RabbitMQ of this home runs.

    Passwords are in it as salted hashes of 192 random bits. A broker named by AUTONVIS_MQTT_URL is backed up by whoever
    runs it.

    Raises:
        BrokerError: it runs and does not export them.
    """
    broker = running_broker(home.resolve())
    if broker is None or broker.kind != "rabbitmq":
        return None
    directory = broker.home / "broker" / "rabbitmq"
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        target = Path(folder) / "definitions.json"
        rabbitmq_control(
            broker, "export_definitions", str(target), "--format", "json", timeout_s=EXPORT_TIMEOUT_S
        )
        if not target.is_file():
            raise BrokerError("RabbitMQ does not export its definitions")
        return target.read_bytes()
