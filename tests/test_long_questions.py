"""Long questions: asked once however many ask, kept for their cycle, refused when too many wait, and never a hung asker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from services.long_questions import LongQuestions
from tasks.lake import LakeError
from tasks.landing.door import Problem
from tasks.placement import PlacementError


class Slow:
    """A computation that waits to be let go, and counts how often it was begun."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.n_begun = 0

    def __call__(self) -> int:
        self.n_begun += 1
        assert self.may_end.wait(10)
        return self.n_begun


def questions(*, n_threads: int = 1, n_waiting: int = 1, timeout_s: float = 10.0) -> LongQuestions:
    return LongQuestions("test", n_threads=n_threads, n_waiting=n_waiting, timeout_s=timeout_s)


async def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


def test_a_question_is_computed_once_for_all_who_ask_and_kept_for_its_cycle() -> None:
    async def run() -> None:
        asked, slow = questions(), Slow()
        waiting = [asyncio.create_task(asked.ask("c1", "q", slow)) for _ in range(20)]
        await until(lambda: slow.n_begun == 1)
        slow.may_end.set()
        assert await asyncio.gather(*waiting) == [1] * 20
        assert await asked.ask("c1", "q", slow) == 1
        assert await asked.ask("c2", "q", slow) == 2
        assert await asked.ask("c2", "other", slow) == 3
        asked.close()

    asyncio.run(run())


def test_one_more_than_may_wait_is_sent_away() -> None:
    async def run() -> None:
        asked, slow = questions(), Slow()
        waiting = [asyncio.create_task(asked.ask("c", number, slow)) for number in range(2)]
        await until(lambda: slow.n_begun == 1)
        with pytest.raises(Problem, match="2 questions wait already") as refused:
            await asked.ask("c", 2, slow)
        assert refused.value.status == 503
        assert refused.value.headers["Retry-After"] == "5"
        slow.may_end.set()
        await asyncio.gather(*waiting)
        assert await asked.ask("c", 2, slow) == 3
        asked.close()

    asyncio.run(run())


def test_who_waits_too_long_is_sent_away_and_finds_the_answer_later() -> None:
    async def run() -> None:
        asked, slow = questions(timeout_s=0.05), Slow()
        with pytest.raises(Problem, match="it is being computed, ask again") as refused:
            await asked.ask("c", "q", slow)
        assert refused.value.status == 503
        slow.may_end.set()
        await until(lambda: not asked._running)
        assert await asked.ask("c", "q", slow) == 1
        asked.close()

    asyncio.run(run())


def test_an_asker_who_leaves_takes_nobody_with_him() -> None:
    async def run() -> None:
        asked, slow = questions(), Slow()
        gone, stays = (asyncio.create_task(asked.ask("c", "q", slow)) for _ in range(2))
        await until(lambda: slow.n_begun == 1)
        gone.cancel()
        slow.may_end.set()
        assert await stays == 1
        asked.close()

    asyncio.run(run())


def test_the_answer_of_an_older_cycle_is_not_kept() -> None:
    async def run() -> None:
        asked, old, new = questions(n_threads=2), Slow(), Slow()
        waiting = asyncio.create_task(asked.ask("c1", "q", old))
        await until(lambda: old.n_begun == 1)
        new.may_end.set()
        assert await asked.ask("c2", "q", lambda: "new") == "new"
        old.may_end.set()
        assert await waiting == 1  # it asked about the older one
        assert await asked.ask("c2", "q", new) == "new"
        asked.close()

    asyncio.run(run())


def test_nothing_is_no_answer_and_asked_again() -> None:
    async def run() -> None:
        asked = questions()
        assert await asked.ask("c", "q", lambda: None) is None
        assert await asked.ask("c", "q", lambda: 7) == 7
        asked.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status"), [(PlacementError("no such tier"), 400), (LakeError("the disk is gone"), 503)]
)
def test_errors_become_problems_and_are_not_kept(error: Exception, status: int) -> None:
    def fail() -> None:
        raise error

    async def run() -> None:
        asked = questions()
        for _ in range(2):
            with pytest.raises(Problem) as told:
                await asked.ask("c", "q", fail)
            assert told.value.status == status
        assert ("no such tier" in told.value.detail) == (status == 400)
        assert await asked.ask("c", "q", lambda: 7) == 7
        asked.close()

    asyncio.run(run())
