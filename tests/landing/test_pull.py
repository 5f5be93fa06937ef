"""Pull sources against a local server that plays the services' answers, good and bad."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tasks import catalog
from tasks.curation import curate_batch
from tasks.cycles import plan_cycle, read_solar_flux
from tasks.lake import read
from tasks.landing.breaker import Admission, Breaker, BreakerOpenError
from tasks.landing.giro_text import LICENCE
from tasks.landing.pull import HostPausedError, PacedClient, PullError, pull_source, user_agent
from tasks.landing.sources import open_source
from tasks.landing.sources.giro import Giro
from tasks.landing.sources.swpc import Swpc, parse_f107, parse_kp, parse_xray
from tasks.landing.spool import Record, SpoolError, SpoolWriter, collect, read_segment
from tasks.settings import Settings

NOW = datetime(2026, 10, 6, 18, tzinfo=UTC)
KP_PATH = "/products/noaa-planetary-k-index.json"
XRAY_PATH = "/json/goes/primary/xrays-6-hour.json"

GIRO_TABLE = b"""\
# Global Ionospheric Radio Observatory (GIRO)
# Location: GEO ( 51.7 N   358.5 E ), URSI-Code TST51, ANYFIELD
# Distance D for MUF calculations: 3000 km
#
# Time                    CS   foF2 QD MUF(D) QD M(D) QD
2026-10-06T17:30:00.000Z  90  5.713 // 18.563 // 3.26 //
2026-10-06T17:37:30.000Z  95    --- __    --- __  --- __
2026-10-06T17:45:00.000Z  95  5.613 // 18.527 // 3.31 //
"""
GIRO_NO_DATA = b"""\
# Global Ionospheric Radio Observatory (GIRO)
# Location: GEO ( 51.5 N   359.4 E ), URSI-Code TST52, NOWHERE
#
# STATUS: ERROR (No measurement data could be found for requested time)
"""
GIRO_REFUSAL = GIRO_NO_DATA.replace(
    b"No measurement data could be found for requested time", b"Unknown station"
)
F107 = json.dumps(
    [
        {"time_tag": "2026-10-05T20:00:00", "frequency": 2800, "flux": 131, "reporting_schedule": "Noon"},
        {
            "time_tag": "2026-10-05T22:00:00",
            "frequency": 2800,
            "flux": 199,
            "reporting_schedule": "Afternoon",
        },
        {"time_tag": "2026-10-04T20:00:00", "frequency": 2800, "flux": None, "reporting_schedule": "Noon"},
        {"time_tag": "2026-10-03T20:00:00", "frequency": 2800, "flux": 128.5, "reporting_schedule": "Noon"},
    ]
).encode()
KP_ROWS = json.dumps(
    [
        ["time_tag", "Kp", "a_running", "station_count"],
        ["2026-10-06 12:00:00.000", "2.33", "9", "8"],
        ["2026-10-06 15:00:00.000", "0.00", "0", "8"],
    ]
).encode()
KP_OBJECTS = json.dumps(
    [
        {"time_tag": "2026-10-06T12:00:00", "Kp": 2.33, "a_running": 9, "station_count": 8},
        {"time_tag": "2026-10-06T15:00:00", "Kp": 0.0, "a_running": 0, "station_count": 8},
    ]
).encode()
XRAY = json.dumps(
    [
        {"time_tag": f"2026-10-06T17:0{minute}:00Z", "satellite": 19, "flux": flux, "energy": energy}
        for minute, energy, flux in (
            (0, "0.05-0.4nm", 3.1e-8),
            (0, "0.1-0.8nm", 1.5e-6),
            (1, "0.1-0.8nm", None),
            (2, "0.1-0.8nm", -1.0e5),
            (3, "0.1-0.8nm", 2.5e-6),
        )
    ]
).encode()
ERROR_PAGE = b"<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>"

Answer = tuple[int, dict[str, str], bytes]


class Service:
    """A server that gives the answers queued for a path, the last one for ever, and remembers the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[float, str, dict[str, list[str]], str]] = []
        self.conditions: list[tuple[str | None, str | None]] = []
        self.delay_s = 0.0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = parse_qs(parts.query)
                agent = self.headers["User-Agent"]
                service.requests.append((time.monotonic(), parts.path, query, agent))
                asked = (self.headers["If-None-Match"], self.headers["If-Modified-Since"])
                service.conditions.append(asked)
                answers = service.answers.get(
                    query.get("ursiCode", [parts.path])[0], [(404, {}, b"not here")]
                )
                status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
                time.sleep(service.delay_s)
                validators = (headers.get("ETag"), headers.get("Last-Modified"))
                if any(
                    mine is not None and mine == theirs
                    for mine, theirs in zip(validators, asked, strict=True)
                ):
                    status, headers, body = 304, {}, b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # the client may have lost patience
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def service() -> Iterator[Service]:
    one = Service()
    yield one
    one.close()


