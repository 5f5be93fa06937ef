"""Answers that a browser may keep but must ask about again: each has an ETag of its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

JSON = "application/json"
GEOJSON = "application/geo+json"
PNG = "image/png"
HTML = "text/html; charset=utf-8"
CACHE = {"Cache-Control": "no-cache"}
"""Kept, and used again only if the server says that it is still the same: a new cycle is seen at once."""


@dataclass(frozen=True)
class Answer:
    """What is sent, with its name."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> Answer:
        return cls(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    @classmethod
    def json(cls, document: Any, media_type: str = JSON) -> Answer:
        return cls.of(msgspec.json.encode(document), media_type)

    def to(self, request: Request, **headers: str) -> Response:
        """The response: 304 where the asker has it already."""
        named = {"ETag": self.etag, **CACHE, **headers}
        if is_known(request.headers.get("if-none-match"), self.etag):
            return Response(status_code=304, headers=named)
        return Response(self.body, headers=named, media_type=self.media_type)


def is_known(if_none_match: str | None, etag: str) -> bool:
    """Whether a header If-None-Match names an ETag, by the weak comparison of RFC 9110."""
    if if_none_match is None:
        return False
    named = [name.strip().removeprefix("W/") for name in if_none_match.split(",")]
    return etag in named or "*" in named
