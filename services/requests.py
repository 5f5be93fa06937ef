"""How a request comes in: who sends it, its body whole and inflated, within the limits of time, size and memory."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tasks.landing.door import CHALLENGE, Door, Holding, Problem, read
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
        body = await _read_body(request, held)
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
