"""The verbs `network` and `place`: what the sounders are worth, and where the next ones would be worth most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from tasks.network_question import Question


def show_network(question: Question, out: Path) -> None:
    """Print the network's report, and write `network.md`, `network.json` and `network.parquet` to `out`.

    Raises:
        ValueError: the region or the demand cannot be used; the message names it.
        OSError: `out` cannot be written.
    """
    from tasks.artifacts import network_markdown
    from tasks.network_documents import network_document

    report = question.report()
    out.mkdir(parents=True, exist_ok=True)
    text = network_markdown(report)
    rows = report.sounders.assign(valid_time=pd.Timestamp(question.plan.valid_time))
    rows.to_parquet(out / "network.parquet", index=False)
    write_json(out / "network.json", network_document(question, report))
    (out / "network.md").write_text(text, encoding="utf-8")
    print(
        f"Network at {question.plan.valid_time:%Y-%m-%d %H:%M} UTC, region {question.plan.region}\n\n{text}"
    )
    print(f"{out}: network.md, network.json, network.parquet")


def place_sounders(
    question: Question,
    n_sounders: int,
    tier: str,
    mask: Path | None,
    *,
    per_h: float | None,
    at_sea: bool,
    out: Path,
) -> None:
    """Print places for new sounders, and write `placement.json`, `placement.geojson`, `gain.csv` and `gain.png` to `out`.

    Raises:
        ValueError: an argument cannot be used; the message names it.
        OSError: `out` cannot be written.
    """
    from tasks.artifacts import place_text
    from tasks.gain_map import draw_gain_map, gain_rows, placement_geojson
    from tasks.network import percent
    from tasks.network_documents import map_note, placement_document
    from tasks.network_question import placement_mask

    found = question.place(n_sounders, tier, placement_mask(mask, at_sea=at_sea), per_h)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "placement.json", placement_document(question, found))
    write_json(
        out / "placement.geojson", placement_geojson(found.map, found.placed, found.sounders, found.gaps)
    )
    gain_rows(found.map).to_csv(out / "gain.csv", index=False, float_format="%.6g")
    note = map_note(question, found.map)
    draw_gain_map(found.map, found.placed, found.sounders, title_note=note, path=out / "gain.png")
    print(note)
    for number, one in enumerate(found.placed, 1):
        print(
            f"{number:3d}. {place_text(one.latitude_deg, one.longitude_deg):>18s}: takes {percent(one.gain_percent)} of the "
            f"variance off ({one.gain_mhz2:.3g} MHz^2), which is then {one.variance_after_mhz2:.3g} MHz^2"
        )
    print(f"{out}: placement.json, placement.geojson, gain.csv, gain.png")


def show_what_if(
    question: Question,
    latitude_deg: float,
    longitude_deg: float,
    tier: str,
    *,
    per_h: float | None,
    out: Path,
) -> None:
    """Print what a sounder at a place would change, and write it to `what_if.json` in `out`.

    Raises:
        ValueError: an argument cannot be used; the message names it.
        OSError: `out` cannot be written.
    """
    from tasks.network_documents import what_if_document, what_if_lines

    tried = question.what_if(latitude_deg, longitude_deg, tier, per_h)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "what_if.json", what_if_document(question, tried))
    print("\n".join(what_if_lines(tried)))
    print(f"{out}: what_if.json")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
