"""How a request comes in: who sends it, its body whole and inflated, within the limits of time, size and memory."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tasks.landing.door import CHALLENGE, Door, Problem, read
from tasks.submissions import Delivery

BODY_BYTES = 8 * 2**20
BODY_TIMEOUT_S = 30.0
"""A body that takes longer is cut off: a slow sender must not hold a connection for ever."""


@contextlib.asynccontextmanager
async def receive(request: Request, door: Door) -> AsyncIterator[tuple[str | None, bytes, Delivery]]:
    """Who sends (None when not said), the raw body, and what it says; its memory is accounted for meanwhile.

    Raises:
        Problem: the credential is nobody's, or the body is not to be had.
    """
    sounder_id = await authenticate(request, door)
    with door.holding() as held:
        body = await read_body(request, held.add)
        yield sounder_id, body, read(body)


async def authenticate(request: Request, door: Door) -> str | None:
    """The sounder whose credential the request carries; None when it carries none.

    Raises:
        Problem: 401, it is nobody's.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, credential = header.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        detail = "send `Authorization: Bearer <credential>`"
        raise Problem(401, "Not authorized", detail, WWW_Authenticate=CHALLENGE)
    return await door.authenticate(credential.strip())


def answer(status: int, document: dict[str, Any]) -> Response:
    """A document as the answer."""
    return Response(msgspec.json.encode(document), status, media_type="application/json")


async def read_body(request: Request, hold: Callable[[int], None], most_bytes: int = BODY_BYTES) -> bytes:
    """The body as the sender wrote it, inflated; `hold` is told of its bytes as they come.

    Raises:
        Problem: it is too large or too slow, or its encoding cannot be read.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise Problem(
            415,
            "Encoding not supported",
            f"send the body plain or as gzip, not with Content-Encoding {encoding!r}",
        )
    too_large = Problem(413, "Too large", f"at most {most_bytes} bytes a request", Connection="close")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most_bytes:
        raise too_large
    chunks: list[bytes] = []
    n_bytes = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes > most_bytes:
                    raise too_large
                hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
        raise Problem(408, "Too slow", detail, Connection="close") from error
    except ClientDisconnect as error:
        raise Problem(400, "Gone", "the sender has left") from error
    body = b"".join(chunks)
    if encoding == "gzip":
        body = await asyncio.to_thread(_inflate, body, most_bytes)
        hold(len(body))
    return body


def _inflate(body: bytes, most_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # gzip, with its checksum
    try:
        plain = stream.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise Problem(400, "Not gzip", str(error)) from error
    if len(plain) > most_bytes:
        raise Problem(413, "Too large", f"at most {most_bytes} bytes a request, inflated")
    if not stream.eof:
        raise Problem(400, "Not gzip", "the gzip stream is cut off")
    if stream.unused_data:
        raise Problem(400, "Not gzip", "something follows the gzip stream")
    return plain
