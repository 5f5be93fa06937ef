"""A root is backed up, destroyed and restored: every byte and every row, and a clear sentence when that cannot be."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks import catalog, lake, upkeep
from tasks.backup import STATUS, Backup, make_backup
from tasks.backup_archive import archive_name, parse_name, read_manifest
from tasks.backup_members import ENVIRONMENT, SECRET, gather_secrets
from tasks.backup_retention import kept_archives, prune_backups
from tasks.backup_store import BackupError, Destination
from tasks.backup_verification import STATUS as VERIFIED
from tasks.backup_verification import verify_backup
from tasks.restore import RESTORED, restore, restore_into
from tasks.settings import Settings
from tests.small_root import (
    END,
    catalog_rows,
    checksums,
    land,
    make_root,
    observations,
    record,
    run_cycle,
    spool,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return make_root(tmp_path_factory.mktemp("model") / "var")


@pytest.fixture
def settings(model: Settings, tmp_path: Path) -> Iterator[Settings]:
    home = tmp_path / "var"
    shutil.copytree(model.home, home, symlinks=True)
    yield model.model_copy(update={"home": home, "backup_to": str(tmp_path / "backups")})
    catalog._open.cache_clear()


def destroy(settings: Settings) -> None:
    catalog._open.cache_clear()
    shutil.rmtree(settings.home)


def with_passphrase(settings: Settings, text: str = "correct horse battery") -> Settings:
    return settings.model_copy(update={"backup_passphrase": SecretStr(text)})


def test_a_destroyed_root_comes_back_to_the_byte(settings: Settings) -> None:
    waiting = spool(
        settings, observations()[-5:], datetime.now(UTC), seal=False
    )  # acknowledged and not landed
    lake_before, rows_before = checksums(settings.lake_root), catalog_rows(settings)
    products_before = checksums(settings.products_root)

    made = make_backup(settings)
    assert made.kind == "full"
    assert made.n_new <= made.n_files
    waiting.close()
    destroy(settings)
    restored = restore(settings)

    assert checksums(settings.lake_root) == lake_before
    assert checksums(settings.products_root) == products_before
    assert catalog_rows(settings) == rows_before
    assert (settings.log_root / "gateway.log").read_text() == "started\n"
    assert restored.n_files == made.n_files
    assert land(settings) == 5  # the spool came back too
    assert run_cycle(settings, END)  # and the system goes on


def test_increments_bring_what_is_new_and_the_rest_is_not_stored_again(settings: Settings) -> None:
    full = make_backup(settings)
    assert make_backup(settings, "increment").n_new == 0
    items = observations()
    spool(settings, items[-40:-20], datetime.now(UTC))
    land(settings)
    waiting = spool(settings, items[-20:], datetime.now(UTC), seal=False)
    catalog.register_sounder(catalog.open_catalog(settings), "AT138", kind="ionosonde", now=END)
    made = make_backup(settings, "increment")
    assert made.kind == "increment"
    assert 0 < made.n_new < 8
    assert made.archive_bytes < full.archive_bytes * 2
    before, rows = checksums(settings.lake_root), catalog_rows(settings)
    waiting.close()
    destroy(settings)
    restore(settings)
    assert checksums(settings.lake_root) == before
    assert catalog_rows(settings) == rows
    assert (settings.log_root / "gateway.log").exists()  # of the full one below
    assert land(settings) == 20


def test_what_expired_before_an_increment_stays_away(settings: Settings) -> None:
    make_backup(settings)
    gone = lake.files("feedback", settings=settings)[0]
    gone.unlink()
    make_backup(settings, "increment")
    destroy(settings)
    restore(settings)
    assert not gone.exists()


def test_a_point_in_time_has_what_was_received_until_then(settings: Settings) -> None:
    make_backup(settings)
    items = observations()[-60:]
    wait_for_next_second()
    at = datetime.now(UTC)
    early, late = at - timedelta(milliseconds=200), at + timedelta(milliseconds=200)
    spool(settings, items[:20], early)
    n_accepted = land(settings)
    engine = catalog.open_catalog(settings)
    catalog.register_sounder(engine, "AT138", kind="ionosonde", details={"tier": "GOLD"}, now=early)
    sounders = catalog_rows(settings)
    catalog.register_sounder(engine, "AT138", kind="ionosonde", details={"tier": "SILVER"}, now=late)
    catalog.register_sounder(engine, "LATE1", kind="ionosonde", now=late)
    expected, rows = checksums(settings.lake_root), catalog_rows(settings)["batches"]
    writer = spool(settings, items[20:40], early, seal=False)
    writer.append_many([record(items[40:], late)])
    writer.seal()
    n_rows = len(lake.read("ionograms", settings=settings))
    n_later = land(settings)
    time.sleep(0.3)
    make_backup(settings, "increment")

    destroy(settings)
    restored = restore(settings, at=at)
    assert restored.replayed is not None
    assert restored.replayed.n_records == 2
    assert restored.replayed.n_later == 1
    assert n_accepted >= 19
    assert 0 < restored.replayed.n_accepted - n_accepted < n_later
    assert len(lake.read("ionograms", settings=settings)) < n_rows + n_later
    now = checksums(settings.lake_root)
    assert {path: now.get(path) for path in expected} == expected
    recorded = [row[:5] for row in catalog_rows(settings)["batches"]]
    assert all(row[:5] in recorded for row in rows)
    now_known = catalog_rows(settings)
    for table in ("sounders", "sounder_versions", "credentials"):
        assert now_known[table] == sounders[table]
    received = lake.read("ionograms", settings=settings)["received_at"]
    assert (received <= at).all()
    destroy(settings)
    with pytest.raises(BackupError, match="is after the newest archive"):
        restore(settings, at=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(BackupError, match="is before the oldest archive"):
        restore(settings, at=at - timedelta(days=1))


def wait_for_next_second() -> None:
    """Archives are named to the second, rounded up."""
    time.sleep(1.2)


def test_secrets_are_never_in_clear(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    password = "hunter2-hunter2"
    monkeypatch.setenv("AUTONVIS_MQTT_URL", f"mqtt://me:{password}@broker:1883")
    monkeypatch.setenv("AUTONVIS_BACKUP_PASSPHRASE", "correct horse battery")
    private = settings.home / "broker" / "rabbitmq" / "parameters.json"
    private.parent.mkdir(parents=True)
    private.write_text(json.dumps({"password": password}))
    make_prefect_database(settings.home, password)
    key = settings.home / "tls" / "server.key"
    key.parent.mkdir()
    key.write_text(password)
    key.chmod(0o600)
    (settings.home / RESTORED).mkdir()  # of an earlier restore
    (settings.home / RESTORED / ENVIRONMENT).write_text(password)
    protected = with_passphrase(settings)
    make_backup(protected)

    archive = unpacked_archive(settings)
    assert (archive / SECRET).is_file()
    assert not any(password.encode() in path.read_bytes() for path in archive.rglob("*") if path.is_file())
    store = Path(settings.backup_address) / "store"
    for stored in store.rglob("*.zst"):
        content = subprocess.run(["zstd", "-dc", str(stored)], capture_output=True, check=True).stdout
        assert password.encode() not in content

    destroy(settings)
    with pytest.raises(BackupError, match="passphrase of AUTONVIS_BACKUP_PASSPHRASE"):
        restore(with_passphrase(settings, "wrong passphrase"))
    assert not settings.home.exists()
    assert list(settings.home.parent.glob("*.restoring-*")) == []
    without = restore(settings)
    assert any("stay encrypted" in note for note in without.notes)
    assert not private.exists()
    assert not key.exists()
    destroy(settings)
    restore(protected)
    assert json.loads(private.read_text())["password"] == password
    assert key.read_text() == password
    assert key.stat().st_mode & 0o777 == 0o600
    environment = (settings.home / RESTORED / ENVIRONMENT).read_text()
    assert password in environment
    assert "correct horse" not in environment
    with sqlite3.connect(settings.home / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT data FROM block_document").fetchone() == (password,)


def test_without_a_passphrase_secrets_are_left_out_and_it_says_so(settings: Settings) -> None:
    make_prefect_database(settings.home, "hunter2-hunter2")
    made = make_backup(settings)
    assert "set AUTONVIS_BACKUP_PASSPHRASE" in made.summary()
    archive = unpacked_archive(settings)
    assert b"hunter2" not in (archive / "prefect.sqlite").read_bytes()
    destroy(settings)
    restore(settings)
    with sqlite3.connect(settings.home / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT name FROM flow_run").fetchone() == ("nowcast",)


def make_prefect_database(home: Path, secret: str) -> None:
    (home / "prefect").mkdir()
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        database.execute("CREATE TABLE flow_run (name TEXT)")
        database.execute("INSERT INTO flow_run VALUES ('nowcast')")
        database.execute("CREATE TABLE block_document (data TEXT)")
        database.execute("INSERT INTO block_document VALUES (?)", (secret,))
    database.close()


def unpacked_archive(settings: Settings) -> Path:
    """The newest archive as the tools of any machine unpack it."""
    folder = Path(settings.backup_address) / "archives"
    checksum = sorted(folder.glob("*.sha256"))[-1]
    subprocess.run(["sha256sum", "--check", "--quiet", checksum.name], cwd=folder, check=True)
    target = settings.home.parent / f"unpacked-{checksum.stem}"
    target.mkdir()
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    archive = folder / checksum.name.removesuffix(".sha256")
    subprocess.run(["tar", "--zstd", "-xf", str(archive), "-C", str(target)], check=True)
    return target


def test_a_root_that_holds_something_is_replaced_only_when_asked(settings: Settings) -> None:
    make_backup(settings)
    rows = catalog_rows(settings)
    (settings.home / "note").write_text("mine")
    with pytest.raises(BackupError, match=r"is not empty .*give --overwrite"):
        restore(settings)
    restored = restore(settings, overwrite=True)
    assert not (settings.home / "note").exists()
    (kept,) = settings.home.parent.glob("var.replaced-*")
    assert (kept / "note").read_text() == "mine"
    assert str(kept) in restored.summary()
    assert catalog_rows(settings) == rows


def test_damage_is_named_and_changes_nothing(settings: Settings) -> None:
    made = make_backup(settings)
    archive = Path(settings.backup_address) / "archives" / made.archive
    whole = archive.read_bytes()
    before = checksums(settings.home)

    for damaged in (whole[: len(whole) // 2], whole[:-20], whole[:2000] + b"\0" * 50 + whole[2050:], b""):
        archive.write_bytes(damaged)
        with pytest.raises(BackupError, match=made.archive):
            restore(settings, overwrite=True)
    archive.write_bytes(whole)

    parquet = lake.files("ionograms", settings=settings)[0]
    name = parquet.relative_to(settings.home).as_posix()
    sha256 = next(
        entry.sha256
        for entry in read_manifest(Destination(settings.backup_address), made.archive).files
        if entry.path == name
    )
    stored = Path(settings.backup_address) / "store" / sha256[:2] / f"{sha256}.zst"
    content = stored.read_bytes()
    for damaged in (content[:-7], content[:20] + b"\0" * 8 + content[28:]):
        stored.write_bytes(damaged)
        with pytest.raises(BackupError, match=rf"{name} cannot be restored: .*(cut|damaged)"):
            restore(settings, overwrite=True)
    stored.unlink()
    with pytest.raises(BackupError, match=rf"{name} cannot be restored: .*is missing"):
        restore(settings, overwrite=True)
    assert checksums(settings.home) == before
    assert list(settings.home.parent.glob("*.restoring-*")) == []

    assert make_backup(settings).n_new == 1  # a full backup mends the store
    restore(settings, overwrite=True)


def test_an_increment_without_its_full_archive_says_so(settings: Settings) -> None:
    full = make_backup(settings)
    increment = make_backup(settings, "increment")
    Destination(settings.backup_address).remove_archive(full.archive)
    destroy(settings)
    with pytest.raises(
        BackupError,
        match=f"{increment.archive} builds on an archive that cannot be used: archive {full.archive} is missing",
    ):
        restore(settings)


def test_a_whole_archive_goes_anywhere_by_itself(settings: Settings, tmp_path: Path) -> None:
    made = make_backup(settings, "whole")
    before, rows = checksums(settings.lake_root), catalog_rows(settings)
    elsewhere = tmp_path / "usb" / "archives"
    elsewhere.mkdir(parents=True)
    shutil.move(Path(settings.backup_address) / "archives" / made.archive, elsewhere)
    shutil.rmtree(settings.backup_address)
    destroy(settings)
    restore(settings, str(elsewhere / made.archive))
    assert checksums(settings.lake_root) == before
    assert catalog_rows(settings) == rows


def test_two_at_once_take_turns(settings: Settings) -> None:
    with (
        upkeep.turn(settings, "a compaction"),
        pytest.raises(upkeep.Busy, match=r"a compaction \(process"),
    ):
        make_backup(settings, "increment", wait_s=0.2)
    with (
        upkeep.turn(settings, "a backup (full)", of="backup"),
        pytest.raises(upkeep.Busy, match=r"a backup \(full\) \(process"),
    ):
        make_backup(settings, wait_s=0.2)
    assert make_backup(settings).kind == "full"


def test_increments_go_on_while_a_full_backup_takes_its_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = settings.model_copy(update={"backup_daily": 1, "backup_weekly": 0})
    make_backup(once)
    wait_for_next_second()
    during: list[Backup] = []

    def with_an_increment(of: Settings, folder: Path) -> list[str]:
        """The last that a full one reads: an increment comes when the spool, read first, has changed since."""
        if not during:
            time.sleep(0.01)
            spool(settings, observations()[-5:], datetime.now(UTC))
            during.append(make_backup(once, "increment", wait_s=0.2))
            wait_for_next_second()
        return gather_secrets(of, folder)

    monkeypatch.setattr("tasks.backup.gather_secrets", with_an_increment)
    full = make_backup(once)
    assert during[0].kind == "increment"
    assert full.archive > during[0].archive
    assert full.taken_at < during[0].taken_at
    prune_backups(once, now=datetime.now(UTC))  # its base was replaced meanwhile
    destroy(settings)
    restored = restore(once)
    assert restored.archive == during[0].archive
    assert land(settings) == 5


def test_nothing_to_back_up_and_nowhere_to_go(settings: Settings, tmp_path: Path) -> None:
    nothing = settings.model_copy(update={"home": tmp_path / "nothing"})
    with pytest.raises(BackupError, match="there is nothing to back up"):
        make_backup(nothing)
    with pytest.raises(BackupError, match="no archive in"):
        restore(nothing)
    foreign = settings.model_copy(update={"backup_to": "nosuch://bucket"})
    with pytest.raises(BackupError, match="no file system for backups at 'nosuch://bucket'"):
        make_backup(foreign)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BackupError, match=r"cannot be (written|listed)"):
        make_backup(settings.model_copy(update={"backup_to": str(file)}))


def back_up_for_ever(settings: Settings) -> None:
    number = 0
    while True:
        spool(settings, observations()[number : number + 1], datetime.now(UTC))
        make_backup(settings, "full" if number % 3 else "increment")
        number += 1


def test_killed_midway_leaves_only_whole_archives(settings: Settings) -> None:
    context = multiprocessing.get_context("fork")
    make_backup(settings)
    for number in range(4):
        victim = context.Process(target=back_up_for_ever, args=(settings,))
        victim.start()
        time.sleep(0.15 + 0.13 * number)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        destination = Destination(settings.backup_address)
        for name in destination.archives():
            read_manifest(destination, name)
    after = make_backup(settings)
    spooled = checksums(settings.spool_root)
    assert lake.clean_staging(settings) == 0
    restore(settings, overwrite=True)
    assert checksums(settings.spool_root) == spooled
    assert after.n_files


def test_the_status_is_there_for_who_watches(settings: Settings) -> None:
    made: Backup = make_backup(settings)
    make_backup(settings, "increment")
    status = json.loads((settings.home / STATUS).read_text())
    assert status["full"]["archive"] == made.archive
    assert datetime.fromisoformat(status["increment"]["taken_at"]) > made.taken_at


def test_backups_go_to_any_file_system(settings: Settings) -> None:
    remote = settings.model_copy(update={"backup_to": f"memory://{settings.home}/backups"})
    before = checksums(settings.lake_root)
    make_backup(remote)
    make_backup(remote, "increment")
    destroy(settings)
    restore(remote)
    assert checksums(settings.lake_root) == before


def test_a_backup_is_verified_by_its_last_cycle(settings: Settings) -> None:
    made = make_backup(settings)
    verified = verify_backup(settings)
    assert verified.is_good, verified.problems
    assert verified.archive == made.archive
    assert verified.n_compared >= 4
    assert verified.cycle_id is not None
    assert verified.cycle_id.startswith(f"{END:%Y%m%dT%H%MZ}")
    assert json.loads((settings.home / VERIFIED).read_text())["is_good"] is True
    assert lake.clean_staging(settings) == 0  # nothing of the scratch root is left

    # What was stored is not what the cycle says: a row of the analysis is another.
    path = lake.files("feedback", settings=settings)[-1]
    rows = lake.read_file("feedback", path)
    rows.loc[0, "effective_error"] = 9.9
    lake.publish("feedback", rows, path.stem, settings=settings)
    make_backup(settings)
    verified = verify_backup(settings)
    assert [problem.endswith("differs when it is computed again") for problem in verified.problems] == [True]


def test_a_drill_leaves_the_live_root_alone(settings: Settings, tmp_path: Path) -> None:
    make_backup(settings)
    with pytest.raises(BackupError, match="is the live root"):
        restore_into(settings, settings.home / "drill")
    restore_into(settings, tmp_path / "drill")
    assert checksums(tmp_path / "drill" / "lake") == checksums(settings.lake_root)


def test_a_lake_elsewhere_goes_back_there(settings: Settings, tmp_path: Path) -> None:
    apart = settings.model_copy(update={"lake": tmp_path / "big-disk" / "lake"})
    apart.lake_root.parent.mkdir()
    shutil.move(settings.lake_root, apart.lake_root)
    before = checksums(apart.lake_root)
    make_backup(apart)
    destroy(settings)
    shutil.rmtree(apart.lake_root)
    restore(apart)
    assert checksums(apart.lake_root) == before
    assert not settings.lake_root.exists()


def test_the_commands_say_what_they_did(settings: Settings) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AUTONVIS_")},
        "AUTONVIS_HOME": str(settings.home),
        "AUTONVIS_BACKUP_TO": settings.backup_address,
        "PYTHONPATH": os.getcwd(),
    }

    def autonvis(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "autonvis", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    before = checksums(settings.lake_root)
    made = autonvis("backup")
    assert made.returncode == 0, made.stderr
    assert "files, " in made.stdout
    assert "0 archives and 0 stored files removed by the policy" in made.stdout
    refused = autonvis("restore")
    assert refused.returncode == 2
    assert refused.stderr.startswith("autonvis restore: ")
    assert "give --overwrite" in refused.stderr
    assert autonvis("restore", "--at", "yesterday").stderr.startswith(
        "autonvis restore: --at 'yesterday' is not an ISO-8601"
    )
    destroy(settings)
    restored = autonvis("restore", settings.backup_address)
    assert restored.returncode == 0, restored.stderr
    assert checksums(settings.lake_root) == before


def test_the_policy_keeps_days_weeks_and_recent_increments() -> None:
    now = datetime(2026, 11, 26, 3, tzinfo=UTC)
    fulls = [archive_name(now - timedelta(days=days, hours=1), "full") for days in range(200)]
    increments = [archive_name(now - timedelta(hours=hours), "increment") for hours in range(0, 24 * 10, 3)]
    whole = archive_name(now - timedelta(days=400), "whole")
    kept = kept_archives([*fulls, *increments, whole], now=now, daily=30, weekly=12, increments_d=2.0)
    days = [(now - parse_name(name)[0]).days for name in kept if "-full" in name]
    assert sorted(days)[:30] == list(range(30))
    assert len(days) == 30 + 7  # the newest of each of twelve weeks, five of which lie in the last 30 days
    assert all(later - earlier == 7 for earlier, later in itertools.pairwise(sorted(days)[30:]))
    assert sum("-increment" in name for name in kept) == 17
    assert whole in kept
    assert kept_archives(kept, now=now, daily=30, weekly=12, increments_d=2.0) == kept
    # A system that was off for a year still has its last days.
    assert (
        len(kept_archives(fulls, now=now + timedelta(days=365), daily=30, weekly=0, increments_d=2.0)) == 30
    )


def test_what_nobody_needs_leaves_the_store(settings: Settings) -> None:
    small = settings.model_copy(update={"backup_daily": 1, "backup_weekly": 0})
    make_backup(small)
    for path in lake.files("feedback", settings=settings):
        path.unlink()
    catalog._open.cache_clear()
    time.sleep(1.1)
    make_backup(small)
    time.sleep(1.1)
    kept = make_backup(small)  # the one before it stays for an increment under way
    now = datetime.now(UTC)
    pruned = prune_backups(small, now=now)
    assert len(pruned.archives) == 1
    assert pruned.n_objects == 0  # too young to be judged
    pruned = prune_backups(small, now=now + timedelta(days=2))
    assert pruned.n_objects == 2
    destroy(settings)
    assert restore(small).archive == kept.archive
