"""The web service's OpenAPI 3.1 document: its questions are the very types that are read (`services/web_queries.py`)."""

from __future__ import annotations

from typing import Any

import msgspec

from services.openapi_parts import JSON, PROBLEM, SOUNDER_ID, answer_of, problems_of, ref
from services.web_answers import GEOJSON, PNG
from services.web_queries import (
    AnalysisQuery,
    HeatmapQuery,
    Query,
    RecommendQuery,
    Simulation,
    SounderQuery,
    SoundersQuery,
)
from tasks.network import COLUMNS
from tasks.settings import TIERS

NUMBER, TEXT, FLAG = {"type": "number"}, {"type": "string"}, {"type": "boolean"}
MAYBE_NUMBER, MAYBE_TEXT = {"type": ["number", "null"]}, {"type": ["string", "null"]}
TIME = {"type": "string", "format": "date-time"}
LIST = {"type": "array", "items": {"type": "object"}}
TIER_OF = {"enum": list(TIERS)}
MODIFIED = {"304": {"description": "Still what the ETag of If-None-Match names"}}
BAD = {400: "The question is at fault; the detail names the field"}
NOT_NOW = {503: "No cycle yet, too many questions, one that takes long, or the lake does not answer"}
ASKED = {"cycle_id": TEXT, "valid_time": TIME, "available_until": TIME, "region": TEXT, "demand": MAYBE_TEXT}
PLACED = {
    "type": "object",
    "required": ["latitude_deg", "longitude_deg", "gain_mhz2", "gain_percent", "variance_after_mhz2"],
}


