"""HTTP landing zone, and beside it JSON lines over TCP (`services/tcp.py`): `python -m services.gateway`.

    POST /ionogram, /measurement   one observation, or a list of them
    POST /batch                    {"dataset": …, "items": […]}; without "dataset" each item names its own
    POST /register                 a sounder's metadata; answers its credential, once
    GET  /health                   200 only while the spool can be written
    GET  /schema                   the JSON Schema of one item, per dataset
    GET  /openapi.json             all of this, in full
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
import resource
import signal
import socket
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any

import msgspec
import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.broker_auth import BrokerAuth
from services.http_limits import LimitedProtocol
from services.mosquitto_users import keep_in_step
from services.openapi import openapi_document
from services.tcp import LineServer
from tasks import catalog
from tasks.contracts import submission_schema
from tasks.landing.door import (
    CHALLENGE,
    RETRY_DISK_S,
    Door,
    Holding,
    Problem,
    check_count,
    dataset_of,
    parse,
    split,
)
from tasks.landing.group_commit import GroupCommit
from tasks.landing.idempotency import KEY_CHARACTERS, Answers, digest
from tasks.landing.receipts import DATASETS
from tasks.landing.spool import Record
from tasks.settings import Settings, SettingsError, load_settings

log = logging.getLogger("services.gateway")

BODY_BYTES = 8 * 2**20
BODY_TIMEOUT_S = 30.0
"""A body that takes longer is cut off: a slow sender must not hold a connection for ever."""
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
            Route("/register", gateway.post_register, methods=["POST"]),
            Route("/health", gateway.get_health, methods=["GET"]),
            Route("/schema", gateway.get_schema, methods=["GET"]),
            Route("/openapi.json", gateway.get_openapi, methods=["GET"]),
            *BrokerAuth(gateway.door).routes(),
        ],
        exception_handlers={Problem: _problem, HTTPException: _http_problem, Exception: _server_problem},
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
        line_server = LineServer(self.door)
        mosquitto_users = asyncio.create_task(keep_in_step(self.settings))
        try:
            if self.lines is not None:
                await line_server.start(self.lines)
            yield
        finally:
            mosquitto_users.cancel()
            await line_server.stop()
            await asyncio.to_thread(self.commit.stop)

    async def post_ionogram(self, request: Request) -> Response:
        return await self._observations(request, "ionograms")

    async def post_measurement(self, request: Request) -> Response:
        return await self._observations(request, "measurements")

    async def _observations(self, request: Request, dataset: str) -> Response:
        async with self._receive(request) as (sounder_id, body, document):
            items = document if isinstance(document, list) else [document]
            check_count(items)
            return await self._land(
                request, [(dataset, body)], [(dataset, item) for item in items], sounder_id, "http", None
            )

    async def post_batch(self, request: Request) -> Response:
        async with self._receive(request) as (sounder_id, body, document):
            named, source, licence = _batch(document)
            return await self._land(request, split(body, named), named, sounder_id, source, licence)

    @contextlib.asynccontextmanager
    async def _receive(self, request: Request) -> AsyncIterator[tuple[str | None, bytes, Any]]:
        """Who sends (None when not said), the raw body, and what it says; its memory is accounted for meanwhile."""
        sounder_id = await self._authenticate(request)
        with self.door.holding() as held:
            body = await _read_body(request, held)
            yield sounder_id, body, parse(body)

    async def _land(
        self,
        request: Request,
        payloads: list[tuple[str | None, bytes]],
        items: list[tuple[str | None, Any]],
        sounder_id: str | None,
        source: str,
        licence: str | None,
    ) -> Response:
        now, sent_at = datetime.now(UTC), _sent_at(request)
        if _is_dry_run(request):
            await self.door.refresh()
            self.door.admit(items, sounder_id)
            return _answer(200, {"receipts": await self.door.judge(items, sounder_id, now, sent_at)})
        records = [
            Record("http", dataset, sounder_id, now, "application/json", payload, source, licence)
            for dataset, payload in payloads
        ]
        key = _idempotency_key(request, sounder_id)
        if key is None:
            return await self._store(records, items, sounder_id, now, sent_at)
        kept = self.answers.begin(key, digest(records))
        if kept is not None:
            return Response(kept, 202, {"Idempotent-Replayed": "true"}, media_type="application/json")
        try:
            answer = await self._store(records, items, sounder_id, now, sent_at)
        except BaseException:
            self.answers.forget(key)
            raise
        self.answers.keep(key, bytes(answer.body))
        return answer

    async def _store(
        self,
        records: list[Record],
        items: list[tuple[str | None, Any]],
        sounder_id: str | None,
        now: datetime,
        sent_at: datetime | None,
    ) -> Response:
        await self.door.refresh()
        self.door.admit(items, sounder_id)
        durable = self.door.submit(records)
        receipts = await self.door.judge(items, sounder_id, now, sent_at)
        await self.door.stored(durable)
        return _answer(202, {"receipts": receipts})

    async def post_register(self, request: Request) -> Response:
        async with self._receive(request) as (credential_of, _, metadata):
            described = _metadata(metadata)
        sounder_id = described["sounder_id"]
        if credential_of is not None and credential_of != sounder_id:
            raise Problem(
                403, "Not yours", f"the credential belongs to {credential_of!r}, not to {sounder_id!r}"
            )

        def register() -> str | None:
            engine = catalog.open_catalog(self.settings)
            if credential_of is None and catalog.get_sounder(engine, sounder_id) is not None:
                detail = f"{sounder_id!r} is registered: to change its metadata send its credential as bearer token"
                raise Problem(409, "Registered already", detail)
            return catalog.register_sounder(engine, **described, now=datetime.now(UTC))

        try:
            credential = await asyncio.to_thread(register)
        except (SQLAlchemyError, catalog.CatalogError) as error:
            log.error("event=register-failed sounder=%s reason=%r", sounder_id, str(error))
            raise Problem(503, "Cannot register", "the catalog is not available", Retry_After="30") from error
        self.door.registered(sounder_id)
        log.info("event=registered sounder=%s is_new=%s", sounder_id, credential is not None)
        if credential is None:
            return _answer(200, {"sounder_id": sounder_id})
        return _answer(201, {"sounder_id": sounder_id, "credential": credential})

    async def get_schema(self, _: Request) -> Response:
        return _answer(200, {dataset: submission_schema(dataset) for dataset in DATASETS})

    async def get_openapi(self, _: Request) -> Response:
        return _answer(200, openapi_document(version("autonvis"), BODY_BYTES))

    async def get_health(self, _: Request) -> Response:
        try:
            self.door.check_disk()
            await asyncio.to_thread(self.commit.check)
        except OSError as error:
            detail = f"the spool cannot be written: {error.strerror or error}"
            raise Problem(503, "Cannot store", detail, Retry_After=str(RETRY_DISK_S)) from error
        return _answer(200, {"status": "ok"})

    async def _authenticate(self, request: Request) -> str | None:
        """The sounder whose credential the request carries; None when it carries none."""
        header = request.headers.get("authorization")
        if header is None:
            return None
        scheme, _, credential = header.partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise Problem(
                401,
                "Not authorized",
                "send `Authorization: Bearer <credential>`",
                WWW_Authenticate=CHALLENGE,
            )
        return await self.door.authenticate(credential.strip())


def _is_dry_run(request: Request) -> bool:
    said = request.query_params.get("dry_run", "false")
    if said not in ("true", "false"):
        raise Problem(400, "Bad query", f"dry_run must be true or false, got {said[:80]!r}")
    return said == "true"


def _sent_at(request: Request) -> datetime | None:
    """The sender's time by its Date header; None without one, or where it is not of RFC 9110."""
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


