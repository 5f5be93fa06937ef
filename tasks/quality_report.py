"""The daily report on sounders: their tiers and why, what changed, errors and biases, dropouts, clocks, and rejected rows.

`gather` reads a day of the lake, `summarize` makes one row per sounder of it, `tasks.quality_pages` turns both into pages.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from tasks import lake
from tasks.item_check import reason_code
from tasks.settings import TIERS, Settings

EXPECTED_MIX = {"PLATINUM": 0.05, "GOLD": 0.14, "SILVER": 0.27, "BRONZE": 0.54}
"""Share of the tiers in a healthy network (capability A6)."""
DROPOUT_FACTOR = 4.0
"""A pause this much longer than a sounder's usual one, and longer than"""
DROPOUT_H = 1.0
"""this, is a dropout."""
LATE_CLOCK_S = 2.0
"""Observations that arrive before they were made: the sounder's clock is ahead by as much at least."""
DAY = timedelta(days=1)
LAST_CYCLE = timedelta(hours=1)
"""A day whose newest cycle is within this of its end is over."""
MICROSECONDS_PER_HOUR = 3.6e9


class ReportError(ValueError):
    """A report was asked for that cannot be made; the message says why."""


@dataclass(frozen=True)
class Day:
    """What the lake has of one UTC day."""

    day: date
    sounders: pd.DataFrame
    """Dataset `sounders`, all cycles of the day."""
    before: pd.DataFrame
    """The newest row of each sounder on the day before."""
    echoes: pd.DataFrame
    measurements: pd.DataFrame
    refused: pd.DataFrame
    """sounder_id and reason code of each quarantined row received that day, counted in `n`."""
    network: pd.DataFrame
    """Dataset `network`, the day's newest cycle; empty where there is none."""


def plan_day(settings: Settings, day: date | None, *, now: datetime) -> date:
    """The day asked for, or the last whole UTC day.

    Raises:
        ReportError: the day has not begun.
    """
    chosen = day or (now.astimezone(UTC) - DAY).date()
    if chosen > now.astimezone(UTC).date():
        raise ReportError(f"day {chosen.isoformat()} has not begun")
    return chosen


def gather(settings: Settings, day: date) -> Day:
    """Read a day.

    Raises:
        tasks.lake.LakeError: a file cannot be read.
    """
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + DAY - timedelta(microseconds=1)
    earlier = lake.read(
        "sounders", settings=settings, start=start - DAY, end=start - timedelta(microseconds=1)
    )
    quarantine = lake.read(
        "quarantine", settings=settings, start=start, end=end, columns=["sounder_id", "dataset", "reasons"]
    )
    network = lake.read("network", settings=settings, start=start, end=end)
    return Day(
        day=day,
        sounders=lake.read("sounders", settings=settings, start=start, end=end),
        before=_newest(earlier),
        echoes=lake.read("echoes", settings=settings, start=start, end=end),
        measurements=lake.read(
            "measurements",
            settings=settings,
            start=start,
            end=end,
            columns=["sounder_id", "observed_at", "received_at", "source"],
        ),
        refused=_refused(quarantine),
        network=network[network["valid_time"] == network["valid_time"].max()].reset_index(drop=True),
    )


def _newest(sounders: pd.DataFrame) -> pd.DataFrame:
    newest = sounders.sort_values(["sounder_id", "valid_time"], kind="stable")
    return newest.drop_duplicates("sounder_id", keep="last").reset_index(drop=True)


def _refused(quarantine: pd.DataFrame) -> pd.DataFrame:
    counts: Counter[tuple[str, str]] = Counter()
    for sounder_id, reasons in zip(quarantine["sounder_id"], quarantine["reasons"], strict=True):
        name = "unknown" if pd.isna(sounder_id) else str(sounder_id)
        counts.update((name, code) for code in {reason_code(reason) for reason in json.loads(reasons)})
    rows = [(sounder_id, code, n) for (sounder_id, code), n in sorted(counts.items())]
    return pd.DataFrame(rows, columns=["sounder_id", "reason", "n"])


