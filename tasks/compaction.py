"""Small files of settled days become few, without a row or a reader lost.

A day is settled when nobody wrote to it for a day. Neighbours in the order of their names are joined, so that rows keep
the order in which they are read, and cycles of the past stay the same to the bit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from tasks import compacted, lake, upkeep
from tasks.settings import Settings

log = logging.getLogger(__name__)

DATASETS = (
    "ionograms",
    "measurements",
    "indices",
    "feedback",
    "verification",
    "sounders",
    "echoes",
    "network",
)
"""Not the analysis, whose files are large and read one by one; not the quarantine, whose files are marked in place."""
SETTLED = timedelta(days=1)
SMALL_BYTES = 2**20
LARGEST_BYTES = 64 * 2**20  # what one join holds in memory, some ten times that
FEWEST_FILES = 8  # fewer are not worth a new file


@dataclass(frozen=True)
class Compacted:
    """What a compaction came to, over all days it worked on."""

    n_days: int
    n_files_before: int
    n_files_after: int
    bytes_before: int
    bytes_after: int

    def summary(self) -> str:
        if not self.n_days:
            return "no day to compact"
        return (
            f"{self.n_days} days compacted: {self.n_files_before} files ({self.bytes_before / 1e6:.1f} MB) became "
            f"{self.n_files_after} ({self.bytes_after / 1e6:.1f} MB)"
        )


def compact_lake(settings: Settings, *, now: datetime) -> Compacted:
    """Joins the small files of settled days; a backup waits for one day's folder at most.

    Raises:
        tasks.lake.LakeError: the disk is full; days done before are done.
        OSError: the file system cannot exchange two folders.
    """
    n_days = n_before = n_after = bytes_before = bytes_after = 0
    for dataset in DATASETS:
        for folder in sorted((settings.lake_root / dataset).glob(f"{lake.PARTITION_PREFIX}*")):
            for run in _runs(folder, now):
                with upkeep.turn(settings, "a compaction"):
                    written = _join(folder, run, settings)
                if written is not None:
                    n_days, n_before, n_after = n_days + 1, n_before + len(run), n_after + 1
                    bytes_before, bytes_after = bytes_before + written[0], bytes_after + written[1]
    done = Compacted(n_days, n_before, n_after, bytes_before, bytes_after)
    log.info("%s", done.summary())
    return done


def _runs(folder: Path, now: datetime) -> Iterator[list[Path]]:
    """Neighbouring small files of a settled day, each run large enough to be worth it."""
    sizes: dict[Path, int] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            about = path.stat()
        except FileNotFoundError:
            return
        if datetime.fromtimestamp(about.st_mtime, UTC) > now - SETTLED:
            return
        sizes[path] = about.st_size
    run: list[Path] = []
    for path, n_bytes in [*sizes.items(), (folder, LARGEST_BYTES)]:
        is_small = n_bytes < SMALL_BYTES and not compacted.is_compacted(path)
        if not is_small or sum(sizes[one] for one in run) + n_bytes > LARGEST_BYTES:
            if len(run) >= FEWEST_FILES:
                yield run
            run = []
        if is_small:
            run.append(path)


def _join(folder: Path, paths: Sequence[Path], settings: Settings) -> tuple[int, int] | None:
    """Joins one run in place; bytes before and after, None where the day changed meanwhile."""
    try:
        before = lake.signatures(paths)
        name, table = compacted.pack(paths)
    except FileNotFoundError:
        return None
    except ValueError as error:  # a minor version of the contract came within the day
        log.info("%s stays as it is: %s", folder, error)
        return None
    try:
        with lake.staging_folder(settings) as stage:
            fresh = stage / folder.name
            fresh.mkdir()
            target = fresh / f"{name}.parquet"
            lake.write_table(table, target)
            if not pq.read_table(target, partitioning=None).equals(table):
                raise lake.LakeError(
                    f"{target} does not read back as it was written: {folder} stays as it is"
                )
            n_written = target.stat().st_size
            newest_ns = max(mtime_ns for _, mtime_ns, _ in before.values())
            os.utime(target, ns=(newest_ns, newest_ns))
            is_done = lake.replace_in_day(folder, before, fresh, settings=settings)
            return (sum(n_bytes for *_, n_bytes in before.values()), n_written) if is_done else None
    except OSError as error:
        if error.errno in lake.FULL_DISK:
            raise lake.LakeError(
                error.errno,
                f"cannot compact {folder}: the disk is full; it stays as it is, free space and run again",
            ) from error
        raise
