"""The circuit breaker of pulls: a host that keeps failing is left alone for a while.

After `FAILURES_TO_OPEN` requests in a row that came to nothing (each with its retries) the breaker of that host opens:
nothing is sent to it. After a pause one request, without retries, is let through as a probe (half-open); its success
closes the breaker, its failure doubles the pause. The state lies in the catalog, so that it outlives the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum

from sqlalchemy import Engine

from tasks import catalog

log = logging.getLogger(__name__)

FAILURES_TO_OPEN = 3
PAUSE = timedelta(minutes=15)
LONGEST_PAUSE = timedelta(hours=6)
PROBE_TIME = timedelta(minutes=5)
"""How long a probe keeps others out: more than one request can take."""


class Admission(Enum):
    """How a request to a host may go."""

    FREE = "free"
    PROBE = "probe"


class BreakerOpenError(Exception):
    """The host's breaker is open; the message says until when and why."""


class Breaker:
    """The breakers of all hosts, kept in the catalog."""

    def __init__(self, engine: Engine, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine = engine
        self._clock = clock

    def admit(self, host: str) -> Admission:
        """Whether a request may go out, freely or as the probe.

        Raises:
            BreakerOpenError: the breaker is open, or another process is probing.
        """
        state = catalog.get_failing_host(self._engine, host)
        if state is None or state.open_until is None:
            return Admission.FREE
        now = self._clock()
        # A pause that no rule can have set comes from a clock that has been put back.
        is_over = state.open_until <= now or state.open_until > now + LONGEST_PAUSE
        if is_over and catalog.claim_probe(self._engine, host, state.open_until, now + PROBE_TIME):
            log.info("%s: the pause is over, one request probes it", host)
            return Admission.PROBE
        raise BreakerOpenError(
            f"{host} is not asked before {state.open_until:%Y-%m-%d %H:%M} UTC: it failed {state.n_failures} times "
            f"in a row, last with {state.problem}"
        )

    def succeeded(self, host: str) -> None:
        """The host answered: its breaker closes."""
        state = catalog.get_failing_host(self._engine, host)
        if state is None:
            return
        catalog.forget_failing_host(self._engine, host)
        if state.open_until is not None:
            log.info("%s answers again: its breaker is closed", host)

    def failed(self, host: str, problem: str) -> None:
        """A request came to nothing; opens the breaker when it is one too many."""
        state = catalog.get_failing_host(self._engine, host)
        n_failures = 1 if state is None else state.n_failures + 1
        open_until = None
        if n_failures >= FAILURES_TO_OPEN:
            pause = min(PAUSE * 2 ** min(n_failures - FAILURES_TO_OPEN, 10), LONGEST_PAUSE)
            open_until = self._clock() + pause
            log.warning(
                "%s failed %d times in a row, last with %s: its breaker is open, it is not asked before %s UTC",
                host,
                n_failures,
                problem,
                f"{open_until:%Y-%m-%d %H:%M}",
            )
        catalog.put_failing_host(
            self._engine, host, n_failures=n_failures, problem=problem, open_until=open_until
        )
