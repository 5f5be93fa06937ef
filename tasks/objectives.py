"""Service-level objectives, measured by the system itself over any span.

Once an hour the flight check notes what the services have counted so far (`HOME/objectives/`, a Parquet file per day): how many
answers of which status and within which time, how long nowcasts took. What happened in a span is the difference of the notes
around it; a count that fell began anew with its process. Whether nowcasts came, and when, is in the catalog.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, pairwise
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import httpx
import pandas as pd
from prometheus_client import Metric as Family

from tasks import catalog
from tasks.health.services import endpoints
from tasks.metrics import names
from tasks.metrics.families import read
from tasks.metrics.ledger import read_ledgers
from tasks.settings import Settings

TIMEOUT_S = 5.0
OF_SERVICES = (names.INGESTION_LATENCY.name, names.HTTP_DURATION.name)
OF_RUNS = (names.CYCLE_DURATION.name,)
COLUMNS = ("noted_at", "service", "sample", "labels", "value")
EVERYWHERE = ("cluster", "environment")
"""Labels that say nothing within one system."""
PROBES = ("/health", "/metrics")
"""Routes that watchers ask: a service that is not ready yet says so there, to nobody's harm."""
LATEST = timedelta(days=1)
"""A cycle computed later than this after its time is a backfill, and says nothing of that day."""


@dataclass(frozen=True)
class Objective:
    """What is promised: at least `target` where `is_least`, else at most."""

    name: str
    title: str
    unit: str
    target: float
    is_least: bool = False


OBJECTIVES = (
    Objective("answers", "answers without an error of ours", "share", 0.999, is_least=True),
    Objective("nowcasts", "nowcasts that came in time", "share", 0.999, is_least=True),
    Objective("ingestion_p99", "99 % of deliveries on disk within", "s", 0.2),
    Objective("web_p99", "99 % of the web service's answers within", "s", 0.5),
    Objective("cycle_p99", "99 % of nowcast runs within", "s", 60.0),
    Objective("freshness_p95", "95 % of nowcasts published after their time within", "s", 900.0),
)
"""Row A24; a nowcast in time is one that is published before the next but one is due."""


def note_objectives(settings: Settings, now: datetime) -> int:
    """Notes what every service that answers, and the flow runs, have counted; returns the number of samples."""
    rows = list(_rows("flows", read_ledgers(settings), OF_RUNS, now))
    for service, url in endpoints(settings).items():
        if service not in ("gateway", "web"):
            continue
        for source, address in _instances(service, urlsplit(url)):
            try:
                answer = httpx.get(f"{address}/metrics", params={"of": "process"}, timeout=TIMEOUT_S)
                page = answer.raise_for_status().text
            except httpx.HTTPError:  # that it does not answer is a finding of the flight check
                continue
            rows += _rows(source, read(page), OF_SERVICES, now)
    if rows:
        _append(_path(settings, now), pd.DataFrame(rows, columns=list(COLUMNS)))
    return len(rows)


def measure_objectives(settings: Settings, since: datetime, until: datetime) -> pd.DataFrame:
    """What the span came to, a row per objective.

    Returns:
        Columns name, title, unit, target, value (null where nothing was measured), is_met (null likewise), n (what
        was counted), since, until.
    """
    counted = _increases(_notes(settings, since, until), since, until)
    http = _of(counted, names.HTTP_DURATION.name + "_count")
    cycles = _cycles(settings, since, until)
    measured: dict[str, tuple[float, float]] = {
        "answers": _share_of_answers(http),
        "nowcasts": _share_in_time(settings, cycles, since, until),
        "ingestion_p99": _percentile(counted, names.INGESTION_LATENCY.name, 0.99),
        "web_p99": _percentile(counted, names.HTTP_DURATION.name, 0.99, service="web"),
        "cycle_p99": _percentile(counted, names.CYCLE_DURATION.name, 0.99),
        "freshness_p95": (float(cycles["delay_s"].quantile(0.95)), len(cycles))
        if len(cycles)
        else (math.nan, 0),
    }
    rows = []
    for objective in OBJECTIVES:
        value, n = measured[objective.name]
        is_met = (
            None
            if math.isnan(value)
            else (value >= objective.target if objective.is_least else value <= objective.target)
        )
        rows.append(
            {
                "name": objective.name,
                "title": objective.title,
                "unit": objective.unit,
                "target": objective.target,
                "value": value,
                "is_met": is_met,
                "n": int(n),
                "since": pd.Timestamp(since),
                "until": pd.Timestamp(until),
            }
        )
    return pd.DataFrame(rows).astype({"is_met": "boolean"})


def objectives_rows(table: pd.DataFrame) -> list[list[str]]:
    """The table as people read it: title, value, target, whether it was met, what was counted."""
    return [
        [
            str(row["title"]),
            _figure(row["value"], row["unit"]),
            _figure(row["target"], row["unit"]),
            "-" if pd.isna(row["is_met"]) else "met" if row["is_met"] else "MISSED",
            f"{row['n']:,}",
        ]
        for row in table.to_dict("records")
    ]


HEADINGS = ["objective", "measured", "promised", "", "of"]


