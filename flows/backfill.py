"""Flow `backfill`: the cycles of a past span, each from what had been observed by its own time."""

from __future__ import annotations

from datetime import datetime
from typing import cast
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import assets
from flows.parameters import GridStep
from flows.watch import WATCHED
from tasks import cycles
from tasks.artifacts import skill_markdown
from tasks.settings import load_settings
from tasks.verification import read_verification, skill_table

CYCLES_PER_TASK = 48
"""Half a day of cycles: a few dozen tasks for a month."""

run_chunk = materialize(
    assets.ANALYSIS,
    assets.VERIFICATION,
    asset_deps=[assets.IONOGRAMS, assets.MEASUREMENTS],
    name="run-cycles",
    retries=1,
    cache_policy=NO_CACHE,
)(cycles.run_chunk)


def name_run() -> str:
    parameters = flow_run.parameters
    return f"backfill-{parameters['start']}-{parameters['end']}"


@flow(name="backfill", flow_run_name=name_run, **WATCHED)
def backfill(
    start: datetime,
    end: datetime,
    available_until: datetime | None = None,
    region: str | None = None,
    grid_step_deg: GridStep | None = None,
) -> int:
    """Run every cycle from `start` to `end`; a rerun writes the same files again.

    Args:
        start: valid time of the first cycle.
        end: valid time of the last cycle.
        available_until: use only what was known by then; default now.
        region: analyse on a grid of this region; without it and `grid_step_deg`, at the stations only.
        grid_step_deg: grid spacing in degrees.

    Returns:
        The number of cycles run.
    """
    settings = load_settings()
    logger = get_run_logger()
    plans = cycles.plan_span(settings, start, end, available_until, region, grid_step_deg)
    progress = cast(UUID, create_progress_artifact(0.0, key="backfill-progress"))
    n_done = 0
    for chunk in cycles.chunks(plans, CYCLES_PER_TASK):
        n_done += run_chunk(settings, chunk)
        update_progress_artifact(progress, 100.0 * n_done / len(plans))
        logger.info("%d of %d cycles done, up to %s", n_done, len(plans), chunk[-1].stamp)
    skill = skill_table(read_verification(settings, since=plans[0].valid_time, until=plans[-1].valid_time))
    create_markdown_artifact(skill_markdown(skill), key="skill", description="Skill at held-out stations")
    return n_done
