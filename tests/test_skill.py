"""The whole chain on real days: held-out stations of Europe, October 2022, every hour."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tasks.series import SeriesPlan, read_ionograms, run_series
from tasks.verification import ALL_STATIONS, skill_table


@pytest.fixture(scope="module")
def skill(shared_data: Path) -> pd.DataFrame:
    observations = read_ionograms([shared_data / "europe_2022"])
    first, last = observations["observed_at"].min(), observations["observed_at"].max()
    plan = SeriesPlan(start=first, end=last, every_minutes=60, leads_h=(0.0,), f107_sfu=None, config=None)
    return skill_table(run_series(observations, plan).verification).set_index(["quantity", "sounder_id"])


def test_held_out_fof2_is_as_good_as_promised(skill: pd.DataFrame) -> None:
    row = skill.loc[("fof2_mhz", ALL_STATIONS)]
    assert row["n"] > 250
    assert row["rmse_holdout"] <= 0.46
    assert row["rmse_holdout"] < 0.65 * row["rmse_iri_index"]
    assert 0.80 <= row["coverage90"] <= 0.98


def test_the_peer_is_as_good_as_published(skill: pd.DataFrame) -> None:
    """A weak peer is easily beaten: KC2G's kernel has 0.46 MHz on these days."""
    assert 0.43 <= skill.loc[("fof2_mhz", ALL_STATIONS), "rmse_kc2g_kernel"] <= 0.49


def test_every_held_out_station_beats_the_climatology_with_one_index(skill: pd.DataFrame) -> None:
    assert len(skill) == 10  # four stations and their sum, foF2 and hmF2
    assert (skill["rmse_holdout"] < skill["rmse_iri_index"]).all()
