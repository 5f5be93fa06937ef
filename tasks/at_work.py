"""What is being worked on: the batch or the cycle that log lines and trace spans name.

Spans go to `OTEL_EXPORTER_OTLP_ENDPOINT` and are made in `tasks/tracing.py`; without it nothing of OpenTelemetry is
imported, and this costs a dictionary.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""OpenTelemetry's own variable: the address of a collector that speaks OTLP over HTTP."""

_ids: ContextVar[Mapping[str, str]] = ContextVar("autonvis_at_work", default=MappingProxyType({}))


def is_traced() -> bool:
    """Whether spans are made."""
    return bool(os.environ.get(ENDPOINT))


def ids() -> Mapping[str, str]:
    """What is being worked on now: `batch_id`, `cycle`, `cycle_id`."""
    return _ids.get()


@contextmanager
def at_work(
    name: str,
    *,
    batch_id: str | None = None,
    cycle: str | None = None,
    cycle_id: str | None = None,
    from_batches: Iterable[str] = (),
) -> Iterator[None]:
    """Work on a batch or a cycle: lines logged within name it, and it is a span.

    Args:
        name: of the span, such as `curate`.
        batch_id: its span belongs to the trace of this batch, which began where the batch was sealed.
        cycle: valid time of the cycle; its span belongs to what called.
        cycle_id: the cycle in the catalog, once it is known.
        from_batches: batches whose traces the span links to.
    """
    said = (("batch_id", batch_id), ("cycle", cycle), ("cycle_id", cycle_id))
    named = {key: value for key, value in said if value is not None}
    token = _ids.set({**_ids.get(), **named})
    try:
        if not is_traced():
            yield
            return
        from tasks.tracing import span

        with span(name, batch_id=batch_id, from_batches=from_batches, attributes=named):
            yield
    finally:
        _ids.reset(token)
