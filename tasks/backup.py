"""A backup: the files of the root into the store, each content once, and one archive that names them.

A full backup has everything, an increment what is new since the full one before it: every three minutes that bounds what
a disaster can take, also while a full one is made. Each begins by taking into the spool what the broker has queued. A whole one carries the files within itself, to be taken away. The archive comes last, whole or not
at all; what a killed backup leaves in the store the next one finds and uses.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from tasks import lake, upkeep
from tasks.backup_archive import archive_name, parse_name, read_manifest
from tasks.backup_capture import capture_files, capture_spool
from tasks.backup_manifest import MANIFEST, FileEntry, Kind, Manifest, Member, all_files
from tasks.backup_members import gather_broker, gather_catalog, gather_logs, gather_secrets
from tasks.backup_store import CHUNK_BYTES, STORE, BackupError, Changed, Destination
from tasks.landing.mqtt import BrokerUnavailable, drain
from tasks.metrics.runs import count_landed
from tasks.settings import Settings, SettingsError

log = logging.getLogger(__name__)

STATUS = Path("run/backup.json")
"""What was backed up last, below the home folder, for whoever watches."""
DRAIN_S = 30.0
"""How long to wait for another drain, and how long to drain: with the interval of the increments well below five minutes."""


@dataclass(frozen=True)
class Backup:
    """What a backup came to: sizes in bytes, `n_new` files that the store did not have."""

    archive: str
    kind: Kind
    taken_at: datetime
    address: str
    n_files: int
    n_new: int
    new_bytes: int
    archive_bytes: int
    duration_s: float
    notes: list[str]

    def summary(self) -> str:
        text = (
            f"{self.archive} in {self.address}: {self.n_files} files, {self.n_new} of them new ({self.new_bytes / 1e6:.1f} MB), "
            f"archive {self.archive_bytes / 1e6:.1f} MB, {self.duration_s:.1f} s"
        )
        return "; ".join([text, *self.notes])


def make_backup(
    settings: Settings, kind: Kind = "full", definitions: bytes | None = None, *, wait_s: float = 60.0
) -> Backup:
    """Backs up the root of the settings.

    Args:
        kind: an increment becomes a full one where there is no full one to build on.
        definitions: of the broker, as it exports them itself.
        wait_s: how long to wait for another upkeep of this root.

    Raises:
        BackupError: the destination or the disk refuses; no archive of this run is there.
        tasks.upkeep.Busy: another backup of this root runs.
    """
    if not settings.home.is_dir():
        raise BackupError(f"there is nothing to back up: {settings.home} (AUTONVIS_HOME) is no folder")
    destination = Destination(settings.backup_address)
    who = f"a backup ({kind})"
    of = "backup-increment" if kind == "increment" else "backup"
    with upkeep.turn(settings, who, of=of, wait_s=wait_s), _named(settings):
        now = datetime.now(UTC)
        notes = drain_queue(settings)
        with upkeep.turn(settings, who, is_shared=True, wait_s=wait_s):
            made = _make(settings, kind, definitions, destination, now, notes)
        with upkeep.turn(settings, who, of="backup-status"):
            _write_status(settings, made)
    log.info("%s", made.summary())
    return made


def drain_queue(settings: Settings) -> list[str]:
    """Takes what the broker has queued into the spool, which is backed up; returns what could not be taken, in a sentence."""
    if not settings.mqtt_url:
        return []
    bounds = {"mqtt_drain_s": DRAIN_S, "mqtt_drain_messages": sys.maxsize}
    try:
        drained = drain(settings.model_copy(update=bounds), wait_s=DRAIN_S)
    except (BrokerUnavailable, SettingsError) as error:
        return [f"what the broker has queued is not in it: {error}"]
    count_landed(settings, {"mqtt": drained.n_messages})
    if not drained.is_empty:
        return [f"some of what the broker has queued is not in it: {DRAIN_S:g} s did not suffice to take it"]
    return []


def _make(
    settings: Settings,
    kind: Kind,
    definitions: bytes | None,
    destination: Destination,
    now: datetime,
    notes: list[str],
) -> Backup:
    """`now`: the time up to which everything acknowledged is in the spool; `notes`: what is not."""
    began_s = time.monotonic()
    base_name = _newest(destination, "full") if kind == "increment" else None
    if kind == "increment" and base_name is None:
        log.info("there is no full backup in %s yet: this one is", destination.address)
        kind = "full"
    base = read_manifest(destination, base_name) if base_name is not None else None
    known = _known(destination, base, base_name)
    with lake.staging_folder(settings) as stage:
        kept = _Kept(destination, known, stage / STORE if kind == "whole" else None)
        trusted = {} if kind == "whole" else known
        spooled = capture_spool(settings, trusted, kept.keep)
        members = stage / "members"
        members.mkdir()
        gather_catalog(settings, members)
        gather_broker(settings, members, definitions)
        files = capture_files(settings, trusted, kept.keep, spooled)
        if kind != "increment":
            gather_logs(settings, members, now)
            notes = [*notes, *gather_secrets(settings, members)]
        changed, removed = files, []
        if base is not None:
            before = {entry.path: entry for entry in base.files}
            changed = [entry for entry in files if before.get(entry.path) != entry]
            removed = sorted(before.keys() - {entry.path for entry in files})
        manifest = Manifest(
            kind=kind, taken_at=now, release=_release(), files=changed, base=base_name, removed=removed, notes=notes,
            members=_describe(members),
        )  # fmt: skip
        # Names go by the second: two increments of one would have no order.
        newest = max((parse_name(other)[0] for other in destination.archives()), default=now)
        name = archive_name(max(newest, datetime.now(UTC)), kind)
        packed = stage / "archive"
        _pack(packed, manifest, [members] if kind != "whole" else [members, stage / STORE])
        n_bytes = destination.put_archive(name, packed)
    return Backup(
        archive=name, kind=kind, taken_at=now, address=destination.address, n_files=len(files), n_new=kept.n_new,
        new_bytes=kept.new_bytes, archive_bytes=n_bytes, duration_s=time.monotonic() - began_s, notes=notes,
    )  # fmt: skip


class _Kept:
    """Puts each content where it belongs once: into the store, or beside the archive that will carry it."""

    def __init__(self, destination: Destination, known: dict[str, FileEntry], folder: Path | None) -> None:
        self._destination, self._folder = destination, folder
        # An increment trusts what the archives before it name; a full backup looks, and so mends a damaged store.
        self._there = {entry.sha256 for entry in known.values()} if known else set(destination.objects())
        self.n_new = 0
        self.new_bytes = 0
        if folder is not None:
            folder.mkdir()

    def keep(self, sha256: str, content: IO[bytes], path: Path) -> None:
        if self._folder is not None:
            target = self._folder / sha256
            if not target.exists():
                _copy_checked(content, sha256, target)
        elif sha256 in self._there or self._destination.has_object(sha256):
            return
        else:
            self._destination.put_object(sha256, content)
            self._there.add(sha256)
        self.n_new += 1
        self.new_bytes += path.stat().st_size if path.exists() else 0


def _copy_checked(content: IO[bytes], sha256: str, target: Path) -> None:
    digest = hashlib.sha256()
    partial = target.with_name(f"{target.name}.{os.urandom(4).hex()}")
    with partial.open("xb") as file:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        partial.unlink()
        raise Changed(f"a file changed while it was copied (expected sha256 {sha256})")
    partial.replace(target)


def _known(destination: Destination, base: Manifest | None, base_name: str | None) -> dict[str, FileEntry]:
    """What the newest archive over `base` names: files of the same size and time are not read again."""
    if base is None:
        return {}
    newest = _newest(destination, "increment")
    if newest is not None:
        manifest = read_manifest(destination, newest)
        if manifest.base == base_name:
            return all_files(manifest, base)
    return all_files(base, None)


def _newest(destination: Destination, kind: Kind) -> str | None:
    return next((name for name in reversed(destination.archives()) if f"-{kind}." in name), None)


def _describe(folder: Path) -> dict[str, Member]:
    members = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            members[path.relative_to(folder).as_posix()] = Member(path.stat().st_size, digest)
    return members


def _pack(target: Path, manifest: Manifest, folders: list[Path]) -> None:
    """One tar with zstd: the manifest, the members, and the files where the archive carries them."""
    described = target.with_name(MANIFEST)
    described.write_bytes(manifest.encode())
    with (
        target.open("wb") as file,
        pa.CompressedOutputStream(file, "zstd") as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        tar.add(described, arcname=MANIFEST)
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    name = path.relative_to(folder if folder.name == "members" else folder.parent)
                    tar.add(path, arcname=name.as_posix())
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _release() -> str:
    from importlib.metadata import version

    return version("autonvis")


def _write_status(settings: Settings, made: Backup) -> None:
    """The last backup of each kind, replaced whole."""
    path = settings.home / STATUS
    try:
        status: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        status = {}
    status[made.kind] = asdict(made)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(status, default=str, indent=1))
    partial.replace(path)


@contextmanager
def _named(settings: Settings) -> Iterator[None]:
    """What the disk refuses, in a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in lake.FULL_DISK:
            raise
        free_mb = shutil.disk_usage(settings.home).free / 1e6
        raise BackupError(
            f"the disk of {settings.home} is full ({free_mb:.0f} MB free): a backup is staged there before it is stored; free "
            "space, then run it again"
        ) from error
