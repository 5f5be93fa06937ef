"""The OpenAPI document against the gateway as it is: schemathesis finds nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from services.openapi import openapi_document
from tasks.contracts import submission_schema
from tests.landing.door_server import IONOGRAM, MEASUREMENT, Server

load_all_checks()
KEYS = itertools.count()
# Items that break their schema land all the same, for the quarantine, and are told so by receipt.
LANDS_ALL_THE_SAME = CHECKS.get_one("negative_data_rejection")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("openapi"), sounder_items_per_s=0, registrations_per_min=0)
    yield started
    started.stop()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for path, methods in openapi_document("0", 0)["paths"].items() for method in methods],
)
def test_the_document_is_true(server: Server, method: str, path: str, mode: GenerationMode) -> None:
    operation = schemathesis.openapi.from_url(f"{server.url}/openapi.json")[path][method]
    excluded = [] if path == "/register" else [LANDS_ALL_THE_SAME]

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE and "Idempotency-Key" in case.headers:
            case.headers["Idempotency-Key"] = str(next(KEYS))  # one key twice with two bodies is rightly 422
        case.call_and_validate(excluded_checks=excluded, timeout=20)

    try:
        check()
    except Unsatisfiable:  # a path without input has nothing to get wrong
        assert mode is GenerationMode.NEGATIVE
        assert method == "get"


def test_every_route_is_described(server: Server) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    routes = {route.path: route.methods - {"HEAD"} for route in server.routes}
    assert {path: {method.upper() for method in methods} for path, methods in paths.items()} == routes


def test_the_items_are_the_contracts(server: Server) -> None:
    schemas = httpx.get(f"{server.url}/schema").json()
    assert schemas == json.loads(json.dumps({name: submission_schema(name) for name in schemas}))
    for item in (IONOGRAM, MEASUREMENT):
        jsonschema_rs.validate(schemas[str(item["dataset"])], item)
        assert not jsonschema_rs.is_valid(
            schemas[str(item["dataset"])], {**item, "latitude_deg": 91, "tx_latitude_deg": 91}
        )


def test_a_dry_run_stores_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    items = [IONOGRAM, {**IONOGRAM, "fof2_mhz": 99}]
    dry = httpx.post(f"{server.url}/batch?dry_run=true", json={"items": items})
    assert dry.status_code == 200
    assert [receipt["status"] for receipt in dry.json()["receipts"]] == ["accepted", "rejected"]
    assert httpx.post(f"{server.url}/ionogram?dry_run=maybe", json=IONOGRAM).status_code == 400
    assert server.landed() == []
