"""GIRO text in both formats: values, missing markers, headers, and lines that cannot be read."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.landing.giro_text import is_giro_text, parse_giro_text

OLD = """\
# Global Ionospheric Radio Observatory
# GIRO Tabulated Ionospheric Characteristics, Version 1.0 Revision B
#
# Location: GEO 40.1N 288.5E, URSI-Code TST45 SOME HILL
#
#Time                     CS   foF2 QD
2031-01-01T00:00:05.000Z  50  2.250 //
2031-01-01T00:15:05.000Z 999 17.450 UR
2031-01-01T00:30:05.000Z  -1  2.800 //"""

NEW = """\
# Global Ionospheric Radio Observatory (GIRO)
# Location: GEO ( -51.7 N   358.5 E ), URSI-Code TST51, ANYFIELD
# Distance D for MUF calculations: {distance} km
#
# Time                    CS   foF2 QD MUF(D) QD M(D) QD   fxI QD   hmF2 QD h`F QD
2031-10-06T12:30:00.000Z  90  5.713 // 18.563 // 3.26 //  6.43 //  261.5 // 220 //
2031-10-06T12:37:30.000Z  95    --- __    --- __  --- __  6.25 //    --- __ --- __
"""

NO_DATA = """\
# Global Ionospheric Radio Observatory (GIRO)
# Location: GEO ( 51.5 N   359.4 E ), URSI-Code TST52, NOWHERE
#
# STATUS: ERROR (No measurement data could be found for requested time)
"""


def test_old_format() -> None:
    result = parse_giro_text(OLD)
    assert result.station is not None
    assert (result.station.ursi_code, result.station.name) == ("TST45", "SOME HILL")
    assert (result.station.latitude_deg, result.station.longitude_deg) == (40.1, -71.5)
    assert result.malformed == []
    assert [item["fof2_mhz"] for item in result.items] == [2.25, 17.45, 2.8]
    assert [item["confidence_score"] for item in result.items] == [50, 999, -1]
    assert [item["qualifier"] for item in result.items] == [None, "UR", None]
    assert result.items[0]["observed_at"] == "2031-01-01T00:00:05.000Z"
    assert {item["sounder_id"] for item in result.items} == {"TST45"}
    station, items = result
    assert station is result.station
    assert items is result.items


def test_new_format_with_missing_values() -> None:
    result = parse_giro_text(NEW.format(distance=3000))
    first, second = result.items
    assert first["latitude_deg"] == -51.7
    assert first["longitude_deg"] == -1.5
    expected = {"fof2_mhz": 5.713, "muf3000_mhz": 18.563, "m3000f2": 3.26, "fxi_mhz": 6.43, "hmf2_km": 261.5}
    assert {name: first[name] for name in expected} == expected
    assert {name: second[name] for name in expected} == {**dict.fromkeys(expected), "fxi_mhz": 6.25}
    assert not any(name.startswith("h`") for name in first)


def test_muf_of_another_distance_is_not_muf3000() -> None:
    for item in parse_giro_text(NEW.format(distance=500)).items:
        assert "muf3000_mhz" not in item
        assert "m3000f2" not in item
        assert item["fxi_mhz"] is not None


def test_column_order_and_old_names_come_from_the_header() -> None:
    text = (
        "# Location: GEO 10.0S 20.0W, URSI-Code ABC12 X\n# Time CS MUFD QD MD QD foF2 QD\n"
        "2031-01-01T00:00:00Z 80 12.0 // --- 4.0 A/\n"  # letters of a missing value may be blank
    )
    (item,) = parse_giro_text(text).items
    assert (item["muf3000_mhz"], item["m3000f2"], item["fof2_mhz"], item["qualifier"]) == (
        12.0,
        None,
        4.0,
        "A/",
    )
    assert (item["latitude_deg"], item["longitude_deg"]) == (-10.0, -20.0)


def test_no_data_answer_is_not_an_error() -> None:
    result = parse_giro_text(NO_DATA)
    assert result.is_no_data
    assert result.items == []
    assert result.malformed == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2031-01-01T00:45:05.000Z  80  2.8", "breaks off after 'fof2'"),
        ("2031-01-01T00:45:05.000Z  80", "'foF2' is absent"),
        ("2031-01-01T00:4", "not ISO 8601"),
        ("2031-01-01T00:45:05.000  80  2.8 //", "has no zone"),
        ("2031-01-01T00:45:05.000Z  80  nan //", "not a number"),
        ("2031-01-01T00:45:05.000Z  80  2.8 // 3", "5 columns where the header names 4"),
    ],
)
def test_a_line_that_cannot_be_read_is_reported_with_its_number(line: str, reason: str) -> None:
    result = parse_giro_text(OLD + "\n" + line)
    assert len(result.items) == 3
    (malformed,) = result.malformed
    assert malformed.number == 10
    assert reason in malformed.reason


def test_two_files_glued_together() -> None:
    result = parse_giro_text(OLD + "\n" + NEW.format(distance=3000))
    assert [item["sounder_id"] for item in result.items] == ["TST45"] * 3 + ["TST51"] * 2
    assert [station.ursi_code for station in result.stations] == ["TST45", "TST51"]


def test_error_page_is_not_giro_text() -> None:
    page = "<html><body><h1>Service unavailable</h1></body></html>"
    assert not is_giro_text(page)
    assert is_giro_text(OLD)
    assert is_giro_text(NO_DATA)
    result = parse_giro_text(page)
    assert result.station is None
    assert [line.number for line in result.malformed] == [1]


@given(st.integers(0, len(OLD)))
def test_any_truncation_keeps_whole_lines_and_loses_none_silently(length: int) -> None:
    text = OLD[:length]
    result = parse_giro_text(text)
    data_lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    assert len(result.items) + len(result.malformed) == len(data_lines)
    whole = parse_giro_text(OLD).items
    for item, expected in zip(result.items, whole, strict=False):
        assert item["fof2_mhz"] == expected["fof2_mhz"]  # a cut number never passes as a value


@given(st.text())
@example("\x0c")
def test_any_text_is_survived(text: str) -> None:
    parse_giro_text(text)
    parse_giro_text(OLD + "\n" + text)


def test_real_files(shared_data: Path) -> None:
    new = parse_giro_text((shared_data / "formats" / "giro-FF051-2026-10-06.txt").read_text())
    assert new.station is not None
    assert new.station.ursi_code == "FF051"
    assert len(new.items) == 7
    assert new.items[1] == {
        "sounder_id": "FF051", "observed_at": "2026-10-06T12:37:30.000Z", "latitude_deg": 51.7, "longitude_deg": -1.5,
        "confidence_score": 95, "qualifier": None, "fof2_mhz": 5.663, "muf3000_mhz": 18.979, "m3000f2": 3.36,
        "fxi_mhz": 6.25, "revision": 0,
    }  # fmt: skip
    assert parse_giro_text(
        (shared_data / "formats" / "giro-RL052-2026-10-06-no-data.txt").read_text()
    ).is_no_data
    parts = sorted((shared_data / "americas_2019").glob("*_part2.txt.gz"))
    assert len(parts) == 5
    for part in parts:
        text = gzip.decompress(part.read_bytes()).decode()
        old = parse_giro_text(text)
        n_lines = sum(not line.startswith("#") for line in text.split("\n") if line.strip())
        assert len(old.items) == n_lines
        assert old.malformed == []
