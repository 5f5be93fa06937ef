"""The spool: what `append_many` returned for survives kills, torn writes, failing syncs and full disks."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.landing import spool
from tasks.landing.spool import (
    SEGMENT_BYTES,
    Record,
    SegmentError,
    SpoolError,
    SpoolWriter,
    collect,
    hand_off,
    read_segment,
    recover,
    sealed_segments,
)

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2031, 1, 2, 12, tzinfo=UTC)


def record(payload: bytes, *, received_at: datetime = NOON) -> Record:
    return Record("mqtt", "ionograms", "TST01", received_at, "application/json", payload, "mqtt")


def payloads(paths: list[Path]) -> list[bytes]:
    return [item.payload for path in paths for item in read_segment(path)]


text = st.text(max_size=20)
records = st.builds(
    Record,
    channel=st.sampled_from(["mqtt", "http", "tcp", "pull", "file"]),
    dataset=st.none() | text,
    sounder_id=st.none() | text,
    received_at=st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    content_type=text,
    payload=st.binary(max_size=300),
    source=text,
    licence=st.none() | text,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(records, max_size=5), min_size=1, max_size=4), st.sampled_from([1, 500, SEGMENT_BYTES])
)
def test_round_trip(batches: list[list[Record]], segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "spool"
        with SpoolWriter(directory, segment_bytes=segment_bytes) as writer:
            for batch in batches:
                writer.append_many(batch)
        assert not list(directory.glob("*.open"))
        read = [item for path in sealed_segments(directory) for item in read_segment(path)]
        # Two segments of equal bytes have one name: the same deliveries, to the microsecond, are kept once.
        assert set(read) == {item for batch in batches for item in batch}
        if segment_bytes == SEGMENT_BYTES:
            assert read == [item for batch in batches for item in batch]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_torn_tail_keeps_every_whole_record(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        writer = SpoolWriter(directory)
        sizes = []
        for number in range(4):
            writer.append_many([record(b"%d" % number * 50)])
            sizes.append(writer.n_bytes)
        sealed = writer.seal()
        assert sealed is not None
        whole = sealed.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        zeros = data.draw(st.sampled_from([0, 1, 4096]))  # a file may grow before its blocks are written
        sealed.unlink()
        (directory / "20310102T120000-1-dead.open").write_bytes(whole[:cut] + b"\0" * zeros)
        assert payloads(recover(directory)) == [b"%d" % n * 50 for n in range(4) if sizes[n] <= cut]
        assert recover(directory) == []


FORGED = spool._encode(Record("http", "ionograms", "STRANGER", NOON, "application/json", b"forged", "http"))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["prefix", "header", "payload"]), st.randoms())
def test_a_damaged_record_in_an_unsealed_segment_costs_itself_only(
    number: int, part: str, chance: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        bodies = [b"%d" % n * 50 + FORGED * 3 for n in range(4)]
        encoded = [spool._encode(record(body)) for body in bodies]
        before, damaged, after = encoded[:number], bytearray(encoded[number]), encoded[number + 1 :]
        n_prefix, n_header = spool._PREFIX.size, len(damaged) - spool._PREFIX.size - len(bodies[number])
        begin, size = {
            "prefix": (0, n_prefix),
            "header": (n_prefix, n_header),
            "payload": (n_prefix + n_header, len(bodies[number])),
        }[part]
        damaged[begin + chance.randrange(size)] ^= 1 << chance.randrange(8)
        path = directory / "20310102T120000-1-dead.open"
        path.write_bytes(b"".join((*before, damaged, *after)))
        found = payloads(recover(directory))
        kept = bodies[:number] + bodies[number + 1 :]
        if part == "prefix":  # the way to the next record may be lost, and a stranger's is not taken instead
            assert found in (kept, bodies[:number])
        else:
            assert found == kept
        assert path.with_suffix(".torn").read_bytes().startswith(damaged)
        assert not list(directory.glob("*.open"))
        assert recover(directory) == []


def test_an_interrupted_recovery_of_a_damaged_segment_gives_the_same_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (bytearray(spool._encode(record(body * 20))) for body in (b"1", b"2", b"3"))
    second[-1] ^= 1
    path = tmp_path / "20310102T120000-1-dead.open"
    path.write_bytes(first + second + third)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_: None)  # the damaged one stays, as after a kill
        (before,) = recover(tmp_path)
    assert path.exists()
    assert recover(tmp_path) == [before] == sealed_segments(tmp_path)
    assert payloads([before]) == [b"1" * 20, b"3" * 20]


def test_damage_inside_a_sealed_segment_is_reported(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path) as writer:
        writer.append_many([record(b"first"), record(b"second" * 10), record(b"third")])
    (path,) = sealed_segments(tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"secondsecond")] ^= 1
    path.write_bytes(content)
    reader = read_segment(path)
    assert next(reader).payload == b"first"
    with pytest.raises(SegmentError, match=f"{path.name} is damaged at byte"):
        next(reader)


def test_batch_id_is_time_and_content(tmp_path: Path) -> None:
    ids = []
    for folder in ("a", "b"):
        with SpoolWriter(tmp_path / folder) as writer:
            writer.append_many([record(b"same", received_at=NOON + timedelta(microseconds=7))])
        ids += [path.stem for path in sealed_segments(tmp_path / folder)]
    assert ids[0] == ids[1]
    assert ids[0].startswith("20310102T120000Z-")


def test_segments_roll_at_their_size(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path, segment_bytes=1000) as writer:
        for number in range(10):
            writer.append_many([record(b"x" * 400, received_at=NOON + timedelta(seconds=number))])
        assert len(sealed_segments(tmp_path)) >= 4
    assert len(payloads(sealed_segments(tmp_path))) == 10


def test_an_open_segment_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append_many([record(b"one")])
    assert recover(tmp_path) == []
    writer.append_many([record(b"two")])
    writer.close()
    assert payloads(sealed_segments(tmp_path)) == [b"one", b"two"]


def test_a_killed_writer_leaves_what_it_acknowledged(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys
        from datetime import UTC, datetime
        from pathlib import Path
        from tasks.landing.spool import Record, SpoolWriter
        writer = SpoolWriter(Path(sys.argv[1]))
        number = 0
        while True:
            writer.append_many([Record("http", None, None, datetime.now(UTC), "", b"%d" % number, "http")])
            print(number, flush=True)
            number += 1
    """)
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(50)]
    os.kill(child.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in child.stdout.read().splitlines() if line]
    child.wait()
    child.stdout.close()
    stored = [int(payload) for payload in payloads(recover(tmp_path))]
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) <= len(acknowledged) + 1  # at most the one whose answer was cut off


