"""Flow `nowcast`: what the ionosphere is at one time, how sure that is, and how good the last words were."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import assets
from flows.parameters import GridStep
from flows.watch import WATCHED
from tasks import cycles
from tasks.artifacts import cycle_markdown, map_markdown, network_markdown, skill_markdown
from tasks.metrics.runs import measure_cycle
from tasks.products import publish_products
from tasks.revisions import known_at
from tasks.settings import load_settings
from tasks.verification import read_verification, skill_table

read_window = task(name="read-window", retries=1, cache_policy=NO_CACHE)(cycles.read_window)
read_heard = task(name="read-measurements", retries=1, cache_policy=NO_CACHE)(cycles.read_heard)
assimilate = task(name="assimilate", timeout_seconds=120, cache_policy=NO_CACHE)(cycles.assimilate)
check_cycles = task(name="check-cycle", cache_policy=NO_CACHE)(cycles.check_cycles)
store_cycle = materialize(
    assets.ANALYSIS,
    assets.VERIFICATION,
    asset_deps=[assets.IONOGRAMS, assets.MEASUREMENTS],
    name="store-cycle",
    retries=1,
    cache_policy=NO_CACHE,
)(cycles.store_cycle)
measure = task(name="measure-cycle", cache_policy=NO_CACHE)(measure_cycle)
publish = materialize(
    assets.PRODUCTS, asset_deps=[assets.ANALYSIS], name="publish-products", cache_policy=NO_CACHE
)(publish_products)


def name_run() -> str:
    """The cycle: its valid time, given or by the clock."""
    given = flow_run.parameters.get("valid_time")
    return f"nowcast-{given or f'{cycles.newest_valid_time(load_settings(), datetime.now(UTC)):%Y-%m-%dT%H:%MZ}'}"


@flow(name="nowcast", flow_run_name=name_run, timeout_seconds=600, **WATCHED)
def nowcast(
    valid_time: datetime | None = None,
    available_until: datetime | None = None,
    region: str | None = None,
    grid_step_deg: GridStep | None = None,
) -> str:
    """Run one cycle and publish its products.

    Args:
        valid_time: time of the nowcast; default the newest whole quarter of an hour.
        available_until: use only what was known by then; default now.
        region: `global` or `south,west,north,east` in degrees; default from the settings.
        grid_step_deg: grid spacing in degrees; default from the settings.

    Returns:
        The folder of the products.
    """
    settings = load_settings()
    plan = cycles.plan_cycle(settings, valid_time, available_until, region, grid_step_deg)
    observations, heard = read_window(settings, [plan]), read_heard(settings, [plan])
    cycle = assimilate(settings, plan, observations, heard)
    check_cycles([cycle])
    store_cycle(settings, plan, cycle)
    known, measured = (known_at(rows, plan.available_until) for rows in (observations, heard.measurements))
    folder = publish(settings, cycle, known, measured)
    skill = skill_table(read_verification(settings, until=plan.valid_time))
    measure(settings, cycle, skill)
    create_markdown_artifact(cycle_markdown(cycle.metadata), key="cycle", description=cycles.summarize(cycle))
    create_markdown_artifact(
        skill_markdown(skill), key="skill", description="Skill at held-out stations, last 30 days"
    )
    if cycle.network_report is not None:
        create_markdown_artifact(
            network_markdown(cycle.network_report), key="network", description="What each sounder is worth"
        )
    create_markdown_artifact(
        map_markdown(folder / "map.png", f"foF2 at {plan.stamp}"),
        key="map",
        description="The newest map of foF2",
    )
    get_run_logger().info("products in %s", folder)
    return str(folder)
