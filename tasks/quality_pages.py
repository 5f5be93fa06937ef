"""The pages of the report on sounders: one of all, one for each owner; self-contained HTML, and the table as Parquet."""

from __future__ import annotations

import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contracts import load_contract
from tasks.kernel_config import KernelConfig
from tasks.objectives import objectives_rows
from tasks.quality_charts import (
    bias_chart,
    error_chart,
    expected_chart,
    history_chart,
    innovation_chart,
    mix_chart,
)
from tasks.quality_report import LATE_CLOCK_S, Day, day_end, dropouts, mix
from tasks.settings import Settings
from tasks.tiers import boundaries

TEMPLATES = Path(__file__).with_name("templates")
SMALLEST_SHOWN = 0.005
PARTS = {
    "signal": "signal-to-noise ratio of your measurements: give snr_db with each",
    "calibration": "declared calibration and its age: register with calibration and calibrated_at",
    "temporal": "hours of the last day with a measurement",
    "spatial": "measurements from your usual path",
    "equipment": "declared equipment: register with equipment",
    "historical": "measurements that were good",
}


def write_report(
    settings: Settings,
    day: Day,
    summary: pd.DataFrame,
    kernel: KernelConfig,
    objectives: pd.DataFrame | None = None,
) -> Path:
    """Write `products/reports/<day>` whole, replacing an earlier one of the day, and return the folder.

    Raises:
        OSError: the disk refuses; an earlier report stays.
    """
    root = settings.products_root / "reports"
    root.mkdir(parents=True, exist_ok=True)
    target = root / day.day.isoformat()
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as name:
        stage = Path(name) / "report"
        (stage / "sounders").mkdir(parents=True)
        (stage / "index.html").write_text(overview(day, summary, kernel, objectives), encoding="utf-8")
        for row in summary.to_dict("records"):
            page = owners_page(day, {str(name): value for name, value in row.items()}, kernel)
            (stage / page_of(row["sounder_id"])).write_text(page, encoding="utf-8")
        pq.write_table(pa.Table.from_pandas(summary, preserve_index=False), stage / "sounders.parquet")
        if objectives is not None:
            written = pa.Table.from_pandas(objectives, preserve_index=False)
            pq.write_table(written, stage / "objectives.parquet")
        if target.exists():
            os.replace(target, Path(name) / "old")
        os.replace(stage, target)
    return target


def address(settings: Settings, folder: Path) -> str:
    """Where people read a report: at the public address of the web service if it is known, else as a file of this host."""
    if settings.public_url is None:
        return (folder / "index.html").resolve().as_uri()
    return f"{settings.public_url.rstrip('/')}/report/{folder.name}/"


def page_of(sounder_id: str) -> str:
    """Page of a sounder within the report's folder; ids are file names but for a leading dot."""
    return f"sounders/{re.sub(r'[^A-Za-z0-9_.-]', '_', sounder_id)}.html"


def overview(
    day: Day, summary: pd.DataFrame, kernel: KernelConfig, objectives: pd.DataFrame | None = None
) -> str:
    """The page of all sounders, and at its end how the system kept its objectives (`tasks.objectives`) if that is given."""
    rows = [
        {
            **row,
            "page": page_of(row["sounder_id"]),
            "tier_before": row["tier_before"] if isinstance(row["tier_before"], str) else None,
            "is_clock_ahead": row["least_latency_s"] < -LATE_CLOCK_S,
        }
        for row in summary.to_dict("records")
    ]
    changed = [row for row in rows if row["tier_before"] and row["tier_before"] != row["tier"]]
    page: str = (
        _environment()
        .get_template("report.html.j2")
        .render(
            day=day.day.isoformat(),
            rows=rows,
            n_measurements=int(summary["n_measurements"].sum()),
            n_changed=len(changed),
            n_new=sum(row["tier_before"] is None for row in rows),
            biased=[row["sounder_id"] for row in rows if row["is_delay_biased"] or row["is_signal_biased"]],
            limits_ms=", ".join(f"{limit:.2g}" for limit in boundaries(kernel.tiers.delay.sd)),
            mix_chart=mix_chart(mix(summary)),
            error_chart=error_chart(summary, kernel.tiers.delay, "delay", "ms"),
            bias_chart=bias_chart(summary),
            refused=day.refused.to_dict("records"),
            objectives=[] if objectives is None else objectives_rows(objectives),
        )
    )
    return page


def owners_page(day: Day, row: dict[str, Any], kernel: KernelConfig) -> str:
    """The page of one sounder for its owner: the analysis without it against what it reported."""
    sounder_id = row["sounder_id"]
    echoes = day.echoes[day.echoes["sounder_id"] == sounder_id]
    history = day.sounders[day.sounders["sounder_id"] == sounder_id]
    measured = day.measurements.loc[day.measurements["sounder_id"] == sounder_id, "observed_at"]
    meaning = next(column for column in load_contract("echoes").columns if column.name == "outcome")
    texts = dict(zip(meaning.enum, meaning.enum_descriptions, strict=True))
    counts = echoes.groupby("outcome")["n_combined"].sum().sort_values(ascending=False)
    page: str = (
        _environment()
        .get_template("sounder.html.j2")
        .render(
            day=day.day.isoformat(),
            row=row,
            hints=_hints(row),
            parts=[(name, row[f"quality_{name}"], text) for name, text in PARTS.items()],
            expected_chart=expected_chart(echoes),
            innovation_chart=innovation_chart(echoes, "delay_innovation_ms", "ms"),
            signal_chart=innovation_chart(echoes, "signal_innovation_db", "dB"),
            history_chart=history_chart(history, kernel.tiers.delay),
            pauses=[
                (f"{since:%H:%M} UTC", hours) for since, hours in dropouts(measured, day.day, day_end(day))
            ],
            refused=day.refused[day.refused["sounder_id"] == sounder_id].to_dict("records"),
            outcomes=[(name, int(n), texts[name]) for name, n in counts.items()],
        )
    )
    return page


def _hints(row: dict[str, Any]) -> list[str]:
    hints = []
    if row["is_signal_biased"]:
        hints.append(
            f"Your signal strength is off by {row['signal_bias_db']:+.0f} dB: check the calibration, and the power and "
            "gains that you state."
        )
    if row["least_latency_s"] < -LATE_CLOCK_S:
        hints.append(
            f"Your clock is at least {-row['least_latency_s']:.0f} s ahead: measurements arrive before they were made."
        )
    if isinstance(row["advice"], str):
        hints.append(row["advice"])
    return hints


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"figures": _figures, "signed": _signed, "percent": _percent}
    return environment


def _figures(value: float | None) -> str:
    return (
        "–" if value is None or math.isnan(value) else f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    )


def _signed(value: float) -> str:
    return "0" if abs(value) < SMALLEST_SHOWN else f"{value:+.2g}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"