@pytest.fixture
def client() -> Iterator[PacedClient]:
    with PacedClient(timeout_s=2.0, pace_s=0.0, back_off_s=0.01) as paced:
        yield paced


def fetch(source: Any, client: PacedClient, series: str) -> list[Record]:
    return list(source.fetch(client, series, NOW - timedelta(hours=1), NOW))


def test_giro_table_lands_as_it_came(service: Service, client: PacedClient) -> None:
    service.answers["TST51"] = [(200, {}, GIRO_TABLE)]
    giro = Giro(service.url + "/fastchar/getbest", ("TST51",))
    (record,) = fetch(giro, client, "TST51")
    assert record.payload == GIRO_TABLE
    assert (record.channel, record.dataset, record.sounder_id) == ("pull", "ionograms", "TST51")
    assert (record.source, record.licence) == ("giro", LICENCE)
    assert [item["fof2_mhz"] for item in giro.parse(record)] == [5.713, None, 5.613]
    ((_, path, query, agent),) = service.requests
    assert path == "/fastchar/getbest"
    assert query["fromDate"] == ["2026/10/06 17:00:00"]
    assert query["toDate"] == ["2026/10/06 18:00:00"]
    assert query["DMUF"] == ["3000"]
    assert "MUF(D)" in query["charName"][0].split(",")
    assert agent == user_agent()
    assert agent.startswith("AutoNVIS/")


def test_giro_without_data_is_no_error(service: Service, client: PacedClient) -> None:
    service.answers["TST52"] = [(200, {}, GIRO_NO_DATA)]
    assert fetch(Giro(service.url, ("TST52",)), client, "TST52") == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, {}, b"gone"), "HTTP status 404"),
        ((403, {}, b"no"), "HTTP status 403"),
        ((200, {}, ERROR_PAGE), "no GIRO text"),
        ((200, {}, b""), "no GIRO text"),
        ((200, {}, GIRO_REFUSAL), "Unknown station"),
        ((429, {"Retry-After": "86400"}, b""), "asks to wait 86400 s"),
    ],
)
def test_what_is_no_table_is_an_error_at_once(
    service: Service, client: PacedClient, answer: Answer, message: str
) -> None:
    service.answers["TST51"] = [answer]
    with pytest.raises(PullError, match=message) as caught:
        fetch(Giro(service.url, ("TST51",)), client, "TST51")
    assert service.url in str(caught.value)
    assert len(service.requests) == 1


def test_429_is_waited_out_as_asked(service: Service) -> None:
    waits: list[float] = []
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    service.answers["/x"] = [
        (429, {"Retry-After": "7"}, b""), (503, {"Retry-After": soon}, b""), (502, {"Retry-After": "?"}, b""),
        (200, {}, b"at last"),
    ]  # fmt: skip
    with PacedClient(timeout_s=2.0, pace_s=0.0, back_off_s=0.1, sleep=waits.append) as client:
        assert client.get(service.url + "/x") == b"at last"
    assert waits[0] == 7
    assert 35 < waits[1] <= 40
    assert 0.4 <= waits[2] <= 0.6


def test_a_server_that_keeps_failing_is_given_up(service: Service, client: PacedClient) -> None:
    service.answers["/x"] = [(500, {}, b"")]
    with pytest.raises(PullError, match="failed 4 times, last with HTTP status 500"):
        client.get(service.url + "/x")
    assert len(service.requests) == 4


def test_timeouts_are_bounded(service: Service) -> None:
    service.answers["/x"] = [(200, {}, b"late")]
    service.delay_s = 0.6
    begin_s = time.monotonic()
    with (
        PacedClient(timeout_s=0.2, pace_s=0.0, attempts=2, back_off_s=0.01) as client,
        pytest.raises(PullError, match=r"no answer within 0\.2 s"),
    ):
        client.get(service.url + "/x")
    assert time.monotonic() - begin_s < 3