async def _read_body(request: Request, held: Holding) -> bytes:
    """The body as the sender wrote it, inflated."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise Problem(
            415,
            "Encoding not supported",
            f"send the body plain or as gzip, not with Content-Encoding {encoding!r}",
        )
    too_large = Problem(413, "Too large", f"at most {BODY_BYTES} bytes a request", Connection="close")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > BODY_BYTES:
        raise too_large
    chunks: list[bytes] = []
    n_bytes = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes > BODY_BYTES:
                    raise too_large
                held.add(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise Problem(408, "Too slow", detail, Connection="close") from error
    except ClientDisconnect as error:
        raise Problem(400, "Gone", "the sender has left") from error
    body = b"".join(chunks)
    if encoding == "gzip":
        body = await asyncio.to_thread(_inflate, body)
        held.add(len(body))
    return body


def _inflate(body: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # gzip, with its checksum
    try:
        plain = stream.decompress(body, BODY_BYTES + 1)
    except zlib.error as error:
        raise Problem(400, "Not gzip", str(error)) from error
    if len(plain) > BODY_BYTES:
        raise Problem(413, "Too large", f"at most {BODY_BYTES} bytes a request, inflated")
    if not stream.eof:
        raise Problem(400, "Not gzip", "the gzip stream is cut off")
    if stream.unused_data:
        raise Problem(400, "Not gzip", "something follows the gzip stream")
    return plain


def _batch(document: Any) -> tuple[list[tuple[str | None, Any]], str, str | None]:
    """The items with their datasets, the source and the licence of a batch."""
    if not isinstance(document, dict) or not isinstance(document.get("items"), list):
        raise Problem(400, "Not a batch", 'the body must be {"dataset": …, "items": […]}')
    items: list[Any] = document["items"]
    check_count(items)
    dataset, source, licence = (
        document.get("dataset"),
        document.get("source", "http"),
        document.get("licence"),
    )
    if dataset is not None and dataset not in DATASETS:
        raise Problem(400, "Unknown dataset", f"dataset {dataset!r} is not one of {', '.join(DATASETS)}")
    if source not in SOURCES:
        raise Problem(400, "Unknown source", f"source {source!r} is not one of {', '.join(SOURCES)}")
    if licence is not None and not (
        isinstance(licence, str) and licence.isprintable() and len(licence) <= 200
    ):
        raise Problem(400, "Bad licence", "licence must be a text of at most 200 printable characters")
    return [(dataset_of(item, dataset), item) for item in items], source, licence


class _Metadata(msgspec.Struct, forbid_unknown_fields=False):
    """What a sounder says of itself."""

    sounder_id: str
    kind: str = "ionosonde"
    name: str = ""
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_m: float | None = None


def _metadata(document: Any) -> dict[str, Any]:
    try:
        known = msgspec.structs.asdict(msgspec.convert(document, _Metadata))
    except msgspec.ValidationError as error:
        raise Problem(400, "Bad metadata", str(error)) from error
    if not _is_sounder_id(known["sounder_id"]):
        detail = "sounder_id must be 1 to 64 letters, digits or _ . - and begin with a letter or digit"
        raise Problem(400, "Bad metadata", detail)
    for name, low, high in (
        ("latitude_deg", -90, 90),
        ("longitude_deg", -180, 360),
        ("altitude_m", -500, 100_000),
    ):
        value = known[name]
        if value is not None and not low <= value <= high:
            raise Problem(400, "Bad metadata", f"{name} must be between {low} and {high}, got {value}")
    if known["longitude_deg"] is not None and known["longitude_deg"] > 180:
        known["longitude_deg"] -= 360
    if len(known["kind"]) > 32 or len(known["name"]) > 200:
        raise Problem(400, "Bad metadata", "kind has at most 32 characters, name at most 200")
    details = {name: value for name, value in document.items() if name not in known}
    return {**known, "details": details}


def _is_sounder_id(text: str) -> bool:
    plain = text.replace("_", "").replace(".", "").replace("-", "")
    return 0 < len(text) <= 64 and text[0].isalnum() and plain.isalnum() and text.isascii()


def _answer(status: int, document: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    body = msgspec.json.encode(error.document())
    return Response(body, error.status, error.headers, media_type="application/problem+json")


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(error.status_code, str(error.detail), f"{request.method} {request.url.path}")
    problem.headers = dict(error.headers or {})
    return _problem(request, problem)


def _server_problem(request: Request, error: Exception) -> Response:
    log.error("event=failed path=%s", request.url.path, exc_info=error)
    return _problem(request, Problem(500, "Internal error", "the request was not stored; this is logged"))


class _Server(uvicorn.Server):
    """uvicorn's server, ending in order on SIGTERM and SIGINT instead of dying by them afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True


