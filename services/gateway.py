"""HTTP landing zone, and beside it JSON lines over TCP (`services/tcp.py`): `python -m services.gateway`.

    POST /ionogram, /measurement   one observation, or a list of them
    POST /batch                    {"dataset": …, "items": […]}; without "dataset" each item names its own
    POST /register, GET /sounders  a sounder's metadata (`services/sounders.py`)
    GET  /health                   200 only while the spool can be written
    GET  /schema                   the JSON Schema of one item, per dataset
    GET  /openapi.json             all of this, in full
    GET  /metrics                  for Prometheus: this process and the whole system (`tasks/metrics/`)
    POST /broker/…                 what a broker asks about its clients (`services/broker_auth.py`)

Bodies may be gzipped. With `?dry_run=true` items are judged and not stored. A
request repeated with its `Idempotency-Key` gets its first answer again and lands once.

An answer 202 means that the request's bytes are on disk. It carries a receipt per item: what the check at the door
says of it. A rejected item has landed too, for the quarantine. Everything else is an error of RFC 9457
(`application/problem+json`), and nothing of the request was stored.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.broker_auth import BrokerAuth
from services.ended_sessions import keep_ending
from services.http_server import (
    PROBLEM_HANDLERS,
    Server,
    allow_connections,
    listen,
    spare_collections,
    uvicorn_config,
)
from services.metrics import TimedAnswers, metrics_route
from services.mosquitto_users import keep_in_step
from services.observed import observe
from services.openapi import openapi_document
from services.requests import BODY_BYTES, answer, receive
from services.sounders import Sounders
from services.tcp import LineServer, tls_context
from tasks import catalog
from tasks.contracts import SENT_AT, load_contract, submission_schema
from tasks.landing.door import (
    RETRY_DISK_S,
    Door,
    Problem,
    check_count,
    split,
)
from tasks.landing.group_commit import GroupCommit
from tasks.landing.idempotency import KEY_CHARACTERS, Answers, digest
from tasks.landing.receipts import DATASETS, Judge, Sent, known_dataset
from tasks.landing.recent import recall
from tasks.landing.spool import Record
from tasks.metrics.runs import begin_counts
from tasks.settings import Settings, SettingsError, load_settings
from tasks.submissions import Delivery

log = logging.getLogger("services.gateway")

LICENCE = re.compile((load_contract(DATASETS[0]).column("licence").pattern or "")[:-1] + r"\Z")
SOURCES = ("http", "file", "simulated")
"""What a sender may say of the origin of a batch; the names of pull sources are not for them to take."""


def create_app(settings: Settings, lines: socket.socket | None = None) -> Starlette:
    """The ASGI application; its lifespan starts and stops the commit thread and seals the spool.

    With `lines`, a listening socket, it serves the TCP landing zone too: both share one commit.
    """
    gateway = _Gateway(settings, GroupCommit(settings.spool_root / "http"), lines)
    return Starlette(
        routes=[
            Route("/ionogram", gateway.post_ionogram, methods=["POST"]),
            Route("/measurement", gateway.post_measurement, methods=["POST"]),
            Route("/batch", gateway.post_batch, methods=["POST"]),
            *Sounders(gateway.door).routes(),
            Route("/health", gateway.get_health, methods=["GET"]),
            Route("/schema", gateway.get_schema, methods=["GET"]),
            Route("/openapi.json", gateway.get_openapi, methods=["GET"]),
            metrics_route(settings, shows_system=True),
            *BrokerAuth(gateway.door).routes(),
        ],
        exception_handlers=PROBLEM_HANDLERS,
        middleware=[Middleware(TimedAnswers, service="gateway")],
        lifespan=gateway.lifespan,
    )


class _Gateway:
    def __init__(self, settings: Settings, commit: GroupCommit, lines: socket.socket | None) -> None:
        self.settings = settings
        self.commit = commit
        self.door = Door(settings, commit)
        self.lines = lines
        self.answers = Answers()

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(self.commit.start)
        await asyncio.to_thread(begin_counts, self.settings)
        await asyncio.to_thread(recall, self.settings, self.door.recent)
        line_server = LineServer(self.door)
        of_brokers = [asyncio.create_task(task(self.settings)) for task in (keep_in_step, keep_ending)]
        try:
            if self.lines is not None:
                await line_server.start(self.lines)
            yield
        finally:
            for task in of_brokers:
                task.cancel()
            await line_server.stop()
            await asyncio.to_thread(self.commit.stop)

    async def post_ionogram(self, request: Request) -> Response:
        return await self._observations(request, "ionograms")

    async def post_measurement(self, request: Request) -> Response:
        return await self._observations(request, "measurements")

    async def _observations(self, request: Request, dataset: str) -> Response:
        async with receive(request, self.door) as (sounder_id, body, delivery):
            check_count(delivery.values)
            items = _items(delivery, request, [dataset] * len(delivery.values))
            return await self._land(request, [(dataset, body)], items, sounder_id, "http", None)

    async def post_batch(self, request: Request) -> Response:
        async with receive(request, self.door) as (sounder_id, body, delivery):
            datasets, source, licence = _batch(delivery)
            items = _items(delivery, request, datasets)
            return await self._land(request, split(body, delivery, items), items, sounder_id, source, licence)

    async def _land(
        self,
        request: Request,
        payloads: list[tuple[str | None, bytes]],
        items: list[Sent],
        sounder_id: str | None,
        source: str,
        licence: str | None,
    ) -> Response:
        now = datetime.now(UTC)
        judge = Judge(self.settings, sounder_id=sounder_id, licence=licence, received_at=now)
        judged = [(judge, sent) for sent in items]
        if _is_dry_run(request):
            await self.door.refresh()
            self.door.admit(items, sounder_id)
            return answer(200, {"receipts": await self.door.judge(judged)})
        records = [
            Record("http", dataset, sounder_id, now, "application/json", payload, source, licence)
            for dataset, payload in payloads
        ]

        async def store() -> Response:
            await self.door.refresh()
            self.door.admit(items, sounder_id)
            return answer(202, {"receipts": await self.door.land(records, judged)})

        key = _idempotency_key(request, sounder_id)
        if key is None:
            return await store()
        kept = self.answers.begin(key, digest(records))
        if kept is not None:
            return Response(kept, 202, {"Idempotent-Replayed": "true"}, media_type="application/json")
        try:
            stored = await store()
        except BaseException:
            self.answers.forget(key)
            raise
        self.answers.keep(key, bytes(stored.body))
        return stored

    async def get_schema(self, _: Request) -> Response:
        return answer(200, {dataset: submission_schema(dataset) for dataset in DATASETS})

    async def get_openapi(self, _: Request) -> Response:
        return answer(200, openapi_document(version("autonvis"), BODY_BYTES))

    async def get_health(self, _: Request) -> Response:
        try:
            self.door.check_disk()
            await asyncio.to_thread(self.commit.check)
        except OSError as error:
            detail = f"the spool cannot be written: {error.strerror or error}"
            raise Problem(503, "Cannot store", detail, Retry_After=str(RETRY_DISK_S)) from error
        return answer(200, {"status": "ok"})


def _is_dry_run(request: Request) -> bool:
    said = request.query_params.get("dry_run", "false")
    if said not in ("true", "false"):
        raise Problem(400, "Bad query", f"dry_run must be true or false, got {said[:80]!r}")
    return said == "true"


def _items(delivery: Delivery, request: Request, datasets: list[str | None] | list[str]) -> list[Sent]:
    """The items with their datasets and what the envelope, or else the request's Date, says of the time of sending."""
    sent_at = (delivery.envelope or {}).get(SENT_AT) or _date(request)
    return [
        Sent(dataset, value, delivery.faults.get(position), sent_at)
        for position, (dataset, value) in enumerate(zip(datasets, delivery.values, strict=True))
    ]


