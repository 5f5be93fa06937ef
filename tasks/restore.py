"""A root made again from a backup: staged beside the old one, checked, replayed up to a time if one is asked for, swapped in.

Until the swap nothing of the old root is touched, and a restore that is killed leaves a folder `….restoring-…` that may
be deleted. What was there before is kept as `….replaced-…`.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL

from tasks import age_file, catalog, database_copy, root_swap
from tasks.backup_archive import parse_name, read_manifest, unpack
from tasks.backup_capture import target_path
from tasks.backup_manifest import FileEntry, Manifest, all_files
from tasks.backup_members import CATALOG, HOME, SECRET, open_secrets
from tasks.backup_replay import Replayed, replay_until
from tasks.backup_store import STORE, SUFFIX, BackupError, Destination
from tasks.settings import Settings

log = logging.getLogger(__name__)

RESTORED = "restored"
"""Folder of the home for what must be looked at by a person: settings, the broker's definitions, foreign databases."""


@dataclass(frozen=True)
class Restored:
    """What a restore came to; `state_at` is the time whose acknowledged observations are all there."""

    home: Path
    archive: str
    state_at: datetime
    n_files: int
    n_bytes: int
    duration_s: float
    replayed: Replayed | None = None
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        text = (
            f"{self.home} is as at {self.state_at:%Y-%m-%d %H:%M:%S} UTC, from {self.archive}: {self.n_files} files, "
            f"{self.n_bytes / 1e6:.1f} MB, {self.duration_s:.1f} s"
        )
        replayed = [self.replayed.summary()] if self.replayed is not None else []
        return "; ".join([text, *replayed, *self.notes])


def restore(
    settings: Settings,
    source: str | None = None,
    at: datetime | None = None,
    *,
    overwrite: bool = False,
    prefect: str | None = None,
) -> Restored:
    """Makes the root of the settings again.

    Args:
        source: where the backups are, or the path of one archive; default the settings'.
        at: the state of this time; default that of the newest archive, or of the one named.
        overwrite: replace a root that holds something; it is kept beside.
        prefect: address of a database on PostgreSQL that Prefect's goes into, where the backup has a dump of one; by default
            the dump is left for a person.

    Raises:
        BackupError: no fitting archive, or one that is damaged or incomplete; another passphrase; no space; a root that
            holds something. The root is as it was.
    """
    began_s = time.monotonic()
    destination, named = _resolve(source or settings.backup_address)
    prefect_url = None if prefect is None else database_copy.prefect_url(prefect)
    if not overwrite:
        _check_empty(settings, prefect_url)
    name, later = choose_archive(destination, named, at)
    manifest = read_manifest(destination, name)
    base = _read_base(destination, name, manifest)
    files = all_files(manifest, base)
    with ExitStack() as stack:
        staged = _staged_settings(settings, stack, files)
        notes = _fill(destination, name, manifest, base, files, staged)
        replayed = None
        if at is not None:
            replayed = replay_until(destination, staged, files, at, later)
        notes += _load_databases(settings, staged, prefect_url)
        os.sync()  # all of it, once, before it takes the place of anything
        notes += _swap(settings, staged)
    return Restored(
        home=settings.home,
        archive=name,
        state_at=at or manifest.taken_at,
        n_files=len(files),
        n_bytes=sum(entry.n_bytes for entry in files.values()),
        duration_s=time.monotonic() - began_s,
        replayed=replayed,
        notes=notes,
    )


def choose_archive(destination: Destination, named: str | None, at: datetime | None) -> tuple[str, list[str]]:
    """The archive to build on, and those after it that a time within needs, oldest first.

    Raises:
        BackupError: there is none, or none that reaches back or up to `at`.
    """
    names = destination.archives()
    if not names:
        raise BackupError(
            f"no archive in {destination.address}: FROM is the place that AUTONVIS_BACKUP_TO named"
        )
    if named is not None and named not in names:
        raise BackupError(f"archive {named} is missing from {destination.address}; the newest is {names[-1]}")
    if at is None:
        return named or _latest(destination, names), []
    # A name says when the last byte was read: nothing that came later is in the archive.
    before = [name for name in names if parse_name(name)[0] <= at and name <= (named or "~")]
    if not before:
        raise BackupError(f"{at.isoformat()} is before the oldest archive, {names[0]}: nothing older is kept")
    later = []
    for name in names[names.index(before[-1]) + 1 :]:
        later.append(name)
        if read_manifest(destination, name).taken_at >= at:
            return before[-1], later
    newest = read_manifest(destination, names[-1]).taken_at
    if newest >= at:
        return before[-1], later
    raise BackupError(
        f"{at.isoformat()} is after the newest archive, of {newest.isoformat()}: what arrived since then is in no backup; without "
        "a time that one is restored"
    )


