"""What is past its retention goes, logs are cut under their writers, and the disk's end is foreseen."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

from tasks import catalog, disk_forecast, lake
from tasks.backup import make_backup
from tasks.catalog_retention import COMPARED, expire_cycles
from tasks.contracts import load_contract
from tasks.disk_forecast import HISTORY, forecast_disk, note_disk
from tasks.lake_retention import expire_lake, is_expired
from tasks.log_rotation import rotate_logs
from tasks.maintenance import maintain
from tasks.prefect_vacuum import vacuum_prefect
from tasks.products import expire_products
from tasks.settings import Settings
from tests.product_cycles import make_analysis

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "var").mkdir()
    return Settings(home=tmp_path / "var", backup_to=str(tmp_path / "backups"))


def publish_day(settings: Settings, day: datetime, written: datetime) -> Path:
    analysis: pd.DataFrame = make_analysis([40.0, 45.0], [10.0, 15.0], day)  # type: ignore[arg-type]
    (path,) = lake.publish("analysis", analysis, f"analysis-{day:%Y%m%dT%H%MZ}", settings=settings)
    os.utime(path, (written.timestamp(), written.timestamp()))
    return path


def test_a_day_goes_when_its_contract_says_so_and_not_when_it_was_made_again(settings: Settings) -> None:
    retention = timedelta(days=load_contract("analysis").retention_d)
    assert retention == timedelta(days=30)
    old, young = NOW - retention - timedelta(days=1), NOW - retention
    expired = publish_day(settings, old, old)
    backfilled = publish_day(settings, old - timedelta(days=300), NOW - timedelta(days=1))
    kept = publish_day(settings, young, young)
    assert expire_lake(settings, now=NOW) == [expired]
    assert backfilled.exists()
    assert kept.exists()
    assert is_expired(expired, NOW)
    assert not is_expired(kept, NOW)
    assert expire_lake(settings, now=NOW) == []


def record(settings: Settings, cycle_id: str, valid: datetime, recorded: datetime) -> None:
    catalog.record_cycle(
        catalog.open_catalog(settings), cycle_id, valid_time=valid, available_until=valid, config_hash="c", inputs_hash="i",
        effective_ig12=None, details={}, files=[f"verification/date={valid:%Y-%m-%d}/verification-{cycle_id}.parquet"], now=recorded,
    )  # fmt: skip


def test_the_record_of_a_cycle_goes_when_nothing_is_left_to_compare_it_with(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.catalog_retention.LOOK_BACK", 2)
    kept_d = settings.cycle_record_d
    assert kept_d > max(load_contract(dataset).retention_d for dataset in COMPARED)
    old, young = NOW - timedelta(days=kept_d + 1), NOW - timedelta(days=kept_d - 1)
    record(settings, "old", old, old)
    record(settings, "backfilled", old, NOW)
    assert expire_cycles(settings, now=NOW) == 0  # the newest stay, whatever their age
    record(settings, "young", young, young)
    record(settings, "now", NOW, NOW)
    assert expire_cycles(settings, now=NOW) == 1
    left = {cycle.cycle_id for cycle in catalog.cycles(catalog.open_catalog(settings))}
    assert left == {"backfilled", "young", "now"}
    assert expire_cycles(settings, now=NOW) == 0


def test_what_verification_and_learning_need_is_kept_for_years() -> None:
    for dataset in ("ionograms", "indices", "verification", "sounders"):
        assert load_contract(dataset).retention_d >= 3650


def test_old_products_go_and_the_newest_stay_however_old(settings: Settings) -> None:
    versions = settings.products_root / "versions"
    for name, age_d in (("a-1", 50), ("a-2", 10), ("b-1", 45), ("c-1", 40)):
        (versions / name).mkdir(parents=True)
        (versions / name / "cycle.json").write_text("{}")
        moment = (NOW - timedelta(days=age_d)).timestamp()
        os.utime(versions / name, (moment, moment))
    for link, target in (("a", "a-2"), ("b", "b-1"), ("c", "c-1"), ("current", "c-1")):
        (settings.products_root / link).symlink_to(f"versions/{target}", target_is_directory=True)
    assert [path.name for path in expire_products(settings, now=NOW)] == ["a-1", "b-1"]
    assert sorted(path.name for path in settings.products_root.glob("[!.]*")) == [
        "a",
        "c",
        "current",
        "versions",
    ]
    assert all((settings.products_root / name / "cycle.json").is_file() for name in ("a", "c", "current"))


def test_a_log_is_cut_under_its_writer_and_loses_no_line(settings: Settings) -> None:
    settings.log_root.mkdir()
    path = settings.log_root / "gateway.log"
    lines = "import time\nfor n in range(4000):\n    print(f'line {n:06d} ' + 'x' * 300, flush=True)\n    time.sleep(0.0002)"
    with path.open("ab") as log:
        writer = subprocess.Popen([sys.executable, "-c", lines], stdout=log)
    small = settings.model_copy(update={"log_mb": 0.1})
    number = 0
    while writer.poll() is None:
        rotate_logs(small, now=NOW + timedelta(seconds=number))
        number += 1
    rotated = sorted(settings.log_root.glob("gateway.log.*.gz"))
    assert len(rotated) > 1
    # Each file by itself: one may end within a line, when the cut fell between two looks at a write that spans pages.
    parts = [*(gzip.decompress(one.read_bytes()) for one in rotated), path.read_bytes()]
    numbers = [
        int(number) for part in parts for number in re.findall(rb"^line (\d{6}) x{300}$", part, re.MULTILINE)
    ]
    assert numbers == sorted(set(numbers))  # in order, none twice
    gaps = sum(later != earlier + 1 for earlier, later in pairwise(numbers))
    assert gaps <= len(rotated)  # what falls between the last copy and the cut is all that can be lost
    assert len(numbers) > 3000  # it lasts microseconds, if the machine does not pause us there
    assert path.stat().st_size < 4000 * 312

    for one in rotated:
        os.utime(one, (NOW.timestamp(), NOW.timestamp()))
    done = rotate_logs(settings, now=NOW + timedelta(days=31))
    assert done.n_removed == len(rotated)
    assert list(settings.log_root.glob("*.gz")) == []


def write_history(settings: Settings, used_gb: list[float], every: timedelta = timedelta(hours=6)) -> None:
    first = NOW - every * (len(used_gb) - 1)
    content = [
        {"noted_at": (first + number * every).isoformat(), "used_bytes": int(gb * 1e9)}
        for number, gb in enumerate(used_gb)
    ]
    (settings.home / "run").mkdir(exist_ok=True)
    (settings.home / HISTORY).write_text(json.dumps(content))


def test_the_disk_is_foreseen_by_the_median_slope(settings: Settings) -> None:
    assert forecast_disk(settings, now=NOW).growth_bytes_per_d is None
    assert "no forecast yet" in forecast_disk(settings, now=NOW).summary()
    # A quarter of a GB every six hours, and one night on which 50 GB came and went.
    used = [10.0 + 0.25 * number + (50.0 if number == 7 else 0.0) for number in range(40)]
    write_history(settings, used)
    forecast = forecast_disk(settings, now=NOW)
    assert forecast.growth_bytes_per_d == pytest.approx(1e9, rel=0.01)
    assert forecast.days_until_full == pytest.approx(forecast.free_bytes / 1e9, rel=0.01)
    assert forecast.full_at is None or forecast.full_at > NOW
    write_history(settings, [10.0] * 9)
    assert "does not grow" in forecast_disk(settings, now=NOW).summary()


def test_notes_are_hourly_and_a_damaged_history_begins_again(settings: Settings) -> None:
    (settings.home / "run").mkdir()
    (settings.home / HISTORY).write_text("{nonsense")
    for minute in range(0, 180, 5):
        note_disk(settings, now=NOW + timedelta(minutes=minute))
    assert forecast_disk(settings, now=NOW + timedelta(hours=3)).n_notes == 3
    note_disk(settings, now=NOW + timedelta(days=40))
    assert forecast_disk(settings, now=NOW + timedelta(days=40)).n_notes == 1


def test_prefects_file_shrinks_when_much_of_it_is_free(settings: Settings) -> None:
    assert vacuum_prefect(settings) == 0
    path = settings.home / "prefect" / "prefect.db"
    path.parent.mkdir()
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE log (message TEXT)")
    database.executemany("INSERT INTO log VALUES (?)", [("x" * 1000,)] * 5000)
    database.commit()
    assert vacuum_prefect(settings) == 0
    database.execute("DELETE FROM log WHERE rowid > 100")
    database.commit()
    assert vacuum_prefect(settings) > 4_000_000
    assert database.execute("SELECT count(*) FROM log").fetchone() == (100,)
    database.close()


def test_all_of_it_and_what_watchers_read(settings: Settings) -> None:
    publish_day(settings, NOW - timedelta(days=60), NOW - timedelta(days=60))
    done = maintain(settings, now=NOW)
    assert done.n_expired_files == 1
    status = json.loads((settings.home / disk_forecast.STATUS).read_text())
    assert status["disk"]["free_bytes"] > 0
    assert status["disk"]["days_until_full"] is None
    assert status["n_expired_files"] == 1
    assert datetime.fromisoformat(status["finished_at"]).tzinfo is not None
    assert "lake/analysis" in status["disk"]["folders"]
    make_backup(settings)  # the books are in order
