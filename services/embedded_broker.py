"""MQTT broker inside a Python process, for machines without one installed: `python -m services.embedded_broker`.

It is not durable: its queues are in memory only, so what it has acknowledged is lost when it stops. For the demo, not
for stations.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class PasswordAuth(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is untyped
    """Admits the one user of this broker."""

    @dataclass
    class Config:
        """The user of this broker."""

        username: str
        password: str

    async def authenticate(self, *, session: Session) -> bool:
        given = f"{session.username}:{session.password}".encode()
        expected = f"{self.config.username}:{self.config.password}".encode()
        return hmac.compare_digest(given, expected)


class _Requeueing:
    """A session's handler that queues again what the client did not acknowledge; amqtt's own forgets it."""

    def __init__(self, handler: Any, session: Session) -> None:
        self.handler, self.session = handler, session

    async def mqtt_publish(self, topic: str, data: bytes, qos: int | None, *, retain: bool) -> Any:
        try:
            return await self.handler.mqtt_publish(topic, data, qos, retain=retain)
        except BaseException:  # also cancelled: the client has gone
            if qos and not self.session.clean_session:
                await self.session.retained_messages.put(RetainedApplicationMessage(None, topic, data, qos))
            raise


class RequeueingBroker(Broker):  # type: ignore[misc]  # amqtt is untyped
    """amqtt's broker, delivering at least once while it lives."""

    def _get_handler(self, session: Session) -> Any:
        handler = super()._get_handler(session)
        return None if handler is None else _Requeueing(handler, session)


async def serve(port: int, username: str, password: str) -> None:
    """Serves on 127.0.0.1:`port` until SIGTERM or SIGINT."""
    broker = RequeueingBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {
                "services.embedded_broker.PasswordAuth": {"username": username, "password": password}
            },
        }
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    """Reads port and credentials from a file, so that they do not show in the process list."""
    parser = argparse.ArgumentParser(prog="python -m services.embedded_broker", description=__doc__)
    parser.add_argument("parameters", type=Path, help="JSON file with port, username and password")
    parameters = json.loads(parser.parse_args().parameters.read_text())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(parameters["port"], parameters["username"], parameters["password"]))


if __name__ == "__main__":
    main()
