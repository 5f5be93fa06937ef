"""uvicorn's HTTP protocol with the limits that it lacks: on connections, slow headers and unread answers."""

from __future__ import annotations

import asyncio
import http

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT_S = 15.0
"""From connecting, or from a later request's first byte, until the request's headers are whole."""
ANSWER_TIMEOUT_S = 30.0
"""An answer that the client does not take within this time is given up."""


class LimitedProtocol(H11Protocol):
    """One connection; `max_connections` is set by the subclass that a server makes of it."""

    max_connections = 10_000
    _header_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(503, "too many connections", retry_after_s=5)
        else:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._cut_header)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        # A body that goes on arriving after its answer (a refusal) is waited for as headers are.
        is_left_over = self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete
        if self.conn.their_state is not h11.IDLE and not is_left_over:
            self._cancel_header_timer()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._cut_header)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_header_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._answer_timer is None:
            self._answer_timer = self.loop.call_later(ANSWER_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP/1.1, or its address and headers have more than 64 KiB")

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cut_header(self) -> None:
        self._header_timer = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self._refuse(408, f"the headers did not arrive within {HEADER_TIMEOUT_S:g} s")
        elif self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, status: int, detail: str, retry_after_s: int | None = None) -> None:
        title = http.HTTPStatus(status).phrase
        body = f'{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}'
        retry = "" if retry_after_s is None else f"retry-after: {retry_after_s}\r\n"
        self.transport.write(
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n{retry}"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        self.transport.close()
