"""Automations on a real Prefect server: an event, a failed run and a missing one reach a webhook; applying twice changes nothing."""

from __future__ import annotations

import json
import queue
import socketserver
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_string
from email.header import decode_header, make_header
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from autonvis.environment import make_home, prefect_environment
from autonvis.system import start_prefect_server
from services.processes import free_port
from tasks.landing.spool import Record, SpoolWriter
from tasks.settings import Settings, SettingsError
from tasks.simulation import simulate_network
from tests.environment_of import changed_environment


class Inbox:
    """An HTTP server that keeps what it is sent."""

    def __init__(self) -> None:
        received: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/alerts"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def take(self, timeout_s: float = 30.0) -> dict[str, Any]:
        return self.received.get(timeout=timeout_s)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, inbox: Inbox) -> Iterator[Settings]:
    """Of a system whose Prefect server runs, and which is the one of this process."""
    settings = Settings(home=tmp_path_factory.mktemp("automations"), alert_urls=SecretStr(inbox.url))
    make_home(settings)
    server, url = start_prefect_server(settings, free_port())
    try:
        with changed_environment({**prefect_environment(settings), "PREFECT_API_URL": f"{url}/api"}):
            yield settings
    finally:
        server.stop()


def automations() -> dict[str, Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.request("POST", "/automations/filter", json={}).raise_for_status().json()
    return {one["name"]: one for one in found}


def test_applying_twice_changes_nothing_and_what_is_taken_out_goes(
    settings: Settings, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    from autonvis.automations import FILE, apply

    names = apply(settings)
    assert len(names) == len(set(names)) >= 9
    first = automations()
    assert set(first) == {f"autonvis-{name}" for name in names}
    with get_client(sync_client=True) as client:
        client.pause_automation(first["autonvis-skill-worse"]["id"])
    apply(settings)
    second = automations()
    assert {name: one["id"] for name, one in second.items()} == {
        name: one["id"] for name, one in first.items()
    }
    assert not second["autonvis-skill-worse"]["enabled"]
    assert [name for name, one in second.items() if one["updated"] != first[name]["updated"]] == [
        "autonvis-skill-worse"
    ]

    rules = yaml.safe_load(FILE.read_text())
    del rules["automations"][0]
    rules["automations"][0]["message"] = "changed"
    (tmp_path / "fewer.yaml").write_text(yaml.safe_dump(rules))
    apply(settings, tmp_path / "fewer.yaml")
    third = automations()
    assert len(third) == len(first) - 1
    assert third[f"autonvis-{rules['automations'][0]['name']}"]["description"] == "changed"
    apply(settings)
    assert set(automations()) == set(first)


def test_an_event_reaches_the_webhook_with_what_was_found_and_what_to_do(
    settings: Settings, inbox: Inbox
) -> None:
    from prefect.events import emit_event

    from autonvis.automations import apply
    from autonvis.system import flush_prefect

    apply(settings)
    emit_event(
        "autonvis.health.disk",
        resource={"prefect.resource.id": "autonvis.health.disk"},
        payload={"message": 'The disk of /srv is full: free "space".'},
    )
    flush_prefect()
    told = inbox.take()
    assert told["subject"] == "AutoNVIS: disk-forecast"
    assert 'The disk of /srv is full: free "space".' in told["text"]
    assert "docs/operations/runbook.md#nvisdisk" in told["text"]


def test_a_nowcast_that_fails_reaches_the_webhook_by_its_name(
    settings: Settings, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autonvis.automations import apply
    from autonvis.system import flush_prefect
    from tasks.settings import load_settings

    apply(settings)
    monkeypatch.setenv("AUTONVIS_KERNEL_CONFIG", str(settings.home / "missing.toml"))
    load_settings.cache_clear()
    from flows.nowcast import nowcast

    assert nowcast(return_state=True).is_failed()
    load_settings.cache_clear()
    flush_prefect()
    told = inbox.take()
    assert told["subject"] == "AutoNVIS: nowcast-failed"
    assert "nowcast-2" in told["text"]  # the run's name has the cycle


def test_the_flight_check_tells_what_is_wrong(settings: Settings, inbox: Inbox) -> None:
    from autonvis.automations import apply
    from autonvis.system import flush_prefect
    from flows.health import health

    apply(settings)
    state = health(return_state=True)
    assert state.is_failed()  # nothing was ever started under this home
    flush_prefect()
    subjects = set()
    while "AutoNVIS: system-fault" not in subjects:
        told = inbox.take()
        subjects.add(told["subject"])
    assert (
        "nothing of" in told["text"] or "no address" in told["text"] or "nothing is published" in told["text"]
    )


def test_runs_tell_of_the_assets_that_they_made_and_of_what(settings: Settings) -> None:
    from prefect.client.orchestration import get_client

    from autonvis.system import flush_prefect
    from flows.land import land
    from flows.nowcast import nowcast

    start = datetime(2026, 3, 20, tzinfo=UTC)
    payload = json.dumps(simulate_network(start, hours=3.0, seed=7)).encode()
    with SpoolWriter(settings.spool_root / "http") as writer:
        writer.append_many(
            [Record("http", "ionograms", None, datetime.now(UTC), "application/json", payload, "simulated")]
        )
    assert land(return_state=True).is_completed()
    nowcast(valid_time=start + timedelta(hours=3), grid_step_deg=10)
    flush_prefect()
    question = {"filter": {"event": {"name": ["prefect.asset.materialization.succeeded"]}}, "limit": 50}
    made_of: dict[str, set[str]] = {}
    deadline_s = time.monotonic() + 30
    while "autonvis://products/current" not in made_of:
        assert time.monotonic() < deadline_s, made_of
        with get_client(sync_client=True) as client:
            events = (
                client.request("POST", "/events/filter", json=question).raise_for_status().json()["events"]
            )
        for event in events:
            related = {
                one["prefect.resource.id"]
                for one in event["related"]
                if one["prefect.resource.role"] == "asset"
            }
            made_of.setdefault(event["resource"]["prefect.resource.id"], set()).update(related)
    assert made_of["autonvis://lake/landing"] == set()
    assert made_of["autonvis://lake/ionograms"] >= {"autonvis://lake/landing"}
    assert made_of["autonvis://lake/analysis"] >= {
        "autonvis://lake/ionograms",
        "autonvis://lake/measurements",
    }
    assert made_of["autonvis://products/current"] >= {"autonvis://lake/analysis"}


@pytest.mark.slow
def test_a_flow_that_does_not_come_reaches_the_webhook(
    settings: Settings, inbox: Inbox, tmp_path: Path
) -> None:
    from autonvis.automations import apply

    rule = {
        "name": "late",
        "late": {"flow": "nowcast", "minutes": 0.2},
        "runbook": "nvisnowcastlate",
        "message": "No nowcast.",
    }
    (tmp_path / "late.yaml").write_text(yaml.safe_dump({"automations": [rule]}))
    apply(settings, tmp_path / "late.yaml")
    told = inbox.take(60.0)
    assert told["subject"] == "AutoNVIS: late"
    assert "No nowcast." in told["text"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "a", "message": "m", "runbook": "r"}, "automation a: .*one of fails, late and events"),
        ({"name": "a", "message": "m", "runbook": "r", "fails": "x", "events": ["y"]}, "one of fails"),
        ({"message": "m", "runbook": "r", "fails": "x"}, "automation number 1: Field required"),
    ],
)
def test_a_malformed_rule_is_named(entry: dict[str, Any], said: str, tmp_path: Path) -> None:
    from autonvis.automations import read_rules

    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"automations": [entry]}))
    with pytest.raises(SettingsError, match=said):
        read_rules(tmp_path / "rules.yaml")


