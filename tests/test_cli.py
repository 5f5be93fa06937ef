"""The console script: help for every verb, and one clear sentence for every wrong call."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autonvis import environment
from autonvis.cli import build_parser
from autonvis.demo import readable_times, span
from autonvis.system import StartError, choose_port
from tasks.settings import Settings, SettingsError

ROOT = Path(__file__).resolve().parents[1]
VERBS = [
    "demo",
    "up",
    "down",
    "status",
    "land",
    "nowcast",
    "backfill",
    "replay",
    "density",
    "network",
    "place",
    "rebuild-catalog",
    "settings",
]


def run(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AUTONVIS_", "PREFECT_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "autonvis", *arguments],
        cwd=ROOT,
        env={**kept, "AUTONVIS_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([verb, "--help"])
    assert ended.value.code == 0
    assert f"autonvis {verb}" in capsys.readouterr().out


def test_settings_are_listed_with_their_meaning(tmp_path: Path) -> None:
    done = run("settings", home=tmp_path)
    assert done.returncode == 0
    assert f"AUTONVIS_HOME={tmp_path}" in done.stdout
    assert "Seconds an observation may lie in the future" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AUTONVIS_GRID_STEP", "1", "unknown setting AUTONVIS_GRID_STEP"),
        ("AUTONVIS_GRID_STEP_DEG", "wide", "AUTONVIS_GRID_STEP_DEG"),
        ("AUTONVIS_GATEWAY_PORT", "99999", "AUTONVIS_GATEWAY_PORT"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, name: str, value: str, expected: str) -> None:
    done = run("settings", home=tmp_path, **{name: value})
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowcast", "--valid-time", "2022-10-25T10:15"], "no zone"),
        (["nowcast", "--valid-time", "yesterday"], "not an ISO-8601 time"),
        (["nowcast", "--valid-time", "1800-01-01T00:00Z"], "knows the years 1900 to 2099"),
        (["nowcast", "--region", "Europe"], "region 'Europe'"),
        (["nowcast", "--region", "60,0,40,10"], "region '60,0,40,10'"),
        (["backfill", "2022-10-26T00:00Z", "2022-10-25T00:00Z"], "is before start"),
        (["backfill", "1950-01-01T00:00Z", "2022-10-25T00:00Z"], "split the span"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = run(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_a_system_that_is_down(tmp_path: Path) -> None:
    done = run("status", home=tmp_path)
    assert done.returncode == 1
    assert "`make up` starts it" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("empty.csv", b"", "empty.csv"), ("latin1.csv", b"sounder_id\n\xe9\xff\n", "latin1.csv")],
)
def test_demo_refuses_files_it_cannot_read(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    done = run("demo", "--data", str(path), home=tmp_path / "var")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_demo_refuses_a_directory_without_observations(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("nothing here")
    done = run("demo", "--data", str(tmp_path), home=tmp_path / "var")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


def test_a_replay_of_a_span_in_which_nothing_landed_says_so(tmp_path: Path) -> None:
    done = run("replay", "--since", "2026-10-05T00:00Z", "--until", "2026-10-06T00:00Z", home=tmp_path)
    assert done.returncode == 2
    assert "no landed batch between 2026-10-05 00:00:00+00:00 and 2026-10-06" in done.stderr
    done = run("replay", "--since", "2026-10-05T00:00", home=tmp_path)
    assert done.returncode == 2
    assert "since '2026-10-05T00:00' has no zone" in done.stderr


DEMO_CSV = "sounder_id,observed_at,latitude_deg,longitude_deg,fof2_mhz\n"


def test_demo_says_when_no_time_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / "times.csv"
    path.write_text(DEMO_CSV + "DB049,06.00,50.1,4.6,7.0\nDB049,2999-01-01T00:00:00Z,50.1,4.6,7.0\n")
    done = run("demo", "--data", str(path), home=tmp_path / "var")
    assert done.returncode == 2
    assert "no observation has a time that can be read and has passed" in done.stderr
    assert "line 2: time '06.00'" in done.stderr


@pytest.mark.parametrize("days", ["0", "-1", "nan", "1e9"])
def test_demo_refuses_a_span_that_is_none(tmp_path: Path, days: str) -> None:
    done = run("demo", "--days", days, home=tmp_path / "var")
    assert done.returncode == 2
    assert "must be above 0" in done.stderr


def test_a_future_row_does_not_push_the_others_out() -> None:
    items: list[dict[str, object]] = [
        {"observed_at": "2022-10-25T06:00:00.000000Z"},
        {"observed_at": "2022-10-25T06:15:00.000000Z"},
        {"observed_at": "2999-01-01T00:00:00.000000Z"},
        {"unreadable": "line 5"},
    ]
    first, last = datetime(2022, 10, 25, 6, 0, tzinfo=UTC), datetime(2022, 10, 25, 6, 15, tzinfo=UTC)
    assert list(readable_times(items).notna()) == [True, True, False, False]
    assert span(items, 3.0, 15, is_simulated=False) == (first, last)


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("land", home=tmp_path / "file" / "var")
    assert done.returncode == 2
    assert "AUTONVIS_HOME" in done.stderr
    assert "name another folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LEAST_FREE_MB", 1e12)
    with pytest.raises(SettingsError, match=r"is full .* free space or name another folder"):
        environment.make_home(Settings(home=tmp_path / "deep" / "var"))


def test_a_missing_kernel_configuration_is_named(tmp_path: Path) -> None:
    done = run("nowcast", home=tmp_path / "var", AUTONVIS_KERNEL_CONFIG=str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert "none.toml: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_down_of_a_system_that_is_down(tmp_path: Path) -> None:
    done = run("down", home=tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"nothing of {tmp_path} is running\n"


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} is taken; set AUTONVIS_GATEWAY_PORT to another"):
            choose_port(port, "AUTONVIS_GATEWAY_PORT")


def test_an_interrupted_backfill_ends_at_once_with_a_sentence(tmp_path: Path) -> None:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AUTONVIS_", "PREFECT_"))
    }
    with subprocess.Popen(
        [sys.executable, "-m", "autonvis", "backfill", "2022-01-01T00:00Z", "2022-03-01T00:00Z"],
        cwd=ROOT,
        env={**kept, "AUTONVIS_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C reaches the whole group: so does this one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as backfill:
        assert backfill.stdout is not None
        seen = [next(line for line in backfill.stdout if "cycle 20220101" in line)]
        os.killpg(backfill.pid, signal.SIGINT)
        seen += list(backfill.stdout)
    assert backfill.returncode == 130
    assert seen[-1].startswith("autonvis backfill: interrupted")
    assert not any("Traceback" in line for line in seen)
