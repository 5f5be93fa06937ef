"""The drop: each whole new file lands once, whatever else lies about or is still being written."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tasks import catalog, lake
from tasks.curation import CurationResult, curate_batch, replay_quarantine
from tasks.landing.pull import PullError, pull_source
from tasks.landing.sources import open_source
from tasks.landing.spool import collect, read_segment
from tasks.settings import Settings

NOW = datetime(2026, 10, 6, 18, tzinfo=UTC)
HEADER = "sounder_id,observed_at,latitude_deg,longitude_deg,fof2_mhz,licence\n"


def csv(*minutes: int) -> str:
    return HEADER + "".join(
        f"RO041,{NOW + timedelta(minutes=minute):%Y-%m-%dT%H:%M:%SZ},41.9,12.5,4.{minute:02d},CC BY 4.0\n"
        for minute in minutes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Iterator[Settings]:
    yield Settings(home=tmp_path / "var", drop=str(folder), drop_final_suffix=".done.csv", http_pace_s=0)
    catalog._open.cache_clear()


def pull(settings: Settings, minute: int) -> int:
    return pull_source(settings, "drop", now=NOW + timedelta(minutes=minute)).n_records


def curate(settings: Settings) -> list[CurationResult]:
    return [
        curate_batch(path, settings=settings) for path in collect(settings.spool_root, settings.lake_root)
    ]


def test_a_whole_file_lands_once_with_its_name_and_hash(settings: Settings, folder: Path) -> None:
    (folder / "rome.csv").write_text(csv(1, 2))
    assert pull(settings, 0) == 0  # it may still be being written
    assert pull(settings, 0) == 0  # a second look at once proves nothing
    assert pull(settings, 5) == 1
    assert pull(settings, 10) == 0
    (batch,) = collect(settings.spool_root, settings.lake_root)
    (record,) = read_segment(batch)
    origin = f"rome.csv sha256:{hashlib.sha256(csv(1, 2).encode()).hexdigest()}"
    assert (record.payload, record.origin, record.channel) == (csv(1, 2).encode(), origin, "pull")
    result = curate_batch(batch, settings=settings)
    assert (result.n_accepted, result.n_quarantined) == (2, 0)
    rows = lake.read("ionograms", settings=settings)
    assert set(rows["source"]) == {"drop"}
    assert set(rows["licence"]) == {"CC BY 4.0"}
    metadata = pq.read_schema(lake.files("ionograms", settings=settings)[0]).metadata
    assert json.loads(metadata[b"origins"]) == [origin]


def test_a_file_that_grows_is_waited_for_and_one_that_changes_later_lands_again(
    settings: Settings, folder: Path
) -> None:
    path = folder / "rome.csv"
    text = csv(1, 2, 3)
    for minute, n_bytes in enumerate((90, 120, len(text))):
        path.write_text(text[:n_bytes])
        assert pull(settings, 5 * minute) == 0
    assert pull(settings, 20) == 1
    assert [result.n_accepted for result in curate(settings)] == [3]
    path.write_text(csv(1, 2, 3, 4))
    assert [pull(settings, minute) for minute in (25, 30)] == [0, 1]
    assert [(result.n_accepted, result.n_duplicates) for result in curate(settings)] == [(1, 3)]
    path.touch()  # the same bytes
    (folder / "copy.csv").write_text(csv(1, 2, 3, 4))
    assert [pull(settings, minute) for minute in (35, 40, 45)] == [0, 0, 0]


def test_the_final_suffix_is_taken_at_once_and_what_is_private_never(
    settings: Settings, folder: Path
) -> None:
    (folder / "rome.done.csv").write_text(csv(1))
    for name in ("a.csv.part", "b.csv.tmp", ".c.csv", "_d.csv", "notes.md"):
        (folder / name).write_text(csv(2))
    (folder / "_work").mkdir()
    (folder / "_work" / "e.done.csv").write_text(csv(2))
    (folder / "link.done.csv").symlink_to(folder / "a.csv.part")
    assert [pull(settings, minute) for minute in (0, 5, 10)] == [1, 0, 0]


def test_dataset_by_folder_or_name_and_parquet(settings: Settings, folder: Path) -> None:
    indices = pd.DataFrame(
        {
            "sounder_id": ["penticton"],
            "observed_at": [pd.Timestamp(NOW)],
            "index_name": ["f107_sfu"],
            "value": [131.5],
        }
    )
    (folder / "indices").mkdir()
    indices.to_parquet(folder / "indices" / "today.parquet")
    (folder / "indices-old.csv").write_text(
        "sounder_id,observed_at,index_name,value\np,2026-10-05T20:00Z,kp,3\n"
    )
    assert [pull(settings, minute) for minute in (0, 5)] == [0, 2]
    assert sum(result.n_accepted for result in curate(settings)) == 2
    assert sorted(lake.read("indices", settings=settings)["value"]) == [3.0, 131.5]


def parquet() -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"sounder_id": ["RO041"], "observed_at": [pd.Timestamp(NOW)]}).to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.parquet", parquet()[:-20], "not a whole Parquet file"),
        ("columns.parquet", parquet(), "column latitude_deg, longitude_deg missing"),
        ("latin.csv", b"sounder_id,observed_at\n\xe9\n", "not UTF-8"),
        ("zone.csv", csv(1).replace("Z,", ",").encode(), "has no zone"),
        ("empty.csv", b"", "is empty"),
        ("other.csv", b"\x00\xff\xfe" * 50, "not UTF-8"),
    ],
)
def test_a_bad_file_goes_to_quarantine_whole_with_the_reason(
    settings: Settings, folder: Path, name: str, content: bytes, reason: str
) -> None:
    (folder / name).write_bytes(content)
    (folder / "good.csv").write_text(csv(7))
    assert [pull(settings, minute) for minute in (0, 5, 10)] == [0, 2, 0]
    (result,) = curate(settings)
    assert (result.n_accepted, result.n_quarantined) == (1, 1)
    (row,) = lake.read("quarantine", settings=settings).to_dict("records")
    assert row["raw"] == content
    assert row["raw_sha256"] == hashlib.sha256(content).hexdigest()
    assert reason in row["reasons"]
    assert f"from {name} sha256:" in row["reasons"]
    assert replay_quarantine(settings=settings).n_published == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_quarantined_file_is_read_again_when_the_fault_is_mended(
    settings: Settings, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / f"a.{kind}"
    if kind == "csv":
        path.write_text(csv(1))
    else:
        frame = pd.read_csv(io.StringIO(csv(1)), parse_dates=["observed_at"])
        frame.to_parquet(path)
    assert [pull(settings, minute) for minute in (0, 5)] == [0, 1]
    with monkeypatch.context() as patch:
        patch.setattr("tasks.observation_files.load_contract", _fault)
        assert [result.n_quarantined for result in curate(settings)] == [1]
    assert replay_quarantine(settings=settings).n_published == 1


def _fault(dataset: str) -> None:
    raise ValueError(f"a fault of the reader of {dataset}")


def test_a_bad_row_does_not_cost_its_neighbours(settings: Settings, folder: Path) -> None:
    (folder / "a.done.csv").write_text(csv(1) + "RO041,yesterday,1,2,3,\nRO041,cut\n" + csv(2)[len(HEADER) :])
    assert pull(settings, 0) == 1
    (result,) = curate(settings)
    assert (result.n_accepted, result.n_quarantined) == (2, 2)


def test_what_cannot_be_had_is_named_and_the_rest_lands(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.landing.sources.drop.FILE_BYTES", 500)
    (folder / "a-large.csv").write_text(csv(*range(30)))
    (folder / "b.csv").write_text(csv(1))
    for minute, n_landed in ((0, 0), (5, 1), (10, 1)):
        with pytest.raises(PullError, match=r"a-large.csv: has \d+ bytes, more than 500: split it"):
            pull(settings, minute)
        collect(settings.spool_root, settings.lake_root)
        assert len(list((settings.lake_root / "landing").rglob("*.seg"))) == n_landed


class Listing:
    """The standard library's directory listing of a folder."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        listing = self

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, code: Any = "-", size: Any = "-") -> None:
                listing.requests.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def listing(folder: Path) -> Iterator[Listing]:
    one = Listing(folder)
    yield one
    one.close()


