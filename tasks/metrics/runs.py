"""What flow runs measure: landing, cycle, and of every run its outcome, duration, memory and processor time."""

from __future__ import annotations

import resource
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pandas as pd
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tasks.metrics import names
from tasks.metrics.ledger import ledger
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.curation import CurationResult
    from tasks.cycle import Cycle

TOP_SOUNDERS = 20
"""Sounders with a series of their own: a network has thousands, and anybody may send under a new name."""
OTHER = "other"
MOST_CODES = 50
"""Reasons with a series of their own in one run."""
DURATION_BUCKETS_S = (0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 300, 600, 1800)
SUCCESS = "completed"


def begin_counts(settings: Settings) -> None:
    """Puts what has not happened yet on the page, as 0: Prometheus sees no first event of a series that it brings along."""
    for flow in ("land", "nowcast"):
        with ledger(settings, f"flow-{flow}") as registry:
            runs = Counter(*names.FLOW_RUNS, ["flow", "outcome"], registry=registry)
            for outcome in (SUCCESS, "failed", "crashed"):
                runs.labels(flow, outcome)
            Counter(*names.ERRORS, ["component"], registry=registry).labels(f"flow-{flow}")
            Counter(*names.PROCESS_CPU, ["process"], registry=registry).labels(f"flow-{flow}")
            if flow == "nowcast":
                Histogram(*names.CYCLE_DURATION, buckets=DURATION_BUCKETS_S, registry=registry)
    with ledger(settings, "cycle") as registry:
        Counter(*names.INFORMATION_GAIN, registry=registry)


def count_landed(settings: Settings, landed: Mapping[str, int]) -> None:
    """Counts observations that came by a door that counts nothing itself, MQTT messages and pulled items, by door."""
    with ledger(settings, "landing") as registry:
        observations = Counter(*names.OBSERVATIONS, ["door", "outcome"], registry=registry)
        for door, number in landed.items():
            observations.labels(door, "landed").inc(number)


def measure_landing(
    settings: Settings, results: Sequence[CurationResult], landed: Mapping[str, int], n_pending: int
) -> None:
    """Counts what a run of land brought.

    Args:
        landed: as `count_landed`.
        n_pending: batches left for the next run.
    """
    count_landed(settings, landed)
    with ledger(settings, "landing") as registry:
        curated = Counter(*names.CURATED, ["outcome"], registry=registry)
        quarantined = Counter(*names.QUARANTINED, ["reason"], registry=registry)
        for outcome in ("accepted", "duplicate", "quarantined"):
            curated.labels(outcome).inc(
                sum(
                    getattr(result, f"n_{outcome}" if outcome != "duplicate" else "n_duplicates")
                    for result in results
                )
            )
        reasons: Tally[str] = Tally()
        for result in results:
            reasons.update(result.reasons)
        for number, (reason, n_items) in enumerate(reasons.most_common()):
            quarantined.labels(reason if number < MOST_CODES else OTHER).inc(n_items)
        Gauge(*names.PENDING_BATCHES, registry=registry).set(n_pending)
    newest: dict[str, datetime] = {}
    for result in results:
        for source, time in result.newest.items():
            newest[source] = max(time, newest.get(source, time))
    for source, time in newest.items():  # each in a file of its own: a run need not hear of every source
        with ledger(settings, f"source-{source}") as registry:
            Gauge(*names.NEWEST_OBSERVATION, ["source"], registry=registry).labels(source).set(
                time.timestamp()
            )


def measure_cycle(settings: Settings, cycle: Cycle, skill: pd.DataFrame) -> None:
    """Shows what a nowcast used and said, and how good the last ones were.

    Args:
        skill: `tasks.verification.skill_table`.
    """
    metadata = cycle.metadata
    with ledger(settings, "cycle") as registry:

        def show(metric: names.Metric, value: float) -> None:
            Gauge(*metric, registry=registry).set(value)

        show(names.CYCLE_VALID, datetime.fromisoformat(metadata["valid_time"]).timestamp())
        show(names.CYCLE_OBSERVATIONS, metadata["n_observations"])
        show(names.CYCLE_STATIONS, metadata["n_stations"])
        show(names.EFFECTIVE_INDEX, metadata["effective_index"])
        _show_state(registry, "climatology" if metadata["climatology_only"] else "analysis")
        _show_network(registry, cycle)
        _show_skill(registry, skill)


def measure_missed(settings: Settings, n_left: int) -> None:
    """Shows the missed cycles that are still to be run."""
    with ledger(settings, "missed") as registry:
        Gauge(*names.MISSED_CYCLES, registry=registry).set(n_left)


