"""Token buckets: how much somebody may still send, for as many as are sending.

A bucket is forgotten once it would be full again, so only those who sent lately take memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

BUCKETS = 100_000


class Exceeded(RuntimeError):  # noqa: N818 - a state, not a fault
    """Somebody, `name`, has sent more than `rate_per_s` allows and may go on in `wait_s` seconds."""

    def __init__(self, name: str, rate_per_s: float, wait_s: int) -> None:
        super().__init__(name)
        self.name, self.rate_per_s, self.wait_s = name, rate_per_s, wait_s


class TooMany(RuntimeError):  # noqa: N818 - a state, not a fault
    """More send at once than can be watched."""


class Buckets:
    """One bucket per name, each as large as its rate times `burst_s`; used from one event loop."""

    def __init__(self, burst_s: float) -> None:
        self.burst_s = burst_s
        self._used: dict[str, tuple[float, float, float]] = {}
        """Per name what was left, when that was so (monotonic seconds), and when it is full again."""

    def spend(self, wanted: Mapping[str, tuple[int, float]]) -> None:
        """Takes from every bucket or from none; `wanted` has number and rate (per second, 0 for no limit) per name.

        Raises:
            Exceeded: one of them has not got that much. What is more than a full bucket passes on a full one and is
                paid for afterwards, or it never could.
            TooMany: there are more names than buckets.
        """
        now_s = time.monotonic()
        left: dict[str, tuple[float, float, float]] = {}
        for name, (number, rate) in wanted.items():
            if not rate:
                continue
            full = rate * self.burst_s
            had, at_s, _ = self._used.get(name, (full, now_s, now_s))
            rest = min(full, had + rate * (now_s - at_s)) - number
            lowest = min(0.0, full - number)
            if rest < lowest:
                raise Exceeded(name, rate, math.ceil((lowest - rest) / rate))
            left[name] = rest, now_s, now_s + (full - rest) / rate
        if len(self._used) + len(left) > BUCKETS:
            self._used = {name: used for name, used in self._used.items() if used[2] > now_s}
            if len(self._used) + len(left) > BUCKETS:
                raise TooMany
        self._used.update(left)
