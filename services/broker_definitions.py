"""Users, permissions and queues of the private RabbitMQ of a home, as RabbitMQ itself exports them, for the backup."""

from __future__ import annotations

import json
import logging
import subprocess
import tempfile
from pathlib import Path

from services.broker import BrokerError, rabbitmq_environment, rabbitmq_script, running_broker

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
    directory = home.resolve() / "broker" / "rabbitmq"
    node = json.loads((directory / "parameters.json").read_text())["node"]
    program = rabbitmq_script().with_name("rabbitmqctl")
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        target = Path(folder) / "definitions.json"
        done = subprocess.run(
            [
                str(program),
                "--node",
                f"{node}@localhost",
                "export_definitions",
                str(target),
                "--format",
                "json",
            ],
            env=rabbitmq_environment(directory, node),
            capture_output=True,
            text=True,
            timeout=EXPORT_TIMEOUT_S,
        )
        if done.returncode or not target.is_file():
            raise BrokerError(
                f"RabbitMQ does not export its definitions: {(done.stderr or done.stdout).strip()}"
            )
        return target.read_bytes()
