"""A cycle around its pure core: what to run, the window it reads, what it leaves in the lake and the catalog."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa

from tasks import catalog, compacted, lake
from tasks.at_work import at_work, is_traced
from tasks.background import Background
from tasks.contracts import arrow_schema
from tasks.cycle import Cycle, run_cycle
from tasks.geomagnetic import OLDEST_H
from tasks.grid import Grid
from tasks.kernel_config import KernelConfig, load_kernel_config
from tasks.settings import Settings, parse_leads
from tasks.sounder_record import REMEMBERED_D
from tasks.soundings import Heard
from tasks.target_area import MOST_POINTS, Area, area_of

logger = logging.getLogger(__name__)

INDEX_MEMORY = timedelta(days=30)
KP_MEMORY = timedelta(
    hours=OLDEST_H + 1.0
)  # before the cycle, whose scored observations are an hour old at most
"""A solar flux older than this says nothing about today (one solar rotation is 27 days)."""


LONGEST_SPAN = 100_000
"""Cycles in one run of `backfill`: almost three years of quarter hours."""


BACKGROUND_YEARS = range(1900, 2100)
"""Years for which the background has magnetic coordinates."""


NETWORK_POINTS = 1_200
"""The globe at 7.5 degrees: what a cycle can spare time for."""


class CycleError(ValueError):
    """A cycle was asked for that cannot be run; the message names the argument."""


@dataclass(frozen=True)
class CyclePlan:
    """What a cycle is a function of: the same plan on the same lake gives the same bits."""

    valid_time: datetime
    available_until: datetime
    region: str
    step_deg: float | None
    """Grid spacing; None analyses at the stations only (feedback and verification, no grid and no forecasts)."""

    @property
    def stamp(self) -> str:
        """The valid time as it stands in file names."""
        return f"{self.valid_time:%Y%m%dT%H%MZ}"


def parse_time(value: str | datetime, name: str) -> datetime:
    """An aware UTC time from ISO-8601 text.

    Raises:
        CycleError: not a time, or one without a zone.
    """
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError as error:
        raise CycleError(f"{name} {value!r} is not an ISO-8601 time such as 2022-10-25T10:15Z") from error
    if time.tzinfo is None:
        raise CycleError(f"{name} {value!r} has no zone: add Z for UTC or an offset such as +02:00")
    return time.astimezone(UTC)


def newest_valid_time(settings: Settings, now: datetime) -> datetime:
    """The newest whole cycle at a time."""
    step_s = settings.cycle_minutes * 60
    return datetime.fromtimestamp(now.timestamp() // step_s * step_s, UTC)


def plan_cycle(
    settings: Settings,
    valid_time: datetime | None = None,
    available_until: datetime | None = None,
    region: str | None = None,
    grid_step_deg: float | None = None,
) -> CyclePlan:
    """Resolve what was not given: the newest whole cycle, everything available now, the configured grid.

    Raises:
        CycleError: a time without zone, a region that is not `global` or `south,west,north,east`, or a spacing of the
            grid that is not above 0 or makes too many points.
        KernelConfigError: the configuration that the settings name cannot be used.
    """
    now = datetime.now(UTC)
    plan = CyclePlan(
        valid_time=parse_time(valid_time or newest_valid_time(settings, now), "valid_time"),
        available_until=parse_time(available_until or now, "available_until"),
        region=region or settings.region,
        step_deg=settings.grid_step_deg if grid_step_deg is None else grid_step_deg,
    )
    if plan.valid_time.year not in BACKGROUND_YEARS:
        raise CycleError(
            f"valid_time {plan.valid_time.isoformat()}: the background knows the years "
            f"{BACKGROUND_YEARS.start} to {BACKGROUND_YEARS.stop - 1}"
        )
    make_grid(plan)
    kernel_config(settings)
    return plan


def plan_span(
    settings: Settings,
    start: datetime,
    end: datetime,
    available_until: datetime | None = None,
    region: str | None = None,
    grid_step_deg: float | None = None,
) -> list[CyclePlan]:
    """The plans of every cycle from `start` to `end`, both included.

    Raises:
        CycleError: `end` before `start`, a span of more than LONGEST_SPAN cycles, or whatever `plan_cycle` refuses.
    """
    start, end = parse_time(start, "start"), parse_time(end, "end")
    if end < start:
        raise CycleError(f"end {end.isoformat()} is before start {start.isoformat()}")
    first = plan_cycle(settings, start, available_until, region, grid_step_deg)
    if region is None and grid_step_deg is None:
        first = replace(first, step_deg=None)
    step = timedelta(minutes=settings.cycle_minutes)
    n_cycles = (end - start) // step + 1
    if n_cycles > LONGEST_SPAN:
        raise CycleError(
            f"{start.isoformat()} to {end.isoformat()} are {n_cycles} cycles, at most {LONGEST_SPAN} go in one run: "
            "split the span"
        )
    return [replace(first, valid_time=start + number * step) for number in range(n_cycles)]


def chunks(plans: list[CyclePlan], size: int) -> Iterator[list[CyclePlan]]:
    """Runs of consecutive cycles: one task each, so that orchestration costs little."""
    for first in range(0, len(plans), size):
        yield plans[first : first + size]


def make_grid(plan: CyclePlan) -> Grid | None:
    """The grid of a plan, or None when only the stations are analysed."""
    if plan.step_deg is None:
        return None
    if plan.region == "global":
        try:
            return Grid.globe(plan.step_deg)
        except ValueError as error:
            raise CycleError(f"grid: {error}") from error
    try:
        south, west, north, east = (float(part) for part in plan.region.split(","))
    except ValueError as error:
        raise CycleError(
            f"region {plan.region!r} is neither `global` nor `south,west,north,east` in degrees, e.g. 35,-10,60,30"
        ) from error
    try:
        return Grid.box(south, west, north, east, plan.step_deg)
    except ValueError as error:
        raise CycleError(f"region {plan.region!r}: {error}") from error


def region_area(plan: CyclePlan, most_points: int = MOST_POINTS) -> Area:
    """A plan's region as what a network is judged by."""

    def grid(step_deg: float) -> Grid:
        made = make_grid(replace(plan, step_deg=step_deg))
        assert made is not None  # it has a spacing
        return made

    return area_of(grid, most_points)