def test_a_server_that_is_not_there(client: PacedClient) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(PullError, match="ConnectError"):
        client.get(f"http://127.0.0.1:{port}/x")


def test_requests_to_a_host_are_paced(service: Service) -> None:
    service.answers["/x"] = [(200, {}, b"")]
    waits: list[float] = []
    with PacedClient(timeout_s=2.0, pace_s=30.0, sleep=waits.append) as client:
        client.get(service.url + "/x")
        client.get(service.url.replace("127.0.0.1", "localhost") + "/x")  # another host does not wait
        assert waits == []
        client.get(service.url + "/x")
        client.get(service.url + "/x")
    assert len(waits) == 2
    assert all(20 < wait_s <= 30 for wait_s in waits)


def test_swpc_indices(service: Service, client: PacedClient) -> None:
    service.answers["/json/f107_cm_flux.json"] = [(200, {}, F107)]
    swpc = Swpc(service.url)
    (record,) = fetch(swpc, client, "f107")
    assert record.payload == F107
    assert [(item["observed_at"], item["value"]) for item in swpc.parse(record)] == [
        ("2026-10-05T20:00:00+00:00", 131.0),
        ("2026-10-03T20:00:00+00:00", 128.5),
    ]


@pytest.mark.parametrize("payload", [KP_ROWS, KP_OBJECTS])
def test_kp_in_both_layouts(payload: bytes) -> None:
    items = parse_kp(payload)
    assert len({item.pop("observation_id") for item in items}) == 2
    assert items == [
        {
            "sounder_id": "swpc",
            "observed_at": f"2026-10-06T{hour}:00:00+00:00",
            "index_name": "kp",
            "value": value,
        }
        for hour, value in ((12, 2.33), (15, 0.0))
    ]


@pytest.mark.parametrize("body", [ERROR_PAGE, b"{}", b"[1]", b'[{"time_tag": "x", "flux": 1, "Kp": 1}]', b""])
def test_swpc_answers_of_another_kind_are_errors(service: Service, client: PacedClient, body: bytes) -> None:
    for path in ("/json/f107_cm_flux.json", KP_PATH, XRAY_PATH):
        service.answers[path] = [(200, {}, body)]
    for series in Swpc(service.url).series:
        with pytest.raises(PullError, match=f"something else than {series}"):
            fetch(Swpc(service.url), client, series)
    for parse in (parse_f107, parse_kp, parse_xray):
        with pytest.raises(ValueError, match=r".+"):
            parse(body)


def test_pull_lands_moves_the_cursor_and_names_what_failed(service: Service, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        giro_url=service.url,
        giro_stations="tst51, TST52,TST53",
        http_pace_s=0,
        http_timeout_s=2,
    )
    service.answers["TST51"] = [(200, {}, GIRO_TABLE)]
    service.answers["TST52"] = [(200, {}, GIRO_NO_DATA)]
    with pytest.raises(PullError, match=r"^source giro: TST53: .* HTTP status 404$"):
        pull_source(settings, "giro", now=NOW)
    engine = catalog.open_catalog(settings)
    assert catalog.get_cursor(engine, "giro", "TST51") == datetime(2026, 10, 6, 17, 45, tzinfo=UTC)
    assert catalog.get_cursor(engine, "giro", "TST52") is None
    (batch,) = collect(settings.spool_root, settings.lake_root)
    assert [record.payload for record in read_segment(batch)] == [GIRO_TABLE]

    service.requests.clear()
    service.answers["TST53"] = [(200, {}, GIRO_NO_DATA)]
    result = pull_source(settings, "giro", now=NOW + timedelta(minutes=15))
    assert (result.n_records, result.n_items) == (1, 3)
    since = {request[2]["ursiCode"][0]: request[2]["fromDate"][0] for request in service.requests}
    assert since == {
        "TST51": "2026/10/06 16:45:00", "TST52": "2026/10/04 18:15:00", "TST53": "2026/10/04 18:15:00"
    }  # fmt: skip


