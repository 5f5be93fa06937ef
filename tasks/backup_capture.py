"""The files of a root at one moment, while the system goes on writing.

The order makes it safe. The spool first, then the catalog, then the lake: a segment moves from spool to lake, so that
it is met at least once; and a row of the catalog is written after its files, so that every row has them. What is met
twice, or has no row yet, is what a crash leaves too, and landing goes on from there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tasks.backup_manifest import FileEntry
from tasks.backup_store import CHUNK_BYTES, BackupError, Changed
from tasks.settings import Settings

log = logging.getLogger(__name__)

ELSEWHERE = frozenset({"lake", "spool", "staging", "run", "broker", "logs", "prefect", "restored"})
"""Folders of the home that are captured in another way, or mean nothing in another root."""
ATTEMPTS = 5
THREADS = 4

Keep = Callable[[str, IO[bytes], Path], None]
"""Keeps a content of this hash: from an open file that stands at its beginning; the path is where it was found."""


@dataclass(frozen=True)
class _Found:
    path: Path
    name: str


class Prefix:
    """The first bytes of an open file: a segment may grow while it is read."""

    def __init__(self, file: IO[bytes], n_bytes: int) -> None:
        self._file, self._left = file, n_bytes

    def read(self, n: int = -1) -> bytes:
        chunk = self._file.read(self._left if n < 0 else min(n, self._left))
        self._left -= len(chunk)
        return chunk


def capture_spool(settings: Settings, known: Mapping[str, FileEntry], keep: Keep) -> dict[int, FileEntry]:
    """What has arrived and not landed, by inode; a segment that is sealed meanwhile is looked for again."""
    captured: dict[int, FileEntry] = {}
    for _ in range(ATTEMPTS):
        is_settled = True
        for found in _walk(settings.spool_root, "spool/"):
            result = _capture(found, known, keep)
            if result is None:
                is_settled = False
            else:
                captured[result[0]] = result[1]
        if is_settled:
            break
    return captured


def capture_files(
    settings: Settings, known: Mapping[str, FileEntry], keep: Keep, spooled: dict[int, FileEntry]
) -> list[FileEntry]:
    """Every other file of the root, in order of path, and of the spool what has not moved to the lake meanwhile."""
    captured = dict(spooled)
    entries: dict[str, FileEntry] = {}
    waiting = list(_everything(settings))
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(ATTEMPTS):
            changed: set[Path] = set()
            results = pool.map(lambda found: _capture(found, known, keep), waiting)
            for found, result in zip(waiting, results, strict=True):
                if (
                    result is None
                ):  # expired, withdrawn, or given back by a compacted file, since it was listed
                    changed.add(found.path.parent)
                    continue
                inode, entry = result
                if entry.path.startswith("lake/landing/"):
                    captured.pop(inode, None)
                entries[entry.path] = entry
            if not changed:
                break
            waiting = [found for found in _everything(settings) if found.path.parent in changed]
    return sorted([*entries.values(), *captured.values()], key=lambda entry: entry.path)


def target_path(name: str, home: Path, lake_root: Path) -> Path:
    """Where a file of a manifest belongs in a root.

    Raises:
        BackupError: the name leads out of the root.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise BackupError(f"the archive names {name!r}, which is no file of a root: it is not used")
    return lake_root.joinpath(*parts[1:]) if parts[0] == "lake" else home.joinpath(*parts)


def private_files(settings: Settings) -> Iterator[Path]:
    """What only its owner may read, beside the data: keys and passwords, which go where secrets go."""
    own = settings.backup_passphrase_file.resolve() if settings.backup_passphrase_file is not None else None
    for found in _others(settings):
        if _is_private(found.path) and found.path.resolve() != own:
            yield found.path


def _everything(settings: Settings) -> Iterator[_Found]:
    yield from _walk(settings.lake_root, "lake/")
    for found in _others(settings):
        if found.path.is_relative_to(settings.products_root) or not _is_private(found.path):
            yield found


def _others(settings: Settings) -> Iterator[_Found]:
    """The files of the home that are captured in no other way."""
    lake_root = settings.lake_root.resolve()
    for path in sorted(settings.home.iterdir()) if settings.home.is_dir() else ():
        is_other = path.name not in ELSEWHERE and not path.name.startswith(("catalog.db", "."))
        if is_other and path.resolve() != lake_root:
            if (path / "catalog.db").exists():  # a root of its own
                continue
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path, f"{path.name}/")
            else:
                yield _Found(path, path.name)


def _is_private(path: Path) -> bool:
    try:
        about = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(about.st_mode) and not about.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _walk(root: Path, prefix: str) -> Iterator[_Found]:
    """Files and symbolic links below a folder; hidden ones are staging and locks."""
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted([*names, *links]):
            if not name.startswith(".") and not name.endswith((".partial", ".tmp")):
                path = here / name
                yield _Found(path, prefix + path.relative_to(root).as_posix())


def _capture(found: _Found, known: Mapping[str, FileEntry], keep: Keep) -> tuple[int, FileEntry] | None:
    """Inode and entry of a file whose content is kept; None when it is gone."""
    for _ in range(ATTEMPTS):
        try:
            about = found.path.lstat()
            if found.path.is_symlink():
                target = os.readlink(found.path)
                return about.st_ino, FileEntry(found.name, 0, about.st_mtime_ns, "", target)
            with found.path.open("rb") as file:
                about = os.fstat(file.fileno())
                before = known.get(found.name)
                if (
                    before is not None
                    and before.n_bytes == about.st_size
                    and before.mtime_ns == about.st_mtime_ns
                ):
                    return about.st_ino, before
                digest = hashlib.sha256()
                whole = Prefix(file, about.st_size)
                while chunk := whole.read(CHUNK_BYTES):
                    digest.update(chunk)
                entry = FileEntry(found.name, about.st_size, about.st_mtime_ns, digest.hexdigest())
                file.seek(0)
                try:
                    keep(entry.sha256, Prefix(file, about.st_size), found.path)  # type: ignore[arg-type]
                except Changed:
                    continue
                return about.st_ino, entry
        except FileNotFoundError:
            return None
    raise BackupError(f"{found.path} changes faster than it can be copied: run the backup again")