def _figure(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{100 * value:.2f} %" if unit == "share" else f"{value:.3g} {unit}"


def _share_of_answers(http: pd.DataFrame) -> tuple[float, float]:
    http = http.loc[[labels["route"] not in PROBES for labels in http["labels"]]]
    total = float(http["value"].sum())
    failed = float(
        http.loc[http["labels"].map(lambda labels: labels["status"].startswith("5")), "value"].sum()
    )
    return (1.0 - failed / total if total else math.nan), total


def _cycles(settings: Settings, since: datetime, until: datetime) -> pd.DataFrame:
    """The live cycles of a span: valid time and how long after it they were recorded, in seconds."""
    found = catalog.cycles(catalog.open_catalog(settings), start=since, end=until)
    rows = [(one.valid_time, (one.recorded_at - one.valid_time).total_seconds()) for one in found]
    table = pd.DataFrame(rows, columns=["valid_time", "delay_s"])
    return table[table["delay_s"].between(0.0, LATEST.total_seconds())]


def _share_in_time(
    settings: Settings, cycles: pd.DataFrame, since: datetime, until: datetime
) -> tuple[float, float]:
    """Of the cycles due from the first one of the span on: a system that was not there yet promised nothing."""
    if cycles.empty:
        return math.nan, 0
    step_s = settings.cycle_minutes * 60.0
    first = max(since.timestamp(), cycles["valid_time"].min().timestamp())
    n_due = math.floor((until.timestamp() - 2 * step_s) / step_s) - math.ceil(first / step_s) + 1
    in_time = cycles[
        (cycles["delay_s"] <= 2 * step_s)
        & (cycles["valid_time"] <= pd.Timestamp(until) - pd.Timedelta(seconds=2 * step_s))
    ]
    n_came = in_time["valid_time"].nunique()
    return (min(1.0, n_came / n_due) if n_due > 0 else math.nan), max(n_due, 0)


def _percentile(counted: pd.DataFrame, family: str, share: float, **labels: str) -> tuple[float, float]:
    """The value below which a share of the counted lies, linear within its bucket; and how many were counted."""
    buckets = _of(counted, family + "_bucket")
    for name, value in labels.items():
        buckets = buckets[buckets["labels"].map(lambda of, name=name, value=value: of.get(name) == value)]
    if buckets.empty:
        return math.nan, 0.0
    limits = buckets["labels"].map(lambda of: float(of["le"]))
    by_limit = buckets["value"].groupby(limits).sum().sort_index()
    total = float(by_limit.iloc[-1])
    if total == 0:
        return math.nan, 0.0
    rank = share * total
    lower, below = 0.0, 0.0
    for limit, n in by_limit.items():
        if n >= rank:
            upper = float(str(limit))
            return (
                lower if math.isinf(upper) else lower + (upper - lower) * (rank - below) / (n - below)
            ), total
        lower, below = float(str(limit)), float(n)
    return lower, total


def _of(counted: pd.DataFrame, sample: str) -> pd.DataFrame:
    return counted[counted["sample"] == sample]


def _instances(service: str, url: SplitResult) -> Iterator[tuple[str, str]]:
    """Name and address of every process behind a name that stands for several, each of which counts by itself."""
    host = url.hostname or ""
    try:
        found = {one[4][0] for one in socket.getaddrinfo(host, url.port, socket.AF_INET, socket.SOCK_STREAM)}
    except OSError:
        found = set()
    if len(found) < 2:
        yield service, f"{url.scheme}://{url.netloc}"
        return
    for address in sorted(map(str, found)):
        yield f"{service} {address}", f"{url.scheme}://{address}:{url.port}"


def _rows(
    service: str, families: Iterable[Family], noted: Sequence[str], now: datetime
) -> Iterator[tuple[datetime, str, str, str, float]]:
    for sample in chain.from_iterable(family.samples for family in families if family.name in noted):
        labels: Mapping[str, str] = {
            key: value for key, value in sample.labels.items() if key not in EVERYWHERE
        }
        yield now, service, sample.name, json.dumps(labels, sort_keys=True), sample.value


def _notes(settings: Settings, since: datetime, until: datetime) -> pd.DataFrame:
    """The notes of a span and of the day before it, which has the last one before."""
    days = pd.date_range(pd.Timestamp(since).floor("D") - pd.Timedelta(days=1), until, freq="D")
    paths = [path for day in days if (path := _path(settings, day.to_pydatetime())).exists()]
    frames = [pd.read_parquet(path) for path in paths]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def _increases(notes: pd.DataFrame, since: datetime, until: datetime) -> pd.DataFrame:
    """How much each series rose in the span, from the last note before it; labels as a dictionary."""
    notes = notes[notes["noted_at"] <= pd.Timestamp(until)] if len(notes) else notes
    rows = []
    for (_, sample, labels), series in notes.groupby(["service", "sample", "labels"], sort=False):
        ordered = series.sort_values("noted_at")
        before = ordered[ordered["noted_at"] < pd.Timestamp(since)]["value"].tail(1)
        values = [*before, *ordered[ordered["noted_at"] >= pd.Timestamp(since)]["value"]]
        if len(before) == 0:
            values = [0.0, *values]  # it began within the span
        risen = sum(now - then if now >= then else now for then, now in pairwise(values))
        rows.append((sample, json.loads(str(labels)), risen))
    return pd.DataFrame(rows, columns=["sample", "labels", "value"])


def _path(settings: Settings, day: datetime) -> Path:
    return settings.home / "objectives" / f"objectives-{day:%Y%m%d}.parquet"


def _append(path: Path, rows: pd.DataFrame) -> None:
    """Adds rows to a file, which is replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = [pd.read_parquet(path)] if path.exists() else []
    partial = path.with_suffix(".partial")
    pd.concat([*before, rows], ignore_index=True).to_parquet(partial, compression="zstd", index=False)
    os.replace(partial, path)
