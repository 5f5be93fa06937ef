"""How a service is observed: its log's format, its errors counted, its traces where an endpoint is set."""

from __future__ import annotations

import logging

from tasks.at_work import is_traced
from tasks.log_format import formatter
from tasks.metrics.doors import ErrorCounter
from tasks.settings import Settings


def observe(service: str, settings: Settings) -> None:
    """To be called once, before the service logs anything."""
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(formatter(settings.log_format))
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr, ErrorCounter()], force=True)
    if is_traced():
        from tasks import tracing

        tracing.start(service, {"cluster": settings.cluster, "deployment.environment": settings.environment})
