"""The spool: raw records on disk, durable before anyone is told that they arrived.

A segment is a file of records, each

    header length  u32 little-endian
    payload length u32
    crc32          u32, over the two lengths, header and payload
    header         JSON: where and when the record came in
    payload        the bytes exactly as received

It is written under `<name>.open`, locked (`flock`) while open, and sealed by renaming it to `<batch id>.seg`; a
sealed segment never changes. Its batch id is its first record's time and the hash of its bytes, so that the same
bytes have the same name everywhere. A process that dies leaves an `.open` file without a lock: `recover` cuts a
torn last record, which nobody was told had arrived, and seals the rest. A damaged record before the end costs itself
only, as long as its lengths still lead to a record that verifies. Nothing else is searched for: bytes that look like a
record may be a payload's, and then a stranger would have written its header.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from tasks.at_work import is_traced

log = logging.getLogger(__name__)

Channel = Literal["mqtt", "http", "tcp", "pull", "file"]

SEGMENT_BYTES = 64 * 2**20
"""Size at which a segment is sealed and a new one begun: a batch that curation holds in memory with ease."""

_PREFIX = struct.Struct("<III")
_LENGTHS = struct.Struct("<II")
_BATCH_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{16}\Z")


class SpoolError(OSError):
    """Records could not be made durable: nothing of the call counts as stored, and the sender must keep them."""


class SegmentError(ValueError):
    """A segment does not read back as it was written; the message names file and offset.

    `resume_at` is where the next record begins if the damaged one's lengths are right.
    """

    resume_at: int | None = None


class Record(msgspec.Struct, frozen=True):
    """One delivery exactly as it came in.

    `dataset` and `sounder_id` are what the channel itself says (topic, path, source), not what the payload claims;
    `None` where it says nothing. `origin` names the file or document where the channel has many of them.
    """

    channel: Channel
    dataset: str | None
    sounder_id: str | None
    received_at: datetime
    content_type: str
    payload: bytes
    source: str
    licence: str | None = None
    origin: str | None = None


class _Header(msgspec.Struct, gc=False):
    """What a record says of its payload, in the order it is written."""

    channel: str
    dataset: str | None
    sounder_id: str | None
    received_at: str
    content_type: str
    source: str
    licence: str | None
    origin: str | msgspec.UnsetType = msgspec.UNSET  # left out where there is none


_HEADER_DECODER = msgspec.json.Decoder(_Header)
_HEADER_ENCODER = msgspec.json.Encoder()


def _encode(record: Record) -> bytes:
    received_at = record.received_at
    if received_at.tzinfo is None:
        raise ValueError(f"received_at must be aware, got {received_at!r}")
    header = _HEADER_ENCODER.encode(
        _Header(
            record.channel,
            record.dataset,
            record.sounder_id,
            received_at.astimezone(UTC).isoformat(timespec="microseconds"),
            record.content_type,
            record.source,
            record.licence,
            msgspec.UNSET if record.origin is None else record.origin,
        )
    )
    lengths = _LENGTHS.pack(len(header), len(record.payload))
    crc = zlib.crc32(record.payload, zlib.crc32(header, zlib.crc32(lengths)))
    return b"".join((lengths, crc.to_bytes(4, "little"), header, record.payload))


def _decode(header: bytes, payload: bytes) -> Record:
    said = _HEADER_DECODER.decode(header)
    return Record(
        channel=cast(Channel, said.channel),
        dataset=said.dataset,
        sounder_id=said.sounder_id,
        received_at=datetime.fromisoformat(said.received_at),
        content_type=said.content_type,
        payload=payload,
        source=said.source,
        licence=said.licence,
        origin=None if said.origin is msgspec.UNSET else said.origin,
    )


class SpoolWriter:
    """Appends records to segments in `directory`; safe to share between threads.

    Several writers, of one process or many, may use one directory: each has its own segment.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self.segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._path = directory
        self._good_bytes = 0
        self._opened_s = 0.0
        self._opened_ns = 0
        self._appended_s = 0.0
        make_durable_directory(directory)

    @property
    def n_bytes(self) -> int:
        """Durable bytes in the open segment."""
        return self._good_bytes

    @property
    def age_s(self) -> float:
        """Seconds since the open segment was begun; 0 when none is open."""
        return time.monotonic() - self._opened_s if self._fd is not None else 0.0

    @property
    def idle_s(self) -> float:
        """Seconds since the last append to the open segment; 0 when none is open."""
        return time.monotonic() - self._appended_s if self._fd is not None else 0.0

    def append_many(self, records: Iterable[Record]) -> None:
        """Appends `records` and returns when all of them are on disk.

        Raises:
            SpoolError: they are not, none of them; what was stored before is untouched and sealed.
        """
        buffer = b"".join(map(_encode, records))
        if not buffer:
            return
        with self._lock:
            try:
                fd = self._fd if self._fd is not None else self._open()
                _write_all(fd, buffer, self._good_bytes)
                os.fdatasync(fd)
            except OSError as error:
                self._abandon()
                raise SpoolError(
                    error.errno,
                    f"cannot store {len(buffer)} bytes in the spool: {error.strerror}",
                    str(self._path),
                ) from error
            self._good_bytes += len(buffer)
            self._appended_s = time.monotonic()
            if self._good_bytes >= self.segment_bytes:
                try:
                    self._seal()
                except OSError as error:  # the records are durable: `recover` seals the segment later
                    log.warning("cannot seal %s yet: %s", self._path, error)

    def seal(self) -> Path | None:
        """Seals the open segment and returns its path; `None` when nothing is open.

        Raises:
            OSError: the segment stays `.open` for `recover`; its records are durable.
        """
        with self._lock:
            return self._seal() if self._fd is not None else None

    def close(self) -> None:
        """Seals; the writer may be used again."""
        self.seal()

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        self._fd, self._path = _open_segment(self.directory)
        self._good_bytes = 0
        _sync_directory(self.directory)
        self._opened_s = self._appended_s = time.monotonic()
        self._opened_ns = time.time_ns()
        return self._fd

    def _seal(self) -> Path | None:
        assert self._fd is not None
        fd, n_bytes = self._fd, self._good_bytes
        self._fd, self._good_bytes = None, 0
        try:
            path = _seal_file(fd, self._path)
        finally:
            os.close(fd)
        if path is not None and is_traced():
            from tasks.tracing import record_batch

            record_batch(path.stem, self.directory.name, self._opened_ns, time.time_ns(), n_bytes)
        return path

    def _abandon(self) -> None:
        """After a failed write: keep exactly what was acknowledged, and never write to this file again.

        A failed fsync may have dropped dirty pages and cleared their error, so the same file cannot be trusted twice.
        """
        if self._fd is None:
            return
        fd, good_bytes = self._fd, self._good_bytes
        self._fd, self._good_bytes = None, 0
        try:
            os.ftruncate(fd, good_bytes)
            os.fsync(fd)
            _seal_file(fd, self._path)
        except OSError as error:
            log.warning("cannot seal %s after a failed write, it is left for recovery: %s", self._path, error)
        finally:
            os.close(fd)


