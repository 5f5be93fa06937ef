"""Questions that take long: answered in few threads, one at a time each, kept for the cycle that they were asked about."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from tasks.catalog import CatalogError
from tasks.cycles import CycleError
from tasks.lake import LakeError
from tasks.landing.door import RETRY_CATALOG_S, Problem
from tasks.placement import PlacementError
from tasks.target_area import AreaError

log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT = 128
"""Answers of one cycle, those used last; the largest are maps of a few hundred kB."""
RETRY_BUSY_S = 5


class LongQuestions:
    """Used from one event loop. A question that is asked again while it is computed waits for the same answer."""

    def __init__(self, name: str, *, n_threads: int, n_waiting: int, timeout_s: float) -> None:
        """
        Args:
            n_waiting: questions that may wait for a thread; one more is refused.
            timeout_s: after it the asker is sent away; the answer is kept for when the question comes again.
        """
        self.timeout_s = timeout_s
        self._most = n_threads + n_waiting
        self._threads = ThreadPoolExecutor(n_threads, name)
        self._cycle_id = ""
        self._answers: OrderedDict[Hashable, Any] = OrderedDict()
        self._running: dict[tuple[str, Hashable], asyncio.Future[Any]] = {}

    def close(self) -> None:
        """Lets go of what waits; what is being computed ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(self, cycle_id: str, question: Hashable, compute: Callable[[], T]) -> T:
        """The answer to `question` about a cycle, from `compute` unless it is known; None is no answer, and not kept.

        Raises:
            Problem: 400 the question is at fault, 503 too many wait, it takes too long, or lake or catalog do not answer.
        """
        if cycle_id != self._cycle_id:
            self._cycle_id = cycle_id
            self._answers.clear()
        if question in self._answers:
            self._answers.move_to_end(question)
            return cast(T, self._answers[question])
        key = cycle_id, question
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= self._most:
                detail = f"{len(self._running)} questions wait already; ask again in {RETRY_BUSY_S} s"
                raise Problem(503, "Busy", detail, Retry_After=str(RETRY_BUSY_S))
            running = asyncio.ensure_future(self._compute(key, compute))
            self._running[key] = running
            running.add_done_callback(lambda done: self._ended(key, done))
        try:
            return cast(T, await asyncio.wait_for(asyncio.shield(running), self.timeout_s))
        except TimeoutError as error:
            detail = f"the answer takes more than {self.timeout_s:g} s; it is being computed, ask again"
            raise Problem(503, "Takes long", detail, Retry_After=str(RETRY_BUSY_S)) from error

    def _ended(self, key: tuple[str, Hashable], done: asyncio.Future[Any]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # seen, even when nobody waits for it any more

    async def _compute(self, key: tuple[str, Hashable], compute: Callable[[], Any]) -> Any:
        cycle_id, question = key
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, compute)
        except (AreaError, CycleError, PlacementError) as error:
            raise Problem(400, "Bad question", str(error)) from error
        except (LakeError, CatalogError) as error:
            log.error("event=unreadable question=%r reason=%r", question, str(error))
            detail = "the lake or the catalog cannot be read now; ask again later"
            raise Problem(503, "Not available", detail, Retry_After=str(RETRY_CATALOG_S)) from error
        if cycle_id == self._cycle_id and found is not None:
            self._answers[question] = found
            if len(self._answers) > KEPT:
                self._answers.popitem(last=False)
        return found
