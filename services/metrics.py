"""`GET /metrics` of a service, and the time that each of its answers takes."""

from __future__ import annotations

import asyncio
import time
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.landing.door import Problem
from tasks.metrics import names
from tasks.metrics.exposition import page
from tasks.metrics.families import CONTENT_TYPE
from tasks.metrics.state import State
from tasks.settings import Settings

HTTP_DURATION = Histogram(
    *names.HTTP_DURATION,
    ["service", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
NO_ROUTE = "none"
NOTHING = CollectorRegistry()
_duration = cache(HTTP_DURATION.labels)  # looking a series up by its labels costs as much as counting


def metrics_route(settings: Settings, *, shows_system: bool) -> Route:
    """`/metrics`: of this process, and of the whole system where `shows_system` says so (one service of a system).

    Where that service runs several times, `?of=process` and `?of=system` ask for one of the two: every process is
    asked for itself, and any one of them for the system.
    """
    state = State(settings) if shows_system else None

    async def get_metrics(request: Request) -> Response:
        of = request.query_params.get("of")
        if of not in (None, "process", "system"):
            raise Problem(400, "Bad query", f"of must be process or system, got {of[:80]!r}")
        registry = NOTHING if of == "system" else REGISTRY
        shown = None if of == "process" else state
        return Response(await asyncio.to_thread(page, settings, shown, registry), media_type=CONTENT_TYPE)

    return Route("/metrics", get_metrics, methods=["GET"])


class TimedAnswers:
    """ASGI middleware that measures every HTTP answer by its route's path (never by the path asked for) and status."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = "500"

        async def notice(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, notice)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            _duration(self.service, route, status).observe(time.perf_counter() - began)