def test_an_address_that_is_none_is_named_by_its_number_and_not_shown(tmp_path: Path) -> None:
    from autonvis.automations import apply

    wrong = Settings(home=tmp_path, alert_urls=SecretStr("https://example.org/x nonsense:secret"))
    with pytest.raises(SettingsError, match="address number 2") as caught:
        apply(wrong)
    assert "secret" not in str(caught.value)


class MailHandler(socketserver.StreamRequestHandler):
    """Enough of SMTP to take a letter."""

    letters: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def handle(self) -> None:
        recipient = ""
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            if verb == "RCPT":
                recipient = line
            if verb == "DATA":
                self.wfile.write(b"354 go on\r\n")
                letter = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    letter += part
                self.letters.put((recipient, letter.decode()))
            self.wfile.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
            if verb == "QUIT":
                return


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # one of Apprise's plugins
def test_an_alert_goes_by_e_mail_too(settings: Settings) -> None:
    from prefect.events import emit_event

    from autonvis.automations import apply
    from autonvis.system import flush_prefect

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"mailto://127.0.0.1:{server.server_address[1]}?from=autonvis@example.org&to=operator@example.org&mode=insecure"
            apply(settings.model_copy(update={"alert_urls": SecretStr(address)}))
            emit_event(
                "autonvis.health.backup",
                resource={"prefect.resource.id": "autonvis.health.backup"},
                payload={"message": "the last full backup is 3 days old"},
            )
            flush_prefect()
            recipient, letter = MailHandler.letters.get(timeout=30)
        finally:
            apply(settings)
            server.shutdown()
            thread.join()
    assert "operator@example.org" in recipient
    parsed = message_from_string(letter)
    assert "AutoNVIS: backup-old" in str(make_header(decode_header(parsed["Subject"])))
    text = "".join(
        bytes(part.get_payload(decode=True)).decode() for part in parsed.walk() if not part.is_multipart()
    )
    assert "the last full backup is 3 days old" in text


def test_every_rule_leads_to_an_entry_of_the_runbook() -> None:
    from autonvis.automations import read_rules

    root = Path(__file__).resolve().parents[1]
    headings = {
        line.lstrip("#").strip().lower()
        for line in (root / "docs/operations/runbook.md").read_text().splitlines()
        if line.startswith("#")
    }
    assert {rule.runbook for rule in read_rules()} <= headings
