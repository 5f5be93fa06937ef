"""What happens beside every flow run: it is counted and timed when it ends, and a nowcast on time is told outside.

Hooks, not tasks: they run in the process of the flow and cost its run nothing on the server.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from tasks.heartbeat import beat
from tasks.metrics.runs import measure_run
from tasks.settings import load_settings

_began_s: dict[UUID, float] = {}


# Of a run whose process died the worker calls the hook, by the names of its arguments.
def start_clock(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    _began_s.setdefault(flow_run.id, time.monotonic())


def record_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    duration_s = time.monotonic() - _began_s.pop(flow_run.id, time.monotonic())
    settings = load_settings()
    measure_run(settings, flow.name, state.type.value.lower(), duration_s)
    is_live = flow.name == "nowcast" and flow_run.parameters.get("valid_time") is None
    if is_live and state.is_completed():
        beat(settings, datetime.now(UTC))


WATCHED: dict[str, Any] = {
    "on_running": [start_clock],
    "on_completion": [record_run],
    "on_failure": [record_run],
    "on_crashed": [record_run],
    "on_cancellation": [record_run],
}
"""Arguments of every `@flow`."""
