"""GIRO FastChar: scaled ionogram characteristics of the world's Digisondes, one station and span per request.

Data are under CC BY-NC-SA 4.0; the stations' providers are to be acknowledged (GIRO's Rules of the Road). The service
answers 429 after a few quick requests, and a station without data with a remark instead of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.landing.giro_text import LICENCE, is_giro_text, parse_giro_text
from tasks.landing.pull import PacedClient, PullError
from tasks.landing.spool import Record
from tasks.settings import Settings, SettingsError

CHARACTERISTICS = "foF2,hmF2,MUF(D),M(D),fxI,foE,foEs,foF1,fmin,B0,B1,TEC"
MUF_DISTANCE_KM = 3000


@dataclass(frozen=True)
class Giro:
    """The FastChar service at `url`, for the stations (URSI codes) in `series`."""

    url: str
    series: tuple[str, ...]
    name: str = "giro"
    licence: str = LICENCE
    overlap: timedelta = timedelta(hours=1)

    def fetch(self, client: PacedClient, series: str, since: datetime, until: datetime) -> Iterator[Record]:
        """The table of station `series`, when it has a line."""
        body = client.get(
            self.url,
            {
                "ursiCode": series,
                "charName": CHARACTERISTICS,
                "DMUF": str(MUF_DISTANCE_KM),
                "fromDate": f"{since.astimezone(UTC):%Y/%m/%d %H:%M:%S}",
                "toDate": f"{until.astimezone(UTC):%Y/%m/%d %H:%M:%S}",
            },
        )
        received_at = datetime.now(UTC)
        text = body.decode("utf-8", errors="replace")
        if not is_giro_text(text):
            raise PullError(f"{self.url} answered no GIRO text for {series}: {text[:80]!r}")
        table = parse_giro_text(text)
        if table.is_no_data:
            return
        if table.status is not None and not table.items:
            raise PullError(f"{self.url} answered for {series}: {table.status}")
        if table.items or table.malformed:
            yield Record(
                "pull", "ionograms", series, received_at, "text/plain", body, self.name, self.licence
            )

    def parse(self, record: Record) -> list[dict[str, Any]]:
        """Its lines as submission items; lines that cannot be read are left to curation."""
        return parse_giro_text(record.payload.decode("utf-8", errors="replace")).items


def open_giro(settings: Settings) -> Giro:
    """The service and stations of the settings.

    Raises:
        ValueError: no station is configured.
    """
    stations = tuple(
        dict.fromkeys(code.strip().upper() for code in settings.giro_stations.split(",") if code.strip())
    )
    if not stations:
        raise SettingsError(
            "source giro needs AUTONVIS_GIRO_STATIONS: the URSI codes to pull, comma separated"
        )
    return Giro(settings.giro_url, stations)