def test_after_a_failed_sync_the_segment_is_cut_and_a_new_one_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append_many([record(b"kept")])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "fdatasync", fail)
        with pytest.raises(SpoolError, match="cannot store"):
            writer.append_many([record(b"refused")])
    assert payloads(sealed_segments(tmp_path)) == [b"kept"]
    writer.append_many([record(b"later", received_at=NOON + timedelta(seconds=1))])
    writer.close()
    assert payloads(sealed_segments(tmp_path)) == [b"kept", b"later"]


def test_disk_full_refuses_and_recovers(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path)
    writer.append_many([record(b"kept" * 100)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(SpoolError, match="File too large"):
            writer.append_many([record(b"x" * 1000), record(b"y" * 10_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert payloads(sealed_segments(tmp_path)) == [b"kept" * 100]
    writer.append_many([record(b"z" * 10_000, received_at=NOON + timedelta(seconds=1))])
    writer.close()
    assert payloads(sealed_segments(tmp_path)) == [b"kept" * 100, b"z" * 10_000]


@pytest.mark.parametrize("is_cross_device", [False, True])
def test_hand_off_moves_once_and_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cross_device: bool
) -> None:
    if is_cross_device:
        rename = os.rename

        def refuse(source: Path, target: Path) -> None:
            if Path(source).parent != Path(target).parent:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            rename(source, target)

        monkeypatch.setattr(spool.os, "rename", refuse)
    with SpoolWriter(tmp_path / "spool" / "mqtt") as writer:
        writer.append_many([record(b"one")])
    (path,) = sealed_segments(tmp_path / "spool" / "mqtt")
    lake = tmp_path / "lake"
    copy = path.read_bytes()
    batch = hand_off(path, lake)
    assert batch == lake / "landing" / "date=2031-01-02" / path.name
    assert hand_off(path, lake) == batch  # the caller died before it noted the first
    path.write_bytes(copy)  # a copy across devices died before it removed the source
    assert hand_off(path, lake) == batch
    assert not path.exists()
    assert payloads([batch]) == [b"one"]
    assert [file for file in lake.rglob("*") if file.is_file()] == [batch]
    with pytest.raises(FileNotFoundError):
        hand_off(path.with_name("20310102T120000Z-0123456789abcdef.seg"), lake)


def test_collect_takes_every_channel_and_open_leftovers(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path / "spool" / "mqtt") as writer:
        writer.append_many([record(b"sealed")])
    (path,) = sealed_segments(tmp_path / "spool" / "mqtt")
    leftover = tmp_path / "spool" / "http" / "x.open"
    leftover.parent.mkdir()
    leftover.write_bytes(path.read_bytes()[:-1])
    assert payloads(collect(tmp_path / "spool", tmp_path / "lake")) == [b"sealed"]
    assert collect(tmp_path / "spool", tmp_path / "lake") == []
    assert collect(tmp_path / "absent", tmp_path / "lake") == []


def test_naive_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="received_at must be aware"):
        SpoolWriter(tmp_path).append_many([record(b"", received_at=datetime(2031, 1, 1))])  # noqa: DTZ001


def test_a_header_that_is_none_is_damage_even_if_its_checksum_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.seg"
    for header in (b"{", b"[]", b"\xff", b'{"channel": "mqtt"}'):
        lengths = struct.pack("<II", len(header), 0)
        crc = zlib.crc32(header, zlib.crc32(lengths))
        path.write_bytes(lengths + crc.to_bytes(4, "little") + header)
        with pytest.raises(SegmentError, match="damaged at byte 0: its header cannot be read"):
            list(read_segment(path))


def test_a_lake_that_takes_nothing_is_named_and_the_spool_keeps_what_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = spool.SpoolWriter(tmp_path / "spool" / "http")
    writer.append_many([record(b"{}")])
    sealed = writer.seal()

    def refuse(*_: object) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "hand_off", refuse)
    with pytest.raises(spool.SpoolError, match=r"No space left on device; what arrived stays in the spool"):
        spool.collect(tmp_path / "spool", tmp_path / "lake")
    assert sealed is not None
    assert sealed.exists()
