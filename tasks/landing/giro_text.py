"""GIRO ionogram text, old (`DIDBGetValues`) and new (`FastChar`): the one place that knows the format.

Both are lines of blank-separated columns named by the last comment line before the data:

    # Location: GEO ( 51.7 N   358.5 E ), URSI-Code FF051, FAIRFORD
    # Distance D for MUF calculations: 3000 km
    # Time                    CS   foF2 QD MUF(D) QD M(D) QD
    2026-10-06T12:30:00.000Z  90  5.713 // 18.563 // 3.26 //

`CS` is the autoscaling confidence (0-100, 999 scaled by hand, -1 unknown), `QD` the qualifying and descriptive
letter of the value before it (`/` for none), `---` with `__` a missing value. Files glued together (each part with
its own header) are read as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

LICENCE = "GIRO, CC BY-NC-SA 4.0"
"""Under which GIRO gives its data, as the header of each file says."""

SCALED_BY_HAND = 999
"""Confidence of an ionogram that somebody scaled anew: it corrects what the autoscaling said of the same time."""

DEFAULT_MUF_DISTANCE_KM = 3000.0
"""Ground distance D of MUF(D) and M(D) when a file does not state it: GIRO's documented default."""

_COLUMN_OF_CHARACTERISTIC = {
    "fof2": "fof2_mhz",
    "hmf2": "hmf2_km",
    "muf(d)": "muf3000_mhz",
    "mufd": "muf3000_mhz",
    "m(d)": "m3000f2",
    "md": "m3000f2",
    "fxi": "fxi_mhz",
    "foe": "foe_mhz",
    "foes": "foes_mhz",
    "fof1": "fof1_mhz",
    "fmin": "fmin_mhz",
    "b0": "b0_km",
    "b1": "b1",
    "tec": "tec_tecu",
}
_DISTANCE_DEPENDENT = {"muf3000_mhz", "m3000f2"}

_LOCATION = re.compile(
    r"#\s*Location:\s*GEO\s*\(?\s*(?P<lat>[-+]?\d+(?:\.\d+)?)\s*(?P<ns>[NS])\s+"
    r"(?P<lon>[-+]?\d+(?:\.\d+)?)\s*(?P<ew>[EW])\s*\)?\s*,\s*URSI-Code\s+(?P<code>[A-Z0-9]+)\s*,?\s*(?P<name>.*)",
    re.IGNORECASE,
)
_DISTANCE = re.compile(r"#.*\bdistance\b[^0-9]*:\s*(\d+(?:\.\d+)?)\s*km", re.IGNORECASE)
_STATUS = re.compile(r"#\s*STATUS:\s*(.*)", re.IGNORECASE)
_COLUMNS = re.compile(r"#\s*Time\s+(CS\b.*)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)\Z")
_MISSING = re.compile(r"-{2,}\Z")
_QUALIFIER = re.compile(r"[A-Z/_]{1,2}\Z")


@dataclass(frozen=True)
class GiroStation:
    """The station of a header; coordinates in degrees, longitude -180..180."""

    ursi_code: str
    name: str
    latitude_deg: float
    longitude_deg: float


@dataclass(frozen=True)
class MalformedLine:
    """A data line that could not be read; `number` counts from 1."""

    number: int
    text: str
    reason: str


@dataclass(frozen=True)
class GiroText:
    """What a GIRO text says.

    `items` are submission items of the `ionograms` dataset, one per data line, with a key for each known column of
    the file (`None` where the value is missing). `station` is the first header's. `status` is the service's own
    remark, for example that there are no data.
    """

    station: GiroStation | None
    items: list[dict[str, Any]]
    malformed: list[MalformedLine]
    status: str | None
    stations: list[GiroStation] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        """Unpacks as `station, items`."""
        yield self.station
        yield self.items

    @property
    def is_no_data(self) -> bool:
        """The service answered that it has no measurements for the request."""
        return not self.items and self.status is not None and "no measurement data" in self.status.lower()


def is_giro_text(text: str) -> bool:
    """Whether `text` looks like GIRO text at all (an error page, say, does not)."""
    head = text[:4000]
    return "Global Ionospheric Radio Observatory" in head or _LOCATION.search(head) is not None


