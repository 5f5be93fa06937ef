"""Small files become few: no row is lost, doubled or moved, for readers meanwhile and for whoever publishes again."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tasks import backup_capture, catalog, compacted, cycles, lake
from tasks.backup import make_backup
from tasks.catalog_rebuild import rebuild_catalog
from tasks.compaction import compact_lake
from tasks.curation import replay_landing
from tasks.landing.retention import expire_landing
from tasks.restore import restore
from tasks.settings import Settings
from tests.small_root import END, checksums, land, observations, run_cycle, spool

LATER = timedelta(days=2)
N_BATCHES = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A day with many small files of observations and of cycles."""
    settings = Settings(home=tmp_path_factory.mktemp("model") / "var", grid_step_deg=10.0, leads_h="1")
    items = observations()
    size = len(items) // N_BATCHES
    for number in range(N_BATCHES):
        spool(settings, items[number * size : (number + 1) * size], datetime.now(UTC))
    land(settings)
    cycles.run_chunk(
        settings, cycles.plan_span(settings, END - timedelta(hours=2), END - timedelta(minutes=15))
    )
    run_cycle(settings, END)
    return settings


@pytest.fixture
def settings(model: Settings, tmp_path: Path) -> Iterator[Settings]:
    home = tmp_path / "var"
    shutil.copytree(model.home, home, symlinks=True)
    yield model.model_copy(update={"home": home})
    catalog._open.cache_clear()


def tables(settings: Settings) -> dict[str, pa.Table]:
    return {
        name: lake.read_table(name, settings=settings) for name in ("ionograms", "feedback", "verification")
    }


def compact(settings: Settings) -> None:
    done = compact_lake(settings, now=datetime.now(UTC) + LATER)
    assert done.n_files_after < done.n_files_before
    assert len(lake.files("ionograms", settings=settings)) == 1
    assert lake.clean_staging(settings) == 0


def test_rows_and_their_order_stay(settings: Settings) -> None:
    before = tables(settings)
    compact(settings)
    assert {name: table.equals(before[name]) for name, table in tables(settings).items()} == dict.fromkeys(
        before, True
    )
    assert compact_lake(settings, now=datetime.now(UTC) + LATER).n_days == 0


def test_a_day_in_use_is_left_alone(settings: Settings) -> None:
    before = checksums(settings.lake_root)
    assert compact_lake(settings, now=datetime.now(UTC)).n_days == 0
    assert checksums(settings.lake_root) == before


def test_each_file_comes_back_to_the_byte(settings: Settings) -> None:
    before = checksums(settings.lake_root)
    names = [(path.parent.parent.name, path.stem) for path in settings.lake_root.rglob("*.parquet")]
    compact(settings)
    assert checksums(settings.lake_root) != before
    for dataset, name in names:
        lake.loosen(dataset, name, settings=settings)
    assert checksums(settings.lake_root) == before


def test_cycles_and_batches_run_again_change_nothing(settings: Settings) -> None:
    before, files = tables(settings), checksums(settings.lake_root)
    compact(settings)
    cycles.run_chunk(settings, cycles.plan_span(settings, END - timedelta(hours=1), END - timedelta(hours=1)))
    replay_landing(settings=settings, since=None, until=None)
    assert {name: table.equals(before[name]) for name, table in tables(settings).items()} == dict.fromkeys(
        before, True
    )
    now = checksums(settings.lake_root)
    assert {path for path, digest in files.items() if now.get(path) != digest} <= {
        path
        for path in files
        if "~" not in path and path.split("/")[0] not in ("ionograms", "feedback", "verification")
    }


def test_a_cycle_of_a_compacted_day_is_the_same_to_the_bit(settings: Settings) -> None:
    analysis = {path: lake_sum(path) for path in lake.files("analysis", settings=settings)}
    compact(settings)
    run_cycle(settings, END)
    assert {path: lake_sum(path) for path in lake.files("analysis", settings=settings)} == analysis


def lake_sum(path: Path) -> str:
    return checksums(path.parent)[path.name]


def test_a_late_batch_and_a_withdrawal_meet_a_compacted_day(settings: Settings) -> None:
    compact(settings)
    n_rows = len(lake.read("ionograms", settings=settings))
    (path,) = lake.files("ionograms", settings=settings)
    member = compacted.members(path)[3]
    spool(settings, observations()[-3:], datetime.now(UTC))
    n_new = land(settings)
    assert len(lake.read("ionograms", settings=settings)) == n_rows + n_new
    removed = lake.withdraw("ionograms", member.name, settings=settings)
    assert [one.stem for one in removed] == [member.name]
    assert len(lake.read("ionograms", settings=settings)) == n_rows + n_new - member.n_rows