def test_a_directory_listing_is_a_drop_too(settings: Settings, folder: Path, listing: Listing) -> None:
    settings = settings.model_copy(update={"drop": listing.url})
    (folder / "rome, first half.csv").write_text(csv(1)[:-9])
    (folder / "final.done.csv").write_text(csv(2))
    (folder / "indices").mkdir()
    (folder / "indices" / "kp.csv").write_text(
        "sounder_id,observed_at,index_name,value\np,2026-10-05T18:00Z,kp,3\n"
    )
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "x.csv").write_text(csv(3))
    assert pull(settings, 0) == 1
    (folder / "rome, first half.csv").write_text(csv(1))
    assert [pull(settings, minute) for minute in (5, 10, 15)] == [1, 1, 0]
    assert sum(result.n_accepted for result in curate(settings)) == 3
    listing.requests.clear()
    pull(settings, 20)
    assert sorted(listing.requests) == ["/", "/indices/"]  # what has landed is not asked for again


def test_faults_of_the_settings_are_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="AUTONVIS_DROP"):
        open_source("drop", Settings(home=tmp_path))
    away = settings.model_copy(update={"drop": str(tmp_path / "away")})
    with pytest.raises(PullError, match=r"source drop: files: .*away is no folder"):
        pull_source(away, "drop")
