"""A compacted file: many small files of one day in one, in their order, with what is needed to have each of them back.

Its name is `<first>~<last>~<digest>.parquet`, by the first and last of the names in it; no other published name has a
`~`. The Parquet metadata list name, rows, metadata and hash of each, so that a name can be taken out again: publishing
and withdrawing go on as if each had its file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

SEPARATOR = "~"
_MEMBERS = b"autonvis.members"


class Member(msgspec.Struct, frozen=True):
    """A file within a compacted one: its name without suffix, rows, Parquet metadata, hash and time of change."""

    name: str
    n_rows: int
    metadata: dict[str, str]
    sha256: str
    mtime_ns: int


def is_compacted(path: Path) -> bool:
    return SEPARATOR in path.stem


def may_hold(path: Path, name: str) -> bool:
    """Whether a file of this name can be in a compacted one, by the names alone."""
    first, _, rest = path.stem.partition(SEPARATOR)
    return is_compacted(path) and first <= name <= rest.rpartition(SEPARATOR)[0]


def members(path: Path) -> list[Member]:
    """The files within a compacted one, in order; none of any other file."""
    if not is_compacted(path):
        return []
    return msgspec.json.decode((pq.read_schema(path).metadata or {})[_MEMBERS], type=list[Member])


def pack(paths: Sequence[Path]) -> tuple[str, pa.Table]:
    """Name without suffix and content of a compacted file of small ones, which have one schema.

    Raises:
        ValueError: their columns are not the same.
    """
    tables = [pq.read_table(path, partitioning=None) for path in paths]
    described = [
        Member(
            name=path.stem,
            n_rows=table.num_rows,
            metadata={key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()},
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            mtime_ns=path.stat().st_mtime_ns,
        )
        for path, table in zip(paths, tables, strict=True)
    ]
    if any(not table.schema.equals(tables[0].schema) for table in tables):
        raise ValueError(f"{paths[0]} and those after it do not have the same columns")
    content = msgspec.json.encode(described)
    digest = hashlib.sha256(content).hexdigest()[:8]
    shared = {b"contract": (tables[0].schema.metadata or {}).get(b"contract", b""), _MEMBERS: content}
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    name = SEPARATOR.join((paths[0].stem, paths[-1].stem, digest))
    return name, table.replace_schema_metadata(shared).combine_chunks()


def unpack(path: Path) -> list[tuple[Member, pa.Table]]:
    """Each file within a compacted one, as it was published."""
    table, offset, found = pq.read_table(path, partitioning=None), 0, []
    for member in members(path):
        part = table.slice(offset, member.n_rows).replace_schema_metadata(member.metadata)
        found.append((member, part.combine_chunks()))
        offset += member.n_rows
    return found


def is_within(path: Path, name: str) -> bool:
    """Whether a compacted file holds a file of this name."""
    return may_hold(path, name) and any(member.name == name for member in members(path))


def details(metadata: dict[str, str]) -> dict[str, object]:
    """The entries of a file's metadata that are JSON: what a cycle says of itself."""
    found: dict[str, object] = {}
    for key, value in metadata.items():
        try:
            found[key] = json.loads(value)
        except ValueError:  # the contract's own entries and Arrow's are no JSON
            continue
    return found
