"""Log records to the collector that gets the traces, beside where they go anyway; only where `OTEL_LOGS_EXPORTER=otlp` says so.

They have the fields of the JSON lines, and the span within which they were logged. Records wait in memory for at most some
thousands and are dropped beyond: a collector that is away costs no work its time.
"""

from __future__ import annotations

import logging

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import get_current
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from tasks.log_format import fields

SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}
OWN = {"opentelemetry", "urllib3", "requests"}
"""What the exporter says of itself would come back to it for ever."""


class Shipping(logging.Handler):
    """Hands records on to OpenTelemetry."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in OWN:
            return
        try:
            said = fields(record)
            self._provider.get_logger(record.name).emit(
                timestamp=int(record.created * 1e9),
                context=get_current(),
                severity_text=record.levelname,
                severity_number=SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
                body=said.pop("message"),
                attributes=said,
            )
        except (TypeError, ValueError):  # its arguments do not fit its words: as other handlers do
            self.handleError(record)


def start(resource: Resource) -> None:
    """Sends what this process logs; what is left goes out at its end."""
    provider = LoggerProvider(resource=resource)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    logging.getLogger().addHandler(Shipping(provider))
