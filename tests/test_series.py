"""Verification over files: forecasts know nothing of the future or of their station, and the command says what is so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks.background import Background
from tasks.contracts import arrow_schema
from tasks.cycle import run_cycle
from tasks.cycles import CyclePlan, due_leads, leads
from tasks.kernel_config import load_kernel_config
from tasks.series import SeriesError, SeriesPlan, read_ionograms, run_series, spoil, without
from tasks.settings import Settings

START = pd.Timestamp("2022-10-24T00:00Z").as_unit("us")
PLACES = {"AAA01": (52.0, 0.0), "BBB02": (47.0, 8.0), "CCC03": (41.9, 12.5)}


def write_csv(path: Path, hours: float = 12.0, places: dict[str, tuple[float, float]] = PLACES) -> Path:
    """IRI times a slow wave, with a little noise, every half hour."""
    times = pd.date_range(START, START + pd.Timedelta(hours=hours), freq="30min")
    random = np.random.default_rng(2)
    lines = ["sounder_id,observed_at,latitude_deg,longitude_deg,fof2_mhz,hmf2_km,confidence_score"]
    for sounder_id, (latitude, longitude) in places.items():
        state = Background().at(times, latitude, longitude, 90.0)
        wave = 1.1 + 0.05 * np.sin(np.arange(times.size) / 6.0)
        fof2 = state.fof2_mhz * wave * np.exp(random.normal(0, 0.02, times.size))
        hmf2 = state.hmf2_km + 8.0 + random.normal(0, 4, times.size)
        lines += [
            f"{sounder_id},{time:%Y-%m-%dT%H:%M:%SZ},{latitude},{longitude},{f:.3f},{h:.1f},80"
            for time, f, h in zip(times, fof2, hmf2, strict=True)
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def observations(tmp_path: Path) -> pd.DataFrame:
    return read_ionograms([write_csv(tmp_path / "ionograms.csv")])


def plan(**options: Any) -> SeriesPlan:
    arguments: dict[str, Any] = {
        "start": START + pd.Timedelta(hours=6),
        "end": START + pd.Timedelta(hours=12),
        "every_minutes": 180,
        "leads_h": (0.0, 1.0, 3.0),
        "f107_sfu": None,
        "config": None,
        **options,
    }
    return SeriesPlan(**arguments)


def forecasts(rows: pd.DataFrame, lead_h: float) -> pd.DataFrame:
    of_lead = rows[rows["lead_h"] == lead_h]
    return of_lead.set_index(["valid_time", "sounder_id", "quantity"]).sort_index()


def test_a_series_scores_what_each_cycle_scores(observations: pd.DataFrame) -> None:
    """The live cycle makes its due forecasts again; the series makes them once and waits: the same numbers."""
    series = run_series(observations, plan()).verification
    for valid_at in plan().times:
        cycle = run_cycle(
            observations,
            valid_time=valid_at.to_pydatetime(),
            available_until=valid_at.to_pydatetime(),
            kernel=load_kernel_config(),
            background=Background(n_threads=1),
            due={1.0: None, 3.0: None},
            threads=1,
        )
        live = cycle.verification.to_pandas().drop(columns=["cycle_id", "kp"])  # Kp is no part of a series
        mine = series[series["valid_time"] == valid_at].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine[list(live)], live, check_dtype=False, check_column_type=False)
    assert set(series["lead_h"]) == {0.0, 1.0, 3.0}


def test_a_forecast_knows_neither_the_future_nor_its_station(observations: pd.DataFrame) -> None:
    before = run_series(observations, plan()).verification
    later = observations["observed_at"] > START + pd.Timedelta(hours=9)
    own = observations["sounder_id"] == "BBB02"
    changed = observations.assign(
        fof2_mhz=observations["fof2_mhz"].where(~later, observations["fof2_mhz"] * 1.03)
    )
    after = run_series(changed, plan()).verification
    at = pd.IndexSlice[START + pd.Timedelta(hours=12), :, "fof2_mhz"]
    # At 12 h, with everything since 9 h changed: the nowcast moves, the forecast of 3 h does not.
    columns = ["holdout_value", "iri_index_value", "kc2g_kernel_value", "persistence_departure_value"]
    pd.testing.assert_frame_equal(
        forecasts(after, 3.0).loc[at, columns], forecasts(before, 3.0).loc[at, columns], check_exact=True
    )
    assert (
        forecasts(after, 0.0).loc[at, "holdout_value"] != forecasts(before, 0.0).loc[at, "holdout_value"]
    ).all()
    # A station that reports otherwise changes no forecast of itself, but those of the others. Quality control looks at
    # all stations, and its weights at how well each row fits: they are held back here.
    before = run_series(observations, plan(is_controlled=False)).verification
    spoiled = observations.assign(
        fof2_mhz=observations["fof2_mhz"].where(~own | later, observations["fof2_mhz"] * 1.02)
    )
    after = run_series(spoiled, plan(is_controlled=False)).verification
    values = [forecasts(rows, 3.0).loc[at, "holdout_value"] for rows in (before, after)]
    assert values[0].xs("BBB02", level="sounder_id").item() == pytest.approx(
        values[1].xs("BBB02", level="sounder_id").item(), rel=1e-12
    )
    assert (values[0] != values[1]).drop("BBB02", level="sounder_id").all()


def test_uncertainty_grows_with_the_lead(observations: pd.DataFrame) -> None:
    rows = run_series(observations, plan()).verification
    spread = {
        lead: forecasts(rows, lead)["holdout_sd"] / forecasts(rows, lead)["holdout_value"]
        for lead in (0, 1, 3)
    }
    assert (spread[0] < spread[1]).all()
    assert (spread[1] < spread[3]).all()


def test_processes_change_no_bit(observations: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.series.FEWEST_CYCLES_PER_PROCESS", 2)
    of_two = plan(every_minutes=90, leads_h=(0.0, 1.0))
    alone, together = (run_series(observations, of_two, jobs=jobs).verification for jobs in (1, 2))
    pd.testing.assert_frame_equal(alone, together, check_exact=True)


def test_spoiled_rows_are_known_and_not_scored(observations: pd.DataFrame) -> None:
    spoiled, which = spoil(observations, 0.3)
    factor = spoiled["fof2_mhz"] / observations["fof2_mhz"]
    assert 0.2 < len(which) / len(observations) < 0.4
    off = np.exp(np.abs(np.log(factor)))
    assert ((off == 1.0) | ((off > 1.2) & (off < 2.01))).all()
    assert int((off > 1.0).sum()) == len(which)
    assert len(without(observations, which)) == len(observations) - len(which)


def test_the_leads_of_a_nowcast_are_scored_in_turn() -> None:
    settings = Settings(leads_h="6,1,24")
    plans = [
        CyclePlan(START.to_pydatetime() + number * timedelta(minutes=15), datetime.now(UTC), "global", 1.0)
        for number in range(6)
    ]
    assert leads(settings, plans[0]) == (1.0, 6.0, 24.0)
    due = [due_leads(settings, one) for one in plans]
    assert {one for (one,) in due[:3]} == {1.0, 6.0, 24.0}
    assert due[3:] == due[:3]
    assert due_leads(settings, replace(plans[0], step_deg=None)) == ()
    assert due_leads(Settings(leads_h=""), plans[0]) == ()
    with pytest.raises(ValueError, match="between 0 and 72 hours"):
        Settings(leads_h="1,100")


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autonvis", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_writes_scores_page_and_plots(tmp_path: Path) -> None:
    data, out = write_csv(tmp_path / "ionograms.csv", hours=15.0), tmp_path / "out"
    done = verify(data, "--out", out, "--every", 60, "--leads", "0,3")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["lead_h"], line["quantity"]) for line in lines] == [
        *((3.0, "fof2_mhz"), (3.0, "hmf2_km")),
        *((0.0, "fof2_mhz"), (0.0, "hmf2_km")),
    ]
    table = pq.read_table(out / "verification.parquet")
    assert table.schema.equals(arrow_schema("verification"))
    rows = table.to_pandas()
    for line in lines:
        scored = rows[(rows["lead_h"] == line["lead_h"]) & (rows["quantity"] == line["quantity"])]
        error = scored["holdout_value"] - scored["obs_value"]
        assert line["n"] == len(scored) > 30
        assert line["rmse"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)
        for name in ("iri_index", "kc2g_kernel"):
            error = scored[f"{name}_value"] - scored["obs_value"]
            assert line[f"rmse_{name}"] == pytest.approx(np.sqrt((error**2).mean()), abs=1e-4)
        assert line["rmse_persistence_24h"] is None  # half a day of data
        assert 0 <= line["coverage50"] <= line["coverage90"] <= 1
        assert scored["pit"].between(0, 1).all()
    summary = (out / "summary.md").read_text(encoding="utf-8")
    for heading in ("Scores by lead", "By station", "By distance", "By magnetic latitude", "By the Sun"):
        assert f"## {heading}" in summary
    assert f"| 0 | {lines[2]['n']} | **{lines[2]['rmse']:.3f}** |" in summary
    from PIL import Image

    plots = sorted(path.name for path in out.glob("*.png"))
    assert plots == sorted(
        ["calibration.png", "error_by_distance.png", "error_by_lead.png", "rmse_by_station.png"]
        + [f"station_{code}.png" for code in PLACES]
    )
    for name in plots:
        assert name in summary
        with Image.open(out / name) as image:
            assert image.width == 1400
            colours = image.convert("RGB").getcolors(1 << 24)
            assert len(colours or []) > 50


def cut(column: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        pd.read_csv(path).assign(**{column: np.nan}).to_csv(path, index=False)

    return edit


def test_observations_that_cannot_be_verified_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "ionograms.csv", hours=2.0)
    cut("fof2_mhz")(path)
    with pytest.raises(SeriesError, match=r"ionograms.csv: no row has fof2_mhz"):
        read_ionograms([path])
    alone = write_csv(tmp_path / "alone.csv", hours=2.0, places={"AAA01": (52.0, 0.0)})
    with pytest.raises(SeriesError, match=r"AAA01 is the only station: .* at least one other"):
        read_ionograms([alone])
    rows = read_ionograms([write_csv(tmp_path / "ionograms.csv", hours=2.0)])
    nowhere = plan(start=START + pd.Timedelta(days=3), end=START + pd.Timedelta(days=3), leads_h=(0.0,))
    with pytest.raises(SeriesError, match="no cycle from 2022-10-27"):
        run_series(rows, nowhere)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "nowhere.csv does not exist"),
        (["{data}", "--leads", "0,soon"], "is not hours separated by commas"),
        (["{data}", "--leads", "100"], "between 0 and 72 hours"),
        (["{data}", "--every", "0"], "--every 0"),
        (["{data}", "--start", "2030-01-01T00:00Z"], "no cycle lies between"),
        (["{data}", "--gross-errors", "2"], "--gross-errors 2.0"),
    ],
)
def test_the_command_names_what_is_wrong(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autonvis.cli import main

    data = write_csv(tmp_path / "ionograms.csv", hours=1.0)
    with pytest.raises(SystemExit) as stopped:
        main(["verify", *(part.format(data=data) for part in arguments), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
