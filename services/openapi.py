"""The gateway's OpenAPI 3.1 document: its item schemas are the data contracts' own."""

from __future__ import annotations

from typing import Any

from services.openapi_parts import JSON, PROBLEM, SOUNDER_ID, answer_of, problem_of, problems_of, ref
from tasks.contracts import SENT_AT, submission_schema
from tasks.landing.door import BATCH_ITEMS
from tasks.landing.idempotency import KEY_CHARACTERS
from tasks.landing.receipts import DATASETS, REASONS
from tasks.settings import TIERS

_VERSION: dict[str, Any] = {
    "version": {"type": "integer", "minimum": 1},
    "kind": {"type": "string"},
    "name": {"type": "string"},
    "latitude_deg": {"type": ["number", "null"]},
    "longitude_deg": {"type": ["number", "null"]},
    "altitude_m": {"type": ["number", "null"]},
    "details": {"type": "object", "description": "What else the sounder says of itself."},
    "valid_from": {"type": "string", "format": "date-time"},
}

_WHEN_POSTED = {
    400: "Not JSON, or not what this path takes",
    401: "A registered sounder's credential is missing, or the credential sent is nobody's",
    403: "The sounder must register first, or the credential is another's",
    408: "The body did not arrive in time",
    413: "Too many bytes or items",
    415: "A content encoding other than gzip",
    429: "The sounder sends more than it may",
    503: "It cannot be stored now",
}


_QUESTIONS = {
    "user": ["username", "password", "client_id"],
    "vhost": ["username", "vhost"],
    "resource": ["username", "resource", "name", "permission"],
    "topic": ["username", "name", "permission", "routing_key"],
}


