"""TCP landing zone: JSON lines, one line back per line; a part of `python -m services.gateway`.

A line is one observation or a list of them, and names its dataset (`"dataset": "ionograms"`) unless an opening line
has. An opening line, `{"credential": "…", "dataset": "…"}` with either or both, says who sends and what the lines
after it are. Lines may be sent without waiting; the answers come in their order. Each is what HTTP would answer: an
object with `receipts`, written when the line is on disk, or a problem of RFC 9457, and then the line was not stored.
Empty lines keep a connection open and get no answer. With `AUTONVIS_TLS_CERT` the port speaks TLS only.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tasks.contracts import SENT_AT
from tasks.landing.door import Door, Problem, check_count, read, split
from tasks.landing.receipts import DATASETS, Judge, Sent, known_dataset
from tasks.landing.spool import Record
from tasks.settings import Settings, SettingsError

log = logging.getLogger("services.tcp")

LINE_BYTES = 256 * 1024
CHUNK_BYTES = 32 * 1024
"""Read at once from one connection: its lines share a commit, and nobody waits long behind them."""
IDLE_TIMEOUT_S = 300.0
LINE_TIMEOUT_S = 30.0
"""A line that was begun must end within this time, and an answer must be taken within it."""
STOP_TIMEOUT_S = 10.0
HANDSHAKE_TIMEOUT_S = 15.0
RENEWAL_POLL_S = 10.0
OPENING = {"credential", "dataset"}


@dataclass
class _Connection:
    """What a connection has said of itself, and its lines that wait for their answers."""

    sounder_id: str | None = None
    credential: str | None = None
    """By which `sounder_id` is known."""
    judge: Judge | None = None
    """Of the lines that the last read brought, which came at one moment."""
    dataset: str | None = None
    is_busy: bool = False
    n_held_bytes: int = 0
    records: list[Record] = field(default_factory=list)
    items: list[tuple[Judge, Sent]] = field(default_factory=list)
    answers: list[bytes | int] = field(default_factory=list)
    """The line to answer, or how many of `items` the line held."""


class LineServer:
    """Serves JSON lines on a listening socket within the running event loop."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._is_stopping = False
        self._server: asyncio.Server | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Begins to accept."""
        tls = tls_context(self.door.settings)
        if tls is not None:
            self._renewal = asyncio.create_task(_keep_renewed(tls, self.door.settings))
        self._server = await asyncio.start_server(
            self._accept,
            sock=listener,
            limit=CHUNK_BYTES,
            backlog=2048,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT_S,
        )

    async def stop(self) -> None:
        """Answers the lines it has taken, then ends every connection."""
        self._is_stopping = True
        if self._renewal is not None:
            self._renewal.cancel()
        if self._server is not None:
            self._server.close()
        for task, connection in self._connections.items():
            if not connection.is_busy:
                task.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = self._connections[task] = _Connection()
        try:
            if len(self._connections) > self.door.settings.max_connections:
                raise Problem(503, "Busy", "too many connections", Retry_After="5")
            await self._converse(connection, reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        except Problem as problem:
            writer.write(_line(problem.document()))
        except TimeoutError:
            writer.transport.abort()  # it does not read its answers
        except Exception:
            log.exception("event=failed")
            writer.write(_line(Problem(500, "Internal error", "this is logged").document()))
        finally:
            del self._connections[task]
            self.door.release(connection.n_held_bytes)
            writer.close()

    async def _converse(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        now_s = asyncio.get_running_loop().time
        rest = b""
        line_until_s = 0.0
        while not self._is_stopping:
            try:
                async with asyncio.timeout_at(line_until_s if rest else now_s() + IDLE_TIMEOUT_S):
                    chunk = await reader.read(CHUNK_BYTES)
            except TimeoutError as error:
                said = "the line did not end" if rest else "nothing was sent"
                waited_s = LINE_TIMEOUT_S if rest else IDLE_TIMEOUT_S
                raise Problem(408, "Too slow", f"{said} within {waited_s:g} s") from error
            if not chunk:
                if rest.strip():
                    raise Problem(400, "Cut off", "the last line has no end and was not stored")
                return
            self.door.hold(len(chunk))
            connection.n_held_bytes += len(chunk)
            connection.is_busy = True
            connection.judge = None
            await self.door.refresh()
            if connection.credential is not None:  # it may have ended since the opening line
                await self.door.authenticate(connection.credential)
            *lines, last = chunk.split(b"\n")
            if lines:
                lines[0] = rest + lines[0]
                rest = b""
            if last and not rest:
                line_until_s = now_s() + LINE_TIMEOUT_S
            rest += last
            try:
                for line in lines:
                    await self._take(connection, line.strip())
            finally:
                writer.write(await self._land(connection))
            if len(rest) > LINE_BYTES:
                raise _too_long()
            async with asyncio.timeout(LINE_TIMEOUT_S):
                await writer.drain()
            self.door.release(connection.n_held_bytes - len(rest))
            connection.n_held_bytes = len(rest)
            connection.is_busy = False

    async def _take(self, connection: _Connection, line: bytes) -> None:
        """Reads one line into the connection.

        Raises:
            Problem: after this line nothing more is to be read.
        """
        if not line:
            return
        if len(line) > LINE_BYTES:
            raise _too_long()
        is_opening = False
        try:
            delivery = read(line)
            check_count(delivery.values)
            first = delivery.values[0]
            is_opening = isinstance(first, dict) and len(first) > 0 and first.keys() <= OPENING
            if is_opening and len(delivery.values) == 1:
                if delivery.faults:
                    raise Problem(400, "Not JSON", delivery.faults[0].removeprefix("decode: "))
                opened = await self._open(connection, first)
                connection.answers.append(opened)
                return
            envelope = delivery.envelope or {}
            dataset = envelope.get("dataset", connection.dataset)
            items = [
                Sent(known_dataset(item, dataset), item, delivery.faults.get(position), envelope.get(SENT_AT))
                for position, item in enumerate(delivery.values)
            ]
            payloads = split(line, delivery, items)
            self.door.admit(items, connection.sounder_id)
        except Problem as problem:
            if is_opening and problem.status == 401:
                raise
            connection.answers.append(_line(problem.document()))
            return
        judge = connection.judge
        if judge is None:
            judge = connection.judge = Judge(
                self.door.settings,
                sounder_id=connection.sounder_id,
                licence=None,
                received_at=datetime.now(UTC),
            )
        connection.records += [
            Record(
                "tcp", dataset, connection.sounder_id, judge.received_at, "application/json", payload, "tcp"
            )
            for dataset, payload in payloads
        ]
        connection.items += [(judge, sent) for sent in items]
        connection.answers.append(len(items))

    async def _open(self, connection: _Connection, document: dict[str, Any]) -> bytes:
        dataset, credential = document.get("dataset", connection.dataset), document.get("credential")
        if dataset is not None and dataset not in DATASETS:
            raise Problem(400, "Unknown dataset", f"dataset {dataset!r} is not one of {', '.join(DATASETS)}")
        if credential is not None:
            if not isinstance(credential, str):
                raise Problem(401, "Not authorized", "credential must be a text")
            sounder_id = await self.door.authenticate(credential)
            if connection.items and sounder_id != connection.sounder_id:
                connection.answers = [await self._land(connection)]  # what came before is not this sounder's
            connection.sounder_id, connection.credential, connection.judge = sounder_id, credential, None
        connection.dataset = dataset
        return _line({"sounder_id": connection.sounder_id, "dataset": dataset})

    async def _land(self, connection: _Connection) -> bytes:
        """Makes the waiting lines durable; returns their answers."""
        records, items, answers = connection.records, connection.items, connection.answers
        connection.records, connection.items, connection.answers = [], [], []
        receipts: list[dict[str, Any]] = []
        refused = b""
        if records:
            try:
                receipts = await self.door.land(records, items)
            except Problem as problem:
                refused = _line(problem.document())
        lines: list[bytes] = []
        done = 0
        for answer in answers:
            if isinstance(answer, bytes):
                lines.append(answer)
                continue
            lines.append(refused or _line({"receipts": receipts[done : done + answer]}))
            done += answer
        return b"".join(lines)


async def _keep_renewed(context: ssl.SSLContext, settings: Settings) -> None:
    """Gives connections that come later the certificate that has replaced the one in use; open ones go on."""
    known = _signature(settings)
    while True:
        await asyncio.sleep(RENEWAL_POLL_S)
        found = _signature(settings)
        if found == known:
            continue
        known = found
        try:
            # Apart first: a key that does not fit its certificate yet would leave the one in use with neither.
            tls_context(settings)
            context.load_cert_chain(str(settings.tls_cert), str(settings.tls_key))
        except (SettingsError, OSError) as error:
            log.error("event=certificate_refused the one before stays in use; %s", error)
        else:
            log.info("event=certificate_renewed")


def _signature(settings: Settings) -> list[tuple[int, int]]:
    """Which files the certificate and its key are now; empty while one is being replaced."""
    try:
        found = [Path(str(path)).stat() for path in (settings.tls_cert, settings.tls_key)]
    except OSError:
        return []
    return [(one.st_ino, one.st_mtime_ns) for one in found]


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with `AUTONVIS_TLS_CERT`; None, and plain text, without one.

    Raises:
        SettingsError: certificate or key cannot be read, or do not belong together.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl's own errors too
        raise SettingsError(
            f"AUTONVIS_TLS_CERT, AUTONVIS_TLS_KEY: {settings.tls_cert} with {settings.tls_key}: {error}"
        ) from error
    return context


def _too_long() -> Problem:
    return Problem(413, "Too long", f"a line has at most {LINE_BYTES} bytes; this one was not stored")


def _line(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document) + b"\n"
