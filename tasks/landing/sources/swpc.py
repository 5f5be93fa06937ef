"""NOAA SWPC: solar flux F10.7, planetary Kp and solar X-ray flux, JSON, public domain.

`f107_cm_flux.json` holds three readings a day, in no certain order; the one of local noon at Penticton (20 UT) is the
day's F10.7. `noaa-planetary-k-index.json` holds a week of three-hour Kp, until 2026 as rows below a row of names,
since then as objects. `xrays-<span>.json` holds the one-minute flux of two bands from the primary GOES; the long one,
by which flares are classed, is the index. Times carry no zone: they are UTC.

SWPC revises: the Kp of an interval changes for hours, fluxes now and then. An index value is therefore named by what
it says as well as by when: a revision is an observation of its own, with its own `available_at`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.landing.pull import PacedClient, PullError
from tasks.landing.spool import Record
from tasks.settings import Settings

LICENCE = "public domain (NOAA)"
PROVIDER = "swpc"
F107_TYPE = "application/vnd.swpc.f107+json"
KP_TYPE = "application/vnd.swpc.kp+json"
XRAY_TYPE = "application/vnd.swpc.xray+json"
F107_FREQUENCY_MHZ = 2800
XRAY_BAND = "0.1-0.8nm"
XRAY_MISSING = -1.0e5
"""SWPC's marker of a missing flux (header of its GOES X-ray lists)."""


def parse_f107(payload: bytes) -> list[dict[str, Any]]:
    """Index items of `f107_cm_flux.json`.

    Raises:
        ValueError: it is not that document.
    """
    return [
        _item("f107_sfu", row["time_tag"], row["flux"])
        for row in _rows(payload, ("time_tag", "flux"))
        if row.get("reporting_schedule", "Noon") == "Noon"
        and row.get("frequency", F107_FREQUENCY_MHZ) == F107_FREQUENCY_MHZ
        and row["flux"] is not None
    ]


def parse_kp(payload: bytes) -> list[dict[str, Any]]:
    """Index items of `noaa-planetary-k-index.json`.

    Raises:
        ValueError: it is not that document.
    """
    return [
        _item("kp", row["time_tag"], row["Kp"])
        for row in _rows(payload, ("time_tag", "Kp"))
        if row["Kp"] is not None
    ]


def parse_xray(payload: bytes) -> list[dict[str, Any]]:
    """Index items of `xrays-<span>.json`: the long band.

    Raises:
        ValueError: it is not that document.
    """
    return [
        _item("xray_wm2", row["time_tag"], row["flux"])
        for row in _rows(payload, ("time_tag", "flux", "energy"))
        if row["energy"] == XRAY_BAND and row["flux"] is not None and row["flux"] != XRAY_MISSING
    ]


PARSERS: Mapping[str, Callable[[bytes], list[dict[str, Any]]]] = {
    F107_TYPE: parse_f107,
    KP_TYPE: parse_kp,
    XRAY_TYPE: parse_xray,
}

_PRODUCTS = {
    "f107": ("/json/f107_cm_flux.json", F107_TYPE),
    "kp": ("/products/noaa-planetary-k-index.json", KP_TYPE),
    "xray": ("/json/goes/primary/xrays-{span}.json", XRAY_TYPE),
}
_XRAY_SPANS = {"6-hour": timedelta(hours=6), "1-day": timedelta(days=1), "3-day": timedelta(days=3)}
"""Spans in which SWPC offers the minutes of X-rays; the shortest that reaches back to the cursor is asked for."""


@dataclass(frozen=True)
class Swpc:
    """SWPC's services at `url`; its series are the products."""

    url: str
    series: tuple[str, ...] = tuple(_PRODUCTS)
    name: str = PROVIDER
    licence: str = LICENCE
    overlap: timedelta = timedelta(0)

    def fetch(self, client: PacedClient, series: str, since: datetime, until: datetime) -> Iterator[Record]:
        """The whole product, when it is another than the one that landed last."""
        path, content_type = _PRODUCTS[series]
        reaching = [name for name, span in _XRAY_SPANS.items() if until - since < span]
        path = path.format(span=reaching[0] if reaching else "7-day")
        body = client.get_changed(self.url.rstrip("/") + path)
        if body is None:
            return
        record = Record(
            "pull", "indices", PROVIDER, datetime.now(UTC), content_type, body, self.name, self.licence
        )
        try:
            items = self.parse(record)
        except ValueError as error:
            raise PullError(f"{self.url}{path} answered something else than {series}: {error}") from error
        if items:
            yield record

    def parse(self, record: Record) -> list[dict[str, Any]]:
        """Its values as submission items of `indices`."""
        return PARSERS[record.content_type](record.payload)


def open_swpc(settings: Settings) -> Swpc:
    """The services of the settings."""
    return Swpc(settings.swpc_url)


def _rows(payload: bytes, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    document = json.loads(payload)
    if not isinstance(document, list):
        raise ValueError(f"a list was expected, not {payload[:60]!r}")
    names = document[0] if document and isinstance(document[0], list) else None
    for row in document if names is None else document[1:]:
        named = dict(zip(names, row, strict=False)) if names is not None else row
        if not isinstance(named, dict) or any(name not in named for name in needed):
            raise ValueError(f"a row with {' and '.join(needed)} was expected, not {str(row)[:60]}")
        yield named


def _item(index_name: str, time_tag: Any, value: Any) -> dict[str, Any]:
    moment = datetime.fromisoformat(str(time_tag))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    observed_at, number = moment.astimezone(UTC).isoformat(), float(value)
    meaning = f"indices|{PROVIDER}|{observed_at}|{index_name}|{number!r}"
    return {
        "observation_id": hashlib.sha256(meaning.encode()).hexdigest()[:32],
        "sounder_id": PROVIDER,
        "observed_at": observed_at,
        "index_name": index_name,
        "value": number,
    }
