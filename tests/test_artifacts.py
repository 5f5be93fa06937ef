"""Artifacts: tables that render, numbers that match, pictures that open."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.artifacts import (
    ARTIFACT_WIDTH_PX,
    cycle_markdown,
    image_data_uri,
    landing_markdown,
    map_markdown,
    markdown_table,
    skill_markdown,
    skill_text,
    sounder_table,
    tiers_markdown,
)

SKILL = pd.DataFrame(
    {
        "sounder_id": ["AT138", "FF051"],
        "n": [288, 280],
        "rmse_holdout": [0.4231, 0.3987],
        "rmse_iri_index": [0.8312, 0.7901],
        "rmse_persistence": [0.61, np.nan],
        "bias": [0.02, -0.11],
        "crps": [0.23, 0.21],
        "coverage50": [0.51, 0.48],
        "coverage90": [0.91, 0.885],
    }
)


@dataclass
class Batch:
    batch_id: str
    n_records: int = 3
    n_items: int = 30
    n_accepted: int = 27
    n_duplicates: int = 1
    n_conflicts: int = 0
    n_quarantined: int = 2


def table_rows(markdown: str) -> list[list[str]]:
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_skill_table_has_the_numbers() -> None:
    text = skill_markdown(SKILL)
    rows = table_rows(text)
    assert rows[0][:4] == ["station", "n", "RMSE held out", "RMSE IRI, one index"]
    assert rows[2] == ["AT138", "288", "0.42", "0.83", "0.61", "+0.02", "0.23", "51%", "91%"]
    assert rows[3][4] == "-", "a missing reference is a dash, not nan"
    assert "nan" not in text


def test_skill_table_of_each_quantity_and_by_index() -> None:
    both = pd.concat([SKILL.assign(quantity="hmf2_km"), SKILL.assign(quantity="fof2_mhz")])
    text = skill_markdown(both)
    assert text.index("foF2 in MHz") < text.index("hmF2 in km")
    assert len(table_rows(text)) == 8
    assert skill_text(both) == skill_text(SKILL)
    assert skill_text(SKILL.set_index("sounder_id")) == skill_text(SKILL)


def test_skill_on_a_terminal_is_aligned() -> None:
    lines = skill_text(SKILL).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["AT138", "288", "0.42", "0.83", "51%", "91%"]


def test_no_skill_is_said() -> None:
    assert "No cycle had an observation" in skill_markdown(SKILL.iloc[:0])
    assert "no cycle had an observation" in skill_text(SKILL.iloc[:0])


def test_cycle_in_words() -> None:
    metadata = {
        "cycle_id": "20221025T1000Z",
        "n_observations": 57,
        "n_stations": 4,
        "effective_index": 118.34,
        "index_source": "stations",
        "config_hash": "ab|cd",
    }
    text = cycle_markdown(metadata)
    assert "57 observations of 4 stations" in text
    assert "IG12 = 118.3" in text
    assert "ab\\|cd" in text
    assert "climatology, with the uncertainty" in cycle_markdown({**metadata, "n_observations": 0})
    assert "F10.7" in cycle_markdown({**metadata, "index_source": "f107"})


def test_landing_adds_up() -> None:
    rows = table_rows(landing_markdown([Batch("a"), Batch("b", n_accepted=3)]))
    assert rows[-1] == ["**all**", "6", "60", "30", "2", "0", "4"]
    assert "lake/quarantine" in landing_markdown([Batch("a")])
    assert "lake/quarantine" not in landing_markdown([Batch("a", n_quarantined=0)])
    assert "Nothing waited" in landing_markdown([])


@pytest.mark.parametrize("name", ["a|b", "a\nb", "[x](http://elsewhere)"])
def test_hostile_station_names_stay_in_their_cell(name: str) -> None:
    table = markdown_table(["station", "n"], [[name, "1"]])
    lines = table.splitlines()
    assert len(lines) == 3
    assert lines[2].replace("\\|", "").count("|") == 3
    assert "](" not in lines[2].replace("\\]", "")


def test_embedded_picture_opens_and_is_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "map.png"
    pixels = np.kron(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8), np.ones((35, 35, 1), np.uint8))
    Image.fromarray(pixels).save(path)
    address = image_data_uri(path)
    assert address == image_data_uri(path)
    head, content = address.split(",", 1)
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
        assert picture.size == (ARTIFACT_WIDTH_PX, round(1050 * 900 / 1400))
    text = map_markdown(path, "foF2 at [10:00]")
    assert text.startswith("![foF2 at \\[10:00\\]](data:image/png;base64,")


def summary() -> pd.DataFrame:
    names = {"A": ("GOLD", "GOLD", 0.0004), "B": ("GOLD", "SILVER", -0.314), "C": ("BRONZE", np.nan, 1.0)}
    return pd.DataFrame(
        [
            {
                "sounder_id": name, "tier": tier, "tier_before": before, "delay_sd_ms": 0.6, "delay_sd_low_ms": 0.1,
                "delay_sd_high_ms": 12.3, "delay_bias_ms": bias, "is_delay_biased": bias == 1.0, "signal_sd_db": 7.0,
                "n_measurements": 15, "outlier_share": 0.25 if name == "A" else np.nan, "n_refused": 0, "n_dropouts": 1,
                "reason": "because",
            }
            for name, (tier, before, bias) in names.items()
        ]
    )  # fmt: skip


def test_sounders_say_what_changed_with_two_figures() -> None:
    rows = sounder_table(summary())
    assert [row["tier"] for row in rows] == ["GOLD", "GOLD, was SILVER", "BRONZE, new"]
    assert {row["delay error, ms"] for row in rows} == {"0.60 (0.10–12)"}
    assert [row["off by, ms"] for row in rows] == ["0", "-0.31", "+1.00 !"]
    assert [row["wrong"] for row in rows] == ["25%", "", ""]
    assert {row["signal, dB"] for row in rows} == {"7.0"}


def test_tiers_say_who_changed_and_who_is_new() -> None:
    mix = pd.DataFrame({"tier": ["GOLD"], "n": [2], "share": [0.67], "expected": [0.14]})
    text = tiers_markdown(mix, summary())
    assert table_rows(text)[2] == ["GOLD", "2", "67%", "14%"]
    assert "* B: SILVER → GOLD. because" in text
    assert "1 sounder is new." in text
    calm = tiers_markdown(mix, summary().assign(tier_before="GOLD", tier="GOLD"))
    assert "No tier changed" in calm
    assert "new" not in calm
