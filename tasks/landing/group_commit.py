"""Group commit: many senders wait for one fsync.

One thread owns the spool writer. It takes whatever has been submitted since its last fsync, appends it in one go and
answers everybody; while it waits for the disk the next group gathers. So the event loop never blocks, and the rate is
not bound by one fsync per request.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from tasks.landing.spool import Record, SpoolError, SpoolWriter, recover

log = logging.getLogger(__name__)

WAITING_BYTES = 64 * 2**20
"""Payload that may wait for the disk; beyond it submissions are refused rather than kept in memory."""
GROUP_BYTES = 8 * 2**20
SEAL_IDLE_S = 1.0
"""A segment that gets nothing for this long is sealed, so that it can land."""
SEAL_AGE_S = 10.0
"""A segment that never falls idle is sealed at this age."""


class Overloaded(RuntimeError):  # noqa: N818 - a state, not a fault
    """More waits for the disk than may wait; send again later."""


class GroupCommit:
    """Makes submitted records durable in `directory`; to be started and stopped once."""

    def __init__(
        self,
        directory: Path,
        *,
        waiting_bytes: int = WAITING_BYTES,
        seal_idle_s: float = SEAL_IDLE_S,
        seal_age_s: float = SEAL_AGE_S,
    ) -> None:
        self.directory = directory
        self.waiting_bytes = waiting_bytes
        self.seal_idle_s = seal_idle_s
        self.seal_age_s = seal_age_s
        self._queue: queue.SimpleQueue[tuple[Sequence[Record], int, Future[None]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._n_waiting_bytes = 0
        self._is_stopping = False
        self._writer = SpoolWriter(directory)
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)

    def start(self) -> None:
        """Seals what an earlier process left open, then begins to take submissions."""
        recover(self.directory)
        self._thread.start()

    def submit(self, records: Sequence[Record]) -> Future[None]:
        """The future is done when all `records` are on disk, or has the `SpoolError` for which none are.

        Raises:
            Overloaded: too much is waiting, or the commit is stopping.
        """
        n_bytes = sum(len(record.payload) for record in records)
        with self._lock:
            if self._is_stopping or not self._thread.is_alive():
                raise Overloaded("the landing zone is stopping")
            if self._n_waiting_bytes + n_bytes > self.waiting_bytes:
                raise Overloaded(f"{self._n_waiting_bytes} bytes wait for the disk already")
            self._n_waiting_bytes += n_bytes
            future: Future[None] = Future()
            self._queue.put((records, n_bytes, future))
        return future

    def check(self) -> None:
        """Writes and syncs a few bytes beside the segments.

        Raises:
            OSError: the spool cannot be written now.
        """
        if not self._thread.is_alive():
            raise OSError(errno.EIO, "the commit thread has ended")
        probe = self.directory / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with probe.open("xb") as file:
                file.write(b"writable\n")
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)

    def stop(self) -> None:
        """Commits what has been submitted, seals the segment and ends the thread."""
        with self._lock:
            self._is_stopping = True
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            try:
                first = self._queue.get(timeout=self.seal_idle_s / 4)
            except queue.Empty:
                self._seal_when_due()
                continue
            group = []
            n_bytes = 0
            entry = first
            while entry is not None:
                records, size, future = entry
                n_bytes += size
                if future.set_running_or_notify_cancel():  # else its sender has gone, and was told nothing
                    group.append((records, future))
                if n_bytes >= GROUP_BYTES:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            else:
                is_last = True
            self._commit(group)
            with self._lock:
                self._n_waiting_bytes -= n_bytes
            self._seal_when_due()
        self._seal()

    def _commit(self, group: Sequence[tuple[Sequence[Record], Future[None]]]) -> None:
        try:
            self._writer.append_many(record for records, _ in group for record in records)
        except SpoolError as error:
            log.error("event=refused requests=%d reason=%r", len(group), str(error))
            for _, future in group:
                future.set_exception(error)
        except BaseException as error:
            for _, future in group:
                future.set_exception(error)
            raise
        else:
            for _, future in group:
                future.set_result(None)

    def _seal_when_due(self) -> None:
        if self._writer.idle_s > self.seal_idle_s or self._writer.age_s > self.seal_age_s:
            self._seal()

    def _seal(self) -> None:
        started_s = time.monotonic()
        try:
            path = self._writer.seal()
        except OSError as error:
            log.warning("event=seal-failed reason=%r; recovery seals it later", str(error))
            return
        if path is not None:
            n_bytes = path.stat().st_size if path.exists() else 0  # `land` may have taken it already
            log.info(
                "event=sealed batch=%s bytes=%d seconds=%.3f",
                path.stem,
                n_bytes,
                time.monotonic() - started_s,
            )
