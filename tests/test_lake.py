"""The lake: whole files, stable bytes, readable without this project, nothing half-written on a full disk."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import lake
from tasks.contracts import arrow_schema
from tasks.settings import Settings

START = datetime(2022, 10, 24, 22, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "var")


def ionograms(n: int, start: datetime = START, step: timedelta = timedelta(minutes=15)) -> pd.DataFrame:
    schema = arrow_schema("ionograms")
    columns: dict[str, object] = {}
    for field in schema:
        if str(field.type).startswith("timestamp"):
            columns[field.name] = pd.to_datetime([start + i * step for i in range(n)]).as_unit("us")
        elif str(field.type) == "string":
            columns[field.name] = np.array([f"{field.name}-{i:04d}" for i in range(n)], dtype=object)
        elif str(field.type) == "int32":
            columns[field.name] = np.arange(n, dtype=np.float64)
        else:
            columns[field.name] = np.linspace(1.0, 2.0, n)
    frame = pd.DataFrame(
        {name: pd.Series(values, dtype=getattr(values, "dtype", None)) for name, values in columns.items()}
    )
    frame["sounder_id"] = pd.Series([("RO041", "AT138")[i % 2] for i in range(n)], dtype=object)
    frame["observation_id"] = pd.Series(
        [hashlib.sha256(f"{start} {i}".encode()).hexdigest()[:32] for i in range(n)], dtype=object
    )
    return frame


def digest(paths: list[Path]) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_partitions_by_utc_date_and_sorts_by_sounder_and_time(settings: Settings) -> None:
    frame = ionograms(16)
    paths = lake.publish("ionograms", frame, "batch-1", settings=settings)
    assert [path.relative_to(settings.lake_root).as_posix() for path in paths] == [
        "ionograms/date=2022-10-24/batch-1.parquet",
        "ionograms/date=2022-10-25/batch-1.parquet",
    ]
    first = pq.read_table(paths[0]).to_pandas()
    assert list(first["sounder_id"]) == sorted(first["sounder_id"])
    assert all(group.is_monotonic_increasing for _, group in first.groupby("sounder_id")["observed_at"])
    assert set(first["observed_at"].dt.date) == {date(2022, 10, 24)}


def test_round_trip_keeps_every_value_and_contract_dtypes(settings: Settings) -> None:
    frame = ionograms(40)
    frame.loc[3, "hmf2_km"] = np.nan
    frame["qualifier"] = pd.Series([None, *frame["qualifier"][1:]], dtype=object)
    lake.publish("ionograms", frame, "batch-1", settings=settings)
    back = lake.read("ionograms", settings=settings)
    by_id = back.sort_values("observation_id", ignore_index=True)[list(frame.columns)]
    assert by_id.to_dict("list").__repr__() == frame.sort_values("observation_id").to_dict("list").__repr__()
    assert back["fof2_mhz"].dtype == np.float64
    assert str(back["observed_at"].dtype) == "datetime64[us, UTC]"
    assert back["sounder_id"].dtype == object


@hypothesis_settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(24)))
def test_bytes_do_not_depend_on_row_order_or_rerun(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(home=tmp_path_factory.mktemp("lake"))
    frame = ionograms(24)
    once = digest(lake.publish("ionograms", frame, "b", settings=settings, metadata={"cycle_id": "c"}))
    again = digest(
        lake.publish(
            "ionograms",
            frame.iloc[order].reset_index(drop=True),
            "b",
            settings=settings,
            metadata={"cycle_id": "c"},
        )
    )
    assert once == again


def test_units_contract_and_given_metadata_are_in_the_file(settings: Settings) -> None:
    (path, *_) = lake.publish("ionograms", ionograms(2), "b", settings=settings, metadata={"cycle_id": "c1"})
    schema = pq.read_schema(path)
    assert schema.metadata[b"cycle_id"] == b"c1"
    assert schema.equals(arrow_schema("ionograms"), check_metadata=False)
    for key, value in (arrow_schema("ionograms").metadata or {}).items():
        assert schema.metadata[key] == value
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_duckdb_and_pandas_read_the_tree_by_glob(settings: Settings) -> None:
    lake.publish("ionograms", ionograms(16), "b1", settings=settings)
    lake.publish("ionograms", ionograms(16, START + timedelta(days=3)), "b2", settings=settings)
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT count(*), count(DISTINCT date), max(fof2_mhz) FROM read_parquet('{settings.lake_root}/ionograms/**/*.parquet', hive_partitioning = true)"
        ).fetchall()
    assert rows == [(32, 4, 2.0)]
    assert len(pd.read_parquet(settings.lake_root / "ionograms")) == 32


def test_read_selects_span_inclusively_columns_and_filter(settings: Settings) -> None:
    lake.publish("ionograms", ionograms(200), "b1", settings=settings)
    end = START + timedelta(hours=5)
    span = lake.read("ionograms", settings=settings, start=START + timedelta(hours=1), end=end)
    assert span["observed_at"].min() == START + timedelta(hours=1)
    assert span["observed_at"].max() == end
    assert len(span) == 17
    rome = lake.read(
        "ionograms",
        settings=settings,
        end=end,
        columns=["sounder_id", "fof2_mhz"],
        filters=pc.field("sounder_id") == "RO041",
    )
    assert list(rome.columns) == ["sounder_id", "fof2_mhz"]
    assert set(rome["sounder_id"]) == {"RO041"}
    with pytest.raises(ValueError, match="no zone"):
        lake.read("ionograms", settings=settings, start=START.replace(tzinfo=None))


def test_an_empty_dataset_reads_as_an_empty_frame_with_the_contract_dtypes(settings: Settings) -> None:
    empty = lake.read("ionograms", settings=settings)
    lake.publish("ionograms", ionograms(1), "b", settings=settings)
    full = lake.read("ionograms", settings=settings)
    assert len(empty) == 0
    assert list(empty.dtypes.items()) == list(full.dtypes.items())


def test_publishing_no_rows_writes_no_file(settings: Settings) -> None:
    assert lake.publish("ionograms", ionograms(1).iloc[:0], "b", settings=settings) == []
    assert lake.files("ionograms", settings=settings) == []


def test_withdraw_removes_what_an_earlier_run_left(settings: Settings) -> None:
    paths = lake.publish("ionograms", ionograms(16), "b", settings=settings)
    assert lake.withdraw("ionograms", "b", settings=settings, keep=paths[:1]) == paths[1:]
    assert lake.files("ionograms", settings=settings) == paths[:1]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "a\n"])
def test_names_that_are_no_file_names_are_refused(settings: Settings, name: str) -> None:
    with pytest.raises(ValueError, match="name:"):
        lake.publish("ionograms", ionograms(1), name, settings=settings)


def test_columns_that_are_not_the_contracts_are_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match=r"missing: \['fof2_mhz'\]; unknown: \['foF2'\]"):
        lake.publish("ionograms", ionograms(1).rename(columns={"fof2_mhz": "foF2"}), "b", settings=settings)
    lacking = ionograms(1)
    lacking["observation_id"] = None
    with pytest.raises(ValueError, match="observation_id of ionograms may not be null"):
        lake.publish("ionograms", lacking, "b", settings=settings)


def test_a_refused_write_leaves_the_old_files_and_no_staging(settings: Settings) -> None:
    """A file size limit fails the write inside the kernel, as a full disk does, on any file system."""
    before = digest(lake.publish("ionograms", ionograms(16), "b", settings=settings))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(lake.LakeError, match="the disk is full: free space"):
            lake.publish("ionograms", ionograms(5_000), "b", settings=settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digest(lake.files("ionograms", settings=settings)) == before
    assert list((settings.home / "staging").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root and its permission")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_leaves_the_old_files_and_no_staging(small_disk: Path) -> None:
    settings = Settings(home=small_disk)
    before = digest(lake.publish("ionograms", ionograms(16), "b", settings=settings))
    with pytest.raises(lake.LakeError, match="the disk is full"):
        lake.publish("ionograms", ionograms(20_000), "b", settings=settings)
    assert digest(lake.files("ionograms", settings=settings)) == before
    assert list((small_disk / "staging").iterdir()) == []
    lake.publish("ionograms", ionograms(32), "b", settings=settings)


def test_a_lake_on_another_file_system_is_staged_there_and_stays_clean_for_globs(
    tmp_path: Path, small_disk: Path
) -> None:
    settings = Settings(home=tmp_path / "var", lake=small_disk / "lake")
    paths = lake.publish("ionograms", ionograms(16), "b", settings=settings)
    assert sorted((small_disk / "lake").rglob("*.parquet")) == paths
    with lake.staging_folder(settings) as folder:
        assert folder.stat().st_dev == small_disk.stat().st_dev
        (folder / "half.partial").write_bytes(b"PAR1")
        assert sorted((small_disk / "lake").rglob("*.parquet")) == paths
    assert not folder.exists()


def test_staging_of_a_killed_process_is_removed_and_that_of_a_live_one_kept(settings: Settings) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tasks import lake\nfrom tasks.settings import Settings\n"
        "with lake.staging_folder(Settings(home=Path(sys.argv[1]))) as folder:\n"
        "    (folder / 'half').write_text('x'); print(folder, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(settings.home)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert lake.clean_staging(settings) == 0
        assert folder.is_dir()
        process.kill()
    assert lake.clean_staging(settings) == 1
    assert not folder.exists()


def test_a_reader_never_sees_a_partial_file_while_a_writer_runs(settings: Settings) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\nfrom test_lake import ionograms\n"
        "from tasks import lake\nfrom tasks.settings import Settings\n"
        "s = Settings(home=Path(sys.argv[1]))\n"
        "while True: lake.publish('ionograms', ionograms(400), 'b', settings=s)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(settings.home)], cwd=Path(__file__).resolve().parents[1]
    ) as process:
        deadline = time.monotonic() + 30
        while not lake.files("ionograms", settings=settings) and time.monotonic() < deadline:
            time.sleep(0.01)
        n_reads = 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for path in lake.files("ionograms", settings=settings):
                assert pq.read_table(path).num_rows > 0
                n_reads += 1
        process.kill()
    assert n_reads > 0
    assert len(lake.read("ionograms", settings=settings)) == 400