def measure_run(
    settings: Settings, flow: str, outcome: str, duration_s: float, *, now: datetime | None = None
) -> None:
    """Counts a flow run that has ended, from within its process.

    Args:
        outcome: completed, failed, crashed, cancelled.
    """
    ended = (now or datetime.now(UTC)).timestamp()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with ledger(settings, f"flow-{flow}") as registry:
        Counter(*names.FLOW_RUNS, ["flow", "outcome"], registry=registry).labels(flow, outcome).inc()
        durations = Histogram(*names.FLOW_DURATION, ["flow"], buckets=DURATION_BUCKETS_S, registry=registry)
        durations.labels(flow).observe(duration_s)
        memory = Gauge(*names.PROCESS_MEMORY, ["process"], registry=registry)
        memory.labels(f"flow-{flow}").set(usage.ru_maxrss * 1024)
        cpu = Counter(*names.PROCESS_CPU, ["process"], registry=registry)
        cpu.labels(f"flow-{flow}").inc(_new_cpu_s(usage.ru_utime + usage.ru_stime))
        errors = Counter(*names.ERRORS, ["component"], registry=registry)
        errors.labels(f"flow-{flow}").inc(0 if outcome in (SUCCESS, "cancelled") else 1)
        if outcome == SUCCESS:
            Gauge(*names.FLOW_SUCCESS, ["flow"], registry=registry).labels(flow).set(ended)
        if flow == "nowcast":
            cycles = Histogram(*names.CYCLE_DURATION, buckets=DURATION_BUCKETS_S, registry=registry)
            cycles.observe(duration_s)
            Gauge(*names.LAST_CYCLE_DURATION, registry=registry).set(duration_s)
            Gauge(*names.CYCLE_ENDED, registry=registry).set(ended)
    if flow == "nowcast" and outcome == "failed":
        with ledger(settings, "cycle") as registry:
            _show_state(registry, "failed")


def count_error(settings: Settings, component: str) -> None:
    """Counts an error that fails no run."""
    with ledger(settings, f"errors-{component}") as registry:
        Counter(*names.ERRORS, ["component"], registry=registry).labels(component).inc()


def _show_state(registry: CollectorRegistry, state: str) -> None:
    gauge = Gauge(*names.CYCLE_STATE, ["state"], registry=registry)
    for known in ("analysis", "climatology", "failed"):
        gauge.labels(known).set(known == state)


def _show_network(registry: CollectorRegistry, cycle: Cycle) -> None:
    by_tier = Gauge(*names.OBSERVATIONS_BY_TIER, ["tier"], registry=registry)
    by_sounder = Gauge(*names.SOUNDER_INFORMATION_GAIN, ["sounder_id"], registry=registry)
    total = Counter(*names.INFORMATION_GAIN, registry=registry)
    if cycle.network is None:
        return
    worth = cycle.network.select(["sounder_id", "tier", "n_obs", "information_gain_nats"]).to_pandas()
    for tier, n_obs in worth.groupby("tier")["n_obs"].sum().items():
        by_tier.labels(str(tier)).set(float(n_obs))
    top = worth.nlargest(TOP_SOUNDERS, "information_gain_nats")
    for sounder_id, gain in zip(top["sounder_id"], top["information_gain_nats"], strict=True):
        by_sounder.labels(str(sounder_id)).set(float(gain))
    total.inc(float(worth["information_gain_nats"].clip(lower=0.0).sum()))


def _show_skill(registry: CollectorRegistry, skill: pd.DataFrame) -> None:
    rmse = Gauge(*names.SKILL_RMSE, ["quantity", "method"], registry=registry)
    coverage = Gauge(*names.SKILL_COVERAGE, ["quantity", "probability"], registry=registry)
    scored = Gauge(*names.SKILL_SCORED, ["quantity"], registry=registry)
    for row in skill[skill["sounder_id"] == "all"].to_dict("records"):
        quantity = str(row["quantity"])
        for column, method in (
            ("rmse_holdout", "analysis"), ("rmse_iri_index", "climatology"), ("rmse_persistence", "yesterday"),
        ):  # fmt: skip
            if not pd.isna(row[column]):
                rmse.labels(quantity, method).set(row[column])
        coverage.labels(quantity, "0.5").set(row["coverage50"])
        coverage.labels(quantity, "0.9").set(row["coverage90"])
        scored.labels(quantity).set(row["n"])


_counted_cpu_s = 0.0


def _new_cpu_s(used_s: float) -> float:
    """Processor time since the last run of this process: a worker's process has one run, a command's may have more."""
    global _counted_cpu_s
    new_s = (
        used_s - _counted_cpu_s if used_s >= _counted_cpu_s else used_s
    )  # less: a fork of it, which begins at 0
    _counted_cpu_s = used_s
    return new_s
