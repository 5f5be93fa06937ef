"""What may be asked of the web service: the fields of each question with their limits, read from a query or a body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import pandas as pd
from msgspec import Meta
from starlette.requests import Request

from tasks.landing.door import Problem
from tasks.placement import MOST_PER_H
from tasks.target_area import DemandPlaces

MOST_NEW = 20
"""Sounders placed at once: each costs a solve and a map of the gain."""
MOST_DAYS = 30.0
MOST_LISTED = 500

Tier = Literal["PLATINUM", "GOLD", "SILVER", "BRONZE"]
Order = Literal["rank", "sounder_id", "tier", "last_heard", "information_gain_nats", "quality", "delay_sd_ms"]
Format = Literal["geojson", "grid", "png"]
Region = Annotated[
    str, Meta(description="`global`, or `south,west,north,east` in degrees; default that of the settings.")
]
PerHour = Annotated[
    float,
    Meta(
        ge=0, le=MOST_PER_H, description="Observations of foF2 per hour; default what the tier is known for."
    ),
]
Demand = Annotated[
    str,
    Meta(
        max_length=5_000,
        description="Places that count, `latitude,longitude,weight;…`; default every part of the region alike.",
    ),
]
NewTier = Annotated[Tier, Meta(description="Assumed of the new sounders.")]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a query; equal ones are the same question."""


class AnalysisQuery(Query, frozen=True):
    region: Region | None = None
    demand: Demand | None = None
    top: Annotated[int, Meta(ge=1, le=MOST_LISTED, description="Sounders listed, those that carry most.")] = (
        20
    )


class SoundersQuery(Query, frozen=True):
    tier: Tier | None = None
    search: Annotated[str, Meta(max_length=64, description="Part of the sounder's id.")] | None = None
    sort: Order = "rank"
    descending: bool = False
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED)] = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class SounderQuery(Query, frozen=True):
    days: Annotated[float, Meta(gt=0, le=MOST_DAYS, description="Of its history.")] = 1.0


class PlaceQuery(Query, frozen=True):
    tier: NewTier = "GOLD"
    per_h: PerHour | None = None
    region: Region | None = None
    demand: Demand | None = None
    mask: (
        Annotated[
            str,
            Meta(
                max_length=10_000,
                description="GeoJSON (RFC 7946) with the polygons in which they may stand; default anywhere.",
            ),
        ]
        | None
    ) = None
    at_sea: Annotated[bool, Meta(description="They may stand at sea and on lakes too.")] = False


class RecommendQuery(PlaceQuery, frozen=True):
    n: Annotated[int, Meta(ge=1, le=MOST_NEW, description="Number of new sounders.")] = 1

    def place(self) -> PlaceQuery:
        """The question without the number."""
        fields = {name: getattr(self, name) for name in PlaceQuery.__struct_fields__}
        return PlaceQuery(**fields)


class HeatmapQuery(PlaceQuery, frozen=True):
    format: Annotated[Format, Meta(description="Default by the header Accept, else GeoJSON.")] | None = None


class DemandPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place that counts."""

    latitude_deg: Annotated[float, Meta(ge=-90, le=90)]
    longitude_deg: Annotated[float, Meta(ge=-180, le=360)]
    weight: Annotated[float, Meta(ge=0)] = 1.0


class Simulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sounder that does not exist."""

    latitude_deg: Annotated[float, Meta(ge=-90, le=90)]
    longitude_deg: Annotated[float, Meta(ge=-180, le=360)]
    tier: NewTier = "GOLD"
    per_h: PerHour | None = None
    region: Region | None = None
    demand: Annotated[tuple[DemandPlace, ...], Meta(max_length=1_000)] = ()


Q = TypeVar("Q", bound=Query)


def read_query(request: Request, kind: type[Q]) -> Q:
    """The query of a request.

    Raises:
        Problem: 400, a field is unknown, repeated or out of its range; the detail names it.
    """
    fields: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in fields:
            raise Problem(400, "Bad query", f"{name[:80]!r} is given twice")
        fields[name] = value
    unknown = sorted(fields.keys() - set(kind.__struct_fields__))
    if unknown:
        known = ", ".join(kind.__struct_fields__)
        raise Problem(400, "Bad query", f"{unknown[0][:80]!r} is not asked here; known are {known}")
    plain: dict[str, Any] = dict(fields)
    for name in plain.keys() & {"at_sea", "descending"}:  # msgspec takes 1 and 0 too
        if plain[name] not in ("true", "false"):
            raise Problem(400, "Bad query", f"{name} must be true or false, got {plain[name][:80]!r}")
    try:
        return msgspec.convert(plain, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, "Bad query", _in_words(error)) from error


def read_simulation(body: bytes) -> Simulation:
    """A what-if from a body.

    Raises:
        Problem: 400, it is no JSON, or a field is missing, unknown or out of its range; the detail names it.
    """
    try:
        return msgspec.json.decode(body, type=Simulation)
    except msgspec.ValidationError as error:
        raise Problem(400, "Bad simulation", _in_words(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "Not JSON", str(error)) from error


def demand_of_query(text: str | None) -> DemandPlaces | None:
    """Places from `latitude,longitude,weight;…`.

    Raises:
        Problem: 400, an entry is not three values.
    """
    if text is None:
        return None
    rows = [entry.split(",") for entry in text.split(";") if entry.strip()]
    wrong = next((number for number, row in enumerate(rows, 1) if len(row) != 3), None)
    if wrong is not None:
        raise Problem(400, "Bad query", f"demand: entry {wrong} is not latitude,longitude,weight")
    return _places(rows)


def demand_of_body(places: Sequence[DemandPlace]) -> DemandPlaces | None:
    """Places from the fields of a body; None without any."""
    return _places([msgspec.structs.astuple(place) for place in places]) if places else None


def _places(rows: Sequence[Sequence[Any]]) -> DemandPlaces:
    frame = pd.DataFrame(rows, columns=["latitude_deg", "longitude_deg", "weight"])
    return DemandPlaces("of the request", frame)


def _in_words(error: msgspec.ValidationError) -> str:
    """The message with the field's name in front: `n: Expected int >= 1`."""
    what, _, where = str(error).rpartition(" - at `$")
    return f"{where.rstrip('`').lstrip('.')}: {what}" if what else str(error)
