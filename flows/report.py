"""Flow `report`: the sounders of a day, their tiers and why, as pages, Parquet and artifacts."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows import assets
from flows.watch import WATCHED
from tasks import quality_pages, quality_report
from tasks.artifacts import sounder_table, tiers_markdown
from tasks.cycles import kernel_config
from tasks.objectives import measure_objectives
from tasks.settings import load_settings

gather = task(name="read-day", retries=1, cache_policy=NO_CACHE)(quality_report.gather)
measure = task(name="measure-objectives", cache_policy=NO_CACHE)(measure_objectives)
write_report = materialize(
    assets.REPORTS, asset_deps=[assets.ANALYSIS, assets.QUARANTINE], name="write-pages", cache_policy=NO_CACHE
)(quality_pages.write_report)


def name_run() -> str:
    """The day, or `yesterday` when it is left to the clock."""
    return f"report-{flow_run.parameters.get('day') or 'yesterday'}"


@flow(name="report", flow_run_name=name_run, timeout_seconds=1800, **WATCHED)
def report(day: date | None = None) -> str:
    """Report on every sounder: tier and why, errors, bias, dropouts, clock, rejected rows, worth; a page for each owner.

    Args:
        day: UTC day; default the last whole one.

    Returns:
        The folder of the report.
    """
    settings = load_settings()
    chosen = quality_report.plan_day(settings, day, now=datetime.now(UTC))
    gathered = gather(settings, chosen)
    summary = quality_report.summarize(gathered)
    objectives = measure(
        settings, datetime.combine(chosen, time(), UTC), quality_report.day_end(gathered).to_pydatetime()
    )
    folder = write_report(settings, gathered, summary, kernel_config(settings), objectives)
    create_markdown_artifact(
        tiers_markdown(quality_report.mix(summary), summary),
        key="tiers",
        description=f"Sounders on {chosen.isoformat()}",
    )
    create_table_artifact(
        sounder_table(summary), key="sounders", description=f"Sounders on {chosen.isoformat()}"
    )
    create_link_artifact(
        quality_pages.address(settings, folder),
        key="report",
        link_text=f"The report of {chosen.isoformat()}",
        description="All pages",
    )
    get_run_logger().info("report in %s", folder)
    return str(folder)
