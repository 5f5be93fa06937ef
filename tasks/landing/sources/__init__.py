"""Pull sources: one file each behind one interface, one row each in `SOURCES`.

A source says what it has (`series`), fetches raw answers (`fetch`) and reads them (`parse`, a pure function that
curation uses again later). To add one, write its file and its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from tasks.landing.pull import PacedClient
from tasks.landing.sources import drop, giro, swpc
from tasks.landing.spool import Record
from tasks.settings import Settings, SettingsError


class Source(Protocol):
    """A public service that is asked for observations."""

    @property
    def name(self) -> str:
        """Name in settings, catalog and column `source`."""

    @property
    def licence(self) -> str | None:
        """Licence of its data; None when the data state their own."""

    @property
    def series(self) -> Sequence[str]:
        """What is asked for one by one and has a cursor each: stations, products."""

    @property
    def overlap(self) -> timedelta:
        """How much before the newest observation to ask again: what is published late."""

    def fetch(self, client: PacedClient, series: str, since: datetime, until: datetime) -> Iterable[Record]:
        """Raw answers with observations of the time asked for; none when there are none.

        Raises:
            tasks.landing.pull.PullError: the service failed, or answered something else.
        """

    def parse(self, record: Record) -> list[dict[str, Any]]:
        """The submission items of one raw answer."""


SOURCES: dict[str, Callable[[Settings], Source]] = {
    "giro": giro.open_giro,
    "swpc": swpc.open_swpc,
    "drop": drop.open_drop,
}

PARSERS: Mapping[str, Callable[[bytes], list[dict[str, Any]]]] = {**swpc.PARSERS, **drop.PARSERS}
"""How to read raw answers whose content type is a source's own."""


def open_source(name: str, settings: Settings) -> Source:
    """The source `name`, configured.

    Raises:
        SettingsError: there is none of that name, or a setting it needs is missing.
    """
    if name not in SOURCES:
        raise SettingsError(f"source {name!r} of AUTONVIS_SOURCES is unknown; known are {', '.join(SOURCES)}")
    return SOURCES[name](settings)