def web_document(version: str) -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AutoNVIS",
            "version": version,
            "description": "What the newest cycle knows of the network, and where new sounders would help. Every answer names its "
            "cycle and carries an ETag; errors are problems of RFC 9457. Files of the newest cycle are below /products/current/, "
            "reports on sounders below /report/.",
        },
        "paths": {
            "/api/nvis/network/analysis": {
                "get": _asked(
                    "analysis",
                    "What each sounder is worth to the map, gaps, redundancy and tiers",
                    AnalysisQuery,
                    "Analysis",
                )
            },
            "/api/nvis/sounders": {
                "get": _asked(
                    "sounders", "Every sounder: tier and why, last heard, worth", SoundersQuery, "Sounders"
                )
            },
            "/api/nvis/sounder/{sounder_id}": {"get": _sounder()},
            "/api/nvis/placement/recommend": {
                "get": _asked(
                    "recommend",
                    "Where new sounders would take most off the variance of foF2",
                    RecommendQuery,
                    "Placement",
                )
            },
            "/api/nvis/placement/heatmap": {"get": _heatmap()},
            "/api/nvis/placement/simulate": {"post": _simulate()},
            "/health": {
                "get": {
                    "summary": "Whether the published map is of now",
                    "operationId": "health",
                    "responses": {
                        "200": answer_of(
                            "It is", _object(status=TEXT, detail=TEXT, valid_time=TIME, age_min=NUMBER)
                        ),
                        **problems_of({503: "It is old, or there is none"}),
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Metrics of this process, for Prometheus",
                    "operationId": "metrics",
                    "responses": {
                        "200": {
                            "description": "It",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This document",
                    "operationId": "openapi",
                    "responses": {
                        "200": answer_of("It", {"type": "object", "required": ["openapi", "paths"]}),
                        **MODIFIED,
                    },
                }
            },
        },
        "components": {"schemas": _schemas()},
    }


def _object(**properties: Any) -> dict[str, Any]:
    """An object with all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _schemas() -> dict[str, Any]:
    _, components = msgspec.json.schema_components([Simulation], ref_template="#/components/schemas/{name}")
    return {
        **components,
        "Problem": PROBLEM,
        "Analysis": _object(
            **ASKED,
            n_sounders={"type": "integer"},
            prior_variance_mhz2=NUMBER,
            variance_mhz2=NUMBER,
            n_redundant={"type": "integer"},
            redundant={"type": "array", "items": TEXT},
            gaps=LIST,
            tiers={
                "type": "array",
                "items": _object(tier=TIER_OF, n_sounders={"type": "integer"}, share_of_sounders=NUMBER, intended_share=NUMBER),
            },
            tier_errors={"type": "object"},
            next_tier=TIER_OF,
            next_place={"anyOf": [PLACED, {"type": "null"}]},
            sounders={"type": "array", "items": {"type": "object", "required": list(COLUMNS)}},
        ),
        "Sounders": _object(
            cycle_id=TEXT,
            valid_time=TIME,
            heard_since=TIME,
            n_sounders={"type": "integer"},
            n_found={"type": "integer"},
            limit={"type": "integer"},
            offset={"type": "integer"},
            sounders={
                "type": "array",
                "items": _object(
                    sounder_id=TEXT, latitude_deg=NUMBER, longitude_deg=NUMBER, tier=TIER_OF, reason=MAYBE_TEXT,
                    quality=MAYBE_NUMBER, delay_sd_ms=MAYBE_NUMBER, delay_sd_low_ms=MAYBE_NUMBER,
                    delay_sd_high_ms=MAYBE_NUMBER, last_heard={"type": ["string", "null"], "format": "date-time"},
                    information_gain_nats=MAYBE_NUMBER, variance_bought_mhz2=MAYBE_NUMBER, rank={"type": ["integer", "null"]},
                ),
            },
        ),
        "Sounder": _object(
            cycle_id=TEXT,
            valid_time=TIME,
            sounder={"type": ["object", "null"]},
            quality={"type": ["object", "null"]},
            errors={"type": ["object", "null"]},
            history=LIST,
            echo_outcomes={"type": "object", "additionalProperties": {"type": "integer"}},
            echoes=LIST,
            observations=LIST,
            registration={"type": ["object", "null"]},
        ),
        "Placement": _object(
            **ASKED, tier=TIER_OF, error={"type": "object"}, variance_mhz2=NUMBER,
            placed={"type": "array", "minItems": 1, "items": PLACED},
        ),
        "WhatIf": _object(
            **ASKED, latitude_deg=NUMBER, longitude_deg=NUMBER, tier=TIER_OF, error={"type": "object"},
            variance_before_mhz2=NUMBER, variance_after_mhz2=NUMBER, gain_mhz2=NUMBER, gain_percent=NUMBER,
            sd_before_mhz=NUMBER, sd_after_mhz=NUMBER, gaps_before=LIST, gaps_after=LIST,
            closed_share={"type": "array", "items": NUMBER}, sentences={"type": "array", "items": TEXT},
        ),
        "GainGrid": _object(
            **ASKED, tier=TIER_OF, variance_mhz2=NUMBER,
            latitude_deg={"type": "array", "items": NUMBER}, longitude_deg={"type": "array", "items": NUMBER},
            gain_percent={"type": "array", "items": {"type": "array", "items": MAYBE_NUMBER}},
        ),
        "GainPoints": _object(**ASKED, type={"const": "FeatureCollection"}, features=LIST),
    }  # fmt: skip


def _parameters(query: type[Query]) -> list[dict[str, Any]]:
    """The fields of a query; null stands for leaving it out."""
    _, components = msgspec.json.schema_components([query])
    found = []
    for name, schema in components[query.__name__]["properties"].items():
        options = [one for one in schema.get("anyOf", [schema]) if one != {"type": "null"}]
        (plain,) = options
        plain = {
            **plain,
            **{key: value for key, value in schema.items() if key == "default" and value is not None},
        }
        if "enum" in plain:
            plain["enum"] = [value for value in plain["enum"] if value is not None]
        text = plain.pop("description", None)
        found.append(
            {"name": name, "in": "query", "schema": plain, **({"description": text} if text else {})}
        )
    return found


def _asked(operation_id: str, summary: str, query: type[Query], schema: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": operation_id,
        "parameters": _parameters(query),
        "responses": {
            "200": answer_of("The answer", ref(schema)),
            **MODIFIED,
            **problems_of({**BAD, **NOT_NOW}),
        },
    }


def _sounder() -> dict[str, Any]:
    operation = _asked(
        "sounder", "Everything of one sounder: tier and its history, errors, echoes, what it registered with", SounderQuery, "Sounder"
    )  # fmt: skip
    operation["parameters"].append(
        {
            "name": "sounder_id",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": SOUNDER_ID},
        }
    )
    operation["responses"] |= problems_of({404: "Neither the newest cycle nor the register knows it"})
    return operation


def _heatmap() -> dict[str, Any]:
    operation = _asked("heatmap", "The gain of one more sounder, anywhere", HeatmapQuery, "GainPoints")
    content = {GEOJSON: ref("GainPoints"), JSON: ref("GainGrid")}
    operation["responses"]["200"] = {
        "description": "By `format`, else by Accept: points of kind gain, new, sounder and gap; a grid; or a picture",
        "content": {**{name: {"schema": schema} for name, schema in content.items()}, PNG: {}},
    }
    return operation


def _simulate() -> dict[str, Any]:
    posted = {
        408: "The body did not arrive in time",
        413: "Too large a body",
        415: "An encoding other than gzip",
    }
    return {
        "summary": "What one sounder at a place would change",
        "operationId": "simulate",
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("Simulation")}}},
        "responses": {
            "200": answer_of("The answer", ref("WhatIf")),
            **MODIFIED,
            **problems_of({**BAD, **posted, **NOT_NOW}),
        },
    }
