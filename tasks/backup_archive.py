"""Archives read back: their names, their manifest, and their members, each checked against its hash."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import cast

import pyarrow as pa

from tasks.backup_manifest import MANIFEST, Kind, Manifest, decode_manifest
from tasks.backup_store import CHUNK_BYTES, STAMP, STORE, SUFFIX, BackupError, Destination


def archive_name(read_until: datetime, kind: Kind) -> str:
    """The name of an archive by the moment at which the last byte for it was read, rounded up to the second."""
    return f"{read_until + timedelta(seconds=1):{STAMP}}-{kind}{SUFFIX}"


def parse_name(name: str) -> tuple[datetime, Kind]:
    """The time in an archive's name, and its kind.

    Raises:
        BackupError: it is not a name of ours.
    """
    stamp, _, kind = name.removesuffix(SUFFIX).partition("-")
    try:
        read_until = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
    except ValueError:
        read_until = None
    if read_until is None or kind not in ("full", "increment", "whole"):
        raise BackupError(
            f"{name} is no archive of a backup: their names are like 20261125T020000Z-full{SUFFIX}"
        )
    return read_until, cast(Kind, kind)


def read_manifest(destination: Destination, name: str) -> Manifest:
    """The manifest of an archive, of which no more is read.

    Raises:
        BackupError: the archive is missing, or damaged at its beginning.
    """
    with _members(destination, name) as tar:
        first = tar.next()
        file = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
        if file is None:
            raise BackupError(f"archive {name} is damaged: it does not begin with {MANIFEST}")
        content = file.read()
    try:
        return decode_manifest(content)
    except ValueError as error:
        raise BackupError(f"archive {name} cannot be read: {error}") from error


def unpack(destination: Destination, name: str, manifest: Manifest, folder: Path) -> None:
    """Writes the members of an archive below an empty folder, each checked; `store/…` too, where it carries files.

    Raises:
        BackupError: the archive is cut or damaged, or a member is missing or foreign.
    """
    expected = {member: about.sha256 for member, about in manifest.members.items()}
    carried = (
        {entry.sha256 for entry in manifest.files if entry.sha256} if manifest.kind == "whole" else set()
    )
    expected |= {f"{STORE}/{sha256}": sha256 for sha256 in carried}
    with _members(destination, name) as tar:
        for info in tar:
            file = tar.extractfile(info)
            if info.name == MANIFEST or file is None:
                continue
            sha256 = expected.pop(info.name, None)
            if sha256 is None or ".." in PurePosixPath(info.name).parts or info.name.startswith("/"):
                raise BackupError(f"archive {name} has {info.name}, which its manifest does not name")
            target, digest = folder / info.name, hashlib.sha256()
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    copy.write(chunk)
            if digest.hexdigest() != sha256:
                raise BackupError(f"archive {name} is damaged: {info.name} does not have its checksum")
    if expected:
        missing = sorted(expected)
        raise BackupError(
            f"archive {name} is cut: {len(missing)} members are missing, the first is {missing[0]}"
        )


def read_member(destination: Destination, name: str, manifest: Manifest, member: str) -> bytes:
    """The content of one member of an archive, checked.

    Raises:
        BackupError: the archive does not have it, or is damaged.
    """
    with _members(destination, name) as tar:
        for info in tar:
            file = tar.extractfile(info) if info.name == member else None
            if file is None:
                continue
            content = file.read()
            if hashlib.sha256(content).hexdigest() == manifest.members[member].sha256:
                return content
            raise BackupError(f"archive {name} is damaged: {member} does not have its checksum")
    raise BackupError(f"archive {name} is cut: {member} is missing")


@contextmanager
def _members(destination: Destination, name: str) -> Iterator[tarfile.TarFile]:
    with destination.open_archive(name) as file:
        try:
            with (
                pa.CompressedInputStream(file, "zstd") as packed,
                tarfile.open(fileobj=packed, mode="r|") as tar,
            ):
                yield tar
        except (tarfile.TarError, pa.ArrowInvalid, EOFError) as error:
            raise BackupError(f"archive {name} is cut or damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise BackupError(f"archive {name} is cut or damaged: {error}") from error