def http_config(settings: Settings, lines: socket.socket | None = None) -> uvicorn.Config:
    """uvicorn's configuration of the gateway, with its limits."""
    protocol = type("Protocol", (LimitedProtocol,), {"max_connections": settings.max_connections})
    return uvicorn.Config(
        create_app(settings, lines),
        http=protocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )


def serve(settings: Settings, announce: Callable[[str, str], None]) -> None:
    """Serves until SIGTERM or SIGINT; `announce` gets both addresses once it listens.

    Raises:
        OSError: an address cannot be listened on.
    """
    with (
        _listen(settings.gateway_host, settings.gateway_port) as http,
        _listen(settings.gateway_host, settings.tcp_port) as lines,
    ):
        announce(
            f"http://{settings.gateway_host}:{http.getsockname()[1]}",
            f"tcp://{settings.gateway_host}:{lines.getsockname()[1]}",
        )
        asyncio.run(_Server(http_config(settings, lines)).serve(sockets=[http]))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    # asyncio sets this only on sockets whose protocol number is given; without it every answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _allow_connections(max_connections: int) -> None:
    """Asks for a file descriptor for every connection; says so when the limit of the system is lower."""
    wanted = 2 * max_connections + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("event=few-descriptors wanted=%d allowed=%d", wanted, allowed)


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load_settings()
        given = {
            "gateway_host": options.host,
            "gateway_port": options.port,
            "tcp_port": options.tcp_port,
        }
        settings = settings.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        catalog.open_catalog(settings)
        _allow_connections(settings.max_connections)
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