def _latest(destination: Destination, names: list[str]) -> str:
    """The archive of the latest state: an increment that was made while a full one was made has later bytes than that."""
    latest, taken_at = names[-1], read_manifest(destination, names[-1]).taken_at
    for name in reversed(names[:-1]):
        if parse_name(name)[0] < taken_at:  # the end of its making, which began before
            break
        manifest = read_manifest(destination, name)
        if manifest.taken_at > taken_at:
            latest, taken_at = name, manifest.taken_at
    return latest


def _resolve(source: str) -> tuple[Destination, str | None]:
    """A destination, and the archive in it that the source names itself."""
    if not source.endswith(SUFFIX):
        return Destination(source), None
    folder, _, name = source.rpartition("/")
    parse_name(name)
    if folder.rsplit("/", 1)[-1] == "archives":
        return Destination(folder.rpartition("/")[0] or "/"), name
    raise BackupError(
        f"{source} does not lie in a folder `archives`: put a whole archive that was carried away into one of its own"
    )


def _read_base(destination: Destination, name: str, manifest: Manifest) -> Manifest | None:
    if manifest.base is None:
        return None
    try:
        return read_manifest(destination, manifest.base)
    except BackupError as error:
        raise BackupError(f"increment {name} builds on an archive that cannot be used: {error}") from error


def _check_empty(settings: Settings, prefect: URL | None) -> None:
    for root in {settings.home, settings.lake_root}:
        held = next((path for path in root.iterdir() if path.name != "run"), None) if root.is_dir() else None
        if held is not None:
            raise BackupError(
                f"{root} is not empty (it holds {held.name}): give --overwrite to replace it, it is kept beside; or restore into "
                "another AUTONVIS_HOME"
            )
    if settings.database_url is not None and database_copy.n_catalog_rows(catalog.open_catalog(settings)):
        raise BackupError(
            "the catalog of AUTONVIS_DATABASE_URL is not empty: give --overwrite to replace its rows"
        )
    if prefect is not None and not database_copy.is_empty(prefect):
        raise BackupError(
            f"the database {prefect.render_as_string()} is not empty: give --overwrite to replace what it holds, it is kept in a "
            "schema beside; or leave --prefect out, and the dump for later"
        )


def _staged_settings(settings: Settings, stack: ExitStack, files: Mapping[str, FileEntry]) -> Settings:
    """The settings of the staged root, with a catalog of its own; the lake beside its place where that is elsewhere."""
    of_lake = sum(entry.n_bytes for entry in files.values() if entry.path.startswith("lake/"))
    of_home = sum(entry.n_bytes for entry in files.values()) - of_lake
    if settings.lake is None:
        home = stack.enter_context(root_swap.staged_beside(settings.home, of_home + of_lake)) / "home"
        lake_root = home / "lake"
    else:
        home = stack.enter_context(root_swap.staged_beside(settings.home, of_home)) / "home"
        lake_root = stack.enter_context(root_swap.staged_beside(settings.lake_root, of_lake)) / "lake"
    home.mkdir()
    lake_root.mkdir()
    return settings.model_copy(update={"home": home, "lake": lake_root, "database_url": None})


def _fill(
    destination: Destination,
    name: str,
    manifest: Manifest,
    base: Manifest | None,
    files: dict[str, FileEntry],
    staged: Settings,
) -> list[str]:
    """Writes a whole root into the stage, every file checked; returns what a person should know."""
    stage = staged.home.parent
    unpacked = stage / "archive"
    unpack(destination, name, manifest, unpacked)
    if base is not None and manifest.base is not None:
        # Logs, configuration and Prefect's database are in full backups only.
        older = stage / "base"
        unpack(destination, manifest.base, base, older)
        _merge(older, unpacked)
    for entry in files.values():
        _place(destination, entry, target_path(entry.path, staged.home, staged.lake_root), unpacked / STORE)
    shutil.rmtree(unpacked / STORE, ignore_errors=True)
    (unpacked / CATALOG).rename(staged.home / "catalog.db")
    notes = [*manifest.notes, *(base.notes if base is not None else [])]
    if (unpacked / SECRET).is_file():
        secret = age_file.passphrase(staged)
        if secret is None:
            notes.append(
                f"configuration and Prefect's runs stay encrypted in the backup: set {age_file.PASSPHRASE}"
            )
        else:
            open_secrets(unpacked / SECRET, secret, unpacked)
        (unpacked / SECRET).unlink()
    return notes + _place_members(unpacked, staged.home)


