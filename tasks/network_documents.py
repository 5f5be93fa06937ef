"""Answers about a network as JSON takes them: the verbs write these documents, the web service sends them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from tasks.artifacts import place_text
from tasks.network import NetworkReport, percent
from tasks.network_question import Placement, Question
from tasks.placement import GainMap, WhatIf

GAIN_DIGITS = 6


def network_document(question: Question, report: NetworkReport) -> dict[str, Any]:
    """What the sounders of a region are worth."""
    return {**described(question), **worth(report.summary(), report.sounders)}


def worth(summary: Mapping[str, Any], sounders: pd.DataFrame) -> dict[str, Any]:
    """A network's summary (`NetworkReport.summary`) with its sounders, in order of their rank, and those that few would miss."""
    redundant = sounders.loc[sounders["is_redundant"].astype(bool), "sounder_id"]
    return {**summary, "redundant": list(redundant), "sounders": records(sounders)}


def placement_document(question: Question, found: Placement) -> dict[str, Any]:
    """Places of new sounders."""
    sounder = found.map.sounder
    return {
        **described(question),
        "tier": sounder.tier,
        "error": asdict(sounder.error),
        "variance_mhz2": found.map.variance_mhz2,
        "placed": [asdict(one) for one in found.placed],
    }


def what_if_document(question: Question, tried: WhatIf) -> dict[str, Any]:
    """What one new sounder would change."""
    return {
        **described(question),
        **{name: value for name, value in asdict(tried).items() if name != "sounder"},
        "tier": tried.sounder.tier,
        "error": asdict(tried.sounder.error),
        "gain_mhz2": tried.gain_mhz2,
        "gain_percent": tried.gain_percent,
    }


def gain_grid_document(question: Question, found: GainMap) -> dict[str, Any]:
    """The map of the gain as a grid: rows by latitude from the south; null where none may stand."""
    latitudes, longitudes = found.area.grid.axes()
    gain = found.percent.reshape(found.area.shape)
    return {
        **described(question),
        "tier": found.sounder.tier,
        "variance_mhz2": found.variance_mhz2,
        "latitude_deg": latitudes.tolist(),
        "longitude_deg": longitudes.tolist(),
        "gain_percent": [
            [None if math.isnan(value) else float(f"{value:.{GAIN_DIGITS}g}") for value in row]
            for row in gain
        ],
    }


def map_note(question: Question, found: GainMap) -> str:
    """What the map of the gain is drawn for."""
    return (
        f"{found.sounder.tier}, valid {question.plan.valid_time:%Y-%m-%d %H:%M} UTC; "
        f"foF2 is known to {math.sqrt(found.variance_mhz2):.2f} MHz over the area (root mean variance)"
    )


def what_if_lines(tried: WhatIf) -> list[str]:
    """What a sounder would change, in sentences."""
    lines = [
        f"A sounder of tier {tried.sounder.tier} at {place_text(tried.latitude_deg, tried.longitude_deg)} would take "
        f"{percent(tried.gain_percent)} off the mean variance of foF2 over the area: {tried.variance_before_mhz2:.3g} to "
        f"{tried.variance_after_mhz2:.3g} MHz^2.",
        f"At its place foF2 would be known to {tried.sd_after_mhz:.2f} MHz instead of {tried.sd_before_mhz:.2f} MHz.",
    ]
    if not tried.gaps_before:
        lines.append("There is no gap to close.")
    for gap, share in zip(tried.gaps_before, tried.closed_share, strict=True):
        lines.append(
            f"Gap around {place_text(gap.latitude_deg, gap.longitude_deg)}, {gap.surface_km2 / 1e6:.2f} million km^2: "
            + (
                "it closes."
                if share == 1.0
                else f"{percent(100.0 * share)} of it closes."
                if share
                else "it stays."
            )
        )
    return lines


def described(question: Question) -> dict[str, Any]:
    """What was asked."""
    plan = question.plan
    return {
        "valid_time": plan.valid_time.isoformat(),
        "available_until": plan.available_until.isoformat(),
        "region": plan.region,
        "demand": None if question.demand is None else str(question.demand),
    }


def records(rows: pd.DataFrame) -> Sequence[dict[str, Any]]:
    """Rows as JSON takes them: what is missing is null, times are ISO 8601."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows.to_dict("records")]


def _plain(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.isoformat() if isinstance(value, pd.Timestamp) else value
