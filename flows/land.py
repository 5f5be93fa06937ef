"""Flow `land`: what waits in the landing zones becomes validated rows of the lake."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.assets import materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import assets
from flows.watch import WATCHED
from tasks.artifacts import landing_markdown
from tasks.curation import curate_batches, groups, pending_batches
from tasks.landing.mqtt import DrainResult, drain
from tasks.landing.pull import PullResult, pull_source
from tasks.landing.retention import expire_landing
from tasks.landing.spool import collect
from tasks.metrics.runs import measure_landing
from tasks.settings import Settings, SettingsError, load_settings

BATCHES_PER_RUN = 100
"""A backlog is worked off over several runs: tasks by the thousand would drown the orchestrator."""


async def can_pass(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failure may be gone at the next attempt: a wrong setting will not."""
    return not isinstance(await state.aresult(raise_on_failure=False), SettingsError)


drain_mqtt = task(
    name="drain-mqtt",
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=can_pass,
    timeout_seconds=300,
    cache_policy=NO_CACHE,
)(drain)
pull = task(
    name="pull-source",
    task_run_name="pull-{name}",
    retries=2,
    retry_delay_seconds=[15, 60],
    retry_condition_fn=can_pass,
    timeout_seconds=300,
    cache_policy=NO_CACHE,
)(pull_source)
collect_segments = materialize(assets.LANDING, name="collect-segments", cache_policy=NO_CACHE)(collect)
curate = materialize(
    assets.IONOGRAMS,
    assets.MEASUREMENTS,
    assets.QUARANTINE,
    asset_deps=[assets.LANDING],
    name="curate-batches",
    timeout_seconds=600,
    cache_policy=NO_CACHE,
)(curate_batches)
measure = task(name="measure-landing", cache_policy=NO_CACHE)(measure_landing)
expire = task(name="expire-landing", timeout_seconds=600, cache_policy=NO_CACHE)(expire_landing)


def curate_in_groups(batches: list[Path], settings: Settings) -> list[State[Any]]:
    """Curates as many together as may be; each batch of a group that failed by itself, so that it keeps none back."""
    states: list[State[Any]] = []
    for group in groups(batches):
        state: State[Any] = curate(group, settings=settings, return_state=True)
        if state.is_completed() or len(group) == 1:
            states.append(state)
        else:
            states += [curate([batch], settings=settings, return_state=True) for batch in group]
    return states


def n_landed(arrivals: list[State[Any]]) -> dict[str, int]:
    """Observations that this run fetched itself, by door: a message is one, a pulled answer has many."""
    fetched = [state.result() for state in arrivals if state.is_completed()]
    return {
        "mqtt": sum(one.n_messages for one in fetched if isinstance(one, DrainResult)),
        "pull": sum(one.n_items for one in fetched if isinstance(one, PullResult)),
    }


def name_run() -> str:
    """The minute in which it began."""
    return f"land-{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"


@flow(name="land", flow_run_name=name_run, timeout_seconds=1_800, **WATCHED)
def land() -> State:
    """Drain MQTT, pull the sources, collect what the gateway spooled, validate and publish each batch, expire the old.

    One part that fails does not keep the others from landing; the run fails at its end and names them.
    """
    settings = load_settings()
    logger = get_run_logger()
    arrivals: list[State[Any]] = []
    if settings.mqtt_url:
        arrivals.append(drain_mqtt(settings, return_state=True))
    else:
        logger.info("no MQTT broker: AUTONVIS_MQTT_URL is not set and `autonvis up` is not running")
    arrivals += [pull(settings, name, return_state=True) for name in settings.source_names]

    collect_segments(settings.spool_root, settings.lake_root)
    pending = pending_batches(settings)
    if len(pending) > BATCHES_PER_RUN:
        logger.warning(
            "%d batches wait, %d of them now; the next runs take the rest", len(pending), BATCHES_PER_RUN
        )
    curated = curate_in_groups(pending[:BATCHES_PER_RUN], settings)

    expired: State[Any] = expire(settings, return_state=True)

    results = [result for state in curated if state.is_completed() for result in state.result()]
    measure(settings, results, n_landed(arrivals), max(0, len(pending) - BATCHES_PER_RUN))
    create_markdown_artifact(landing_markdown(results), key="landing", description="What this run landed")
    failed = [f"{state.message}" for state in [*arrivals, *curated, expired] if not state.is_completed()]
    failed += [result.fault for result in results if result.fault is not None]
    if failed:
        return Failed(message="; ".join(failed))
    n_accepted = sum(result.n_accepted for result in results)
    n_quarantined = sum(result.n_quarantined for result in results)
    return Completed(
        message=f"{len(results)} batches: {n_accepted} rows accepted, {n_quarantined} quarantined"
    )
