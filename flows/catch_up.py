"""Flow `catch-up`: the cycles that an outage left out, as soon as what was observed meanwhile has landed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.backfill import run_chunk
from flows.watch import WATCHED
from tasks import cycles, missed_cycles
from tasks.metrics.runs import measure_missed
from tasks.settings import load_settings

CYCLES_PER_TASK = 4
PATIENCE_S = 120.0

wait = task(name="wait-until-landed", cache_policy=NO_CACHE)(missed_cycles.wait_until_landed)
look = task(name="find-missed", cache_policy=NO_CACHE)(missed_cycles.missed_plans)
measure = task(name="measure-missed", cache_policy=NO_CACHE)(measure_missed)


def name_run() -> str:
    """The minute in which it looked."""
    return f"catch-up-{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"


@flow(name="catch-up", flow_run_name=name_run, timeout_seconds=1_800, **WATCHED)
def catch_up() -> State:
    """Run the missed cycles of the last AUTONVIS_CATCH_UP_H hours, oldest first, and leave off when the next nowcast is due."""
    settings = load_settings()
    if not wait(settings, PATIENCE_S):
        return Completed(message="what arrived is still being curated: the next run looks again")
    until = cycles.newest_valid_time(settings, datetime.now(UTC)) + timedelta(minutes=settings.cycle_minutes)
    plans = look(settings, datetime.now(UTC))
    n_done, failed = 0, list[State[Any]]()
    for chunk in cycles.chunks(plans, CYCLES_PER_TASK):
        if datetime.now(UTC) >= until:
            break
        state: State[Any] = run_chunk(settings, chunk, return_state=True)
        if state.is_completed():
            n_done += len(chunk)
            get_run_logger().info(
                "%d of %d missed cycles done, up to %s", n_done, len(plans), chunk[-1].stamp
            )
        else:
            failed.append(state)
    measure(settings, len(plans) - n_done)
    if failed:
        return Failed(message="; ".join(f"{state.message}" for state in failed))
    return Completed(message=f"{n_done} missed cycles done, {len(plans) - n_done} left")