def make_forecast_grid(settings: Settings, plan: CyclePlan) -> Grid | None:
    """The grid of a plan's forecasts: no finer than the settings ask for, because there is one for each lead."""
    if plan.step_deg is None or not leads(settings, plan):
        return None
    return make_grid(replace(plan, step_deg=max(plan.step_deg, settings.forecast_step_deg)))


def leads(settings: Settings, plan: CyclePlan) -> tuple[float, ...]:
    """Hours ahead that a cycle forecasts; none without a grid: `autonvis verify` scores the past."""
    return () if plan.step_deg is None else tuple(h for h in parse_leads(settings.leads_h) if h > 0)


def due_leads(settings: Settings, plan: CyclePlan) -> tuple[float, ...]:
    """The lead whose due forecast a cycle scores: each costs a solve, so the leads take turns by the clock."""
    ahead = leads(settings, plan)
    turn = int(plan.valid_time.timestamp() // (settings.cycle_minutes * 60))
    return (ahead[turn % len(ahead)],) if ahead else ()


@lru_cache(maxsize=1)
def background() -> Background:
    """The climatology, whose coefficient files are read once per process."""
    return Background()


def kernel_config(settings: Settings) -> KernelConfig:
    """The kernel's configuration: the shipped one unless the settings name another."""
    return load_kernel_config(settings.kernel_config)


def read_window(settings: Settings, plans: list[CyclePlan]) -> pd.DataFrame:
    """The ionograms that the cycles of `plans` can use: the UTC days from the earliest window's start to the last valid
    time, whole, since a correction may have moved an observation within its day, out of a window or into it.
    """
    longest_h = max((lead_h for plan in plans for lead_h in due_leads(settings, plan)), default=0.0)
    start = plans[0].valid_time - timedelta(hours=kernel_config(settings).lookback_h + longest_h)
    day = timedelta(days=1)
    first, last = (
        time.replace(hour=0, minute=0, second=0, microsecond=0) for time in (start, plans[-1].valid_time)
    )
    return lake.read("ionograms", settings=settings, start=first, end=last + day - timedelta(microseconds=1))


def read_heard(settings: Settings, plans: list[CyclePlan]) -> Heard:
    """What sounders measured that the cycles of `plans` can use, in the UTC days of their windows, and what was known of them
    before.

    Of the dataset `sounders` it takes the newest cycle before each time that is asked about, which is all that cycle
    needs; between the plans each cycle goes by the one before it.
    """
    longest_h = max((lead_h for plan in plans for lead_h in due_leads(settings, plan)), default=0.0)
    start = plans[0].valid_time - timedelta(hours=kernel_config(settings).lookback_h + longest_h)
    day = timedelta(days=1)
    first, last = (
        time.replace(hour=0, minute=0, second=0, microsecond=0) for time in (start, plans[-1].valid_time)
    )
    measurements = lake.read(
        "measurements", settings=settings, start=first, end=last + day - timedelta(microseconds=1)
    )
    asked = [plans[0].valid_time]
    asked += [
        plan.valid_time - timedelta(hours=lead_h) for plan in plans for lead_h in due_leads(settings, plan)
    ]
    sounders = [_sounders_before(settings, time) for time in sorted(set(asked))]
    declared = catalog.declared_at(catalog.open_catalog(settings), plans[-1].available_until)
    reporting = set(measurements["sounder_id"]).union(*(set(rows["sounder_id"]) for rows in sounders))
    return Heard(
        measurements=measurements,
        sounders=pd.concat(sounders, ignore_index=True).drop_duplicates(["sounder_id", "valid_time"]),
        declared={name: said for name, said in declared.items() if name in reporting},
    )


def _sounders_before(settings: Settings, time: datetime) -> pd.DataFrame:
    """Rows of the dataset `sounders` of the newest cycle before a time."""
    end = time - timedelta(microseconds=1)
    start = time - timedelta(days=REMEMBERED_D)
    files = lake.files("sounders", settings=settings, start=start, end=end)
    # The newest file of a day before the time holds the cycle looked for; names go by valid time.
    stamp = f"sounders-{time:%Y%m%dT%H%MZ}"
    earlier = [path for path in files if path.stem < stamp]
    if not earlier:
        return lake.to_frame(arrow_schema("sounders").empty_table())
    rows = lake.read_file("sounders", earlier[-1])
    if any(compacted.is_compacted(path) for path in earlier if path.parent == earlier[-1].parent):
        first = time.replace(hour=0, minute=0, second=0, microsecond=0)
        rows = lake.read("sounders", settings=settings, start=max(first, start), end=end)
        if rows.empty:  # the newest are of the day before
            rows = lake.read("sounders", settings=settings, start=start, end=end)
        newest: pd.DataFrame = rows[rows["valid_time"] == rows["valid_time"].max()]
        return newest.reset_index(drop=True)
    return rows[rows["valid_time"] <= end]


def read_solar_flux(settings: Settings, plan: CyclePlan) -> float | None:
    """The newest F10.7 (sfu) that was known for a cycle, in its newest revision known then, or None."""
    known = _indices(settings, plan, "f107_sfu", INDEX_MEMORY)
    return None if known.empty else float(known["value"].iloc[-1])


def read_kp(settings: Settings, plan: CyclePlan) -> pd.DataFrame:
    """Rows of Kp that were known for a cycle and may lie beside its newest observations."""
    return _indices(settings, plan, "kp", KP_MEMORY)


def _indices(settings: Settings, plan: CyclePlan, name: str, memory: timedelta) -> pd.DataFrame:
    """Rows of one index known for a cycle, by time and revision."""
    indices = lake.read("indices", settings=settings, start=plan.valid_time - memory, end=plan.valid_time)
    known = indices[(indices["index_name"] == name) & (indices["available_at"] <= plan.available_until)]
    return known.sort_values(["observed_at", "available_at", "observation_id"]).reset_index(drop=True)


def assimilate(
    settings: Settings, plan: CyclePlan, observations: pd.DataFrame, heard: Heard | None = None
) -> Cycle:
    """Run the pure cycle of a plan on the observations, and what sounders heard, read for it."""
    batches = observations["batch_id"].dropna().unique() if is_traced() else ()
    with at_work("assimilate", cycle=plan.stamp, from_batches=batches):
        return _assimilate(settings, plan, observations, heard)


def _assimilate(
    settings: Settings, plan: CyclePlan, observations: pd.DataFrame, heard: Heard | None
) -> Cycle:
    earlier = {
        lead_h: replace(
            plan,
            valid_time=plan.valid_time - timedelta(hours=lead_h),
            available_until=plan.available_until - timedelta(hours=lead_h),
        )
        for lead_h in due_leads(settings, plan)
    }
    cycle = run_cycle(
        observations,
        valid_time=plan.valid_time,
        available_until=plan.available_until,
        kernel=kernel_config(settings),
        background=background(),
        grid=make_grid(plan),
        forecast_grid=make_forecast_grid(settings, plan),
        forecast_leads_h=leads(settings, plan),
        f107_sfu=read_solar_flux(settings, plan),
        due={lead_h: read_solar_flux(settings, origin) for lead_h, origin in earlier.items()},
        kp=read_kp(settings, plan),
        # Without a measurement a cycle is what it always was, and costs nothing more.
        heard=None if heard is None or heard.is_silent else heard,
        network_area=None if plan.step_deg is None else region_area(plan, NETWORK_POINTS),
        cycle_minutes=settings.cycle_minutes,
        threads=settings.threads,
    )
    if cycle.metadata["climatology_only"]:
        logger.warning("cycle %s uses no observation: it is climatology; %s", plan.stamp, summarize(cycle))
    else:
        logger.info("cycle %s: %s", plan.stamp, summarize(cycle))
    return cycle


def summarize(cycle: Cycle) -> str:
    """One line on a cycle that a stranger understands."""
    metadata = cycle.metadata
    return (
        f"{metadata['n_observations']} observations of {metadata['n_stations']} stations, "
        f"effective index IG12 = {metadata['effective_index']:.1f} (from {metadata['index_source']})"
    )


def check_cycles(cycles: list[Cycle]) -> None:
    """Judge what cycles say by the contracts that readers rely on, before any of it is published.

    Raises:
        CycleError: a row breaks its contract; the message names the dataset, the row and the reason.
    """
    from tasks.validation import validate_batch

    now = datetime.now(UTC)
    for part in ("analysis", "forecast", "feedback", "verification", "sounders", "echoes", "network"):
        dataset = "analysis" if part == "forecast" else part
        tables = [table for cycle in cycles if (table := getattr(cycle, part)) is not None and table.num_rows]
        if not tables:
            continue
        frame = lake.to_frame(pa.concat_tables(tables))
        reasons = validate_batch(dataset, frame, now=now).reasons
        if reasons:
            row, why = next(iter(reasons.items()))
            raise CycleError(
                f"{len(reasons)} rows of {dataset} break their contract, the first is row {row}: {why}"
            )


def file_name(part: str, plan: CyclePlan) -> str:
    """Name in the lake, without ending, of a part of a cycle; what depends on the region says which."""
    is_regional = part in ("analysis", "forecast", "network") and plan.region != "global"
    return f"{part}-{plan.stamp}" + ("-" + plan.region.replace(",", "_") if is_regional else "")


def store_cycle(settings: Settings, plan: CyclePlan, cycle: Cycle) -> list[Path]:
    """Publish what a cycle says to the lake, then record it in the catalog: the record is the commit.

    A rerun of the same plan replaces the files of the same valid time by the same bytes; rows that an earlier run
    under other rules had, and this one has not, do not stay.
    """
    with at_work("store", cycle=plan.stamp, cycle_id=cycle.metadata["cycle_id"]):
        return _store(settings, plan, cycle)


def _store(settings: Settings, plan: CyclePlan, cycle: Cycle) -> list[Path]:
    files: list[Path] = []
    metadata = {key: json.dumps(value) for key, value in cycle.metadata.items()}
    for dataset, part, table in (
        ("analysis", "analysis", cycle.analysis),
        ("analysis", "forecast", cycle.forecast),
        ("feedback", "feedback", cycle.feedback),
        ("verification", "verification", cycle.verification),
        ("sounders", "sounders", cycle.sounders),
        ("echoes", "echoes", cycle.echoes),
        ("network", "network", cycle.network),
    ):
        if table is None:
            continue
        if table.num_rows == 0 and dataset in ("sounders", "echoes", "network"):
            lake.withdraw(dataset, f"{part}-{plan.stamp}", settings=settings)
            continue
        name = file_name(part, plan)
        published = lake.publish(dataset, table, name, settings=settings, metadata=metadata)
        # The leads of an earlier run may have reached into days that these do not.
        lake.withdraw(dataset, name, settings=settings, keep=published)
        files += published
    catalog.record_cycle(
        catalog.open_catalog(settings),
        cycle.metadata["cycle_id"],
        valid_time=plan.valid_time,
        available_until=plan.available_until,
        config_hash=cycle.metadata["config_hash"],
        inputs_hash=cycle.metadata["inputs_hash"],
        effective_ig12=cycle.metadata["effective_index"],
        # In the catalog only: the files are named and hashed by what is in them.
        details={**cycle.metadata, "plan": {"region": plan.region, "step_deg": plan.step_deg}},
        files=[str(path.relative_to(settings.lake_root)) for path in files],
        now=datetime.now(UTC),
    )
    return files


def plan_of(recorded: catalog.Cycle) -> CyclePlan | None:
    """The plan that a recorded cycle was run by; None where the record is of an older release, or was made again."""
    said = recorded.details.get("plan")
    if said is None:
        return None
    return CyclePlan(recorded.valid_time, recorded.available_until, said["region"], said["step_deg"])


def run_chunk(settings: Settings, plans: list[CyclePlan]) -> int:
    """Run and store consecutive cycles on one read of the lake; returns their number."""
    observations, heard = read_window(settings, plans), read_heard(settings, plans)
    done: list[Cycle] = []
    for plan in plans:
        done.append(assimilate(settings, plan, observations, heard))
        heard = heard.after(done[-1].sounders)
    check_cycles(done)
    for plan, cycle in zip(plans, done, strict=True):
        store_cycle(settings, plan, cycle)
    return len(plans)
