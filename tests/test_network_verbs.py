"""The verbs `network` and `place`: on an empty lake, on one with observations, and one sentence for every wrong call."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autonvis.cli import main
from tasks import lake
from tasks.contracts import load_contract
from tasks.settings import load_settings
from tests.test_cycle import NOON, ionograms

ASK = ["--time", NOON.isoformat(), "--available-until", NOON.isoformat(), "--region", "35,-5,60,30"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("AUTONVIS_THREADS", "1")
    load_settings.cache_clear()
    return tmp_path / "var"


@pytest.fixture
def filled(home: Path) -> Path:
    rows = ionograms(3.0).drop(columns="revision")
    names = [column.name for column in load_contract("ionograms").columns]
    frame = rows.reindex(columns=names).assign(
        revision=0, received_at=rows["available_at"], batch_id="b", source="test", station_name="x"
    )
    lake.publish("ionograms", frame[names], "batch", settings=load_settings())
    return home


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_network_of_a_lake(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["network", *ASK])
    said = capsys.readouterr().out
    written = read(filled / "network" / "network.json")
    rows = pd.read_parquet(filled / "network" / "network.parquet")
    assert {row["sounder_id"] for row in written["sounders"]} == set(rows["sounder_id"]) == {
        *("AAA01", "BBB02", "CCC03", "DDD04", "EEE05")
    }  # fmt: skip
    assert (filled / "network" / "network.md").read_text(encoding="utf-8") in said
    assert written["variance_mhz2"] < written["prior_variance_mhz2"]
    assert written["valid_time"] == NOON.isoformat()
    required = {c.name for c in load_contract("network").columns} - {"cycle_id"}
    assert set(rows.columns) == required


def test_places_for_new_sounders(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = tmp_path / "mask.geojson"
    ring = [[10, 50], [25, 50], [25, 60], [10, 60], [10, 50]]
    mask.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}), encoding="utf-8")
    demand = tmp_path / "demand.csv"
    demand.write_text("latitude_deg,longitude_deg,weight\n52,20,1\n58,15,3\n", encoding="utf-8")
    out = tmp_path / "out"
    main(
        [
            "place",
            "2",
            "--tier",
            "silver",
            "--mask",
            str(mask),
            "--demand",
            str(demand),
            *ASK,
            "--out",
            str(out),
        ]
    )
    said = capsys.readouterr().out
    found = read(out / "placement.json")
    assert len(found["placed"]) == 2
    for one in found["placed"]:
        assert 50 <= one["latitude_deg"] <= 60
        assert 10 <= one["longitude_deg"] <= 25
        assert one["gain_percent"] > 0
    assert found["tier"] == "SILVER"
    gain = pd.read_csv(out / "gain.csv")
    assert gain["longitude_deg"].between(10, 25).all()
    assert gain["gain_mhz2"].max() == pytest.approx(found["placed"][0]["gain_mhz2"], rel=1e-5)
    assert read(out / "placement.geojson")["type"] == "FeatureCollection"
    assert (out / "gain.png").read_bytes().startswith(b"\x89PNG")
    assert "  1." in said
    assert "of the variance off" in said

    main(["place", "--at", "55,20", *ASK, "--out", str(out)])
    tried = read(out / "what_if.json")
    assert tried["sd_after_mhz"] < tried["sd_before_mhz"]
    assert np.isclose(tried["variance_before_mhz2"] - tried["variance_after_mhz2"], tried["gain_mhz2"])
    assert "A sounder of tier GOLD at 55.0° N, 20.0° E would take" in capsys.readouterr().out


def test_an_empty_lake_is_no_trouble(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["network", *ASK])
    assert "No sounder has reported" in capsys.readouterr().out
    assert read(home / "network" / "network.json")["sounders"] == []
    main(["place", "1", *ASK])
    assert "  1." in capsys.readouterr().out
    main(["place", "--at=50,10", *ASK])
    assert "of it closes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["place"], "give either the number of new sounders, or the place of one with --at"),
        (["place", "2", "--at", "50,10"], "give either the number"),
        (["place", "0"], "0 sounders cannot be placed"),
        (["place", "--at", "95,10"], "latitude and longitude must lie in"),
        (["place", "--at", "Paris"], "'Paris' is not latitude,longitude in degrees"),
        (["place", "1", "--tier", "wooden"], "invalid choice: 'WOODEN'"),
        (["place", "1", "--mask", "nowhere.geojson"], "mask nowhere.geojson: cannot be read"),
        (["place", "1", "--demand", "nowhere.csv"], "demand nowhere.csv: cannot be read"),
        (["network", "--region", "Europe"], "region 'Europe'"),
        (["network", "--time", "2022-10-24T12:00"], "has no zone"),
    ],
)
def test_wrong_calls_end_with_a_sentence(
    home: Path, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--region" in arguments or "--time" in arguments else ASK
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *given])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert expected in told
    assert "Traceback" not in told


def test_where_no_sounder_may_stand_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2022, 10, 24, 12, tzinfo=UTC).isoformat()
    sea = ["--region=-5,-150,5,-140", "--time", at]
    with pytest.raises(SystemExit):
        main(["place", "1", *sea])
    assert "lies within the mask" in capsys.readouterr().err
    main(["place", "1", "--at-sea", *sea])
    assert "  1." in capsys.readouterr().out
