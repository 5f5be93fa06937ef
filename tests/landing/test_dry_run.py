"""`autonvis validate`: the doors' own verdict on a file, as exit code and summary."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import httpx
import pytest

from autonvis.cli import main
from tests.landing.door_server import IONOGRAM, MEASUREMENT, Server

ITEMS: list[Any] = [
    IONOGRAM,
    MEASUREMENT,
    {**IONOGRAM, "fof2_mhz": 99},
    {**IONOGRAM, "fof2_mhz": math.nan, "latitude_deg": 91},
    {**IONOGRAM, "dataset": "weather"},
    7,
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.settings import load_settings

    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path / "home"))
    load_settings.cache_clear()


def test_it_says_what_the_gateway_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n\n" for item in ITEMS))
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(file)])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    server = Server(tmp_path)
    answer = httpx.post(f"{server.url}/batch", content=json.dumps({"dataset": "ionograms", "items": ITEMS}))
    server.stop()
    receipts = answer.json()["receipts"]
    n_accepted = sum(receipt["status"] != "rejected" for receipt in receipts)
    assert said.startswith(f"{n_accepted} of {len(ITEMS)} observations would be accepted\n")
    assert "1 rejected by fof2_mhz_range, e.g. item 3: fof2_mhz_range: 99" in said
    assert "1 rejected by latitude_deg_range, e.g. item 4: latitude_deg_range: 91" in said


def test_a_good_file_ends_with_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "batch.json").write_text(json.dumps({"items": [IONOGRAM, IONOGRAM]}))
    main(["validate", str(tmp_path / "batch.json")])
    csv = tmp_path / "day.csv"
    names = [name for name in IONOGRAM if name != "dataset"]
    csv.write_text(",".join(names) + "\n" + ",".join(str(IONOGRAM[name]) for name in names) + "\n")
    main(["validate", str(csv)])
    said = capsys.readouterr().out
    assert said == "2 of 2 observations would be accepted\n1 of 1 observations would be accepted\n"
    assert not (tmp_path / "home" / "spool").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.jsonl", '{"a": 1}\n{"a":', "cut.jsonl, line 2: not JSON"),
        ("empty.json", "[]", "holds no observation"),
        ("empty.jsonl", "", "holds no observation"),
        ("empty.csv", "", "empty.csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["validate", str(tmp_path / name)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
