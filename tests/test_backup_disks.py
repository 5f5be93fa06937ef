"""Backups and restores on disks that are full, too small, or mounted volumes of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks import catalog, lake
from tasks.backup import make_backup
from tasks.backup_store import BackupError
from tasks.restore import restore
from tasks.settings import Settings
from tests.faults.test_full_disk import fill
from tests.small_root import catalog_rows, checksums, land, observations, spool


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    """Mounts a small file system of a name and size."""
    mounted: list[Path] = []

    def mount_one(name: str, size: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "autonvis-backup", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount_one
    catalog._open.cache_clear()
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_root(home: Path, backup_to: Path) -> Settings:
    settings = Settings(home=home, backup_to=str(backup_to))
    home.mkdir(exist_ok=True)
    spool(settings, observations()[:300], datetime.now(UTC))
    land(settings)
    (home / "simulated").mkdir()
    (home / "simulated" / "truth").write_bytes(bytes(range(256)) * 4000)
    return settings


def test_a_full_destination_gets_no_archive(tmp_path: Path, mount: Callable[[str, str], Path]) -> None:
    target = mount("backups", "2m")
    settings = small_root(tmp_path / "var", target)
    ballast = fill(target)
    with pytest.raises(BackupError, match=r"cannot be written \(No space left on device\): free space"):
        make_backup(settings)
    assert [path for path in target.rglob("*") if path.is_file()] == [ballast]
    ballast.unlink()
    made = make_backup(settings)
    shutil.rmtree(settings.home)
    catalog._open.cache_clear()
    assert restore(settings).archive == made.archive


def test_a_full_home_says_so_and_the_old_backups_stay(
    tmp_path: Path, mount: Callable[[str, str], Path]
) -> None:
    settings = small_root(mount("var", "8m"), tmp_path / "backups")
    made = make_backup(settings)
    ballast = fill(settings.home)
    with pytest.raises((BackupError, catalog.CatalogError, lake.LakeError), match="full"):
        make_backup(settings)
    ballast.unlink()
    assert [path.name for path in (tmp_path / "backups" / "archives").glob("*.zst")] == [made.archive]
    assert make_backup(settings).n_new == 0


def test_a_root_on_a_mounted_volume_is_restored_in_place(
    tmp_path: Path, mount: Callable[[str, str], Path]
) -> None:
    settings = small_root(mount("var", "16m"), tmp_path / "backups")
    before, rows = checksums(settings.lake_root), catalog_rows(settings)
    make_backup(settings)
    (settings.home / "note").write_text("mine")
    catalog._open.cache_clear()
    restored = restore(settings, overwrite=True)
    assert checksums(settings.lake_root) == before
    assert catalog_rows(settings) == rows
    (kept,) = settings.home.glob(".replaced-*")
    assert (kept / "note").read_text() == "mine"
    assert str(kept) in restored.summary()
    assert list(settings.home.glob(".restoring-*")) == []
    assert make_backup(settings).n_new == 0  # what was replaced is no part of the root


def test_a_disk_that_is_too_small_is_left_as_it_was(
    tmp_path: Path, mount: Callable[[str, str], Path]
) -> None:
    settings = small_root(tmp_path / "var", tmp_path / "backups")
    make_backup(settings)
    small = settings.model_copy(update={"home": mount("small", "1m") / "var"})
    with pytest.raises(BackupError, match=r"MB free and 1\.\d MB are needed: free space"):
        restore(small)
    assert list((tmp_path / "small").iterdir()) == []
