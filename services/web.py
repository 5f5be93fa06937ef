"""The web service: `python -m services.web`. It reads what the lake, the products and the reports hold, and writes nothing.

GET  /                     the map of now, the bulletin, and links to everything
GET  /api/nvis/…           the network and new sounders (`services/web_network.py`)
GET  /products/current/…   files of the newest cycle
GET  /report/…             reports on sounders
GET  /health               200 only while the published map is of now
GET  /openapi.json         the API in full
    GET  /metrics              this process, as Prometheus reads it
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.metadata import version

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from services.http_server import (
    PROBLEM_HANDLERS,
    Server,
    allow_connections,
    listen,
    spare_collections,
    uvicorn_config,
)
from services.metrics import TimedAnswers, metrics_route
from services.observed import observe
from services.published import health_of
from services.requests import answer
from services.web_answers import HTML, Answer
from services.web_files import Files, Reports, report_days
from services.web_headers import SecurityHeaders
from services.web_network import NetworkApi
from services.web_openapi import web_document
from services.web_pages import front_page, reports_page
from tasks import catalog
from tasks.landing.door import Problem
from tasks.products import CURRENT
from tasks.settings import Settings, SettingsError, load_settings

log = logging.getLogger("services.web")


def create_app(settings: Settings) -> Starlette:
    """The ASGI application."""
    network = NetworkApi(settings)
    document = web_document(version("autonvis"))
    described = Answer.json(document)
    reports = settings.products_root / "reports"

    async def get_index(request: Request) -> Response:
        page = await asyncio.to_thread(front_page, settings, document["paths"], datetime.now(UTC))
        return Answer.of(page, HTML).to(request)

    async def get_reports(request: Request) -> Response:
        page = await asyncio.to_thread(lambda: reports_page(report_days(reports)))
        return Answer.of(page, HTML).to(request)

    async def get_health(_: Request) -> Response:
        now = datetime.now(UTC)
        is_fresh, sentence, published = await asyncio.to_thread(health_of, settings, now)
        if not is_fresh or published is None:
            raise Problem(503, "Not of now", sentence, Retry_After="60")
        return answer(
            200,
            {
                "status": "ok",
                "detail": sentence,
                "valid_time": published.valid_time.isoformat(),
                "age_min": round(published.age_min(now), 1),
            },
        )

    async def get_openapi(request: Request) -> Response:
        return described.to(request)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        network.close()

    middleware = [Middleware(TimedAnswers, service="web"), Middleware(SecurityHeaders)]
    if settings.web_origin_names:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.web_origin_names,
                allow_methods=["GET"],
                expose_headers=["ETag"],
            )
        )
    app = Starlette(
        routes=[
            Route("/", get_index, methods=["GET"]),
            *network.routes(),
            Route("/health", get_health, methods=["GET"]),
            Route("/openapi.json", get_openapi, methods=["GET"]),
            metrics_route(settings, shows_system=False),
            Mount("/products/current", Files(settings.products_root / CURRENT)),
            Route("/report/", get_reports, methods=["GET"]),
            Mount("/report", Reports(reports)),
        ],
        exception_handlers=PROBLEM_HANDLERS,
        middleware=middleware,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # by the Host header, which is not the public address behind a proxy
    return app


def http_config(settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration of the web service, with its limits."""
    return uvicorn_config(create_app(settings), settings.max_connections)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; settings come from `AUTONVIS_*`, host and port may be given here."""
    parser = argparse.ArgumentParser(
        prog="python -m services.web",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on (default: AUTONVIS_WEB_HOST)")
    parser.add_argument("--port", type=int, help="port, 0 for a free one (default: AUTONVIS_WEB_PORT)")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        observe("web", settings)
        host = settings.web_host if options.host is None else options.host
        port = settings.web_port if options.port is None else options.port
        catalog.open_catalog(settings)
        allow_connections(settings.max_connections)
        with listen(host, port) as listener:
            name = f"[{host}]" if ":" in host else host
            log.info("event=listening url=http://%s:%d", name, listener.getsockname()[1])
            spare_collections()
            uvloop.run(Server(http_config(settings)).serve(sockets=[listener]))
    except (SettingsError, catalog.CatalogError) as error:
        print(f"web: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        named = "" if error.filename is None else f"{error.filename}: "
        print(f"web: {named}{error.strerror or error}", file=sys.stderr)
        return 1
    log.info("event=stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
