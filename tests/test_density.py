"""Three-dimensional density of an analysis: values, coverage, which analysis, the file, and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

import netCDF4
import numpy as np
import pandas as pd
import pytest

from autonvis.cli import main
from tasks import lake
from tasks.background import Background
from tasks.density import (
    Analysis,
    DensityError,
    compute_density,
    find_analysis,
    parse_heights,
    read_analysis,
    write_netcdf,
)
from tasks.grid import Grid
from tasks.profile import Peaks
from tasks.settings import Settings, load_settings
from tests.product_cycles import VALID_TIME, make_analysis

IG12 = 110.0
HEIGHTS_KM = np.arange(80.0, 601.0, 10.0)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """The command, called in this process, leaves neither variables nor settings behind."""
    with mock.patch.dict(os.environ):
        yield
    load_settings.cache_clear()


@pytest.fixture(scope="module")
def background() -> Background:
    return Background(n_threads=2)


def analysed(
    background: Background,
    grid: Grid,
    *,
    valid_time: datetime = VALID_TIME,
    fof2_factor: float = 1.2,
    lead_h: float = 0.0,
) -> Analysis:
    """An analysis on a grid that lies 20 % above the background, its peak 15 km higher."""
    latitude, longitude = grid.points()
    state = background.on_grid(valid_time, latitude, longitude, IG12)
    rows = make_analysis(np.unique(latitude), np.unique(longitude), valid_time).drop(
        columns=["latitude_deg", "longitude_deg"]
    )
    rows = rows.assign(
        latitude_deg=latitude,
        longitude_deg=longitude,
        lead_h=lead_h,
        fof2_background_mhz=state.fof2_mhz,
        hmf2_background_km=state.hmf2_km,
        m3000f2_background=state.m3000f2,
        fof2_mhz=fof2_factor * state.fof2_mhz,
        hmf2_km=state.hmf2_km + 15.0,
        m3000f2=0.97 * state.m3000f2,
        b0_background_km=state.b0_km,
        b0_km=state.b0_km,
    )
    return Analysis(rows, valid_time, str(rows["cycle_id"].iloc[0]), lead_h, IG12)


def test_density_takes_the_analysis_where_it_exists(background: Background) -> None:
    grid = Grid.box(40.0, 0.0, 60.0, 30.0, 5.0)
    box = Grid.box(42.0, 3.0, 50.0, 11.0, 0.5)
    density = compute_density(analysed(background, grid), box, HEIGHTS_KM, background)
    latitude, longitude = box.points()
    state = background.on_grid(VALID_TIME, latitude, longitude, IG12)
    assert density.density_m3.shape == (53, 17, 17)
    # A uniform increment stays one between the grid points: the finer box has the background's detail.
    np.testing.assert_allclose(density.peaks.fof2_mhz, 1.2 * state.fof2_mhz, rtol=1e-12)
    np.testing.assert_allclose(density.peaks.hmf2_km, state.hmf2_km + 15.0, rtol=1e-12)
    expected = Peaks(**vars(state) | {
        "fof2_mhz": 1.2 * state.fof2_mhz, "hmf2_km": state.hmf2_km + 15.0, "m3000f2": 0.97 * state.m3000f2
    }, r12=density.peaks.r12)  # fmt: skip
    np.testing.assert_allclose(density.density_m3.reshape(53, -1), expected.density(HEIGHTS_KM), rtol=1e-9)
    np.testing.assert_allclose(density.tec_tecu.ravel(), expected.vertical_tec(), rtol=1e-9)
    assert density.density_m3.max() <= (1.24e10 * (1.2 * state.fof2_mhz) ** 2).max()


def test_b0_is_the_analysis_where_it_holds_it(background: Background) -> None:
    grid = Grid.box(40.0, 0.0, 60.0, 30.0, 5.0)
    analysis = analysed(background, grid)
    prior = background.on_grid(VALID_TIME, *grid.points(), IG12).b0_km
    bare = replace(analysis, rows=analysis.rows.drop(columns=["b0_km", "b0_background_km"]))
    without = compute_density(bare, grid, HEIGHTS_KM, background)
    assert without.analysed == ("fof2_mhz", "hmf2_km", "m3000f2")
    np.testing.assert_allclose(without.peaks.b0_km, prior, rtol=1e-12)
    rows = analysis.rows.assign(b0_km=0.8 * prior, b0_background_km=prior)
    given = compute_density(replace(analysis, rows=rows), grid, HEIGHTS_KM, background)
    np.testing.assert_allclose(given.peaks.b0_km, 0.8 * prior, rtol=1e-12)
    assert np.all(given.tec_tecu < without.tec_tecu)


def test_a_box_over_the_date_line_and_the_poles_is_covered_by_a_global_analysis(
    background: Background,
) -> None:
    analysis = analysed(background, Grid.globe(10.0))
    box = Grid.box(-90.0, 170.0, 90.0, -170.0, 5.0)
    density = compute_density(analysis, box, np.array([110.0, 300.0]), background)
    assert density.longitude_deg.tolist() == [170.0, 175.0, 180.0, 185.0, 190.0]
    assert np.isfinite(density.density_m3).all()
    # A pole is one place.
    assert np.ptp(density.density_m3[:, 0], axis=1).max() < 1e-6 * density.density_m3[:, 0].min()


def test_a_box_beyond_the_analysis_is_refused_with_what_there_is(background: Background) -> None:
    analysis = analysed(background, Grid.box(40.0, 0.0, 60.0, 30.0, 5.0))
    with pytest.raises(
        DensityError, match=r"35\.\.50 N, 3\.\.11 E reaches beyond .* covers 40\.\.60 N, 0\.\.30 E"
    ):
        compute_density(analysis, Grid.box(35.0, 3.0, 50.0, 11.0, 1.0), HEIGHTS_KM, background)
    with pytest.raises(DensityError, match="more than 50,000,000 values"):
        compute_density(analysis, Grid.globe(0.25), HEIGHTS_KM, background)


def test_heights() -> None:
    assert parse_heights("80:600:10").tolist() == HEIGHTS_KM.tolist()
    assert parse_heights("300:300:1").tolist() == [300.0]
    assert parse_heights("100:101:0.3").tolist() == pytest.approx([100.0, 100.3, 100.6, 100.9])
    for text in (
        "80-600",
        "80:600",
        "a:b:c",
        "600:80:10",
        "80:600:0",
        "80:600:-5",
        "-1:600:10",
        "80:1e6:10",
        "0:1:nan",
    ):
        with pytest.raises(DensityError, match="heights"):
            parse_heights(text)
    with pytest.raises(DensityError, match="more than"):
        parse_heights("0:50000:1e-4")


def publish(settings: Settings, analysis: Analysis, name: str) -> Path:
    metadata = {"effective_index": json.dumps(analysis.ig12), "cycle_id": json.dumps(analysis.cycle_id)}
    (path,) = lake.publish("analysis", analysis.rows, name, settings=settings, metadata=metadata)
    return path


def show(settings: Settings, analysis: Analysis) -> None:
    current = settings.products_root / "current"
    current.mkdir(parents=True)
    shown = {"cycle_id": analysis.cycle_id, "valid_time": f"{analysis.valid_time:%Y-%m-%dT%H:%M:%SZ}"}
    (current / "cycle.json").write_text(json.dumps(shown))


def test_the_analysis_of_a_time_is_found_with_the_shortest_lead(
    background: Background, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    grid = Grid.box(40.0, 0.0, 60.0, 30.0, 10.0)
    later = VALID_TIME + timedelta(minutes=15)
    now = analysed(background, grid, fof2_factor=1.1)
    publish(settings, now, "analysis-20221025T1000Z")
    publish(settings, analysed(background, grid, lead_h=3.0), "analysis-20221025T0700Z")
    publish(settings, analysed(background, grid, valid_time=later), "analysis-20221025T1015Z")
    show(settings, now)
    for time in (None, VALID_TIME):
        found = find_analysis(settings, time)
        assert (found.valid_time, found.lead_h, found.ig12) == (VALID_TIME, 0.0, IG12)
        assert np.allclose(found.rows["fof2_mhz"], 1.1 * found.rows["fof2_background_mhz"])
    assert find_analysis(settings, later).valid_time == later
    with pytest.raises(
        DensityError, match=r"no gridded analysis is valid at 2022-10-26.* its 3 files go from 20221025T0700Z"
    ):
        find_analysis(settings, VALID_TIME + timedelta(days=1))


def test_without_an_analysis_the_way_to_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(DensityError, match="run `autonvis nowcast` first"):
        find_analysis(Settings(home=tmp_path), None)
    with pytest.raises(DensityError, match=r"no gridded analysis .* it is empty"):
        find_analysis(Settings(home=tmp_path), VALID_TIME)
    foreign = tmp_path / "foreign.parquet"
    foreign.write_bytes(b"PAR1 no")
    with pytest.raises(DensityError, match=r"cannot read .*foreign.parquet"):
        read_analysis(foreign)
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    with pytest.raises(DensityError, match="it is no analysis of the lake"):
        read_analysis(foreign)


def test_the_command_writes_a_file_that_others_read(
    background: Background,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(home=tmp_path)
    analysis = analysed(background, Grid.box(40.0, 0.0, 60.0, 30.0, 5.0))
    path = publish(settings, analysis, "analysis-20221025T1000Z")
    show(settings, analysis)
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path))
    box = ["--south=45", "--west=5", "--north=50", "--east=10", "--step=1", "--heights=100:400:50"]
    by_default, by_name = tmp_path / "default.nc", tmp_path / "named.nc"
    main(["density", *box, f"--out={by_default}"])
    assert "7 heights x 6 x 6 places, valid 2022-10-25T10:00Z" in capsys.readouterr().out
    main(["density", *box, f"--out={by_name}", f"--analysis={path}", "--time=2022-10-25T12:00+02:00"])
    expected = compute_density(
        analysis, Grid.box(45.0, 5.0, 50.0, 10.0, 1.0), np.arange(100.0, 401.0, 50.0), background
    )
    for file in (by_default, by_name):
        with netCDF4.Dataset(file) as content:
            assert content["electron_density"].dimensions == ("height", "latitude", "longitude")
            np.testing.assert_allclose(content["electron_density"][:], expected.density_m3, rtol=1e-6)
            np.testing.assert_allclose(content["tec"][:], expected.tec_tecu, rtol=1e-6)
            np.testing.assert_allclose(content["fof2_sd"][:], expected.fof2_mhz_sd, rtol=1e-6)
            assert content["height"][:].tolist() == expected.height_km.tolist()
            time = netCDF4.num2date(content["time"][...], content["time"].units)
            assert time.isoformat() == "2022-10-25T10:00:00"
            assert (content.cycle_id, content.effective_index_ig12) == (analysis.cycle_id, IG12)
    assert sorted(file.name for file in tmp_path.glob("*.nc")) == ["default.nc", "named.nc"]
    assert not list(tmp_path.glob(".*.nc*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--north": "30"}, "south and north must satisfy"),
        ({"--heights": "80-600"}, "heights '80-600'"),
        ({"--time": "2022-10-25T10:00"}, "has no zone"),
        ({"--out": "nowhere/file.nc"}, "nowhere"),
        ({"--analysis": "missing.parquet"}, "missing.parquet"),
    ],
)
def test_wrong_calls_end_with_one_sentence(
    background: Background,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    settings = Settings(home=tmp_path)
    path = publish(
        settings, analysed(background, Grid.box(40.0, 0.0, 60.0, 30.0, 10.0)), "analysis-20221025T1000Z"
    )
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    arguments = {
        "--south": "45", "--west": "5", "--north": "50", "--east": "10", "--analysis": str(path), "--out": "out.nc",
    } | change  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["density", *(f"{name}={value}" for name, value in arguments.items())])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_file(
    background: Background, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    density = compute_density(
        analysed(background, Grid.box(40.0, 0.0, 60.0, 30.0, 10.0)), Grid.box(45.0, 5.0, 50.0, 10.0, 5.0), HEIGHTS_KM, background
    )  # fmt: skip
    target = tmp_path / "density.nc"
    target.write_text("what was there")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tasks.density._fill", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_netcdf(density, target)
    assert [file.name for file in tmp_path.iterdir()] == ["density.nc"]
    assert target.read_text() == "what was there"
