"""Power cut while a record is written: whatever the disk made of it, what was fsynced before is kept whole."""

from __future__ import annotations

import json
import os
import random
import signal
from datetime import UTC, datetime
from typing import Any

from tasks.landing import spool
from tasks.landing.spool import Record, SpoolWriter
from tests.faults.conftest import Trial


def record(items: list[dict[str, Any]]) -> Record:
    payload = json.dumps(items).encode()
    return Record("http", "ionograms", None, datetime.now(UTC), "application/json", payload, "http")


def tail_on_disk(written: bytes, chance: random.Random) -> bytes:
    """What may be found behind the last fsync: length and blocks of a file reach the disk in any order."""
    kind = chance.choice(("cut", "zeros", "garbage", "hole", "whole", "old block"))
    if kind == "cut":
        return written[: chance.randrange(len(written))]
    if kind == "zeros":
        return bytes(chance.randrange(1, len(written)))
    if kind == "garbage":
        return chance.randbytes(chance.randrange(1, len(written)))
    if kind == "hole":
        begin = chance.randrange(len(written))
        end = chance.randrange(begin, len(written))
        return written[:begin] + bytes(end - begin) + written[end:]
    if kind == "old block":  # begins as written, ends with what the block held before
        n_new = chance.randrange(len(written))
        return written[:n_new] + chance.randbytes(len(written) - n_new)
    return written


def test_a_torn_tail_costs_nothing_that_was_acknowledged(trial: Trial) -> None:
    runs = trial.runs(30, 1000)
    written = set()
    for _ in runs:
        reader, writer = os.pipe()
        before, torn = trial.ledger.items(3), trial.ledger.items(3)
        written |= {json.dumps(items).encode() for items in (before, torn)}
        tail = tail_on_disk(spool._encode(record(torn)), trial.chance)
        child = os.fork()
        if child == 0:  # appends, reports, writes on, and is gone
            try:
                segment = SpoolWriter(trial.settings.spool_root / "http")
                segment.append_many([record(before)])
                assert segment._fd is not None
                os.pwrite(segment._fd, tail, segment.n_bytes)
                os.write(writer, b"durable")
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.close(writer)
        if os.read(reader, 7) == b"durable":
            trial.ledger.acknowledge(before)
        os.close(reader)
        os.waitpid(child, 0)
    assert len(trial.ledger.acknowledged) == 3 * len(runs)
    assert merged_segments(trial) <= written  # nothing half written is taken for a record
    trial.conclude("power cut: torn last record", len(runs))


def merged_segments(trial: Trial) -> set[bytes]:
    """Recovers every segment by itself and makes one of them: curating a thousand takes minutes. Returns the payloads."""
    directory = trial.settings.spool_root / "http"
    records = []
    for path in spool.recover(directory):
        records += list(spool.read_segment(path))
        path.unlink()
    assert not list(directory.glob("*.open"))
    with SpoolWriter(directory) as whole:
        whole.append_many(records)
    return {record.payload for record in records}