def _place_members(unpacked: Path, home: Path) -> list[str]:
    """Logs, broker and Prefect's database where the system looks for them, the rest for a person to look at."""
    notes = []
    for folder in ("logs", "broker"):
        if (unpacked / folder).is_dir():
            (unpacked / folder).rename(home / folder)
    if (unpacked / "prefect.sqlite").is_file():
        (home / "prefect").mkdir(mode=0o700, exist_ok=True)
        (unpacked / "prefect.sqlite").rename(home / "prefect" / "prefect.db")
    if (unpacked / HOME).is_dir():
        _merge(unpacked / HOME, home)
    left = sorted(path for path in unpacked.rglob("*") if path.is_file()) if unpacked.is_dir() else []
    for path in left:
        target = home / RESTORED / path.relative_to(unpacked)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.rename(target)
    if left:
        notes.append(f"settings and what else a person must place are in {RESTORED}/ of the home folder")
    return notes


def _place(destination: Destination, entry: FileEntry, target: Path, carried: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.target:
        target.symlink_to(entry.target)
        return
    packed = carried / entry.sha256
    if packed.is_file():
        shutil.copyfile(packed, target)
    else:
        try:
            with target.open("xb") as file:
                destination.read_object(entry.sha256, file)
        except BackupError as error:
            raise BackupError(
                f"{entry.path} cannot be restored: {error}; another archive may have it whole"
            ) from error
    os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _merge(older: Path, newer: Path) -> None:
    """Moves into `newer` what it lacks."""
    for path in sorted(older.rglob("*")):
        target = newer / path.relative_to(older)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _load_databases(settings: Settings, staged: Settings, prefect: URL | None) -> list[str]:
    """What belongs on a database server, there; returns what was done."""
    notes = []
    dump = staged.home / RESTORED / database_copy.PREFECT_DUMP
    if prefect is not None:
        if not dump.is_file():
            raise BackupError(
                f"the backup has no dump of Prefect's database for {prefect.render_as_string()}: leave --prefect out"
            )
        replaced = database_copy.load_prefect(dump, prefect, datetime.now(UTC))
        dump.unlink()
        notes.append(
            "Prefect's runs are in its database"
            + (f"; what was there before is in its schema {replaced}" if replaced is not None else "")
        )
    elif dump.is_file():
        notes.append(
            f"{RESTORED}/{dump.name} is Prefect's database: --prefect URL puts it into one on PostgreSQL"
        )
    if settings.database_url is not None:
        database_copy.load_catalog(staged.home / "catalog.db", catalog.open_catalog(settings))
        (staged.home / "catalog.db").unlink()
        notes.append("the rows of the catalog are in AUTONVIS_DATABASE_URL")
    return notes


def _swap(settings: Settings, staged: Settings) -> list[str]:
    """The staged root in the place of the old one; returns where the old one went."""
    notes = []
    pairs = [(staged.home, settings.home)]
    if settings.lake is not None:
        pairs.insert(0, (staged.lake_root, settings.lake_root))
    for fresh, place in pairs:
        replaced = root_swap.swap(fresh, place)
        if replaced is not None:
            notes.append(f"what was there before is in {replaced}: delete it when all is well")
    return notes


def restore_into(
    settings: Settings,
    into: Path,
    source: str | None = None,
    at: datetime | None = None,
    *,
    overwrite: bool = False,
) -> Restored:
    """As `restore`, into a folder apart from the live root of the settings.

    Raises:
        BackupError: the folder is the live root, or within it; or as `restore`.
    """
    folder, home = into.resolve(), settings.home.resolve()
    if folder == home or home in folder.parents or folder in home.parents:
        raise BackupError(
            f"{into} is the live root {home}, within it or around it: stop the system and use `autonvis restore`"
        )
    apart = settings.model_copy(update={"home": folder, "lake": None, "database_url": None})
    return restore(apart, source or settings.backup_address, at, overwrite=overwrite)
