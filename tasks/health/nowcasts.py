"""Whether nowcasts come, what they are made of, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from tasks import catalog
from tasks.health.finding import Finding, Level, duration
from tasks.health.recorded import Recorded, recorded
from tasks.health.services import up_since
from tasks.metrics import names
from tasks.metrics.state import public_valid_time
from tasks.settings import Settings

LATE = timedelta(minutes=40)
PUBLIC_LATE = timedelta(minutes=50)
SLOW_S = 60.0
STALE_S = 3600.0
SILENT_S = 24 * 3600.0
LEAST_SCORED = 100
FIRST = "the system has just started: the first cycle comes by itself within a quarter of an hour"


def _is_young(settings: Settings, now: datetime) -> bool:
    """Whether the system was started too short a time ago to have made anything."""
    since = up_since(settings)
    return since is not None and now - since < LATE


def check_public(settings: Settings, now: datetime) -> Iterator[Finding]:
    """What the public sees."""
    valid_time = public_valid_time(settings)
    if valid_time is None and _is_young(settings, now):
        yield Finding("public", Level.WARNING, "nothing is published yet", FIRST)
        return
    if valid_time is None:
        yield Finding(
            *("public", Level.FAULT, f"nothing is published in {settings.products_root}"),
            "make the first: .venv/bin/autonvis nowcast",
            "nvispublicstale",
        )
        return
    sentence = f"the public map is of {valid_time:%Y-%m-%d %H:%MZ}, {duration((now - valid_time).total_seconds())} ago"
    if now - valid_time > PUBLIC_LATE:
        yield Finding(
            "public",
            Level.FAULT,
            sentence,
            "see the last run of nowcast in the Prefect UI",
            "nvispublicstale",
        )
    else:
        yield Finding("public", Level.OK, sentence)


def check_cycle(settings: Settings, now: datetime) -> Iterator[Finding]:
    """The last nowcast: whether it came, how long it took, and whether it had observations."""
    cycles = catalog.cycles(catalog.open_catalog(settings), start=now - timedelta(days=1), end=now)
    if not cycles and _is_young(settings, now):
        yield Finding("cycle", Level.WARNING, "there was no cycle yet", FIRST)
        return
    if not cycles:
        step = "see the runs of nowcast in the Prefect UI, or run one: .venv/bin/autonvis nowcast"
        yield Finding("cycle", Level.FAULT, "there was no cycle in the last day", step, "nvisnowcastlate")
        return
    last = cycles[-1]
    age = now - last.valid_time
    sentence = f"the last cycle is of {last.valid_time:%H:%MZ}, {duration(age.total_seconds())} ago"
    if age > LATE:
        step = "see the last run of nowcast in the Prefect UI; what was missed is run by catch-up afterwards"
        yield Finding("cycle", Level.FAULT, sentence, step, "nvisnowcastlate")
        return
    took_s = recorded(settings).value(names.LAST_CYCLE_DURATION)
    if last.details.get("climatology_only"):
        step = "see whether sounders send and sources answer: the lines on data and endpoints"
        yield Finding(
            "cycle",
            Level.WARNING,
            f"{sentence}, and had no observation: it is climatology",
            step,
            "nvisdatastale",
        )
    elif took_s is not None and took_s > SLOW_S:
        step = "see which of its tasks is slow in the Prefect UI"
        yield Finding("cycle", Level.WARNING, f"{sentence}, and took {took_s:.0f} s", step, "nviscycleslow")
    else:
        told = f", from {last.details.get('n_observations')} observations" + (
            f" in {took_s:.1f} s" if took_s else ""
        )
        yield Finding("cycle", Level.OK, sentence + told)


def check_data(settings: Settings, now: datetime) -> Iterator[Finding]:
    """How old the newest observation of any source is."""
    newest = recorded(settings).by(names.NEWEST_OBSERVATION, "source")
    if not newest:
        step = "send one (README), or name pull sources in AUTONVIS_SOURCES"
        yield Finding("data", Level.WARNING, "no observation has landed yet", step, "nvisdatastale")
        return
    ages_s = {source: now.timestamp() - time_s for source, time_s in newest.items()}
    told = ", ".join(
        f"{source} {duration(age)}" for source, age in sorted(ages_s.items(), key=lambda one: one[1])
    )
    sentence = f"age of the newest observation: {told}"
    if min(ages_s.values()) > STALE_S:
        level = Level.FAULT if min(ages_s.values()) > SILENT_S else Level.WARNING
        step = "see whether sounders reach the doors and what the tasks pull-… of the last land say"
        yield Finding("data", level, sentence, step, "nvisdatastale")
    else:
        yield Finding("data", Level.OK, sentence)


def check_skill(settings: Settings, _now: datetime) -> Iterator[Finding]:
    """The analysis against climatology at stations held out."""
    found = recorded(settings)
    scored = found.by(names.SKILL_SCORED, "quantity")
    worse = [
        quantity
        for quantity, n in scored.items()
        if n > LEAST_SCORED and (pair := _rmse(found, quantity)) is not None and pair[0] > pair[1]
    ]
    for quantity in worse:
        analysis, climatology = _rmse(found, quantity) or (0.0, 0.0)
        yield Finding(
            *(
                "skill",
                Level.WARNING,
                f"{quantity}: error {analysis:.2f} at held-out stations, climatology {climatology:.2f}",
            ),
            "look for stations that misread in the daily report",
            "nvisskillworse",
        )
    if not worse:
        pair = _rmse(found, "fof2_mhz")
        told = (
            "nothing is scored yet"
            if pair is None
            else f"foF2 at held-out stations to {pair[0]:.2f} MHz, climatology {pair[1]:.2f}"
        )
        yield Finding("skill", Level.OK, told)


def _rmse(found: Recorded, quantity: str) -> tuple[float, float] | None:
    """Of the analysis, and of climatology."""
    analysis = found.value(names.SKILL_RMSE, quantity=quantity, method="analysis")
    climatology = found.value(names.SKILL_RMSE, quantity=quantity, method="climatology")
    return None if analysis is None or climatology is None else (analysis, climatology)