def parse_giro_text(text: str) -> GiroText:
    """Reads GIRO text into submission items; never raises for what the text holds.

    Lines that cannot be read (a truncated last line, a time without zone) are returned in `malformed`, with their
    number and the reason, so that the caller decides what becomes of them.
    """
    station: GiroStation | None = None
    stations: list[GiroStation] = []
    columns: list[str] | None = None
    distance_km = DEFAULT_MUF_DISTANCE_KM
    status: str | None = None
    items: list[dict[str, Any]] = []
    malformed: list[MalformedLine] = []

    for number, raw_line in enumerate(text.split("\n"), start=1):
        line = raw_line.strip("\ufeff").strip()
        if not line:
            continue
        if line.startswith("#"):
            if match := _LOCATION.match(line):
                station = _read_station(match)
                stations.append(station)
                columns, distance_km = None, DEFAULT_MUF_DISTANCE_KM
            elif match := _COLUMNS.match(line):
                columns = match.group(1).split()
            elif match := _DISTANCE.match(line):
                distance_km = float(match.group(1))
            elif match := _STATUS.match(line):
                status = match.group(1).strip()
            continue
        if columns is None or station is None:
            missing = "`# Location:` header" if station is None else "`# Time CS …` header"
            malformed.append(MalformedLine(number, line[:200], f"data before any {missing}"))
            continue
        try:
            items.append(_read_line(line, columns, station, distance_km))
        except ValueError as error:
            malformed.append(MalformedLine(number, line[:200], str(error)))
    return GiroText(stations[0] if stations else None, items, malformed, status, stations)


def _read_station(match: re.Match[str]) -> GiroStation:
    latitude_deg = float(match["lat"]) * (-1.0 if match["ns"].upper() == "S" else 1.0)
    longitude_deg = float(match["lon"]) * (-1.0 if match["ew"].upper() == "W" else 1.0)
    if 180.0 < longitude_deg <= 360.0:  # beyond 360 is an error of the file: left for the contract to refuse
        longitude_deg = round(longitude_deg - 360.0, 6)
    return GiroStation(match["code"].upper(), match["name"].strip(), latitude_deg, longitude_deg)


def _read_line(line: str, columns: list[str], station: GiroStation, distance_km: float) -> dict[str, Any]:
    tokens = line.split()
    observed_at = tokens[0]
    try:
        time = datetime.fromisoformat(observed_at)
    except ValueError:
        raise ValueError(f"time {observed_at!r} is not ISO 8601") from None
    if time.tzinfo is None:
        raise ValueError(f"time {observed_at!r} has no zone")

    item: dict[str, Any] = {
        "sounder_id": station.ursi_code,
        "observed_at": observed_at,
        "latitude_deg": station.latitude_deg,
        "longitude_deg": station.longitude_deg,
        "confidence_score": None,
        "qualifier": None,
        "revision": 0,
    }
    position = 1
    is_missing = False
    characteristic = ""
    for column in columns:
        token = tokens[position] if position < len(tokens) else None
        if column.upper() == "QD":
            if token is not None and _QUALIFIER.match(token):
                # One qualifier per row is kept: foF2's, the quantity the network is built on.
                if characteristic == "fof2" and not is_missing and token not in ("//", "__"):
                    item["qualifier"] = token
                position += 1
            elif not is_missing:  # old files leave the letters of a missing value blank
                raise ValueError(
                    f"{len(tokens)} columns, the line ends or breaks off after {characteristic!r}"
                )
            continue
        characteristic = column.lower()
        if token is None:
            raise ValueError(f"{len(tokens)} columns, {column!r} is absent: the line is cut")
        position += 1
        is_missing = bool(_MISSING.match(token))
        if not is_missing and not _NUMBER.match(token):
            raise ValueError(f"{column} is {token!r}, not a number")
        value = None if is_missing else float(token)
        if characteristic == "cs":
            item["confidence_score"] = value
            item["revision"] = 1 if value == SCALED_BY_HAND else 0
            continue
        name = _COLUMN_OF_CHARACTERISTIC.get(characteristic)
        if name is None or (name in _DISTANCE_DEPENDENT and distance_km != DEFAULT_MUF_DISTANCE_KM):
            continue
        item[name] = value
    if position != len(tokens):
        raise ValueError(f"{len(tokens)} columns where the header names {len(columns) + 1}")
    return item
