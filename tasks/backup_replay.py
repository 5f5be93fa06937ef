"""From the newest archive before a time to that time: what landed in between, as later archives have it, curated again.

Only records received up to the time are taken, from segments of the spool and of the lake alike. Curation is a pure
function of what landed, so the lake becomes what it was; cycles of the time in between can be computed again from it.
Sounders that registered in between come from the catalog of the archive after it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks import catalog
from tasks.backup_archive import read_manifest, read_member
from tasks.backup_manifest import FileEntry
from tasks.backup_members import CATALOG
from tasks.backup_store import BackupError, Destination
from tasks.curation import curate_batches, groups, pending_batches
from tasks.landing.spool import Record, SegmentError, SpoolWriter, collect, read_segment
from tasks.settings import Settings

log = logging.getLogger(__name__)

SEGMENTS = (".seg", ".open")


@dataclass(frozen=True)
class Replayed:
    """What landed after the archive that a restore builds on; `faults` has a sentence for each batch refused in part."""

    n_segments: int
    n_records: int
    n_later: int
    n_batches: int
    n_accepted: int
    faults: list[str]

    def summary(self) -> str:
        return (
            f"{self.n_records} deliveries of {self.n_segments} segments replayed ({self.n_later} came after the time asked for): "
            f"{self.n_accepted} rows accepted"
        )


def replay_until(
    destination: Destination,
    settings: Settings,
    files: Mapping[str, FileEntry],
    at: datetime,
    later: Sequence[str],
) -> Replayed:
    """Adds to a staged root what `later` archives have of landed bytes up to `at`, and curates it.

    Args:
        settings: of the staged root.
        files: what the root has from the archive it was made of.

    Raises:
        BackupError: an archive or a segment is missing or damaged.
    """
    if later:
        _register(destination, settings, at, later[-1])
    have = {entry.sha256 for path, entry in files.items() if _is_segment(path)}
    n_segments = n_records = n_later = 0
    writer = SpoolWriter(settings.spool_root / "restored")
    for entry in _segments(destination, later):
        if entry.sha256 in have:
            continue
        have.add(entry.sha256)
        records = _records(destination, entry, settings.home / "restored.segment")
        wanted = [record for record in records if record.received_at <= at]
        n_segments, n_later = n_segments + bool(wanted), n_later + len(records) - len(wanted)
        n_records += len(wanted)
        writer.append_many(wanted)
        writer.seal()  # a whole segment has the bytes, and so the name, that it had
    writer.close()
    collect(settings.spool_root, settings.lake_root)
    n_batches = n_accepted = 0
    faults = []
    for group in groups(pending_batches(settings)):
        for result in curate_batches(group, settings=settings):
            n_batches += 1
            n_accepted += result.n_accepted
            faults += [result.fault] if result.fault is not None else []
    catalog.open_catalog(settings).dispose()
    return Replayed(n_segments, n_records, n_later, n_batches, n_accepted, faults)


def _register(destination: Destination, settings: Settings, at: datetime, name: str) -> None:
    """Sounders with their versions and credentials up to a time, from the catalog of a later archive.

    A credential that was revoked since then stays revoked: when that was is not recorded, and it may be known to others.
    """
    copy = settings.home / "later.sqlite"
    copy.write_bytes(read_member(destination, name, read_manifest(destination, name), CATALOG))
    engine = catalog.new_engine(f"sqlite:///{copy}")
    try:
        catalog.adopt_sounders(engine, catalog.open_catalog(settings), until=at)
    finally:
        engine.dispose()
        for path in settings.home.glob(f"{copy.name}*"):
            path.unlink()


def _segments(destination: Destination, names: Sequence[str]) -> Iterator[FileEntry]:
    """The segments of these archives in order of their names; one that is open in one archive has grown in the next."""
    found: dict[str, FileEntry] = {}
    for name in names:
        manifest = read_manifest(destination, name)
        found |= {entry.sha256: entry for entry in manifest.files if _is_segment(entry.path)}
    yield from sorted(found.values(), key=lambda entry: (Path(entry.path).name, entry.n_bytes))


def _is_segment(path: str) -> bool:
    return path.startswith(("lake/landing/", "spool/")) and path.endswith(SEGMENTS)


def _records(destination: Destination, entry: FileEntry, scratch: Path) -> list[Record]:
    content = io.BytesIO()
    destination.read_object(entry.sha256, content)
    scratch.write_bytes(content.getbuffer())
    try:
        return list(read_segment(scratch))
    except SegmentError as error:
        raise BackupError(f"{entry.path} of the backup cannot be replayed: {error}") from error
    finally:
        scratch.unlink()
