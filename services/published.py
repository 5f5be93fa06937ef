"""What the public sees now: the cycle of `products/current`, and how old it is."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from tasks.health.finding import duration
from tasks.products import CURRENT
from tasks.settings import Settings

STALE_CYCLES = 3
"""A map older than so many cycles is not the map of now: two in a row did not come."""


class Source(msgspec.Struct):
    """Where observations of the cycle come from."""

    source: str
    newest_observed_at: datetime


class Published(msgspec.Struct):
    """What the page and the health check read of `cycle.json`."""

    cycle_id: str
    valid_time: datetime
    n_observations: int
    n_stations: int
    is_simulated: bool
    acknowledgements: list[str]
    sources: list[Source]

    def age_min(self, now: datetime) -> float:
        """Minutes since the time that the map is valid for."""
        return (now - self.valid_time).total_seconds() / 60.0

    def newest_observation_min(self, now: datetime) -> float | None:
        """Minutes since the newest observation that it used; None without any."""
        times = [one.newest_observed_at for one in self.sources]
        return (now - max(times)).total_seconds() / 60.0 if times else None


def read_published(settings: Settings) -> Published | None:
    """The published cycle, None where there is none.

    Raises:
        OSError, msgspec.DecodeError: its description cannot be read.
    """
    path = Path(os.path.realpath(settings.products_root / CURRENT)) / "cycle.json"
    return _read(path) if path.is_file() else None


@lru_cache(maxsize=2)
def _read(path: Path) -> Published:
    """A version is immutable, and named by its content."""
    return msgspec.json.decode(path.read_bytes(), type=Published)


def health_of(settings: Settings, now: datetime) -> tuple[bool, str, Published | None]:
    """Whether what the public sees is of now, and a sentence."""
    try:
        published = read_published(settings)
    except (OSError, msgspec.DecodeError) as error:
        return False, f"the published cycle cannot be read: {error}", None
    if published is None:
        return False, "no map has been published yet: the first cycle brings it", None
    sentence = f"the map is valid for {published.valid_time.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {_ago(published.age_min(now))}"
    newest_min = published.newest_observation_min(now)
    sentence += (
        "; it uses no observation"
        if newest_min is None
        else f"; its newest observation is of {_ago(newest_min)}"
    )
    limit_min = STALE_CYCLES * settings.cycle_minutes
    if published.age_min(now) > limit_min:
        return (
            False,
            f"{sentence}. It should never be older than {limit_min:g} minutes: is the flow nowcast running?",
            published,
        )
    return True, sentence, published


def _ago(minutes: float) -> str:
    return f"{duration(60.0 * abs(minutes))} {'ago' if minutes >= 0 else 'ahead'}"
