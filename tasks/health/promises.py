"""Whether the last day kept the service-level objectives."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from tasks.health.finding import Finding, Level
from tasks.objectives import measure_objectives, objectives_rows
from tasks.settings import Settings

SPAN = timedelta(days=1)
ENTRIES = {
    "answers": "nvishttperrors",
    "nowcasts": "nvisnowcastlate",
    "ingestion_p99": "nvisingestionslow",
    "web_p99": "nvishttperrors",
    "cycle_p99": "nviscycleslow",
    "freshness_p95": "nvispublicstale",
}


def check_objectives(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Each objective that was missed."""
    table = measure_objectives(settings, now - SPAN, now)
    missed = 0
    for row, shown in zip(table.to_dict("records"), objectives_rows(table), strict=True):
        if row["is_met"] is False:
            missed += 1
            sentence = f"missed over the last day: {shown[0]} {shown[1]}, promised {shown[2]}"
            step = "see since when: .venv/bin/autonvis objectives --since …"
            yield Finding("objectives", Level.WARNING, sentence, step, ENTRIES[row["name"]])
    n_measured = int(table["is_met"].notna().sum())
    if not n_measured:
        yield Finding("objectives", Level.OK, "no objective was measured over the last day yet")
    elif not missed:
        sentence = f"the {n_measured} of {len(table)} objectives that were measured over the last day are met"
        yield Finding("objectives", Level.OK, sentence)
