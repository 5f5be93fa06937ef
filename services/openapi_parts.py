"""Parts of OpenAPI documents that the services share: references, answers, and problems of RFC 9457."""

from __future__ import annotations

from typing import Any

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
SOUNDER_ID = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"

PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What to do."},
        "retry_after_s": {"type": "integer"},
    },
}


def ref(name: str) -> dict[str, Any]:
    """A schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def answer_of(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}


def problem_of(description: str) -> dict[str, Any]:
    return {"description": description, "content": {PROBLEM_JSON: {"schema": ref("Problem")}}}


def problems_of(descriptions: dict[int, str]) -> dict[str, Any]:
    answers: dict[str, Any] = {str(status): problem_of(text) for status, text in sorted(descriptions.items())}
    for status in answers.keys() & {"429", "503"}:
        seconds = {"schema": {"type": "integer"}, "description": "Seconds to wait."}
        answers[status]["headers"] = {"Retry-After": seconds}
    return answers