def read_segment(path: Path) -> Iterator[Record]:
    """The records of a segment in the order they arrived.

    A torn last record (a process or power cut while writing: never acknowledged) ends the iteration with a warning.

    Raises:
        SegmentError: a record before the end fails its checksum; the records before it have been yielded.
    """
    with path.open("rb") as file:
        for _, record in _scan(file, path):
            yield record


def count_records(path: Path, offset: int = 0) -> tuple[int, int]:
    """Number of whole records of a segment from `offset` on, and where they end; reads their lengths only.

    Raises:
        FileNotFoundError: it has been handed off.
    """
    n_records = 0
    with path.open("rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        while offset + _PREFIX.size <= n_bytes:
            file.seek(offset)
            n_header, n_payload, _ = _PREFIX.unpack(file.read(_PREFIX.size))
            end = offset + _PREFIX.size + n_header + n_payload
            if end > n_bytes:
                break
            n_records, offset = n_records + 1, end
    return n_records, offset


def sealed_segments(directory: Path) -> list[Path]:
    """Sealed segments of `directory`, oldest first; none when it does not exist."""
    return sorted(path for path in directory.glob("*.seg") if _BATCH_ID.match(path.stem))


def recover(directory: Path) -> list[Path]:
    """Seals the segments that dead processes left open; those of living writers are locked and left alone."""
    sealed = []
    for path in sorted(directory.glob("*.open")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # its writer has just sealed it
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(fd).st_nlink or not path.exists():
                continue
            n_bytes = os.fstat(fd).st_size
            with path.open("rb") as file:
                good = _good_spans(file, path)
                if good != [(0, n_bytes)]:
                    _keep_tail(path, file, good[0][1])  # what is not read back stays for inspection
                if len(good) > 1:
                    result = _seal_spans(file, path, good)
                else:
                    os.ftruncate(fd, good[0][1])
                    os.fsync(fd)
                    result = _seal_file(fd, path)
            if result is not None:
                n_good = sum(end - begin for begin, end in good)
                log.info("recovered %s (%d bytes, %d cut)", result.name, n_good, n_bytes - n_good)
                sealed.append(result)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
    return sealed


def hand_off(path: Path, lake_root: Path) -> Path:
    """Moves a sealed segment into `lake_root/landing/date=…` and returns where it is.

    The name appears there only when the whole file is durable, and the spool's copy goes last: at any moment at least
    one whole copy exists. Repeating a hand-off that was interrupted, or already done, is harmless.

    Raises:
        ValueError: `path` is not a sealed segment.
        FileNotFoundError: it is neither in the spool nor in the lake.
        OSError: the lake cannot be written; the spool keeps the segment.
    """
    batch_id = path.stem
    if not _BATCH_ID.match(batch_id) or path.suffix != ".seg":
        raise ValueError(f"path must be a sealed segment <batch id>.seg, got {path}")
    landing = lake_root / "landing"
    folder = landing / f"date={batch_id[:4]}-{batch_id[4:6]}-{batch_id[6:8]}"
    target = folder / path.name
    make_durable_directory(folder)
    if target.exists():
        if path.exists():
            if _digest(path) != _digest(target):
                raise SegmentError(
                    f"{target} and {path} have one name but different bytes: keep both and look"
                )
            path.unlink()
        return target
    try:
        os.rename(path, target)
    except FileNotFoundError:
        if target.exists():  # another worker handed it off meanwhile
            return target
        raise
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy_whole(path, target, landing / ".incoming")
        _sync_directory(folder)
        path.unlink(missing_ok=True)
    _sync_directory(folder)
    _sync_directory(path.parent)
    return target


def collect(spool_root: Path, lake_root: Path) -> list[Path]:
    """Recovers and hands off everything below `spool_root`; returns the batches in the lake, oldest first."""
    batches = []
    for directory in sorted(folder for folder in spool_root.glob("*") if folder.is_dir()):
        recover(directory)
        try:
            batches += [hand_off(path, lake_root) for path in sealed_segments(directory)]
        except OSError as error:
            raise SpoolError(
                error.errno,
                f"cannot hand {directory} over to {lake_root}: {error.strerror}; what arrived stays in the spool: free "
                "space or mend the folder (AUTONVIS_LAKE), then run again",
            ) from error
    return sorted(batches, key=lambda path: path.name)


def make_durable_directory(directory: Path) -> None:
    """Creates `directory` with its parents so that they survive a power cut."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _sync_directory(folder.parent)


def _open_segment(directory: Path) -> tuple[int, Path]:
    """A new locked `.open` file."""
    while True:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}-{secrets.token_hex(4)}.open"
        path = directory / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:  # else `recover` found it empty and removed it before we had the lock
            return fd, path
        os.close(fd)


def _scan(file: Any, path: Path, offset: int = 0) -> Iterator[tuple[int, Record]]:
    """Yields (offset after the record, record) from `offset` on; returns at a torn tail."""
    n_bytes = os.fstat(file.fileno()).st_size
    file.seek(offset)
    while offset < n_bytes:
        prefix = file.read(_PREFIX.size)
        reason = "its length is cut"
        if len(prefix) == _PREFIX.size:
            n_header, n_payload, crc = _PREFIX.unpack(prefix)
            end = offset + _PREFIX.size + n_header + n_payload
            reason = "it is longer than the file"
            if end <= n_bytes:
                header, payload = file.read(n_header), file.read(n_payload)
                if zlib.crc32(payload, zlib.crc32(header, zlib.crc32(prefix[: _LENGTHS.size]))) == crc:
                    try:
                        record = _decode(header, payload)
                    except (msgspec.MsgspecError, ValueError) as error:
                        raise SegmentError(
                            f"segment {path} is damaged at byte {offset}: its header cannot be read: {error}"
                        ) from error
                    offset = end
                    yield offset, record
                    continue
                reason = "its checksum does not match"
                file.seek(end)
                # Blocks that never reached the disk read as zeros; anything else after a bad record is damage.
                if file.read().strip(b"\0") and prefix.strip(b"\0"):
                    damage = SegmentError(f"segment {path} is damaged at byte {offset}: {reason}")
                    damage.resume_at = end
                    raise damage
        log.warning(
            "segment %s ends in a torn record at byte %d (%s); it was never acknowledged",
            path,
            offset,
            reason,
        )
        return


def _good_spans(file: Any, path: Path) -> list[tuple[int, int]]:
    """Where the bytes of verified records begin and end; the first span begins at 0 and may be empty."""
    spans: list[tuple[int, int]] = []
    begin: int | None = 0
    while begin is not None:
        end, resume_at = begin, None
        try:
            for end, _ in _scan(file, path, begin):  # noqa: B007
                pass
        except SegmentError as error:
            log.error("%s: it is kept beside the others", error)
            resume_at = error.resume_at
        if begin > 0 and end == begin:  # the lengths of the damaged record led nowhere
            break
        spans.append((begin, end))
        begin = resume_at
    return spans


def _seal_spans(file: Any, path: Path, spans: list[tuple[int, int]]) -> Path | None:
    """Seals `spans` of a damaged segment as a file of their own and removes it.

    Interrupted and repeated, it gives the same bytes and so the same name.
    """
    fd, copy = _open_segment(path.parent)
    try:
        offset = 0
        for begin, end in spans:
            file.seek(begin)
            _write_all(fd, file.read(end - begin), offset)
            offset += end - begin
        os.fsync(fd)
        sealed = _seal_file(fd, copy)
    finally:
        os.close(fd)
    path.unlink()
    return sealed


def _keep_tail(path: Path, file: Any, offset: int) -> None:
    file.seek(offset)
    with path.with_suffix(".torn").open("wb") as tail:
        shutil.copyfileobj(file, tail)
        tail.flush()
        os.fsync(tail.fileno())


def _seal_file(fd: int, path: Path) -> Path | None:
    """Renames an open segment to its batch id, or removes it when it holds no record."""
    if os.fstat(fd).st_size == 0:
        path.unlink(missing_ok=True)
        return None
    with path.open("rb") as file:
        _, first = next(_scan(file, path))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = path.with_name(f"{first.received_at:%Y%m%dT%H%M%SZ}-{digest[:16]}.seg")
    os.rename(path, target)
    _sync_directory(path.parent)
    return target


def _copy_whole(path: Path, target: Path, incoming: Path) -> None:
    make_durable_directory(incoming)
    partial = incoming / f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with path.open("rb") as source, partial.open("xb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _write_all(fd: int, buffer: bytes, offset: int) -> None:
    view = memoryview(buffer)
    while view:
        n_written = os.pwrite(fd, view, offset)
        offset += n_written
        view = view[n_written:]


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
