"""OpenTelemetry traces from the doors to the products; imported only where an endpoint is set.

A batch is a trace. Its identifiers are hashes of the batch's id, which is known when its segment is sealed, so that
gateway, drain and curation, processes that never speak to each other, give their spans to one trace without handing anything
on. A cycle is a part of its flow run's trace, which Prefect makes, and links to the batches that it was made of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, TraceFlags

LOGS_EXPORTER = "OTEL_LOGS_EXPORTER"
"""OpenTelemetry's own variable; a collector of traces alone would refuse them."""
MOST_LINKS = 128
"""OpenTelemetry's limit; the newest batches are linked."""

_given: ContextVar[SpanContext | None] = ContextVar("autonvis_given_span", default=None)


class _Ids(RandomIdGenerator):  # type: ignore[misc]
    """Random, but for the first span of a batch."""

    def generate_trace_id(self) -> int:
        given = _given.get()
        return super().generate_trace_id() if given is None else given.trace_id

    def generate_span_id(self) -> int:
        given = _given.get()
        return super().generate_span_id() if given is None else given.span_id


def start(service: str, labels: Mapping[str, str]) -> None:
    """Sends the spans of this process, Prefect's too, to the endpoint, and its logs where asked to; what is left goes out at its end.

    Args:
        service: name of the process in traces.
        labels: what else its resource says, such as the cluster.
    """
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    resource = Resource.create({"service.name": f"autonvis-{service}", **labels})
    provider = TracerProvider(resource=resource, id_generator=_Ids())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    if os.environ.get(LOGS_EXPORTER) == "otlp":
        from tasks import log_shipping

        log_shipping.start(resource)


def flush() -> None:
    """Sends what waits, now."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush()


def batch_context(batch_id: str) -> SpanContext:
    """The first span of a batch's trace, in any process."""
    digest = hashlib.sha256(batch_id.encode()).digest()
    return SpanContext(
        trace_id=int.from_bytes(digest[:16], "big") or 1,
        span_id=int.from_bytes(digest[16:24], "big") or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def record_batch(batch_id: str, channel: str, began_ns: int, ended_ns: int, n_bytes: int) -> None:
    """The first span of a batch: from its first record until it was sealed, in nanoseconds since 1970."""
    token = _given.set(batch_context(batch_id))
    try:
        first = _tracer().start_span(
            f"batch from {channel}",
            context=Context(),
            start_time=began_ns,
            attributes={"batch_id": batch_id, "channel": channel, "n_bytes": n_bytes},
        )
    finally:
        _given.reset(token)
    first.end(ended_ns)


@contextmanager
def span(
    name: str, *, batch_id: str | None, from_batches: Iterable[str], attributes: Mapping[str, str]
) -> Iterator[None]:
    """A span within the trace of its batch, or else of its caller; an error within is recorded."""
    links = [Link(batch_context(one)) for one in sorted(set(from_batches))[-MOST_LINKS:]]
    context = None
    if batch_id is not None:
        context = trace.set_span_in_context(NonRecordingSpan(batch_context(batch_id)), Context())
        caller = trace.get_current_span().get_span_context()
        links += [Link(caller)] if caller.is_valid else []
    with _tracer().start_as_current_span(name, context=context, links=links, attributes=attributes):
        yield


def _tracer() -> trace.Tracer:
    return trace.get_tracer("autonvis")
