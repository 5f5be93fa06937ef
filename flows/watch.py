"""What happens beside every flow run: it is counted and timed when it ends, whatever it came to.

Hooks, not tasks: they run in the process of the flow and cost its run nothing on the server.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow

from tasks.metrics.runs import measure_run
from tasks.settings import load_settings

_began_s: dict[UUID, float] = {}


def begin(_flow: Flow[..., Any], run: FlowRun, _state: State[Any]) -> None:
    _began_s.setdefault(run.id, time.monotonic())


def end(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    duration_s = time.monotonic() - _began_s.pop(run.id, time.monotonic())
    measure_run(load_settings(), flow.name, state.type.value.lower(), duration_s)


WATCHED: dict[str, Any] = {
    "on_running": [begin],
    "on_completion": [end],
    "on_failure": [end],
    "on_crashed": [end],
    "on_cancellation": [end],
}
"""Arguments of every `@flow`."""
