"""What RabbitMQ's HTTP backend asks before it lets a station in: `POST /broker/{user,vhost,resource,topic}`.

A station's MQTT user is its sounder id and its password the credential of `/register`: one credential, kept in one
place, for every door. It may publish to `nvis/ionograms/{id}` and `nvis/measurements/{id}` and do nothing else, and
its client id is its sounder id, alone or followed by `:` and anything, so that it ends nobody else's session. The
embedded broker asks the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tasks.landing.door import Door, Problem
from tasks.landing.mqtt import DATASETS

FORM_BYTES = 8192
FORM_TIMEOUT_S = 5.0
OF_THE_SYSTEM = "autonvis"
"""Client ids of consumers begin so; a sounder of such a name has no MQTT user."""

Question = Mapping[str, str]


class BrokerAuth:
    """Answers `allow` or `deny`."""

    def __init__(self, door: Door) -> None:
        self.door = door

    def routes(self) -> list[Route]:
        """One per question."""
        return [
            Route("/broker/user", self._post_user, methods=["POST"]),
            Route("/broker/vhost", self._answering(lambda question: True), methods=["POST"]),
            Route("/broker/resource", self._answering(may_use), methods=["POST"]),
            Route("/broker/topic", self._answering(may_publish), methods=["POST"]),
        ]

    async def _post_user(self, request: Request) -> Response:
        question = await _question(request)
        sounder_id = question.get("username", "")
        if not is_station(sounder_id) or not _is_own(question.get("client_id", ""), sounder_id):
            return _said(False)
        try:
            owner = await self.door.authenticate(question.get("password", ""))
        except Problem as problem:
            if problem.status == 401:
                return _said(False)
            raise
        return _said(owner == sounder_id)

    def _answering(self, rule: Callable[[Question], bool]) -> Callable[[Request], object]:
        async def post(request: Request) -> Response:
            return _said(rule(await _question(request)))

        return post


def is_station(sounder_id: str) -> bool:
    """Whether a sounder of this id may have an MQTT user."""
    return bool(sounder_id) and not sounder_id.lower().startswith(OF_THE_SYSTEM)


def may_use(question: Question) -> bool:
    """Publishing writes to the exchange; a subscription would need a queue."""
    return (question.get("resource"), question.get("name"), question.get("permission")) == (
        "exchange",
        "amq.topic",
        "write",
    )


def may_publish(question: Question) -> bool:
    """Under its own name only; a routing key has dots for the topic's slashes."""
    own = {f"nvis.{dataset}.{question.get('username')}" for dataset in DATASETS}
    return question.get("permission") == "write" and question.get("routing_key") in own


def _is_own(client_id: str, sounder_id: str) -> bool:
    return client_id == sounder_id or client_id.startswith(f"{sounder_id}:")


def _said(is_allowed: bool) -> Response:
    return PlainTextResponse("allow" if is_allowed else "deny")


async def _question(request: Request) -> Question:
    body = b""
    try:
        async with asyncio.timeout(FORM_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > FORM_BYTES:
                    raise Problem(413, "Too large", f"at most {FORM_BYTES} bytes", Connection="close")
    except TimeoutError as error:
        raise Problem(408, "Too slow", "the form did not arrive", Connection="close") from error
    except ClientDisconnect as error:
        raise Problem(400, "Gone", "the sender has left") from error
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError as error:
        raise Problem(400, "Not a form", str(error)) from error