def test_what_is_pulled_becomes_rows_of_the_lake_once(service: Service, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        giro_url=service.url,
        giro_stations="TST51",
        swpc_url=service.url,
        http_pace_s=0,
        max_future_s=3e8,
    )
    service.answers["TST51"] = [(200, {}, GIRO_TABLE)]
    service.answers["/json/f107_cm_flux.json"] = [(200, {}, F107)]
    service.answers[KP_PATH] = [(200, {}, KP_OBJECTS)]
    service.answers[XRAY_PATH.replace("6-hour", "3-day")] = [(200, {}, XRAY)]
    service.answers[XRAY_PATH] = [(200, {}, XRAY)]
    for minutes in (0, 15):
        for name in ("giro", "swpc"):
            pull_source(settings, name, now=NOW + timedelta(minutes=minutes))
        for batch in collect(settings.spool_root, settings.lake_root):
            curate_batch(batch, settings=settings)
    span = {"start": NOW - timedelta(days=5), "end": NOW}
    indices = read("indices", settings=settings, **span)
    assert sorted(indices["value"]) == [0.0, 1.5e-6, 2.5e-6, 2.33, 128.5, 131.0]
    assert set(indices["licence"]) == {"public domain (NOAA)"}
    assert set(indices["source"]) == {"swpc"}
    ionograms = read("ionograms", settings=settings, **span)
    assert sorted(ionograms["fof2_mhz"]) == [5.613, 5.713]
    assert set(ionograms["licence"]) == {LICENCE}


def test_a_revised_index_value_supersedes_with_its_history_kept(service: Service, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, swpc_url=service.url, http_pace_s=0, max_future_s=3e8)
    service.answers[XRAY_PATH.replace("6-hour", "3-day")] = [(200, {}, XRAY)]
    service.answers[XRAY_PATH] = [(200, {}, XRAY)]
    service.answers[KP_PATH] = [(200, {}, KP_OBJECTS)]
    revised = F107.replace(b"131", b"133")
    service.answers["/json/f107_cm_flux.json"] = [(200, {}, F107), (200, {}, revised), (200, {}, revised)]
    results = []
    for _ in range(3):
        pull_source(settings, "swpc", now=NOW)
        results += [
            curate_batch(batch, settings=settings)
            for batch in collect(settings.spool_root, settings.lake_root)
        ]
    assert [result.n_conflicts for result in results] == [0] * len(results)
    rows = read("indices", settings=settings, start=NOW - timedelta(days=5), end=NOW)
    revisions = rows[rows["observed_at"] == datetime(2026, 10, 5, 20, tzinfo=UTC)].sort_values("available_at")
    assert list(revisions["value"]) == [131.0, 133.0]
    first, second = (moment.to_pydatetime() for moment in revisions["available_at"])
    for available_until, value in ((first, 131.0), (second, 133.0)):
        plan = plan_cycle(settings, NOW, available_until)
        assert read_solar_flux(settings, plan) == value


@pytest.mark.parametrize(
    "validators", [{"ETag": '"1"'}, {"Last-Modified": "Tue, 06 Oct 2026 17:00:00 GMT"}, {}]
)
def test_what_has_not_changed_does_not_land_again(
    service: Service, tmp_path: Path, validators: dict[str, str]
) -> None:
    settings = Settings(home=tmp_path, swpc_url=service.url, http_pace_s=0)
    for path in ("/json/f107_cm_flux.json", KP_PATH):
        service.answers[path] = [(200, validators, F107 if "f107" in path else KP_OBJECTS)]
    service.answers[XRAY_PATH] = service.answers[XRAY_PATH.replace("6-hour", "3-day")] = [(200, {}, XRAY)]
    n_landed = [pull_source(settings, "swpc", now=NOW).n_records for _ in range(3)]
    assert n_landed == [3, 1, 0]  # the X-rays of another span are another document
    assert service.conditions[0] == (None, None)
    assert service.conditions[3] == (validators.get("ETag"), validators.get("Last-Modified"))
    service.answers[KP_PATH] = [(200, {"ETag": '"2"'}, KP_OBJECTS.replace(b"2.33", b"2.67"))]
    assert pull_source(settings, "swpc", now=NOW).n_records == 1


def test_what_could_not_be_used_or_stored_is_asked_for_again(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, swpc_url=service.url, http_pace_s=0)
    service.answers[XRAY_PATH] = service.answers[XRAY_PATH.replace("6-hour", "3-day")] = [(200, {}, XRAY)]
    service.answers[KP_PATH] = [(200, {}, KP_OBJECTS)]
    service.answers["/json/f107_cm_flux.json"] = [
        (200, {"ETag": '"1"'}, ERROR_PAGE),
        (200, {"ETag": '"1"'}, F107),
    ]
    with pytest.raises(PullError, match=r"f107: .* something else"):
        pull_source(settings, "swpc", now=NOW)
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "append_many", _full_disk)
        with pytest.raises(SpoolError):
            pull_source(settings, "swpc", now=NOW)
    assert pull_source(settings, "swpc", now=NOW).n_records == 2  # F10.7, and the X-rays of the shorter span
    assert {asked for asked in service.conditions} == {(None, None)}


