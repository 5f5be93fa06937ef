"""What one archive says of itself: when it was taken, which files the root had, and what lies in the archive.

It is the archive's first member, so that listing and choosing read a few kilobytes of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Kind = Literal["full", "increment", "whole"]

FORMAT = 1
MANIFEST = "manifest.json"


class FileEntry(msgspec.Struct, array_like=True, frozen=True):
    """One file of the root: `lake/…` below the lake's root, anything else below the home folder.

    `sha256` is of its content; a symbolic link has a `target` instead.
    """

    path: str
    n_bytes: int
    mtime_ns: int
    sha256: str
    target: str = ""


class Member(msgspec.Struct, frozen=True):
    """A file in the archive itself, beside the manifest."""

    n_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The first member of an archive.

    An increment names its `base` and has the files that are new or other since then, and what is gone. A whole archive
    carries the content of every file too, as members `store/<sha256>`.
    """

    format: int = FORMAT
    kind: Kind
    taken_at: datetime
    release: str
    files: list[FileEntry]
    members: dict[str, Member]
    base: str | None = None
    removed: list[str] = []
    notes: list[str] = []

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def decode_manifest(content: bytes) -> Manifest:
    """
    Raises:
        ValueError: it is no manifest, or of a newer release.
    """
    known = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    version = msgspec.json.decode(known.get("format", msgspec.Raw(b"0")))
    if version != FORMAT:
        raise ValueError(f"it has format {version}, this release reads {FORMAT}")
    return msgspec.json.decode(content, type=Manifest)


def all_files(manifest: Manifest, base: Manifest | None) -> dict[str, FileEntry]:
    """Every file of the root at the time of the manifest, by path."""
    files = {entry.path: entry for entry in base.files} if base is not None else {}
    for path in manifest.removed:
        files.pop(path, None)
    return files | {entry.path: entry for entry in manifest.files}
