"""Where backups are kept: a folder, or whatever fsspec has a file system for (`s3://bucket/prefix`, `memory://x`).

    archives/<stamp>-<kind>.tar.zst         one run each; beside it its checksum for `sha256sum -c`
    store/<ab>/<sha256>.zst                 the files of the lake and the spool, each content once

Everything below `store` is named by its content, so a run that was killed leaves nothing but objects that the next
one finds; the archive, which names them, is written last and whole: it is the commit.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa

ARCHIVES = "archives"
STORE = "store"
SUFFIX = ".tar.zst"
CHUNK_BYTES = 2**20
BUCKETS = ("s3://", "s3a://", "gs://", "gcs://", "abfs://", "az://")
STAMP = "%Y%m%dT%H%M%SZ"


class BackupError(RuntimeError):
    """A backup cannot be made, read or restored; the message says what is wrong and what to do."""


class Changed(BackupError):  # noqa: N818 - a state of the file
    """A file was written to between two readings; another attempt may do."""


class Destination:
    """A folder of archives with the store that they share."""

    def __init__(self, address: str) -> None:
        """
        Raises:
            BackupError: nothing here can read such an address.
        """
        self.address = address
        try:
            self._files, self._root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise BackupError(f"no file system for backups at {address!r}: {error}") from error
        self._is_local = type(self._files).__name__ == "LocalFileSystem"
        self._failures: tuple[type[Exception], ...] = (OSError, *_client_errors(address))

    def archives(self) -> list[str]:
        """Names of the archives, oldest first."""
        try:
            found = self._files.ls(f"{self._root}/{ARCHIVES}", detail=False, refresh=True)
        except FileNotFoundError:
            return []
        except self._failures as error:
            raise self._refused("listed", error) from error
        names = (str(path).rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if name.endswith(SUFFIX))

    def objects(self) -> dict[str, datetime]:
        """Hash and age of every object of the store."""
        try:
            found = self._files.find(f"{self._root}/{STORE}", detail=True)
        except FileNotFoundError:
            return {}
        return {
            path.rsplit("/", 1)[-1].removesuffix(".zst"): _changed_at(about)
            for path, about in found.items()
            if path.endswith(".zst")
        }

    def has_object(self, sha256: str) -> bool:
        return bool(self._files.exists(self._object(sha256)))

    def put_object(self, sha256: str, content: IO[bytes]) -> None:
        """Stores a content under its hash.

        Raises:
            BackupError: it does not have this hash, or the destination refuses.
        """
        digest = hashlib.sha256()
        with (
            self._whole(self._object(sha256)) as file,
            pa.CompressedOutputStream(_Lent(file), "zstd") as packed,
        ):
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
                packed.write(chunk)
            if digest.hexdigest() != sha256:
                raise Changed(f"a file changed while it was copied (expected sha256 {sha256})")

    def read_object(self, sha256: str, to: IO[bytes]) -> None:
        """Writes an object's content to an open file.

        Raises:
            BackupError: it is missing, cut or damaged; what was written must not be used.
        """
        path, digest = self._object(sha256), hashlib.sha256()
        try:
            with self._files.open(path, "rb") as file, pa.CompressedInputStream(file, "zstd") as packed:
                while chunk := packed.read(CHUNK_BYTES):
                    digest.update(chunk)
                    to.write(chunk)
        except FileNotFoundError as error:
            raise BackupError(f"{path} is missing from the backups at {self.address}") from error
        except pa.ArrowInvalid as error:
            raise BackupError(f"{path} is damaged: {error}") from error
        except OSError as error:
            if error.errno is not None:  # of the disk; Arrow's own carries none
                raise
            raise BackupError(f"{path} is damaged: {error}") from error
        if digest.hexdigest() != sha256:
            raise BackupError(f"{path} is cut or damaged: its content does not have the hash of its name")

    def remove_object(self, sha256: str) -> None:
        self._files.rm_file(self._object(sha256))

    def put_archive(self, name: str, staged: Path) -> int:
        """Stores a finished archive and returns its size in bytes; its checksum goes first."""
        digest = hashlib.sha256()
        with staged.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
        with self._whole(f"{self._archive(name)}.sha256") as file:
            file.write(f"{digest.hexdigest()}  {name}\n".encode())
        with staged.open("rb") as source, self._whole(self._archive(name)) as file:
            while chunk := source.read(CHUNK_BYTES):
                file.write(chunk)
        return staged.stat().st_size

    @contextmanager
    def open_archive(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of an archive.

        Raises:
            BackupError: there is none of this name.
        """
        try:
            with self._files.open(self._archive(name), "rb") as file:
                yield file
        except FileNotFoundError as error:
            raise BackupError(
                f"archive {name} is missing from {self.address}; there are {', '.join(self.archives()) or 'none'}"
            ) from error

    def archive_bytes(self, name: str) -> int:
        return int(self._files.size(self._archive(name)) or 0)

    def archive_checksum(self, name: str) -> str:
        """The checksum beside an archive, or an empty text."""
        try:
            return self._files.cat_file(f"{self._archive(name)}.sha256").decode().split()[0]  # type: ignore[no-any-return]
        except (FileNotFoundError, IndexError):
            return ""

    def remove_archive(self, name: str) -> None:
        self._files.rm_file(self._archive(name))
        checksum = f"{self._archive(name)}.sha256"
        if self._files.exists(checksum):
            self._files.rm_file(checksum)

    def _object(self, sha256: str) -> str:
        return f"{self._root}/{STORE}/{sha256[:2]}/{sha256}.zst"

    def _archive(self, name: str) -> str:
        return f"{self._root}/{ARCHIVES}/{name}"

    @contextmanager
    def _whole(self, path: str) -> Iterator[IO[bytes]]:
        """A file that appears under its name when it is complete, or not at all."""
        try:
            if self._is_local:
                with _renamed_when_whole(Path(path)) as file:
                    yield file
            else:
                with tempfile.NamedTemporaryFile(prefix="autonvis-upload-") as file:
                    yield file
                    file.flush()
                    if not self.address.startswith(
                        BUCKETS
                    ):  # there it would make a bucket of a mistyped name
                        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
                    self._files.put_file(file.name, path)
        except self._failures as error:
            raise self._refused("written", error) from error

    def _refused(self, what: str, error: Exception) -> BackupError:
        reason = getattr(error, "strerror", None) or error
        return BackupError(
            f"the backups at {self.address} cannot be {what} ({reason}): free space or give this user the "
            "right to it, or name another place in AUTONVIS_BACKUP_TO; nothing half-written is there"
        )


def _client_errors(address: str) -> tuple[type[Exception], ...]:
    """What the client of an object store raises beside OSError: no route, no credentials."""
    if not address.startswith("s3"):
        return ()
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)


class _Lent(io.BufferedIOBase):
    """A file that whoever it is lent to cannot close: Arrow closes what it writes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, chunk: Any) -> int:
        return self._file.write(chunk)


@contextmanager
def _renamed_when_whole(path: Path) -> Iterator[IO[bytes]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            os.chmod(partial, 0o600)  # the catalog has the hashes of credentials
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _changed_at(about: Mapping[str, Any]) -> datetime:
    """What the file system says of an object's age: each names it differently."""
    said = next(
        (about[name] for name in ("LastModified", "mtime", "updated", "created") if name in about), None
    )
    if isinstance(said, (int, float)):
        return datetime.fromtimestamp(said, UTC)
    if isinstance(said, str):
        said = datetime.fromisoformat(said)
    if not isinstance(said, datetime):
        return datetime.now(UTC)  # unknown: it is not old enough to be removed
    return said if said.tzinfo is not None else said.replace(tzinfo=UTC)