def _full_disk(*_: object) -> None:
    raise SpoolError(errno.ENOSPC, "No space left on device")


def test_304_without_a_condition_is_an_error(service: Service, client: PacedClient) -> None:
    service.answers["/x"] = [(304, {}, b"")]
    with pytest.raises(PullError, match="HTTP status 304"):
        client.get_changed(service.url + "/x")


def test_a_host_that_keeps_failing_is_left_alone_and_probed(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = catalog.open_catalog(Settings(home=tmp_path))
    now = NOW
    service.answers["/x"] = [(500, {}, b"")]
    host = service.url.removeprefix("http://")

    def ask() -> bytes:  # each a client of its own: the state lies in the catalog
        breaker = Breaker(engine, clock=lambda: now)
        with PacedClient(timeout_s=2.0, pace_s=0.0, attempts=2, back_off_s=0.001, breaker=breaker) as client:
            return client.get(service.url + "/x")

    for _ in range(3):
        with pytest.raises(PullError, match="failed 2 times, last with HTTP status 500"):
            ask()
    assert f"{host} failed 3 times in a row, last with HTTP status 500: its breaker is open" in caplog.text
    assert len(service.requests) == 6
    with pytest.raises(
        HostPausedError, match=f"{host} is not asked before 2026-10-06 18:15 UTC: it failed 3 times"
    ):
        ask()
    assert len(service.requests) == 6

    now = NOW + timedelta(minutes=16)
    with pytest.raises(
        PullError, match="failed once with HTTP status 500"
    ):  # the probe has no second attempt
        ask()
    assert len(service.requests) == 7
    with pytest.raises(HostPausedError, match="not asked before 2026-10-06 18:46 UTC"):
        ask()
    now = NOW + timedelta(minutes=47)
    service.answers["/x"] = [(200, {}, b"well again")]
    assert ask() == ask() == b"well again"
    assert catalog.get_failing_host(engine, host) is None


def test_one_process_probes_and_a_clock_put_back_does_not_hold_the_breaker_open(tmp_path: Path) -> None:
    engine = catalog.open_catalog(Settings(home=tmp_path))
    for _ in range(3):
        Breaker(engine, clock=lambda: NOW).failed("h", "HTTP status 500")
    later = Breaker(engine, clock=lambda: NOW + timedelta(minutes=16))
    assert later.admit("h") is Admission.PROBE
    with pytest.raises(BreakerOpenError):
        later.admit("h")
    assert later.admit("another") is Admission.FREE
    past = Breaker(engine, clock=lambda: NOW - timedelta(days=30))
    assert past.admit("h") is Admission.PROBE


def test_refusals_are_no_failures_of_the_host(service: Service, tmp_path: Path) -> None:
    engine = catalog.open_catalog(Settings(home=tmp_path))
    service.answers["/x"] = [(404, {}, b"")]
    with PacedClient(timeout_s=2.0, pace_s=0.0, breaker=Breaker(engine)) as client:
        for _ in range(5):
            with pytest.raises(PullError, match="HTTP status 404"):
                client.get(service.url + "/x")
    assert len(service.requests) == 5


def test_the_rest_of_a_source_waits_while_its_host_is_left_alone(service: Service, tmp_path: Path) -> None:
    stations = [f"TST{number}" for number in range(51, 60)]
    settings = Settings(
        home=tmp_path, giro_url=service.url, giro_stations=",".join(stations), http_pace_s=0, http_timeout_s=2
    )
    for station in stations:
        service.answers[station] = [(503, {"Retry-After": "600"}, b"")]
    with pytest.raises(PullError, match=r"TST53: .*asks to wait 600 s; TST54: .* is not asked before [^;]*$"):
        pull_source(settings, "giro", now=NOW)
    assert len(service.requests) == 3


def test_configuration_faults_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="AUTONVIS_GIRO_STATIONS"):
        open_source("giro", Settings(home=tmp_path))
    with pytest.raises(
        ValueError, match="'weather' of AUTONVIS_SOURCES is unknown; known are giro, swpc, drop"
    ):
        pull_source(Settings(home=tmp_path), "weather")
