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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from tasks.landing.mqtt import DATASETS

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 5.0


def own_topics(sounder_id: str) -> set[str]:
    """Where a station may publish."""
    return {f"nvis/{dataset}/{sounder_id}" for dataset in DATASETS}


class PasswordAuth(BaseAuthPlugin):  # type: ignore[misc]  # amqtt is untyped
    """Admits the system's own users, and the stations that the gateway knows."""

    @dataclass
    class Config:
        """Passwords of the system's users, and the gateway's URL."""

        passwords: dict[str, str]
        gateway: str | None = None

    async def authenticate(self, *, session: Session) -> bool:
        expected = self.config.passwords.get(session.username)
        if expected is not None:
            return hmac.compare_digest((session.password or "").encode(), expected.encode())
        if self.config.gateway is None or not session.username:
            return False
        if session.will_flag and session.will_topic not in own_topics(session.username):
            return False  # amqtt publishes a will without asking whether it may
        question = {
            "username": session.username,
            "password": session.password or "",
            "client_id": session.client_id or "",
        }
        try:
            async with httpx.AsyncClient(timeout=ASK_TIMEOUT_S) as client:
                answer = await client.post(f"{self.config.gateway}/broker/user", data=question)
        except httpx.HTTPError as error:
            log.warning("the gateway does not say whether %r may come in: %r", session.username, error)
            return False
        return answer.status_code == 200 and answer.text == "allow"


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
    """amqtt's broker, delivering at least once while it lives, and each user only what is its own."""

    operator = consumer = ""

    async def _topic_filtering(self, session: Session, topic: str, action: Action) -> bool:
        """A station publishes under its own name and reads nothing; the consumer reads, and publishes its marker.

        A plugin could decide this too, but amqtt calls plugins in tasks, and messages then overtake one another.
        """
        if session.username == self.operator:
            return True
        if session.username == self.consumer:
            return topic.startswith("nvis/marker/" if action == Action.PUBLISH else "nvis/")
        return action == Action.PUBLISH and topic in own_topics(session.username)

    async def _publish_session_retained_messages(self, session: Session) -> None:
        """What was queued for the session; amqtt marks it as retained, which it is not."""
        handler = self._get_handler(session)
        publishing = []
        while handler is not None and not session.retained_messages.empty():
            queued = await session.retained_messages.get()
            publishing.append(
                asyncio.ensure_future(
                    handler.mqtt_publish(queued.topic, queued.data, queued.qos, retain=False)
                )
            )
        if publishing:
            await asyncio.wait(publishing)

    def _get_handler(self, session: Session) -> Any:
        handler = super()._get_handler(session)
        return None if handler is None else _Requeueing(handler, session)


async def serve(parameters: Mapping[str, Any]) -> None:
    """Serves on 127.0.0.1 until SIGTERM or SIGINT; `parameters` as `services/broker.py` writes them."""
    operator, consumer = parameters["username"], parameters["consumer"]
    passwords = {operator: parameters["password"], consumer: parameters["consumer_password"]}
    broker = RequeueingBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{parameters['port']}"}},
            "plugins": {
                "services.embedded_broker.PasswordAuth": {
                    "passwords": passwords,
                    "gateway": parameters["gateway"],
                },
            },
        }
    )
    broker.operator, broker.consumer = operator, consumer
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await broker.start()
    await stop.wait()
    await broker.shutdown()


def main() -> None:
    """Reads port and credentials from a file, so that they do not show in the process list."""
    parser = argparse.ArgumentParser(prog="python -m services.embedded_broker", description=__doc__)
    parser.add_argument("parameters", type=Path, help="JSON file with port, users, passwords and gateway")
    parameters = json.loads(parser.parse_args().parameters.read_text())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(parameters))


if __name__ == "__main__":
    main()
