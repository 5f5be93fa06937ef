"""The network over HTTP: what `autonvis network` and `autonvis place` say, about the newest cycle, and every sounder.

GET  /api/nvis/network/analysis      what each sounder is worth, gaps, tiers
GET  /api/nvis/sounders              all sounders: tier, why, last heard, worth
GET  /api/nvis/sounder/{id}          everything of one
GET  /api/nvis/placement/recommend   where new sounders would be worth most
GET  /api/nvis/placement/heatmap     the gain of one more, anywhere: GeoJSON, a grid, or a picture
POST /api/nvis/placement/simulate    what one sounder at a place would change
"""

from __future__ import annotations

import asyncio
import io
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import pandas as pd
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.long_questions import LongQuestions
from services.openapi_parts import SOUNDER_ID
from services.requests import read_body
from services.web_answers import GEOJSON, JSON, PNG, Answer
from services.web_queries import (
    AnalysisQuery,
    HeatmapQuery,
    PlaceQuery,
    RecommendQuery,
    SounderQuery,
    SoundersQuery,
    demand_of_body,
    demand_of_query,
    read_query,
    read_simulation,
)
from tasks.catalog import CatalogError
from tasks.gain_map import draw_gain_map, placement_geojson
from tasks.landing.door import RETRY_CATALOG_S, Problem
from tasks.masks import geojson_mask
from tasks.network_documents import (
    described,
    gain_grid_document,
    map_note,
    network_document,
    placement_document,
    records,
    what_if_document,
    what_if_lines,
    worth,
)
from tasks.network_question import Known, Placement, Question, allowed
from tasks.newest_cycle import NewestCycle, newest_cycle
from tasks.settings import TIERS, Settings
from tasks.sounder_documents import heard_since, sounder_document, sounder_list

NEWEST_FOR_S = 2.0
"""The catalog is asked so often for the newest cycle."""
SIMULATION_BYTES = 128 * 1024
LISTED_WORDS = {"tier": {tier: number for number, tier in enumerate(TIERS)}}
"""Sorted by this, not by the alphabet."""
FORMATS = {GEOJSON: "geojson", PNG: "png", JSON: "grid"}
_drawing = threading.Lock()
"""Matplotlib's settings and fonts are the process's."""