def test_the_books_stay_right(settings: Settings) -> None:
    engine = catalog.open_catalog(settings)
    recorded = [(row.cycle_id, sorted(row.files)) for row in catalog.cycles(engine)]
    compact(settings)
    catalog._open.cache_clear()
    for path in settings.home.glob("catalog.db*"):
        path.unlink()
    before = tables(settings)
    rebuilt = rebuild_catalog(settings=settings)
    assert rebuilt.n_cycles == len(recorded)
    assert [
        (row.cycle_id, sorted(row.files)) for row in catalog.cycles(catalog.open_catalog(settings))
    ] == recorded
    assert {name: table.equals(before[name]) for name, table in tables(settings).items()} == dict.fromkeys(
        before, True
    )

    compact_lake(settings, now=datetime.now(UTC) + LATER)
    expiring = settings.model_copy(update={"landing_retention_d": 1.0})
    assert len(expire_landing(expiring, now=datetime.now(UTC) + LATER)) == N_BATCHES


def test_readers_see_each_row_once_meanwhile(settings: Settings) -> None:
    """Our own never fail; a stranger's glob may have to be repeated, and is never wrong."""
    n_rows = len(lake.read("ionograms", settings=settings))
    pattern = str(settings.lake_root / "ionograms" / "*" / "*.parquet")
    seen: set[int] = set()
    repeated: list[str] = []
    is_over = threading.Event()

    def read_own() -> None:
        while not is_over.is_set():
            seen.add(lake.read_table("ionograms", settings=settings, columns=["observation_id"]).num_rows)

    def read_by_glob() -> None:
        while not is_over.is_set():
            try:
                query = "SELECT count(*), count(DISTINCT observation_id) FROM read_parquet(?)"
                seen.update(duckdb.connect().execute(query, [pattern]).fetchone() or ())
            except duckdb.IOException as error:
                repeated.append(str(error))

    threads = [threading.Thread(target=one) for one in (read_own, read_by_glob)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        compact(settings)
        (path,) = lake.files("ionograms", settings=settings)
        lake.loosen("ionograms", compacted.members(path)[0].name, settings=settings)
    is_over.set()
    for thread in threads:
        thread.join()
    assert seen == {n_rows}
    assert all("No such file" in text or "does not exist" in text for text in repeated)


def test_what_is_published_meanwhile_is_not_lost(settings: Settings) -> None:
    rows = lake.read("ionograms", settings=settings)
    is_over = threading.Event()
    published: list[str] = []

    def publish() -> None:
        while not is_over.is_set():
            name = f"extra-{len(published):04d}"
            lake.publish("ionograms", rows.iloc[:1], name, settings=settings)
            published.append(name)

    thread = threading.Thread(target=publish)
    thread.start()
    n_compacted = 0
    while n_compacted < 5 or len(published) < 10:
        compact_lake(settings, now=datetime.now(UTC) + LATER)
        n_compacted += 1
        time.sleep(0.02)
    is_over.set()
    thread.join()
    assert len(lake.read("ionograms", settings=settings)) == len(rows) + len(published)


def compact_for_ever(settings: Settings) -> None:
    while True:
        compact_lake(settings, now=datetime.now(UTC) + LATER)
        for path in lake.files("ionograms", settings=settings):
            for member in compacted.members(path)[:1]:
                lake.loosen("ionograms", member.name, settings=settings)


def test_killed_anywhere_each_row_is_there_once(settings: Settings) -> None:
    before = tables(settings)
    for number in range(5):
        victim = multiprocessing.get_context("fork").Process(target=compact_for_ever, args=(settings,))
        victim.start()
        time.sleep(0.1 + 0.06 * number)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        assert {
            name: table.equals(before[name]) for name, table in tables(settings).items()
        } == dict.fromkeys(before, True)


def test_a_backup_misses_nothing_of_a_day_that_is_taken_apart_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(settings)
    rows = lake.read_table("ionograms", settings=settings)
    (path,) = lake.files("ionograms", settings=settings)
    capture, name = backup_capture._capture, compacted.members(path)[0].name

    def capture_late(found: backup_capture._Found, *arguments: object) -> object:
        if found.path == path:  # listed, and gone before it is read
            lake.loosen("ionograms", name, settings=settings)
        return capture(found, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backup_capture, "_capture", capture_late)
    backed_up = settings.model_copy(update={"backup_to": str(settings.home.parent / "backups")})
    make_backup(backed_up)
    drill = backed_up.model_copy(update={"home": settings.home.parent / "drill"})
    restore(drill)
    assert lake.read_table("ionograms", settings=drill).equals(rows)
