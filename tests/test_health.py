"""The flight check: on a system that is well, and with each thing broken in turn; the sentence says what and what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autonvis.cli import main
from services.processes import free_port
from tasks import catalog
from tasks.disk_forecast import write_status
from tasks.health import machine, services
from tasks.health.finding import Finding, Level, duration
from tasks.health.report import CHECKS, examine, markdown, summary, text, worst
from tasks.landing.spool import Record, SpoolWriter, sealed_segments
from tasks.metrics.runs import measure_cycle, measure_landing, measure_run
from tasks.process_identity import started_s
from tests.landing.door_server import Server
from tests.stand_in import idle_process
from tests.test_metrics import SKILL, cycle

NOW = datetime.now(UTC)
ROOT = Path(__file__).resolve().parents[1]
HEADINGS = {
    line.lstrip("#").strip().lower()
    for line in (ROOT / "docs" / "operations" / "runbook.md").read_text().splitlines()
    if line.startswith("#")
}


class System:
    """A home on which all checks are content, and the knobs to spoil it."""

    def __init__(self, home: Path, gateway: dict[str, Any]) -> None:
        self.server = Server(home)
        self.settings = self.server.settings
        self.engine = catalog.open_catalog(self.settings)
        self.processes = [gateway]
        self.addresses = {"gateway": f"{self.server.url}/health"}
        self.write_state()
        self.record_cycle(NOW - timedelta(minutes=10))
        self.record_batch(n_items=100, n_quarantined=3)
        self.publish(NOW - timedelta(minutes=10))
        self.hear(NOW - timedelta(minutes=5))
        measure_cycle(self.settings, cycle(NOW), SKILL.assign(n=500))
        measure_run(self.settings, "nowcast", "completed", 4.0)
        self.back_up(NOW - timedelta(hours=3))
        self.settings.log_root.mkdir()
        (self.settings.log_root / "gateway.log").write_text(
            f"{NOW - timedelta(minutes=3):%Y-%m-%d %H:%M:%S},000 INFO services.gateway event=listening\n"
        )

    def write_state(self) -> None:
        state = {"processes": self.processes, "environment": {}, "addresses": self.addresses}
        (self.settings.home / "run" / "system.json").write_text(json.dumps(state))

    def record_cycle(self, valid_time: datetime, **details: Any) -> None:
        catalog.record_cycle(
            self.engine, f"c-{valid_time:%H%M}", valid_time=valid_time, available_until=NOW, config_hash="", inputs_hash="",
            effective_ig12=50.0, details={"n_observations": 40, "climatology_only": False, **details}, files=[], now=NOW,
        )  # fmt: skip

    def record_batch(self, **counts: int) -> None:
        catalog.record_batch(
            self.engine, f"b-{len(counts)}-{counts['n_quarantined']}", state="curated", path="", counts=counts, files=[],
            contract_versions={}, now=NOW,
        )  # fmt: skip

    def publish(self, valid_time: datetime) -> None:
        current = self.settings.products_root / "current"
        current.mkdir(parents=True, exist_ok=True)
        (current / "cycle.json").write_text(json.dumps({"valid_time": valid_time.isoformat()}))

    def hear(self, newest: datetime) -> None:
        result: Any = SimpleNamespace(
            n_accepted=1, n_duplicates=0, n_quarantined=0, reasons={}, newest={"http": newest}
        )
        measure_landing(self.settings, [result], {}, 0)

    def back_up(self, taken_at: datetime) -> None:
        (self.settings.home / "run" / "backup.json").write_text(
            json.dumps({"full": {"taken_at": str(taken_at)}})
        )

    def find(self, check: str) -> Finding:
        """The worst finding of a check."""
        return max(
            (one for one in examine(self.settings, NOW) if one.check == check), key=lambda one: one.level
        )


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    with idle_process("gateway") as gateway:
        system = System(tmp_path, gateway)
        monkeypatch.setattr("tasks.health.nowcasts.up_since", lambda _: NOW - timedelta(days=2))
        yield system
        system.server.stop()


def test_services_that_others_start_are_asked_where_the_settings_say(system: System) -> None:
    (system.settings.home / "run" / "system.json").unlink()
    pods = f"gateway={system.server.url}/health web=http://127.0.0.1:{free_port()}/health"
    settings = system.settings.model_copy(update={"endpoints": pods})
    assert [one.level for one in services.check_processes(settings, NOW)] == [Level.OK]
    found = {one.sentence.split()[0]: one.level for one in services.check_endpoints(settings, NOW)}
    assert found["gateway"] == Level.OK
    assert found["web"] == Level.FAULT


def test_a_system_that_is_well_says_so_and_names_its_state(system: System) -> None:
    findings = examine(system.settings, NOW)
    assert {one.check for one in findings} == set(CHECKS)
    assert [one for one in findings if one.level is not Level.OK] == []
    assert worst(findings) == 0
    shown = text(findings, has_colour=False)
    assert "the public map is of" in shown
    assert "age of the newest observation: http 5 minutes" in shown
    assert "from 40 observations in 4.0 s" in shown
    assert "→" not in shown
    assert summary(findings).startswith("all is well")


def end_a_process(system: System) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    system.processes.append({"name": "prefect-worker", "pid": child.pid, "start_s": started_s(child.pid)})
    child.wait()
    system.write_state()


def take_the_system_down(system: System) -> None:
    (system.settings.home / "run" / "system.json").unlink()


def close_the_gateway(system: System) -> None:
    system.addresses["gateway"] = f"http://127.0.0.1:{free_port()}/health"
    system.write_state()


def stop_the_broker(system: System) -> None:
    state = json.loads((system.settings.home / "run" / "system.json").read_text())
    state["environment"]["AUTONVIS_MQTT_URL"] = f"mqtt://user:secret@127.0.0.1:{free_port()}"
    (system.settings.home / "run" / "system.json").write_text(json.dumps(state))


def leave_the_spool(system: System) -> None:
    with SpoolWriter(system.settings.spool_root / "http") as writer:
        writer.append_many([Record("http", "ionograms", None, NOW, "application/json", b"{}", "http")])
    (segment,) = sealed_segments(system.settings.spool_root / "http")
    os.utime(segment, (NOW.timestamp() - 3600,) * 2)


def quarantine_much(system: System) -> None:
    system.record_batch(n_items=100, n_quarantined=80)


def miss_cycles(system: System) -> None:
    with system.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM cycles")
    system.record_cycle(NOW - timedelta(hours=2))


def never_cycle(system: System) -> None:
    with system.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM cycles")


def hear_nothing_in_a_cycle(system: System) -> None:
    system.record_cycle(NOW - timedelta(minutes=1), climatology_only=True)


def cycle_slowly(system: System) -> None:
    measure_run(system.settings, "nowcast", "completed", 75.0)


def publish_nothing(system: System) -> None:
    (system.settings.products_root / "current" / "cycle.json").unlink()


def publish_long_ago(system: System) -> None:
    system.publish(NOW - timedelta(hours=5))


def hear_long_ago(system: System) -> None:
    system.hear(NOW - timedelta(hours=3))


def hear_days_ago(system: System) -> None:
    system.hear(NOW - timedelta(days=3))


def lose_skill(system: System) -> None:
    measure_cycle(system.settings, cycle(NOW), SKILL.assign(n=500, rmse_holdout=1.2))


def back_up_long_ago(system: System) -> None:
    system.back_up(NOW - timedelta(days=3))


def never_back_up(system: System) -> None:
    (system.settings.home / "run" / "backup.json").unlink()


def fill_the_disk(system: System) -> None:
    write_status(system.settings, {"disk": {"full_at": NOW + timedelta(hours=5)}})


def log_an_error(system: System) -> None:
    local = NOW.astimezone()  # logs have the time of the machine
    with (system.settings.log_root / "gateway.log").open("a") as log:
        for hours, said in ((3, "an old one"), (0.1, "the catalog is locked")):
            log.write(f"{local - timedelta(hours=hours):%Y-%m-%d %H:%M:%S},000 ERROR door {said}\n")


def damage_the_catalog(system: System) -> None:
    system.engine.dispose()
    (system.settings.home / "catalog.db").write_bytes(b"no database" * 1000)
    for more in ("-wal", "-shm"):
        (system.settings.home / f"catalog.db{more}").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "check", "level", "says", "next_step"),
    [
        (end_a_process, "processes", Level.FAULT, "prefect-worker has ended", "logs/prefect-worker.log"),
        (take_the_system_down, "processes", Level.FAULT, "nothing of .* was started", "make up"),
        (close_the_gateway, "endpoints", Level.FAULT, "gateway at http.* does not answer", "logs/gateway.log"),
        (stop_the_broker, "endpoints", Level.FAULT, "broker at mqtt://127.0.0.1.* does not answer", "make down up"),
        (leave_the_spool, "spool", Level.FAULT, "1 segments wait in the spool, the oldest for 60 minutes", "autonvis land"),
        (quarantine_much, "quarantine", Level.WARNING, "83 of 200 items of the last hour are in quarantine", "reasons"),
        (miss_cycles, "cycle", Level.FAULT, "120 minutes|2 hours", "catch-up"),
        (never_cycle, "cycle", Level.FAULT, "no cycle in the last day", "autonvis nowcast"),
        (hear_nothing_in_a_cycle, "cycle", Level.WARNING, "it is climatology", "sounders send"),
        (cycle_slowly, "cycle", Level.WARNING, "took 75 s", "slow"),
        (publish_nothing, "public", Level.FAULT, "nothing is published", "autonvis nowcast"),
        (publish_long_ago, "public", Level.FAULT, "5 hours ago", "last run of nowcast"),
        (hear_long_ago, "data", Level.WARNING, "http 3 hours", "pull-"),
        (hear_days_ago, "data", Level.FAULT, "http 3 days", "sounders reach the doors"),
        (lose_skill, "skill", Level.WARNING, "fof2_mhz: error 1.20 at held-out stations, climatology 0.90", "daily report"),
        (back_up_long_ago, "backup", Level.FAULT, "3 days old", "runs of backup"),
        (never_back_up, "backup", Level.WARNING, "no full backup yet", "runs of backup"),
        (fill_the_disk, "disk", Level.FAULT, "at its pace the disk is full in 5 hours", "run/maintenance.json"),
        (log_an_error, "errors", Level.WARNING, "gateway logged 1 errors .* door the catalog is locked", "gateway.log"),
        (damage_the_catalog, "cycle", Level.FAULT, "cannot be looked at: .*not a database", "mend"),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)  # fmt: skip
def test_each_fault_has_its_sentence_its_next_step_and_its_entry(
    spoil: Callable[[System], None], check: str, level: Level, says: str, next_step: str, system: System
) -> None:
    import re

    spoil(system)
    found = system.find(check)
    assert found.level is level
    assert re.search(says, found.sentence), found.sentence
    assert next_step in found.next_step
    assert found.runbook in HEADINGS
    assert "secret" not in found.sentence
    assert worst(examine(system.settings, NOW)) >= level


Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "total available")


def test_a_disk_that_fills_and_a_machine_without_memory_are_said(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(100e9, 92e9, 8e9))
    assert system.find("disk").level is Level.WARNING
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(100e9, 97e9, 3e9))
    found = system.find("disk")
    assert found.level is Level.FAULT
    assert "3.0 GB (3%) of the disk of home are free" in found.sentence
    assert "du -xh" in found.next_step
    monkeypatch.setattr(services.psutil, "virtual_memory", lambda: Memory(8e9, 0.2e9))
    found = system.find("memory")
    assert (found.level, found.sentence) == (Level.FAULT, "0.2 of 8.0 GB of memory are available")


def test_a_system_that_has_just_started_is_given_time_for_its_first_cycle(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.health.nowcasts.up_since", services.up_since)
    monkeypatch.setattr(services, "system_processes", lambda _: [{**system.processes[0]}])
    never_cycle(system)
    publish_nothing(system)
    now = datetime.fromtimestamp(system.processes[0]["start_s"], UTC) + timedelta(minutes=5)
    young = {one.check: one for one in examine(system.settings, now)}
    assert (young["cycle"].level, young["public"].level) == (Level.WARNING, Level.WARNING)
    assert "just started" in young["cycle"].next_step
    old = {one.check: one for one in examine(system.settings, now + timedelta(hours=2))}
    assert (old["cycle"].level, old["public"].level) == (Level.FAULT, Level.FAULT)


def test_a_gateway_that_cannot_store_says_why(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tasks.landing.group_commit.GroupCommit.check", lambda _: refuse())
    assert (
        "answers 503: the spool cannot be written: No space left on device"
        in system.find("endpoints").sentence
    )


def test_the_verb_shows_lines_or_json_and_ends_with_the_worst_level(
    system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTONVIS_HOME", str(system.settings.home))
    for spoil, code in ((None, 0), (quarantine_much, 1), (publish_long_ago, 2)):
        if spoil is not None:
            spoil(system)
        with pytest.raises(SystemExit) as ended:
            main(["health"])
        assert ended.value.code == code
        shown = capsys.readouterr().out
        assert "\033[" not in shown  # no terminal
        with pytest.raises(SystemExit) as ended:
            main(["health", "--json"])
        assert ended.value.code == code
        found = json.loads(capsys.readouterr().out)
        assert {one["check"] for one in found} == set(CHECKS)
    assert [one["check"] for one in found if one["level"] == "fault"] == ["public"]
    assert "FAULT    public" in shown
    assert "docs/operations/runbook.md#nvispublicstale" in shown


def test_a_terminal_gets_colour_and_prefect_a_table(system: System) -> None:
    publish_long_ago(system)
    findings = examine(system.settings, NOW)
    assert "\033[1;31mFAULT" in text(findings, has_colour=True)
    assert "| FAULT | public |" in markdown(findings)


def test_spans_are_said_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (59, 300, 3 * 3600, 4 * 86_400)] == [
        "59 s",
        "5 minutes",
        "3 hours",
        "4 days",
    ]