def _date(request: Request) -> datetime | None:
    """The request's Date header; None without one, or where it is not of RFC 9110."""
    try:
        said = parsedate_to_datetime(request.headers.get("date", ""))
    except (ValueError, OverflowError):
        return None
    return said if said.tzinfo is not None else None


def _idempotency_key(request: Request, sounder_id: str | None) -> tuple[str, ...] | None:
    """The request's key within its path and sender: others' keys never meet it."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_CHARACTERS:
        raise Problem(400, "Bad key", f"Idempotency-Key must have 1 to {KEY_CHARACTERS} characters")
    return sounder_id or "", request.url.path, key


def _batch(delivery: Delivery) -> tuple[list[str | None], str, str | None]:
    """Each item's dataset, the source and the licence of a batch."""
    envelope = delivery.envelope
    if envelope is None:
        raise Problem(400, "Not a batch", 'the body must be {"dataset": …, "items": […]}')
    check_count(delivery.values)
    dataset, source, licence = (
        envelope.get("dataset"),
        envelope.get("source", "http"),
        envelope.get("licence"),
    )
    if dataset is not None and dataset not in DATASETS:
        raise Problem(400, "Unknown dataset", f"dataset {dataset!r} is not one of {', '.join(DATASETS)}")
    if source not in SOURCES:
        raise Problem(400, "Unknown source", f"source {source!r} is not one of {', '.join(SOURCES)}")
    if licence is not None and not (isinstance(licence, str) and LICENCE.match(licence)):
        raise Problem(400, "Bad licence", "licence must be a text of 1 to 200 printable ASCII characters")
    return [known_dataset(item, dataset) for item in delivery.values], source, licence


def http_config(settings: Settings, lines: socket.socket | None = None) -> uvicorn.Config:
    """uvicorn's configuration of the gateway, with its limits."""
    return uvicorn_config(create_app(settings, lines), settings.max_connections)


def serve(settings: Settings, announce: Callable[[str, str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `announce` gets both addresses once it listens.

    Raises:
        OSError: an address cannot be listened on.
    """
    with (
        listen(settings.gateway_host, settings.gateway_port) as http,
        listen(settings.gateway_host, settings.tcp_port) as lines,
    ):
        announce(
            f"http://{settings.gateway_host}:{http.getsockname()[1]}",
            f"tcp://{settings.gateway_host}:{lines.getsockname()[1]}",
        )
        spare_collections()
        uvloop.run(Server(http_config(settings, lines)).serve(sockets=[http]))


def main(arguments: list[str] | None = None) -> int:
    """Entry point; settings come from `AUTONVIS_*`, host and port may be given here."""
    parser = argparse.ArgumentParser(
        prog="python -m services.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on (default: AUTONVIS_GATEWAY_HOST)")
    parser.add_argument("--port", type=int, help="port, 0 for a free one (default: AUTONVIS_GATEWAY_PORT)")
    parser.add_argument("--tcp-port", type=int, help="port of the JSON lines (default: AUTONVIS_TCP_PORT)")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        observe("gateway", settings)
        given = {
            "gateway_host": options.host,
            "gateway_port": options.port,
            "tcp_port": options.tcp_port,
        }
        settings = settings.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        tls_context(settings)  # a certificate that cannot be used stops the start
        catalog.open_catalog(settings)
        allow_connections(settings.max_connections)
        serve(
            settings,
            lambda url, lines: log.info(
                "event=listening url=%s lines=%s spool=%s", url, lines, settings.spool_root / "http"
            ),
        )
    except (SettingsError, catalog.CatalogError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gateway: it cannot serve or write {settings.home}: {error}", file=sys.stderr)
        return 1
    log.info("event=stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
