"""Kp beside observations: which interval counts, which revision, and what a file may look like."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.geomagnetic import AP_OF_KP, kp_at, read_kp
from tasks.observation_files import ObservationFileError
from tests.test_cycle import cycle, ionograms
from tests.test_series import verify, write_csv


def kp_rows(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Rows of (begin, available, Kp)."""
    return pd.DataFrame(
        {
            "observation_id": [f"kp-{number}" for number in range(len(rows))],
            "observed_at": pd.to_datetime([row[0] for row in rows], utc=True).as_unit("us"),
            "available_at": pd.to_datetime([row[1] for row in rows], utc=True).as_unit("us"),
            "index_name": "kp",
            "value": [row[2] for row in rows],
        }
    )


def times(*at: str) -> pd.Series[Any]:
    return pd.Series(pd.to_datetime(list(at), utc=True).as_unit("us"))


def test_the_newest_interval_that_began_counts_in_its_last_revision() -> None:
    rows = kp_rows(
        ("2022-10-24T09:00Z", "2022-10-24T12:30Z", 4.0),
        ("2022-10-24T06:00Z", "2022-10-24T09:10Z", 2.0),
        ("2022-10-24T09:00Z", "2022-10-24T12:10Z", 3.0),
    )
    asked = times(
        "2022-10-24T05:59Z",
        "2022-10-24T06:00Z",
        "2022-10-24T08:59Z",
        "2022-10-24T11:00Z",
        "2022-10-24T15:01Z",
    )
    np.testing.assert_array_equal(kp_at(rows, asked), [np.nan, 2.0, 2.0, 4.0, np.nan])
    assert np.isnan(kp_at(rows.iloc[:0], asked)).all()
    assert np.isnan(kp_at(rows.assign(index_name="f107_sfu"), asked)).all()


def test_a_cycle_says_the_kp_it_knew_and_is_another_cycle_for_it() -> None:
    observations = ionograms()
    without = cycle(observations)
    told = cycle(observations, kp=kp_rows(("2022-10-24T09:00Z", "2022-10-24T12:00Z", 5.33)))
    assert without.verification["kp"].null_count == without.verification.num_rows > 0
    assert told.verification["kp"].to_pylist() == [5.33] * told.verification.num_rows
    assert told.metadata["cycle_id"] != without.metadata["cycle_id"]
    assert cycle(observations, kp=kp_rows()).metadata["cycle_id"] == without.metadata["cycle_id"]
    left, right = (part.verification.drop_columns(["kp", "cycle_id"]) for part in (without, told))
    assert left.equals(right)  # it is told beside the skill, and used for nothing


def apf107(*days: tuple[int, int, int, list[int]]) -> str:
    return "".join(
        "".join(f"{value:3d}" for value in (*day[:3], *day[3])) + "  5-11115.0128.9140.8\n" for day in days
    )


def test_iris_file_of_ap_is_read_as_kp(tmp_path: Path) -> None:
    path = tmp_path / "apf107.dat.gz"
    text = apf107((99, 12, 31, [0, 3, 400, 27, 48, 5, 7, -1]), (22, 10, 24, [15] * 8))
    path.write_bytes(gzip.compress(text.encode()))
    rows = read_kp(path)
    assert len(rows) == 15  # one is not known yet
    np.testing.assert_allclose(rows["value"][:4], [0.0, 2 / 3, 9.0, 4.0])
    assert rows["observed_at"].iloc[0] == pd.Timestamp("1999-12-31T00:00Z")
    assert rows["observed_at"].iloc[-1] == pd.Timestamp("2022-10-24T21:00Z")
    assert len(AP_OF_KP) == 28


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("apf107.dat", apf107((22, 10, 24, [15] * 8)) + "22 13\n", r"apf107.dat, line 2 is none of apf107"),
        ("apf107.dat", apf107((22, 10, 24, [-1] * 8)), "holds no Kp"),
        ("apf107.dat.gz", "not zipped", "cannot be read"),
        ("kp.csv", "sounder_id,observed_at,index_name,value\np,2026-10-05T18:00Z,kp,31\n", "holds no Kp"),
        ("kp.csv", "when,what\n1,2\n", "kp.csv"),
    ],
)
def test_a_file_without_kp_is_refused_with_the_reason(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ObservationFileError, match=message):
        read_kp(tmp_path / name)


def test_skill_is_told_by_disturbance(tmp_path: Path) -> None:
    data, kp = write_csv(tmp_path / "ionograms.csv", hours=4.0), tmp_path / "kp.csv"
    begin = pd.read_csv(data)["observed_at"].iloc[0]
    kp.write_text(
        f"sounder_id,observed_at,index_name,value\np,{begin},kp,1.33\np,{pd.Timestamp(begin) + pd.Timedelta(hours=3)},kp,6\n"
    )
    done = verify(data, "--out", tmp_path, "--every", 60, "--leads", "0", "--kp", kp)
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "verification.parquet")
    assert set(rows["kp"]) == {1.33, 6.0}
    summary = (tmp_path / "summary.md").read_text()
    _, _, strata = summary.partition("## By geomagnetic disturbance")
    assert "| 1 quiet, below 3 |" in strata
    assert "| 3 storm, from 5 |" in strata