def summarize(day: Day) -> pd.DataFrame:
    """One row per sounder of the day, best tier first; with its tier, errors, biases, dropouts, latency, rejected rows and worth.

    Raises:
        ReportError: no cycle of the day knew a sounder.
    """
    if day.sounders.empty:
        raise ReportError(
            f"no cycle of {day.day.isoformat()} knew a sounder: measurements are judged by the flow nowcast"
        )
    newest = _newest(day.sounders).set_index("sounder_id")
    before = day.before.set_index("sounder_id")
    frame = newest[
        [
            *("latitude_deg", "longitude_deg", "tier", "reason", "quality"),
            *(name for name in map(str, newest) if name.startswith("quality_")),
            *("delay_sd_ms", "delay_sd_low_ms", "delay_sd_high_ms", "delay_bias_ms", "delay_bias_sd_ms"),
            *("is_delay_biased", "n_delay_innovations"),
            *("signal_sd_db", "signal_sd_low_db", "signal_sd_high_db", "signal_bias_db", "signal_bias_sd_db"),
            *("is_signal_biased", "n_signal_innovations"),
        ]
    ].copy()
    frame.insert(3, "tier_before", before["tier"].reindex(frame.index))
    frame["n_tier_changes"] = _n_changes(day.sounders).reindex(frame.index).fillna(0).astype(int)
    frame["n_measurements"] = day.measurements["sounder_id"].value_counts().reindex(frame.index, fill_value=0)
    told = day.echoes.assign(
        bad=day.echoes["n_combined"]
        * day.echoes["outcome"].isin(["outlier", "above_ceiling", "faster_than_light", "delay_too_long"])
    ).groupby("sounder_id")
    frame["outlier_share"] = (told["bad"].sum() / told["n_combined"].sum()).reindex(frame.index)
    frame["n_refused"] = day.refused.groupby("sounder_id")["n"].sum().reindex(frame.index, fill_value=0)
    pauses = {
        name: dropouts(rows["observed_at"], day.day, day_end(day))
        for name, rows in day.measurements.groupby("sounder_id")
    }
    frame["n_dropouts"] = [len(pauses.get(name, [])) for name in frame.index]
    frame["dropout_h"] = [sum(hours for _, hours in pauses.get(name, [])) for name in frame.index]
    delay_s = (day.measurements["received_at"] - day.measurements["observed_at"]).dt.total_seconds()
    by_sounder = delay_s.groupby(day.measurements["sounder_id"])
    frame["least_latency_s"] = by_sounder.min().reindex(frame.index)
    frame["median_latency_s"] = by_sounder.median().reindex(frame.index)
    worth = day.network.drop_duplicates("sounder_id").set_index("sounder_id")
    for name in WORTH:
        frame[name] = worth[name].reindex(frame.index)
    order = frame["tier"].map({tier: number for number, tier in enumerate(TIERS)})
    return (
        frame.assign(_order=order).sort_values(["_order", "delay_sd_ms"]).drop(columns="_order").reset_index()
    )


WORTH = ("information_gain_nats", "variance_bought_mhz2", "variance_bought_share", "advice")
"""Columns of the dataset `network` that the report shows."""


def _n_changes(sounders: pd.DataFrame) -> pd.Series[Any]:
    ordered = sounders.sort_values(["sounder_id", "valid_time"], kind="stable")
    is_other = ordered["previous_tier"].notna() & (ordered["tier"] != ordered["previous_tier"])
    return is_other.groupby(ordered["sounder_id"]).sum()


def day_end(day: Day) -> pd.Timestamp:
    """The end of the day, or of its last cycle where the day goes on."""
    midnight = pd.Timestamp(day.day, tz=UTC) + DAY
    newest = day.sounders["valid_time"].max()
    return midnight if newest >= midnight - LAST_CYCLE else newest


def dropouts(observed_at: pd.Series[Any], day: date, until: pd.Timestamp) -> list[tuple[pd.Timestamp, float]]:
    """Pauses of a sounder within a day: since when, and hours; those far longer than its usual one.

    The time from the last observation to `until`, or from the day's beginning to the first, counts as well.
    """
    start = pd.Timestamp(day, tz=UTC)
    times = pd.DatetimeIndex(observed_at).sort_values()
    edges = pd.DatetimeIndex([start, *times, max([until, *times[-1:]])])
    gaps_h = np.diff(edges.as_unit("us").asi8) / MICROSECONDS_PER_HOUR
    usual_h = float(np.median(gaps_h[1:-1])) if times.size > 1 else 0.0
    limit_h = max(DROPOUT_FACTOR * usual_h, DROPOUT_H)
    return [(edges[int(row)], float(gaps_h[row])) for row in np.flatnonzero(gaps_h > limit_h)]


def mix(summary: pd.DataFrame) -> pd.DataFrame:
    """Tiers with their number, share and the share expected of a healthy network."""
    n = summary["tier"].value_counts().reindex(TIERS, fill_value=0)
    return pd.DataFrame(
        {
            "tier": TIERS,
            "n": n.to_numpy(),
            "share": n.to_numpy() / max(int(n.sum()), 1),
            "expected": [EXPECTED_MIX[tier] for tier in TIERS],
        }
    )