class NetworkApi:
    """The routes below `/api/nvis`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # Reading what a cycle left must not wait behind solves.
        self.reading = LongQuestions("read", n_threads=2, n_waiting=64, timeout_s=15.0)
        self.solving = LongQuestions("solve", n_threads=2, n_waiting=8, timeout_s=25.0)
        self._newest: NewestCycle | None = None
        self._newest_until_s = 0.0
        self._asking = asyncio.Lock()
        self._known: Known | None = None

    def routes(self) -> list[Route]:
        """To be mounted at the root."""
        at = "/api/nvis"
        return [
            Route(f"{at}/network/analysis", self.get_analysis, methods=["GET"]),
            Route(f"{at}/sounders", self.get_sounders, methods=["GET"]),
            Route(f"{at}/sounder/{{sounder_id}}", self.get_sounder, methods=["GET"]),
            Route(f"{at}/placement/recommend", self.get_recommend, methods=["GET"]),
            Route(f"{at}/placement/heatmap", self.get_heatmap, methods=["GET"]),
            Route(f"{at}/placement/simulate", self.post_simulate, methods=["POST"]),
        ]

    def close(self) -> None:
        self.reading.close()
        self.solving.close()

    async def get_analysis(self, request: Request) -> Response:
        query = read_query(request, AnalysisQuery)
        demand = demand_of_query(query.demand)
        cycle = await self._cycle()

        def stored() -> dict[str, Any]:
            summary = cycle.network_summary(self.settings)
            rows = cycle.read(self.settings, "network").sort_values("rank")
            rows = rows.drop(columns=["cycle_id", "valid_time"])
            return {**described(self._question(cycle)), **worth(summary, rows)}

        def asked() -> dict[str, Any]:
            question = self._question(cycle, query.region, demand)
            return network_document(question, question.report())

        if query.region is None and demand is None:
            document = await self.reading.ask(cycle.cycle_id, "analysis", stored)
        else:
            document = await self.solving.ask(cycle.cycle_id, ("analysis", query.region, query.demand), asked)
        listed = {**document, "sounders": document["sounders"][: query.top]}
        return _answer(cycle, listed).to(request)

    async def get_sounders(self, request: Request) -> Response:
        query = read_query(request, SoundersQuery)
        cycle = await self._cycle()
        listed = await self._sounders(cycle)
        found = listed if query.tier is None else listed[listed["tier"] == query.tier]
        if query.search is not None:
            found = found[found["sounder_id"].str.contains(query.search, case=False, regex=False)]
        order = LISTED_WORDS.get(query.sort)
        found = found.sort_values(
            query.sort,
            ascending=not query.descending,
            kind="stable",
            na_position="last",
            key=None if order is None else lambda tiers: tiers.map(order),
        )
        document = {
            "valid_time": cycle.plan.valid_time.isoformat(),
            "heard_since": heard_since(self.settings, cycle).isoformat(),
            "n_sounders": len(listed),
            "n_found": len(found),
            "limit": query.limit,
            "offset": query.offset,
            "sounders": records(found.iloc[query.offset : query.offset + query.limit]),
        }
        return _answer(cycle, document).to(request)

    async def get_sounder(self, request: Request) -> Response:
        sounder_id: str = request.path_params["sounder_id"]
        if not re.match(SOUNDER_ID.removesuffix("$") + r"\Z", sounder_id):
            detail = "a sounder id has 1 to 64 letters, digits or _ . - and begins with a letter or digit"
            raise Problem(400, "Bad id", detail)
        query = read_query(request, SounderQuery)
        cycle = await self._cycle()
        listed = await self._sounders(cycle)
        document = await self.reading.ask(
            cycle.cycle_id,
            ("sounder", sounder_id, query),
            lambda: sounder_document(self.settings, cycle, listed, sounder_id, query.days),
        )
        if document is None:
            detail = f"neither the newest cycle nor the register knows {sounder_id!r}"
            raise Problem(404, "Unknown sounder", detail)
        return _answer(cycle, {"valid_time": cycle.plan.valid_time.isoformat(), **document}).to(request)

    async def get_recommend(self, request: Request) -> Response:
        query = read_query(request, RecommendQuery)
        cycle = await self._cycle()
        question, found = await self._place(cycle, query.place(), query.n)
        return _answer(cycle, placement_document(question, found)).to(request)

    async def get_heatmap(self, request: Request) -> Response:
        query = read_query(request, HeatmapQuery)
        form = query.format or _wanted_format(request.headers.get("accept", ""))
        cycle = await self._cycle()
        place = PlaceQuery(**{name: getattr(query, name) for name in PlaceQuery.__struct_fields__})
        question, found = await self._place(cycle, place, 1)

        def render() -> Answer:
            if form == "png":
                return Answer.of(_picture(question, found), PNG)
            if form == "grid":
                return _answer(cycle, gain_grid_document(question, found.map))
            points = placement_geojson(found.map, found.placed, found.sounders, found.gaps)
            return _answer(cycle, {**points, **described(question)}, GEOJSON)

        answer = await self.solving.ask(cycle.cycle_id, ("heatmap", form, place), render)
        return answer.to(request, Vary="Accept")

    async def post_simulate(self, request: Request) -> Response:
        wanted = read_simulation(await read_body(request, lambda _: None, SIMULATION_BYTES))
        if wanted.longitude_deg > 180.0:
            wanted = msgspec.structs.replace(wanted, longitude_deg=wanted.longitude_deg - 360.0)
        cycle = await self._cycle()
        question = self._question(cycle, wanted.region, demand_of_body(wanted.demand))

        def compute() -> Answer:
            place = wanted.latitude_deg, wanted.longitude_deg
            tried = question.what_if(*place, wanted.tier, wanted.per_h)
            document = {**what_if_document(question, tried), "sentences": what_if_lines(tried)}
            return _answer(cycle, document)

        answer = await self.solving.ask(cycle.cycle_id, wanted, compute)
        return answer.to(request)

    async def _cycle(self) -> NewestCycle:
        """The newest cycle.

        Raises:
            Problem: 503, there is none yet, or the catalog does not answer.
        """
        async with self._asking:
            if time.monotonic() > self._newest_until_s:
                try:
                    self._newest = await asyncio.to_thread(newest_cycle, self.settings)
                except CatalogError as error:
                    detail = f"{error.reason}; ask again later"
                    raise Problem(
                        503, "Catalog not available", detail, Retry_After=str(RETRY_CATALOG_S)
                    ) from error
                self._newest_until_s = time.monotonic() + NEWEST_FOR_S
        if self._newest is None:
            detail = f"no cycle of region {self.settings.region} has been recorded yet: the flow nowcast makes the first"
            raise Problem(503, "No cycle yet", detail, Retry_After=str(60 * self.settings.cycle_minutes))
        return self._newest

    async def _sounders(self, cycle: NewestCycle) -> pd.DataFrame:
        return await self.reading.ask(cycle.cycle_id, "sounders", lambda: sounder_list(self.settings, cycle))

    async def _place(
        self, cycle: NewestCycle, query: PlaceQuery, n_sounders: int
    ) -> tuple[Question, Placement]:
        question = self._question(cycle, query.region, demand_of_query(query.demand))

        def compute() -> Placement:
            mask = None if query.mask is None else geojson_mask(query.mask, "mask")
            where = allowed(mask, at_sea=query.at_sea)
            return question.place(n_sounders, query.tier, where, query.per_h)

        return question, await self.solving.ask(cycle.cycle_id, ("place", n_sounders, query), compute)

    def _question(self, cycle: NewestCycle, region: str | None = None, demand: Any = None) -> Question:
        """A question about a cycle; what it knows is solved once and let go when the next cycle is there."""
        if self._known is None or self._known.plan != cycle.plan:
            self._known = Known(self.settings, cycle.plan)
        return Question(self._known, demand, region)


def _answer(cycle: NewestCycle, document: Mapping[str, Any], media_type: str = JSON) -> Answer:
    return Answer.json({"cycle_id": cycle.cycle_id, **document}, media_type)


def _wanted_format(accept: str) -> str:
    """The form of a map that a header Accept names; GeoJSON where it names none of ours."""
    named = [part.split(";")[0].strip().lower() for part in accept.split(",")]
    return next((form for media_type, form in FORMATS.items() if media_type in named), "geojson")


def _picture(question: Question, found: Placement) -> bytes:
    drawn = io.BytesIO()
    with _drawing:
        draw_gain_map(
            found.map, found.placed, found.sounders, title_note=map_note(question, found.map), path=drawn
        )
    return drawn.getvalue()
