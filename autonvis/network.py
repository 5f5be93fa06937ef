"""The verbs `network` and `place`: what the sounders are worth, and where the next ones would be worth most."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from tasks.network_question import Question
    from tasks.placement import WhatIf


def show_network(question: Question, out: Path) -> None:
    """Print the network's report, and write `network.md`, `network.json` and `network.parquet` to `out`.

    Raises:
        ValueError: the region or the demand cannot be used; the message names it.
        OSError: `out` cannot be written.
    """
    from tasks.artifacts import network_markdown

    report = question.report()
    out.mkdir(parents=True, exist_ok=True)
    text = network_markdown(report)
    rows = report.sounders.assign(valid_time=pd.Timestamp(question.plan.valid_time))
    rows.to_parquet(out / "network.parquet", index=False)
    write_json(
        out / "network.json",
        {**described(question), **report.summary(), "sounders": records(report.sounders)},
    )
    (out / "network.md").write_text(text, encoding="utf-8")
    print(
        f"Network at {question.plan.valid_time:%Y-%m-%d %H:%M} UTC, region {question.plan.region}\n\n{text}"
    )
    print(f"{out}: network.md, network.json, network.parquet")


def place_sounders(
    question: Question, n_sounders: int, tier: str, mask: Path | None, *, at_sea: bool, out: Path
) -> None:
    """Print places for new sounders, and write `placement.json`, `placement.geojson`, `gain.csv` and `gain.png` to `out`.

    Raises:
        ValueError: an argument cannot be used; the message names it.
        OSError: `out` cannot be written.
    """
    from tasks.artifacts import place_text
    from tasks.gain_map import draw_gain_map, gain_rows, placement_geojson
    from tasks.network import percent
    from tasks.network_question import placement_mask

    found = question.place(n_sounders, tier, placement_mask(mask, at_sea=at_sea))
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "placement.json",
        {
            **described(question),
            "tier": tier,
            "error": asdict(found.map.sounder.error),
            "variance_mhz2": found.map.variance_mhz2,
            "placed": [asdict(one) for one in found.placed],
        },
    )
    write_json(
        out / "placement.geojson", placement_geojson(found.map, found.placed, found.sounders, found.gaps)
    )
    gain_rows(found.map).to_csv(out / "gain.csv", index=False, float_format="%.6g")
    note = (
        f"{tier}, valid {question.plan.valid_time:%Y-%m-%d %H:%M} UTC; "
        f"foF2 is known to {math.sqrt(found.map.variance_mhz2):.2f} MHz over the area (root mean variance)"
    )
    draw_gain_map(found.map, found.placed, found.sounders, title_note=note, path=out / "gain.png")
    print(note)
    for number, one in enumerate(found.placed, 1):
        print(
            f"{number:3d}. {place_text(one.latitude_deg, one.longitude_deg):>18s}: takes {percent(one.gain_percent)} of the "
            f"variance off ({one.gain_mhz2:.3g} MHz^2), which is then {one.variance_after_mhz2:.3g} MHz^2"
        )
    print(f"{out}: placement.json, placement.geojson, gain.csv, gain.png")


def show_what_if(question: Question, latitude_deg: float, longitude_deg: float, tier: str, out: Path) -> None:
    """Print what a sounder at a place would change, and write it to `what_if.json` in `out`.

    Raises:
        ValueError: an argument cannot be used; the message names it.
        OSError: `out` cannot be written.
    """
    tried = question.what_if(latitude_deg, longitude_deg, tier)
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "what_if.json",
        {
            **described(question),
            **{name: value for name, value in asdict(tried).items() if name != "sounder"},
            "tier": tier,
            "error": asdict(tried.sounder.error),
            "gain_mhz2": tried.gain_mhz2,
            "gain_percent": tried.gain_percent,
        },
    )
    print("\n".join(what_if_lines(tried)))
    print(f"{out}: what_if.json")


def what_if_lines(tried: WhatIf) -> list[str]:
    """What a sounder would change, in sentences."""
    from tasks.artifacts import place_text
    from tasks.network import percent

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
    """Rows as JSON takes them: what is missing is null."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in rows.to_dict("records")
    ]


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
