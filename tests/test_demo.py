"""Which of a file's observations the demo runs on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from autonvis.demo import DemoError, gather, span

HEADER = "sounder_id,observed_at,latitude_deg,longitude_deg,fof2_mhz\n"


def write(folder: Path, *times: str) -> Path:
    path = folder / "ionograms.csv"
    path.write_text(HEADER + "".join(f"AA001,{time},50,4,7.0\n" for time in times))
    return path


def test_times_to_come_and_unreadable_ones_are_sent_on_and_do_not_decide_what_is_old(tmp_path: Path) -> None:
    path = write(tmp_path, "2022-10-01T00:00Z", "2022-10-24T10:05Z", "2999-01-01T00:00Z", "noon")
    items, origin, is_simulated = gather(path, 3.0, lambda _: None)
    assert len(items) == 3  # all but the old one
    assert (origin, is_simulated) == ("file", False)
    when = datetime(2022, 10, 24, 10, 15, tzinfo=UTC)
    assert span(items, 3.0, 15, False) == (when, when)


def test_a_file_without_any_usable_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no observation has a time"):
        gather(write(tmp_path, "2999-01-01T00:00Z"), 3.0, lambda _: None)
