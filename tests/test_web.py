"""The web service over a lake that the real chain made: every answer, what is refused, and that nothing else is served."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from starlette.routing import Mount

from autonvis.network import place_sounders, show_what_if
from services.published import health_of
from services.web import main
from services.web_openapi import web_document
from tasks import catalog, lake
from tasks.metrics.doors import ErrorCounter
from tasks.network_question import Known, Question
from tasks.newest_cycle import newest_cycle
from tasks.products import publish_products
from tasks.settings import TIERS, Settings, load_settings
from tests.product_cycles import make_cycle
from tests.web_server import END, WebServer, fill, settings_of

OTHER = "47,6,51,12"
"""Another region than that of the settings."""
API = "/api/nvis"
PAGES = {"/", "/report/"}
load_all_checks()
# A region, a demand and a mask are texts with a meaning that no schema says: what is none is rightly 400.
MEANS_NOTHING = CHECKS.get_one("positive_data_acceptance")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = settings_of(tmp_path_factory.mktemp("web") / "var", web_origins="https://example.org")
    fill(made)
    return made


@pytest.fixture(scope="module")
def web(settings: Settings) -> Iterator[WebServer]:
    server = WebServer(settings)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    server = WebServer(settings_of(tmp_path_factory.mktemp("empty") / "var"))
    yield server
    server.stop()


def get(web: WebServer, path: str, **query: Any) -> httpx.Response:
    return httpx.get(f"{web.url}{path}", params=query or None, timeout=60)


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem of RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["title"]
    return str(document["detail"])


def test_the_analysis_is_what_the_cycle_left(web: WebServer, settings: Settings) -> None:
    said = get(web, f"{API}/network/analysis").json()
    cycle = newest_cycle(settings)
    assert cycle is not None
    stored = cycle.read(settings, "network").sort_values("rank")
    assert said["cycle_id"] == cycle.cycle_id
    assert said["valid_time"] == END.isoformat()
    assert [row["sounder_id"] for row in said["sounders"]] == list(stored["sounder_id"])
    assert [row["rank"] for row in said["sounders"]] == list(range(1, len(stored) + 1))
    assert {row["tier"]: row["intended_share"] for row in said["tiers"]} == dict(
        zip(TIERS, (0.05, 0.14, 0.27, 0.54), strict=True)
    )
    assert sum(row["n_sounders"] for row in said["tiers"]) == said["n_sounders"] == len(stored)
    assert said["variance_mhz2"] < said["prior_variance_mhz2"]
    assert len(get(web, f"{API}/network/analysis", top=2).json()["sounders"]) == 2


def test_a_cycle_whose_files_were_joined_with_others_reads_the_same(settings: Settings) -> None:
    cycle = newest_cycle(settings)
    assert cycle is not None
    before = cycle.read(settings, "echoes")
    (path,) = lake.files("echoes", settings=settings, name=f"echoes-{cycle.plan.stamp}")
    joined = path.with_name("joined.parquet")
    path.rename(joined)
    try:
        pd.testing.assert_frame_equal(cycle.read(settings, "echoes"), before)
    finally:
        joined.rename(path)
    assert len(before)


def test_another_region_is_asked_anew(web: WebServer, settings: Settings) -> None:
    said = get(web, f"{API}/network/analysis", region=OTHER, demand="50,10,1;51,8,3").json()
    assert said["region"] == OTHER
    assert said["variance_mhz2"] != get(web, f"{API}/network/analysis").json()["variance_mhz2"]


def test_every_sounder_is_listed(web: WebServer, settings: Settings) -> None:
    said = get(web, f"{API}/sounders").json()
    rows = {row["sounder_id"]: row for row in said["sounders"]}
    nvis = rows["NVIS-P01"]
    assert nvis["tier"] in TIERS
    assert nvis["delay_sd_low_ms"] < nvis["delay_sd_ms"] < nvis["delay_sd_high_ms"]
    assert "innovations" in nvis["reason"]
    measured = lake.read("measurements", settings=settings)
    newest = measured.loc[measured["sounder_id"] == "NVIS-P01", "observed_at"].max()
    assert pd.Timestamp(nvis["last_heard"]) == newest
    assert nvis["information_gain_nats"] > 0
    assert isinstance(nvis["n_measurements"], int)
    ionosonde = rows["SIM01"]
    assert ionosonde["reason"] is None
    assert ionosonde["tier_source"] == "error"
    assert said["n_sounders"] == said["n_found"] == len(rows)


def test_the_list_is_paged_filtered_and_sorted(web: WebServer) -> None:
    everybody = get(web, f"{API}/sounders", sort="sounder_id").json()["sounders"]
    names = [row["sounder_id"] for row in everybody]
    assert names == sorted(names)
    page = get(web, f"{API}/sounders", sort="sounder_id", limit=3, offset=2).json()
    assert [row["sounder_id"] for row in page["sounders"]] == names[2:5]
    down = get(web, f"{API}/sounders", sort="sounder_id", descending="true").json()["sounders"]
    assert [row["sounder_id"] for row in down] == names[::-1]
    found = get(web, f"{API}/sounders", search="nvis").json()
    assert {row["sounder_id"] for row in found["sounders"]} == {"NVIS-P01", "NVIS-G01"}
    assert found["n_found"] == 2
    for tier in TIERS:
        own = get(web, f"{API}/sounders", tier=tier).json()["sounders"]
        assert [row["sounder_id"] for row in own] == [
            row["sounder_id"] for row in get(web, f"{API}/sounders").json()["sounders"] if row["tier"] == tier
        ]
    best_first = [row["tier"] for row in get(web, f"{API}/sounders", sort="tier").json()["sounders"]]
    assert best_first == sorted(best_first, key=TIERS.index)
    assert get(web, f"{API}/sounders", offset=1000).json()["sounders"] == []


def test_everything_of_one_sounder_and_no_secret(web: WebServer, settings: Settings) -> None:
    answer = get(web, f"{API}/sounder/NVIS-P01")
    said = answer.json()
    row = lake.read("sounders", settings=settings, start=END).set_index("sounder_id").loc["NVIS-P01"]
    delay = said["errors"]["delay"]
    assert delay["sd"] == row["delay_sd_ms"]
    assert delay["variance_scale"] / (delay["variance_shape"] - 1) == pytest.approx(
        delay["sd"] ** 2, rel=0.05
    )
    assert set(said["quality"]) == {"signal", "calibration", "temporal", "spatial", "equipment", "historical"}
    assert [one["valid_time"] for one in said["history"]] == [
        (END - timedelta(minutes=15)).isoformat(), END.isoformat()
    ]  # fmt: skip
    assert len(get(web, f"{API}/sounder/NVIS-P01", days=0.001).json()["history"]) == 1
    echoes = lake.read("echoes", settings=settings, start=END)
    own = echoes[echoes["sounder_id"] == "NVIS-P01"]
    assert sum(said["echo_outcomes"].values()) == own["n_combined"].sum()
    assert said["echoes"][0]["observed_at"] == own["observed_at"].max().isoformat()
    assert {one["quantity"] for one in said["observations"]} >= {"fof2_mhz"}
    registration = said["registration"]
    assert registration["equipment"] == "professional"
    assert registration["name"] == "Hill"
    # What else a sounder says of itself is for itself alone: services/sounders.py.
    assert not {"555-0100", "50.123456", "321.0"} & set(answer.text.replace(",", " ").split())
    assert "phone" not in answer.text
    assert "credential" not in answer.text


def test_a_sounder_that_only_registered_and_one_that_nobody_knows(web: WebServer, settings: Settings) -> None:
    catalog.register_sounder(
        catalog.open_catalog(settings), "SILENT", kind="nvis", name="", latitude_deg=None, longitude_deg=None,
        altitude_m=None, details={}, now=END,
    )  # fmt: skip
    said = get(web, f"{API}/sounder/SILENT").json()
    assert said["sounder"] is None
    assert said["history"] == []
    assert said["registration"]["kind"] == "nvis"
    assert "'NOBODY'" in problem(get(web, f"{API}/sounder/NOBODY"), 404)


def test_places_are_those_of_the_verb(web: WebServer, settings: Settings, tmp_path: Path) -> None:
    ring = [[7, 48.5], [11, 48.5], [11, 50.5], [7, 50.5], [7, 48.5]]
    mask = json.dumps({"type": "Polygon", "coordinates": [ring]})
    said = get(web, f"{API}/placement/recommend", n=2, tier="SILVER", per_h=4, region=OTHER, mask=mask).json()
    cycle = newest_cycle(settings)
    assert cycle is not None
    (tmp_path / "mask.geojson").write_text(mask)
    question = Question(Known(settings, cycle.plan), region=OTHER)
    place_sounders(question, 2, "SILVER", tmp_path / "mask.geojson", per_h=4.0, at_sea=False, out=tmp_path)
    written = json.loads((tmp_path / "placement.json").read_text())
    assert {name: said[name] for name in written} == written
    assert said["error"]["per_h"] == 4.0
    for one in said["placed"]:
        assert 48.5 <= one["latitude_deg"] <= 50.5
        assert 7 <= one["longitude_deg"] <= 11


def test_a_what_if_is_that_of_the_verb(web: WebServer, settings: Settings, tmp_path: Path) -> None:
    body = {"latitude_deg": 50.0, "longitude_deg": 370.0 - 360.0, "tier": "GOLD", "region": OTHER}
    said = httpx.post(f"{web.url}{API}/placement/simulate", json=body, timeout=60).json()
    cycle = newest_cycle(settings)
    assert cycle is not None
    question = Question(Known(settings, cycle.plan), region=OTHER)
    show_what_if(question, 50.0, 10.0, "GOLD", per_h=None, out=tmp_path)
    written = json.loads((tmp_path / "what_if.json").read_text())
    assert {name: said[name] for name in written} == written
    assert said["sentences"][0].startswith("A sounder of tier GOLD at 50.0° N, 10.0° E would take")
    often = httpx.post(f"{web.url}{API}/placement/simulate", json={**body, "per_h": 0.0}, timeout=60).json()
    assert often["gain_mhz2"] == pytest.approx(0.0, abs=1e-12)
    assert said["gain_mhz2"] > 0
    west = {"latitude_deg": 50.0, "longitude_deg": 359.0, "region": OTHER}
    assert (
        httpx.post(f"{web.url}{API}/placement/simulate", json=west, timeout=60).json()["longitude_deg"]
        == -1.0
    )


def test_the_heat_map_in_three_forms(web: WebServer) -> None:
    path = f"{API}/placement/heatmap"
    points = get(web, path, region=OTHER, at_sea="true")
    assert points.headers["content-type"] == "application/geo+json"
    gain = {
        tuple(one["geometry"]["coordinates"]): one["properties"]["gain_percent"]
        for one in points.json()["features"]
        if one["properties"]["kind"] == "gain"
    }
    grid = get(web, path, region=OTHER, at_sea="true", format="grid").json()
    values = np.array(grid["gain_percent"], dtype=float)
    assert values.shape == (len(grid["latitude_deg"]), len(grid["longitude_deg"]))
    assert values.size == len(gain)
    assert values[0, 0] == pytest.approx(gain[grid["longitude_deg"][0], grid["latitude_deg"][0]], rel=1e-5)
    picture = get(web, path, region=OTHER, at_sea="true", format="png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    for accept, media_type in (
        ("image/png", "image/png"), ("application/json", "application/json"), ("*/*", "application/geo+json"),
    ):  # fmt: skip
        answer = httpx.get(
            f"{web.url}{path}",
            params={"region": OTHER, "at_sea": "true"},
            headers={"Accept": accept},
            timeout=60,
        )
        assert answer.headers["content-type"] == media_type
        assert "Accept" in answer.headers["vary"]


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("network/analysis", {"region": "Europe"}, "region 'Europe' is neither"),
        ("network/analysis", {"region": "50,0,40,10"}, "region '50,0,40,10'"),
        ("network/analysis", {"region": "nan,nan,nan,nan"}, "region"),
        ("network/analysis", {"demand": "50,10"}, "demand: entry 1 is not latitude,longitude,weight"),
        ("network/analysis", {"demand": "50,10,-1"}, "demand of the request: row 1 is no place"),
        ("network/analysis", {"demand": "-50,10,1"}, "none of its 1 places has weight in the area"),
        ("network/analysis", {"top": "0"}, "top: Expected `int` >= 1"),
        ("sounders", {"limit": "501"}, "limit: Expected `int` <= 500"),
        ("sounders", {"tier": "WOODEN"}, "tier: Invalid enum value 'WOODEN'"),
        ("sounders", {"sort": "beauty"}, "sort: Invalid enum value"),
        ("sounders", {"descending": "1"}, "descending must be true or false, got '1'"),
        ("sounders", {"teir": "GOLD"}, "'teir' is not asked here; known are tier"),
        ("sounders?tier=GOLD&tier=SILVER", None, "'tier' is given twice"),
        ("sounder/NVIS-P01", {"days": "31"}, "days: Expected `float` <= 30"),
        ("sounder/-x", {}, "a sounder id has 1 to 64"),
        ("sounder/" + "x" * 65, {}, "a sounder id has 1 to 64"),
        ("sounder/a%0a", {}, "a sounder id has 1 to 64"),
        ("placement/recommend", {"n": "0"}, "n: Expected `int` >= 1"),
        ("placement/recommend", {"n": "21"}, "n: Expected `int` <= 20"),
        ("placement/recommend", {"per_h": "-1"}, "per_h: Expected `float` >= 0"),
        ("placement/recommend", {"mask": "{"}, "mask: cannot be read as GeoJSON"),
        ("placement/recommend", {"mask": "[" * 10_000}, "mask: cannot be read as GeoJSON"),
        ("placement/recommend", {"mask": '{"type": "Point", "coordinates": [0, 0]}'}, "mask: holds no Polygon"),
        ("placement/heatmap", {"region": "-5,-150,5,-140"}, "lies within the mask"),
        ("placement/heatmap", {"format": "gif"}, "format: Invalid enum value 'gif'"),
        ("placement/heatmap", {"format": "png", "region": "50,10,50.1,10.1"}, "region|two points each way"),
    ],
)  # fmt: skip
def test_bad_questions_are_told_what_is_wrong(
    web: WebServer, path: str, query: dict[str, str] | None, expected: str
) -> None:
    detail = problem(httpx.get(f"{web.url}{API}/{path}", params=query or None, timeout=60), 400)
    assert any(part in detail for part in expected.split("|")), detail


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"", 400, ""),
        (b"{", 400, ""),
        (b"[]", 400, "Expected `object`"),
        (b'{"latitude_deg": 95, "longitude_deg": 0}', 400, "latitude_deg: Expected `float` <= 90"),
        (b'{"latitude_deg": 5}', 400, "missing required field `longitude_deg`"),
        (b'{"latitude_deg": 5, "longitude_deg": 5, "power": 3}', 400, "unknown field `power`"),
        (b'{"latitude_deg": 5, "longitude_deg": NaN}', 400, ""),
        (b'{"latitude_deg": 5, "longitude_deg": 5, "tier": "WOODEN"}', 400, "tier: Invalid enum value"),
        (b'{"latitude_deg": 5, "longitude_deg": 5, "region": "x"}', 400, "region 'x'"),
        (b"[" * 100_000, 400, ""),
        (b" " * 200_000, 413, "at most 131072 bytes"),
    ],
)  # fmt: skip
def test_bad_simulations_are_told_what_is_wrong(
    web: WebServer, body: bytes, status: int, expected: str
) -> None:
    answer = httpx.post(f"{web.url}{API}/placement/simulate", content=body, timeout=60)
    assert expected in problem(answer, status)


def test_an_answer_is_known_by_its_etag_until_the_next_cycle(web: WebServer) -> None:
    for path in (f"{API}/network/analysis", f"{API}/sounders", "/openapi.json", "/products/current/map.png"):
        first = get(web, path)
        assert first.headers["cache-control"] == "no-cache"
        etag = first.headers["etag"]
        for named in (etag, f'W/{etag}, "other"', "*"):
            again = httpx.get(f"{web.url}{path}", headers={"If-None-Match": named})
            assert again.status_code == 304
            assert again.content == b""
            assert again.headers["etag"] == etag
        assert httpx.get(f"{web.url}{path}", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("map.png", "image/png"),
        ("stations.geojson", "application/geo+json"),
        ("cycle.json", "application/json"),
        ("bulletin.txt", "text/plain; charset=utf-8"),
    ],
)
def test_files_of_the_newest_cycle(web: WebServer, settings: Settings, name: str, media_type: str) -> None:
    answer = get(web, f"/products/current/{name}")
    assert answer.headers["content-type"] == media_type
    assert answer.content == (settings.products_root / "current" / name).read_bytes()
    assert httpx.head(f"{web.url}/products/current/{name}").headers["content-length"] == str(
        len(answer.content)
    )


def test_reports_are_served_and_listed(web: WebServer) -> None:
    day = END.date().isoformat()
    page = get(web, f"/report/{day}/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "NVIS-P01" in page.text
    assert get(web, f"/report/{day}/sounders/NVIS-P01.html").status_code == 200
    assert get(web, f"/report/{day}/sounders.parquet").content.startswith(b"PAR1")
    assert f'href="/report/{day}/"' in get(web, "/report/").text
    assert get(web, f"/report/{day}").headers["location"] == f"/report/{day}/"
    for missing in ("/report/2020-01-01/", "/report/.partial-x/", f"/report/{day}/nothing.html"):
        problem(get(web, missing), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/products/current/../../catalog.db",
        "/products/current/%2e%2e/%2e%2e/catalog.db",
        "/products/current/..%2f..%2fcatalog.db",
        "/products/current//etc/passwd",
        "/products/current/%2fetc%2fpasswd",
        "/products/current/secret.json",
        "/products/current/.hidden.json",
        "/products/current/%00",
        "/products/current/" + "x" * 300,
        "/products/versions/",
        "/report/../catalog.db",
        "/report/%2e%2e/current/map.png",
        "/report/2026-03-20/../../../catalog.db",
        "/report/2026-03-20/%2e%2e/%2e%2e/%2e%2e/catalog.db",
        "/report/2026-03-20/linked/passwd.txt",
        "/api/nvis/sounder/..%2f..%2fcatalog.db",
        "/api/nvis/sounder/%2e%2e",
        "/catalog.db",
    ],
)
def test_nothing_else_is_served(web: WebServer, settings: Settings, tmp_path: Path, path: str) -> None:
    (tmp_path / "passwd.txt").write_text("secret")
    links = {
        settings.products_root / "current" / "secret.json": tmp_path / "passwd.txt",
        settings.products_root / "reports" / "2026-03-20" / "linked": tmp_path,
    }
    hidden = settings.products_root / "current" / ".hidden.json"
    hidden.write_text("{}")
    for link, target in links.items():
        link.symlink_to(target)
    try:
        with socket.create_connection(
            ("127.0.0.1", web.port), 20
        ) as connection:  # as it is, not as a client mends it
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    finally:
        hidden.unlink()
        for link in links:
            link.unlink()
    status = int(answer.split()[1])
    assert status in (400, 404), answer[:200]
    assert b"secret" not in answer.split(b"\r\n\r\n", 1)[1].replace(b"secret.json", b"")


def test_every_answer_is_guarded(web: WebServer) -> None:
    for path in ("/", f"{API}/sounders", "/products/current/map.png", "/nowhere", f"{API}/sounders?x=1"):
        headers = get(web, path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script-src" not in headers["content-security-policy"]
    for path in ("/", f"{API}/sounders", "/report/", "/products/current/map.png"):
        problem(httpx.post(f"{web.url}{path}"), 405)


def test_other_sites_read_only_where_they_are_named(web: WebServer, empty: WebServer) -> None:
    origin = {"Origin": "https://example.org"}
    named = httpx.get(f"{web.url}{API}/sounders", headers=origin)
    assert named.headers["access-control-allow-origin"] == "https://example.org"
    other = httpx.get(f"{web.url}{API}/sounders", headers={"Origin": "https://elsewhere.org"})
    assert "access-control-allow-origin" not in other.headers
    asked = {**origin, "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{web.url}{API}/placement/simulate", headers=asked).status_code == 400
    assert "access-control-allow-origin" not in httpx.get(f"{empty.url}/openapi.json", headers=origin).headers


def test_an_empty_lake_says_so(empty: WebServer) -> None:
    for path in (
        "network/analysis", "sounders", "sounder/A1", "placement/recommend", "placement/heatmap",
    ):  # fmt: skip
        answer = get(empty, f"{API}/{path}")
        assert "no cycle of region" in problem(answer, 503)
        assert int(answer.headers["retry-after"]) == 900
    body = {"latitude_deg": 1, "longitude_deg": 2}
    assert "no cycle" in problem(httpx.post(f"{empty.url}{API}/placement/simulate", json=body), 503)
    assert "no map has been published yet" in problem(get(empty, "/health"), 503)
    problem(get(empty, "/products/current/map.png"), 404)
    problem(get(empty, "/report/2026-03-20/"), 404)
    assert "None yet" in get(empty, "/report/").text
    page = get(empty, "/")
    assert page.status_code == 200
    assert "No map has been published yet" in page.text


def test_the_front_page_shows_the_map_and_links_that_lead_somewhere(web: WebServer) -> None:
    page = get(web, "/").text
    assert (
        "simulated observations" in page
    )  # those of the sounders are, those of the ionosondes are from a file
    sources = {one["source"]: one for one in get(web, "/products/current/cycle.json").json()["sources"]}
    assert sources["simulated"]["n_sounders"] == 2
    assert sources["file"]["n_sounders"] == 8
    assert "AUTONVIS" in page  # of the bulletin
    links = {part.split('"')[0] for part in page.split('href="')[1:]}
    assert {"/products/current/map.png", "/report/", "/openapi.json", f"{API}/network/analysis"} <= links
    for link in links - {"/health"}:  # the map of this test is of another day
        assert get(web, link).status_code == 200, link
    assert "http://" not in page
    assert "https://" not in page


def test_health_is_the_age_of_what_the_public_sees(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    now = datetime.now(UTC)
    cycle, observations = make_cycle(valid_time=now - timedelta(minutes=20))
    publish_products(settings, cycle, observations)  # type: ignore[arg-type]
    web = WebServer(settings)
    try:
        said = get(web, "/health")
        assert said.status_code == 200
        assert said.json()["age_min"] == pytest.approx(20.0, abs=1.0)
        for mode in GenerationMode:
            check_document(web, "get", "/health", mode)
        assert "20 minutes ago; its newest observation is of 25 minutes ago" in said.json()["detail"]
        is_fresh, sentence, _ = health_of(settings, now + timedelta(minutes=26))
        assert not is_fresh
        assert "is the flow nowcast running?" in sentence
        current = (settings.products_root / "current").resolve()
        shutil.rmtree(current)
        assert "no map has been published" in problem(get(web, "/health"), 503)
    finally:
        web.stop()


@pytest.fixture
def own_log() -> Iterator[None]:
    """A start sets up the log of its process, which here is that of all tests."""
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) in (logging.StreamHandler, ErrorCounter):
            logging.root.removeHandler(handler)


@pytest.mark.usefixtures("own_log")
@pytest.mark.parametrize(
    ("variables", "arguments", "code", "expected"),
    [
        ({}, ["--port", "{taken}"], 1, "web: cannot listen on 127.0.0.1:{taken}: Address already in use"),
        ({}, ["--port", "99999"], 1, "ports are 0 to 65535"),
        ({"AUTONVIS_PUBLIC_URL": "nowhere"}, [], 2, "AUTONVIS_PUBLIC_URL"),
    ],
)
def test_a_start_that_fails_says_why(
    variables: dict[str, str],
    arguments: list[str],
    code: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AUTONVIS_HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        assert main([argument.replace("{taken}", taken) for argument in arguments]) == code
    told = capsys.readouterr().err
    assert expected.replace("{taken}", taken) in told
    load_settings.cache_clear()


def check_document(web: WebServer, method: str, path: str, mode: GenerationMode) -> None:
    """Lets schemathesis look for an answer that the document does not promise."""
    operation = schemathesis.openapi.from_url(f"{web.url}/openapi.json")[path][method]
    excluded = [MEANS_NOTHING] if "placement" in path or "analysis" in path else []

    @hypothesis_settings(
        max_examples=8,
        phases=[Phase.generate],  # to shrink an example costs minutes of solves
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=excluded, timeout=60)

    try:
        check()
    except Unsatisfiable:  # a path without input has nothing to get wrong
        assert mode is GenerationMode.NEGATIVE
        assert method == "get"


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for path, methods in web_document("0")["paths"].items()
        for method in methods
        if path != "/health"
    ],
)
def test_the_document_is_true(web: WebServer, method: str, path: str, mode: GenerationMode) -> None:
    check_document(web, method, path, mode)


def test_every_route_is_described(web: WebServer) -> None:
    paths = get(web, "/openapi.json").json()["paths"]
    routes = {
        route.path: route.methods - {"HEAD"} for route in web.app.routes if not isinstance(route, Mount)
    }
    assert {path: {method.upper() for method in methods} for path, methods in paths.items()} == {
        path: methods for path, methods in routes.items() if path not in PAGES
    }
