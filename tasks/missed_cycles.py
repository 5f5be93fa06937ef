"""Cycles that never ran although there are observations of their time: what an outage leaves, once its data have landed."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import datetime, timedelta

import pandas as pd

from tasks import catalog, lake
from tasks.curation import pending_batches
from tasks.cycles import CyclePlan, newest_valid_time, plan_cycle
from tasks.landing.mqtt import BrokerUnavailable
from tasks.metrics.broker_queue import broker_queue_length
from tasks.settings import Settings

log = logging.getLogger(__name__)

OBSERVED = ("ionograms", "measurements")
POLL_S = 5.0


def missed_plans(settings: Settings, now: datetime) -> list[CyclePlan]:
    """The plans of the missed cycles of the last `catch_up_h` hours, oldest first: each goes by what the one before it knew of the
    sounders.

    Missed is a cycle that did not run, with an observation between it and the one before it. What came before the first
    cycle of this system was not missed; the newest is left to the nowcast.
    """
    if not settings.catch_up_h:
        return []
    step = timedelta(minutes=settings.cycle_minutes)
    newest = newest_valid_time(settings, now)
    engine = catalog.open_catalog(settings)
    first = catalog.first_cycle(engine)
    if first is None:
        return []
    # Upwards: the first may have been asked for at a time of its own.
    begins = max(first, newest - timedelta(hours=settings.catch_up_h))
    start = newest_valid_time(settings, begins + step - timedelta(microseconds=1))
    ran = catalog.cycle_times(engine, start, newest)
    missed = [start + number * step for number in range((newest - start) // step)]
    missed = [valid_time for valid_time in missed if valid_time not in ran]
    if not missed:
        return []
    observed = _observed_cycles(settings, missed[0] - step, missed[-1])
    plan = plan_cycle(settings, newest, now)
    return [replace(plan, valid_time=valid_time) for valid_time in missed if valid_time in observed]


def _observed_cycles(settings: Settings, start: datetime, end: datetime) -> set[datetime]:
    """The valid times that follow an observation within a cycle."""
    found: set[datetime] = set()
    for dataset in OBSERVED:
        rows = lake.read(dataset, settings=settings, start=start, end=end, columns=["observed_at"])
        found.update(
            pd.DatetimeIndex(rows["observed_at"])
            .ceil(f"{settings.cycle_minutes}min")
            .unique()
            .to_pydatetime()
        )
    return found


def wait_until_landed(settings: Settings, patience_s: float) -> bool:
    """Waits until nothing that arrived is still to be curated; False when something is after `patience_s`.

    A cycle that ran on half of its observations would count as done.
    """
    deadline_s = time.monotonic() + patience_s
    while not _is_landed(settings):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True


def _is_landed(settings: Settings) -> bool:
    try:
        n_queued = broker_queue_length(settings) or 0
    except BrokerUnavailable:  # it is down: what it holds comes when it is up
        n_queued = 0
    # Up to that many are what one run of `land` takes, as it does each minute.
    return n_queued <= settings.mqtt_drain_messages and not pending_batches(settings)
