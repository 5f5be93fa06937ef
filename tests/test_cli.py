"""The console script: help for every verb, and one clear sentence for every wrong call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autonvis.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
VERBS = ["demo", "up", "down", "status", "land", "nowcast", "backfill", "replay", "settings"]


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
        (["nowcast", "--region", "Europe"], "region 'Europe'"),
        (["nowcast", "--region", "60,0,40,10"], "region '60,0,40,10'"),
        (["backfill", "2022-10-26T00:00Z", "2022-10-25T00:00Z"], "is before start"),
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
