"""What every HTTP service of this system has in common: how it listens, ends in order, and says what went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import resource
import signal
import socket
from collections.abc import Iterator

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.http_limits import LimitedProtocol
from tasks.landing.door import Problem

log = logging.getLogger(__name__)


def answer_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    body = msgspec.json.encode(error.document())
    return Response(body, error.status, error.headers, media_type="application/problem+json")


def answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = Problem(error.status_code, str(error.detail), f"{request.method} {request.url.path}")
    problem.headers = dict(error.headers or {})
    return answer_problem(request, problem)


def answer_failure(request: Request, error: Exception) -> Response:
    log.error("event=failed path=%s", request.url.path, exc_info=error)
    return answer_problem(
        request,
        Problem(
            500,
            "Internal error",
            "the request was not answered, and nothing of it was stored; this is logged",
        ),
    )


PROBLEM_HANDLERS = {Problem: answer_problem, HTTPException: answer_http_exception, Exception: answer_failure}
"""Every error of a service as RFC 9457 has it."""


class Server(uvicorn.Server):
    """uvicorn's server, ending in order on SIGTERM and SIGINT instead of dying by them afterwards."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True


def uvicorn_config(app: Starlette, max_connections: int) -> uvicorn.Config:
    """uvicorn's configuration of a service, with its limits."""
    return uvicorn.Config(
        app,
        http=type("Protocol", (LimitedProtocol,), {"max_connections": max_connections}),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )


def spare_collections() -> None:
    """Keeps what was imported out of the garbage collector's sight.

    Going through the contracts and the libraries again and again holds up every answer (P99 60 ms instead of 12).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 is any free one.

    Raises:
        OSError: the address cannot be listened on; the message names it.
    """
    if not 0 <= port <= 65_535:
        raise OSError(errno.EINVAL, f"cannot listen on {host}:{port}: ports are 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    # asyncio sets this only on sockets whose protocol number is given; without it every answer waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def allow_connections(max_connections: int) -> None:
    """Asks for a file descriptor for every connection; says so when the limit of the system is lower."""
    wanted = 2 * max_connections + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("event=few-descriptors wanted=%d allowed=%d", wanted, allowed)
