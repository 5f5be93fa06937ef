"""Files of observations: every format, and a sentence naming file, line and remedy for each bad one."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.observation_files import ObservationFileError, read_frame, read_observations

CSV = """\
sounder_id,observed_at,latitude_deg,longitude_deg,fof2_mhz,hmf2_km,qualifier
RO041,2022-10-24T00:00:00Z,41.9,12.5,4.1,310,
RO041,2022-10-24T02:15:00+02:00,41.9,12.5,4.2,,//
"""

GIRO = """\
# Global Ionospheric Radio Observatory
# Location: GEO 42.6N 288.5E, URSI-Code MHJ45 MILLSTONE HILL
#Time                     CS   foF2 QD
2019-01-01T00:00:00.000Z  50  2.250 //
2019-01-01T00:15:05.000Z   0 17.400 /_"""

FASTCHAR = """\
# Global Ionospheric Radio Observatory (GIRO)
# Location: GEO ( 51.7 N   358.5 E ), URSI-Code FF051, FAIRFORD
# Distance D for MUF calculations: 3000 km
# Time                    CS   foF2 QD MUF(D) QD M(D) QD   fxI QD
2026-10-06T12:30:00.000Z  90  5.713 // 18.563 // 3.26 //  6.43 //
2026-10-06T12:37:30.000Z  95    --- __ 18.979 //  --- __  6.25 //
"""

NO_DATA = """\
# Global Ionospheric Radio Observatory (GIRO)
# Location: GEO ( 51.5 N   359.4 E ), URSI-Code RL052, CHILTON
# STATUS: ERROR (No measurement data could be found for requested time)
"""

UNDATED = "\tfoF2\thmF2\tTEC\t\r\n23:30\t4.5\t331.6\t4.4\t\r\n23:45\t4.4\t322\t\t\r\n00:15\t4.3\t320\t4.0\t\r\n00:00\t4.2\t321\t4.1"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_contract_csv_keeps_values_and_turns_times_to_utc(tmp_path: Path) -> None:
    items = read_observations(write(tmp_path, "a.csv", CSV))
    assert items == [
        {
            "sounder_id": "RO041",
            "observed_at": f"2022-10-24T00:{minute}:00.000000Z",
            "latitude_deg": 41.9,
            "longitude_deg": 12.5,
            "fof2_mhz": fof2,
            **rest,
        }
        for minute, fof2, rest in (("00", 4.1, {"hmf2_km": 310.0}), ("15", 4.2, {"qualifier": "//"}))
    ]
    json.dumps(items, allow_nan=False)


def test_gzip_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    plain = read_frame(write(tmp_path, "a.csv", CSV))
    for name, data in {
        "b.csv.gz": gzip.compress(CSV.encode()),
        "c.csv": b"\xef\xbb\xbf" + CSV.encode(),
        "d.csv": CSV.replace("\n", "\r\n").encode(),
        "e.csv": CSV.rstrip("\n").encode(),
    }.items():
        pd.testing.assert_frame_equal(read_frame(write(tmp_path, name, data)), plain)


def test_parquet_gives_the_same_items_as_csv(tmp_path: Path) -> None:
    frame = read_frame(write(tmp_path, "a.csv", CSV))
    frame.assign(batch_id="x", received_at=frame["observed_at"]).to_parquet(tmp_path / "a.parquet")
    assert read_observations(tmp_path / "a.parquet") == read_observations(tmp_path / "a.csv")


def test_giro_text_old_and_new(tmp_path: Path) -> None:
    old = read_observations(write(tmp_path, "a.txt", GIRO))
    assert [(item["fof2_mhz"], item["confidence_score"]) for item in old] == [(2.25, 50.0), (17.4, 0.0)]
    assert (old[1]["longitude_deg"], old[1]["observed_at"]) == (-71.5, "2019-01-01T00:15:05.000000Z")
    new = read_observations(write(tmp_path, "b.txt.gz", gzip.compress(FASTCHAR.encode())))
    assert (new[0]["sounder_id"], new[0]["m3000f2"], new[0]["muf3000_mhz"]) == ("FF051", 3.26, 18.563)
    assert "fof2_mhz" not in new[1]
    assert new[1]["muf3000_mhz"] == 18.979


def test_undated_rows_follow_one_another_through_midnights(tmp_path: Path) -> None:
    path = write(tmp_path / "somewhere", "RO041.dat", UNDATED)
    frame = read_frame(path, start=date(2022, 10, 24))
    start = datetime(2022, 10, 24, 23, 30, tzinfo=UTC)
    steps = [0, 15, 45, 24 * 60 + 30]  # 00:15 begins the 25th; 00:00 after it the 26th
    assert list(frame["observed_at"]) == [start + timedelta(minutes=step) for step in steps]
    assert list(frame["fof2_mhz"]) == [4.5, 4.4, 4.3, 4.2]
    assert np.isnan(frame["tec_tecu"][1])
    assert (frame["latitude_deg"][0], frame["longitude_deg"][0]) == (41.9, 12.5)


def test_undated_station_comes_from_the_table_beside_the_folder_first(tmp_path: Path) -> None:
    path = write(tmp_path / "europe_2022", "RO041.dat", UNDATED)
    write(tmp_path / "stations", "ursi_stations.csv", "ursi,name,lat_deg,lon_deg\nRO041,ROME,41.8,12.6\n")
    frame = read_frame(path.parent)
    assert (frame["latitude_deg"][0], frame["longitude_deg"][0]) == (41.8, 12.6)
    assert frame["observed_at"][0] == datetime(2022, 10, 24, 23, 30, tzinfo=UTC)


@given(
    gaps_minutes=st.lists(
        st.integers(min_value=15, max_value=23 * 60).map(lambda minutes: minutes // 15 * 15),
        min_size=1,
        max_size=60,
    )
)
def test_any_gaps_below_a_day_are_unrolled_exactly(
    gaps_minutes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    moment = datetime(2022, 10, 24, tzinfo=UTC)
    expected = [moment := moment + timedelta(minutes=gap) for gap in gaps_minutes]
    text = "\tfoF2\n" + "".join(f"{moment:%H:%M}\t4.0\n" for moment in expected)
    path = write(tmp_path_factory.mktemp("undated"), "RO041.dat", text)
    first = expected[0].date()
    assert list(read_frame(path, start=first)["observed_at"]) == expected


def test_faults_of_single_rows_pass_on_as_they_stand(tmp_path: Path) -> None:
    rows = [
        "RO041,2022-10-24T00:00:00Z,41.9,192.5,9999,310,",
        "RO041,2099-01-01T00:00:00Z,41.9,12.5,NaN,310,",
        "RO041,2022-10-24T00:30:00Z,41.9,12.5,four,310,",
    ]
    items = read_observations(write(tmp_path, "a.csv", "\n".join([*CSV.splitlines(), *rows])))
    assert [item.get("fof2_mhz") for item in items] == [4.1, 4.2, 9999.0, "NaN", "four"]
    assert items[2]["longitude_deg"] == 192.5
    assert items[3]["observed_at"].startswith("2099")


def test_lines_that_cannot_be_split_pass_on_with_their_text(tmp_path: Path) -> None:
    csv = read_observations(write(tmp_path, "a.csv", CSV + "RO041,2022-10-24T00:3"))
    assert csv[2] == {
        "sounder_id": "RO041",
        "unreadable": "line 4: 2 fields where the header names 7: RO041,2022-10-24T00:3",
    }
    (item,) = read_observations(write(tmp_path, "c.csv", CSV + "RO041,2022,1,2,3,4,5,6\n"))[2:]
    assert item["unreadable"] == "line 4: 8 fields where the header names 7: RO041,2022,1,2,3,4,5,6"
    bad_time = CSV + "RO041,noon,41.9,12.5,4,300,\n"
    (item,) = read_observations(write(tmp_path, "b.csv", bad_time))[2:]
    assert item["unreadable"] == "line 4: time 'noon' is not ISO 8601 with a zone"
    giro = read_observations(write(tmp_path, "a.txt", GIRO + "\n2019-01-01T00:30:00.000Z  50"))
    assert giro[2]["sounder_id"] == "MHJ45"
    assert "line 6" in giro[2]["unreadable"]
    undated = write(tmp_path, "RO041.dat", UNDATED + "\n00:15\t4")
    item = read_observations(undated, start=date(2022, 10, 24))[-1]
    assert item["unreadable"].startswith("line 6: 1 values")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "a.csv is empty: give a file"),
        ("a.csv", b"\n \n", "a.csv is empty: give a file"),
        ("a.csv", CSV.splitlines()[0].encode(), "a.csv has a header but no rows"),
        (
            "a.csv",
            CSV.encode().replace(b"//", b"\xe9"),
            r"a.csv line 3: byte 0xe9 is not UTF-8: save the file as",
        ),
        ("a.csv", CSV.encode("utf-16"), r"a.csv line 1: byte 0xff is not UTF-8"),
        (
            "a.csv.gz",
            gzip.compress(CSV.encode() * 50)[:-20],
            r"a.csv.gz is truncated or damaged gzip .*fetch it again",
        ),
        ("a.csv.gz", CSV.encode(), r"a.csv.gz is damaged or not gzip .*drop .gz from the name"),
        ("a.csv", CSV.replace(",", ";").encode(), r"a.csv line 1: its columns are separated by ';'"),
        ("a.csv", CSV.replace(",", "\t").encode(), r"a.csv line 1: its columns are separated by '.t'"),
        (
            "a.csv",
            CSV.replace("T00:00:00Z", "").encode(),
            r"a.csv line 2: time '2022-10-24' has no zone: write",
        ),
        (
            "a.csv",
            CSV.replace("observed_at", "time").encode(),
            r"a.csv line 1: column observed_at missing; it has",
        ),
        (
            "a.csv",
            CSV.replace("00Z", "00").encode(),
            r"a.csv line 2: time '2022-10-24T00:00:00' has no zone: write",
        ),
        ("a.csv", (CSV + 'RO041,"2022').encode(), r"a.csv line 4: not CSV .*: correct that line"),
        ("a.csv", CSV.replace("hmf2_km", "fof2_mhz").encode(), r"a.csv line 1: column fof2_mhz twice"),
        ("a.parquet", b"PAR1 cut", r"a.parquet is not a whole Parquet file .*: fetch or write it again"),
        ("a.txt", b"<html>busy</html>", r"a.txt line 1: is not GIRO text"),
        ("a.txt", GIRO.replace("00.000Z", "00").encode(), r"a.txt line 4: time .* has no zone"),
        ("a.txt", NO_DATA.encode(), r"a.txt holds no observations"),
        ("RO041.dat", UNDATED.encode(), r"RO041.dat has times without dates: give the UTC date .*--start"),
        ("XX999.dat", UNDATED.encode(), r"XX999.dat: unknown station 'XX999' .*: add it to"),
        ("a.xlsx", b"PK", r"a.xlsx is of no known format: expected a name ending in .csv"),
    ],
)
def test_a_bad_file_is_named_with_line_and_remedy(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(ObservationFileError, match=message):
        read_frame(write(tmp_path / "folder", name, data))


def test_naive_parquet_times_are_refused(tmp_path: Path) -> None:
    frame = read_frame(write(tmp_path, "a.csv", CSV))
    frame["observed_at"] = frame["observed_at"].dt.tz_localize(None)
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        ObservationFileError, match=r"a\.parquet row 1: column observed_at has times without zone"
    ):
        read_frame(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("latitude_deg", True, "bool"),
        ("fof2_mhz", [7.0], "list"),
        ("fof2_mhz", b"7", "binary"),
        ("sounder_id", 7, "int64"),
        ("observed_at", date(2022, 10, 24), "date32"),
        ("observed_at", 1_666_569_600, "int64"),
    ],
)
def test_parquet_columns_of_a_wrong_type_are_named(
    tmp_path: Path, column: str, value: object, stored: str
) -> None:
    frame = read_frame(write(tmp_path, "a.csv", CSV))
    frame[column] = pd.Series([value] * len(frame), dtype=object if not isinstance(value, bool) else bool)
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        ObservationFileError, match=rf"a\.parquet: column {column} is stored as {stored}.*: write it as"
    ):
        read_frame(tmp_path / "a.parquet")


def test_directories(tmp_path: Path) -> None:
    with pytest.raises(ObservationFileError, match="does not exist"):
        read_frame(tmp_path / "absent")
    write(tmp_path / "d", "README.md", "hello")
    with pytest.raises(
        ObservationFileError, match="is a directory without observations: expected files ending in"
    ):
        read_frame(tmp_path / "d")
    write(tmp_path / "d", "a.txt", NO_DATA)
    with pytest.raises(ObservationFileError, match="holds no observations"):
        read_frame(tmp_path / "d")
    write(tmp_path / "d", "b.txt", GIRO)
    write(tmp_path / "d" / "below", "c.csv", CSV)
    frame = read_frame(tmp_path / "d")
    assert list(frame["sounder_id"]) == ["MHJ45"] * 2 + ["RO041"] * 2


def test_the_eclipse_days_read_without_further_arguments(shared_data: Path) -> None:
    frame = read_frame(shared_data / "europe_2022")
    spans = frame.groupby("sounder_id")["observed_at"].agg(["min", "max", "count"])
    assert set(spans.index) == {"AT138", "FF051", "RO041", "VT139"}
    assert set(spans["count"]) == {288}
    assert set(spans["min"]) == {pd.Timestamp("2022-10-24T00:00Z")}
    assert set(spans["max"]) == {pd.Timestamp("2022-10-26T23:45Z")}


def test_a_year_of_the_americas_reads_in_seconds(shared_data: Path) -> None:
    began = time.monotonic()
    frame = read_frame(shared_data / "americas_2019")
    assert time.monotonic() - began < 20
    assert len(frame) == 235_401
    assert frame["observed_at"].notna().all()
    assert set(frame["sounder_id"]) == {"CAJ2M", "EG931", "JI91J", "MHJ45", "PRJ18"}