def openapi_document(version: str, body_bytes: int) -> dict[str, Any]:
    """The document; `body_bytes` is the limit of a request's body, inflated."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AutoNVIS landing zone",
            "version": version,
            "description": "202 means that the bytes are on disk, with a receipt per item. An item that does not follow "
            "its schema lands too, for the quarantine: its receipt says rejected and why. Every other answer is a "
            f"problem of RFC 9457, and nothing was stored. A body has at most {body_bytes} bytes (inflated) and "
            f"{BATCH_ITEMS} items.",
        },
        "paths": {
            "/ionogram": {"post": _landing("One ionogram, or a list of them", _one_or_many("ionograms"))},
            "/measurement": {
                "post": _landing("One measurement, or a list of them", _one_or_many("measurements"))
            },
            "/batch": {"post": _landing("Many items, of one dataset or mixed", ref("Batch"))},
            "/register": {"post": _registration()},
            **{f"/broker/{question}": {"post": _question(question)} for question in _QUESTIONS},
            "/sounders/{sounder_id}": {"get": _metadata("sounder", "A sounder's metadata", "Registered")},
            "/sounders/{sounder_id}/history": {
                "get": _metadata("history", "Every version of a sounder's metadata, oldest first", "History")
            },
            "/health": {
                "get": {
                    "summary": "200 only while the spool can be written",
                    "operationId": "health",
                    "responses": {
                        "200": answer_of("It can", {"type": "object", "required": ["status"]}),
                        "503": problem_of("It cannot"),
                    },
                }
            },
            "/schema": {
                "get": {
                    "summary": "The JSON Schema of one submitted item, per dataset",
                    "operationId": "schema",
                    "responses": {
                        "200": answer_of("The schemas", {"type": "object", "required": list(DATASETS)})
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "summary": "This document",
                    "operationId": "openapi",
                    "responses": {
                        "200": answer_of("It", {"type": "object", "required": ["openapi", "paths"]})
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Metrics of this process and the whole system, for Prometheus",
                    "operationId": "metrics",
                    "responses": {
                        "200": {
                            "description": "It",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    },
                }
            },
        },
        "components": {
            "securitySchemes": {
                "credential": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The credential that /register answered; needed for a registered sounder.",
                }
            },
            "schemas": _schemas(),
        },
    }


def _schemas() -> dict[str, Any]:
    items = {
        dataset: {
            name: value for name, value in submission_schema(dataset).items() if not name.startswith("$")
        }
        for dataset in DATASETS
    }
    return {
        **items,
        "Batch": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "dataset": {
                    "enum": [*DATASETS, None],
                    "description": "Of the items that name none themselves.",
                },
                "source": {"enum": ["http", "file", "simulated"], "default": "http"},
                "licence": {"type": ["string", "null"], "pattern": "^[ -~]{1,200}$"},
                SENT_AT: submission_schema(DATASETS[0])["properties"][SENT_AT],
                "items": {"type": "array", "minItems": 1, "maxItems": BATCH_ITEMS, "items": {}},
            },
        },
        "Sounder": {
            "type": "object",
            "required": ["sounder_id"],
            "description": "Fields beyond these are kept as they are.",
            "properties": {
                "sounder_id": {"type": "string", "pattern": SOUNDER_ID},
                "kind": {"type": "string", "maxLength": 32, "default": "ionosonde"},
                "name": {"type": "string", "maxLength": 200, "default": ""},
                "latitude_deg": {"type": ["number", "null"], "minimum": -90, "maximum": 90},
                "longitude_deg": {"type": ["number", "null"], "minimum": -180, "maximum": 360},
                "altitude_m": {"type": ["number", "null"], "minimum": -500, "maximum": 100_000},
                "tier": {
                    "enum": [*TIERS, None],
                    "description": "Declared by the sounder; it decides how much it may send.",
                },
            },
        },
        "Registered": {
            "type": "object",
            "required": ["sounder_id", "registered_at", *_VERSION],
            "properties": {
                "sounder_id": {"type": "string"},
                "registered_at": {"type": "string", "format": "date-time"},
                **_VERSION,
            },
            "additionalProperties": False,
        },
        "History": {
            "type": "object",
            "required": ["sounder_id", "versions"],
            "properties": {
                "sounder_id": {"type": "string"},
                "versions": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": list(_VERSION),
                        "properties": _VERSION,
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        },
        "Receipt": {
            "type": "object",
            "required": [
                "observation_id",
                "status",
                "codes",
                "reasons",
                "warnings",
                "server_time",
                "clock_offset_s",
            ],
            "properties": {
                "observation_id": {"type": ["string", "null"]},
                "status": {
                    "enum": ["accepted", "accepted_with_warnings", "duplicate", "rejected"],
                    "description": "duplicate: this observation has landed before, with the same content and revision; a "
                    "correction, with a higher revision, is accepted.",
                },
                "codes": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "The code each reason begins with, e.g. fof2_mhz_range.",
                },
                "warnings": {"type": "array", "items": {"type": "string"}},
                "clock_offset_s": {
                    "type": ["number", "null"],
                    "description": "Our clock minus the sender's by the sent_at of the item, else of the batch, else the "
                    "request's Date header (whole seconds); null without any.",
                },
                "reasons": {
                    "type": "array",
                    "maxItems": REASONS,
                    "items": {"type": "string"},
                    "description": "Those that the quarantine will give, as a rule in the same words.",
                },
                "server_time": {"type": "string", "format": "date-time"},
            },
            "additionalProperties": False,
        },
        "Receipts": {
            "type": "object",
            "required": ["receipts"],
            "properties": {"receipts": {"type": "array", "minItems": 1, "items": ref("Receipt")}},
            "additionalProperties": False,
        },
        "Problem": PROBLEM,
    }


def _landing(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "operationId": summary.split(",")[0].lower().replace(" ", "_"),
        "security": [{}, {"credential": []}],
        "parameters": [
            {
                "name": "dry_run",
                "in": "query",
                "description": "Judge the items and store nothing: the answer is 200.",
                "schema": {"type": "boolean", "default": False},
            },
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "A request repeated with its key, within a day, gets its first answer and lands once.",
                "schema": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": KEY_CHARACTERS,
                    "pattern": "^[!-~]+$",
                },
            },
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
        "responses": {
            "200": answer_of("Judged and not stored (dry_run)", ref("Receipts")),
            "202": answer_of("On disk", ref("Receipts")),
            **problems_of(
                {
                    **_WHEN_POSTED,
                    409: "The first request with this Idempotency-Key is under way",
                    422: "The Idempotency-Key was used for another request",
                }
            ),
        },
    }


def _registration() -> dict[str, Any]:
    answered = {
        "type": "object",
        "required": ["sounder_id", "version"],
        "properties": {
            "sounder_id": {"type": "string"},
            "version": {"type": "integer", "minimum": 1},
            "credential": {"type": "string"},
        },
        "additionalProperties": False,
    }
    return {
        "summary": "A sounder's metadata; a change of them needs its credential and is kept as a new version",
        "operationId": "register",
        "security": [{}, {"credential": []}],
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("Sounder")}}},
        "responses": {
            "200": answer_of("Recorded", answered),
            "201": answer_of("Registered; the credential is shown this once", answered),
            **problems_of({**_WHEN_POSTED, 409: "Registered already, and the credential was not sent"}),
        },
    }


def _question(name: str) -> dict[str, Any]:
    fields = {field: {"type": "string", "maxLength": 500} for field in _QUESTIONS[name]}
    form = {"schema": {"type": "object", "properties": fields}}
    statuses = (400, 408, 413, *((503,) if name == "user" else ()))
    said = {"type": "string", "enum": ["allow", "deny"]}
    return {
        "summary": f"What RabbitMQ's HTTP backend asks of an MQTT client ({name})",
        "operationId": f"broker_{name}",
        "requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": form}},
        "responses": {
            "200": {"description": "The answer", "content": {"text/plain": {"schema": said}}},
            **{str(status): problem_of(_WHEN_POSTED[status]) for status in statuses},
        },
    }


def _metadata(operation_id: str, summary: str, schema: str) -> dict[str, Any]:
    path = {"name": "sounder_id", "in": "path", "required": True}
    statuses = {
        401: "The sounder's own credential is missing, or the credential sent is nobody's",
        403: "The credential is another's",
        503: "The catalog does not answer now",
    }
    return {
        "summary": f"{summary}; only for the sounder itself",
        "operationId": operation_id,
        "security": [{"credential": []}],
        "parameters": [{**path, "schema": {"type": "string", "pattern": SOUNDER_ID}}],
        "responses": {"200": answer_of("It", ref(schema)), **problems_of(statuses)},
    }


def _one_or_many(dataset: str) -> dict[str, Any]:
    many = {"type": "array", "minItems": 1, "maxItems": BATCH_ITEMS, "items": ref(dataset)}
    return {"anyOf": [ref(dataset), many]}
