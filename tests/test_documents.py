"""Every command of the pages runs, in one live system that all of them share, or its block says why it is not run."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from markdown_it import MarkdownIt

from autonvis.cli import build_parser
from services.processes import free_port
from tasks.settings import PREFIX, Settings
from tests.conftest import ROOT
from tests.test_development import TARGETS

FIRST = ("README.md", "docs/getting-started.md", "docs/sending-observations.md")
"""What they begin, the others use."""
LAST = "docs/operations/backup-and-restore.md"
"""It stops the system."""
LANGUAGES = {"sh", "text", "{toctree}"}
NOT_RUN = re.compile(r"# not run by the tests: \w+")
RUN_ELSEWHERE = {"make test": ".ci/run", "make demo DATA=../shared/data/europe_2022": "tests/test_skill.py"}
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def pages() -> list[str]:
    """All but the decision records and the changelog, which tell of their time."""
    found = [
        *ROOT.glob("*.md"),
        *(path for top in ("docs", "infra", "deployments") for path in (ROOT / top).rglob("*.md")),
    ]
    names = {path.relative_to(ROOT).as_posix() for path in found if not path.name.startswith("0")}
    middle = sorted(names - {*FIRST, LAST, "CHANGELOG.md"})
    return [*FIRST, *middle, LAST]


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    page: str
    line: int
    language: str
    """Empty for a block that is set off by spaces or names none."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in pages():
        for token in MarkdownIt("commonmark").parse((ROOT / page).read_text()):
            if token.type in ("fence", "code_block"):
                found.append(
                    Block(page, token.map[0] + 1 if token.map else 0, token.info.strip(), token.content)
                )
    return found


def spans() -> Iterator[tuple[str, str]]:
    """The code within sentences, with its page."""
    for page in pages():
        for token in MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text()):
            for child in token.children or ():
                if child.type == "code_inline":
                    yield page, child.content


def test_readme_is_short_and_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 140
    commands = {
        line.split("  #")[0].strip()
        for block in blocks()
        if block.page == "README.md"
        for line in block.text.splitlines()
    }
    assert {"make demo", "make test", "make up", "make down"} <= commands


def test_every_block_names_its_language() -> None:
    """So that no command hides in a block that is not run."""
    assert [str(block) for block in blocks() if block.language not in LANGUAGES] == []


def test_commands_within_sentences_exist() -> None:
    verbs = subcommands(build_parser())
    for page, span in spans():
        for command in re.split(r"&&|;|\|", span):
            words = [
                word.removeprefix(".venv/bin/")
                for word in command.split()
                if "=" not in word or word.startswith("-")
            ]
            match words:
                case ["make", *targets]:
                    assert set(targets) <= TARGETS, f"{page}: {span}"
                case ["autonvis", verb, *rest]:
                    options = verbs["autonvis"] if verb.startswith("-") else verbs[verb]
                    asked = {word.split("=")[0] for word in rest if word.startswith("--")}
                    assert asked <= options, f"{page}: {span}"
                case ["python", script, *_] if script.endswith(".py"):
                    assert (ROOT / script).is_file(), f"{page}: {span}"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """The options of each verb; a verb's own verbs count as its options."""
    found = {"autonvis": set(parser._option_string_actions)}
    (verbs,) = [
        action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    for verb, sub in verbs.items():
        found[verb] = set(sub._option_string_actions)
        for action in sub._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    found[verb] |= set(inner._option_string_actions)
    return found


def test_settings_that_are_named_exist() -> None:
    for page in pages():
        named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]+\b", (ROOT / page).read_text()))
        assert named <= SETTINGS, page


class Tour:
    """Runs the blocks one after the other as a reader would, each in a shell of its own, with places of this test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output: dict[str, str] = {}
        self.gateway_port, self.web_port, self.prefect_port = free_port(), free_port(), free_port()
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "PREFECT_"))
        }
        self.environment = {
            **kept,
            "AUTONVIS_HOME": str(folder / "var"),
            "AUTONVIS_BACKUP_TO": str(folder / "backups" / "autonvis"),
            "AUTONVIS_GATEWAY_PORT": str(self.gateway_port),
            "AUTONVIS_TCP_PORT": "0",
            "AUTONVIS_WEB_PORT": str(self.web_port),
            "AUTONVIS_PREFECT_PORT": str(self.prefect_port),
            "AUTONVIS_GRID_STEP_DEG": "5",
            "MAKEFLAGS": "",
        }
        self.done: set[str] = set()
        self.between_backups: datetime | None = None

    def run(self, block: Block, *, is_last: bool) -> None:
        """Run a block; what starts something runs where a page first does so, and the system is stopped on the last page only."""
        lines: list[str] = []
        for line in block.text.splitlines():
            command = line.split("  #")[0].strip()
            is_done = command in ONCE and command in self.done
            if is_done or command in RUN_ELSEWHERE or (command == "make down" and not is_last):
                continue
            self.done.add(command)
            lines.append(line)
            if command in ONCE:
                self.shell(lines, str(block))
                lines = []
                ONCE[command](self)
        if "autonvis backup --increment" in block.text:
            self.between_backups = datetime.now(UTC)  # an earlier page has made one, these lines make others
        self.shell(lines, str(block))

    def here(self, text: str) -> str:
        """The text with the places and times of this test."""
        now = datetime.now(UTC)
        for written, meant in {
            "127.0.0.1:8002": f"127.0.0.1:{self.gateway_port}",
            "127.0.0.1:8080": f"127.0.0.1:{self.web_port}",
            "/mnt/backups": f"{self.folder}/backups",
            "/mnt/usb": f"{self.folder}/usb",
            "/srv/drill": f"{self.folder}/drill-{now:%H%M%S%f}",
            "/srv/autonvis/var": f"{self.folder}/anew",
            "deployments/production.env": f"deployments/{self.folder.name}.env",
            "ENV=production": f"ENV={self.folder.name}",
            # 1 is a system that needs attention, as one that is minutes old does.
            "autonvis health": "autonvis health || [ $? -eq 1 ]",
            "2026-11-25T10:14Z": f"{self.between_backups or now:%Y-%m-%dT%H:%M:%SZ}",
            "2026-11-25T10:00Z": f"{now - timedelta(hours=1):%Y-%m-%dT%H:%MZ}",
            "2026-11-25T12:00Z": f"{now:%Y-%m-%dT%H:%MZ}",
            "2026-11-25T00:00Z": f"{now - timedelta(days=1):%Y-%m-%dT00:00Z}",
        }.items():
            text = text.replace(written, meant)
        return re.sub(r"(?<![\w/])var/", f"{self.folder}/var/", text)

    def shell(self, lines: Sequence[str], what: str) -> None:
        """Run lines in one shell; what they print is kept under the first."""
        text = self.here("\n".join(lines))
        if not text.strip():
            return
        began_s = time.perf_counter()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=800, check=False,
        )  # fmt: skip
        print(f"{time.perf_counter() - began_s:6.1f} s  {what}", flush=True)
        assert done.returncode == 0, f"{what}\n{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        self.output[lines[0]] = done.stdout

    def end(self) -> None:
        subprocess.run(
            ["make", "down"], cwd=ROOT, env=self.environment, capture_output=True, timeout=120, check=False
        )
        (ROOT / "deployments" / f"{self.folder.name}.env").unlink(missing_ok=True)


@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    go(Tour(tmp_path_factory.mktemp("tour")), FIRST[:1])


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_commands_of_all_pages_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    go(Tour(tmp_path_factory.mktemp("tour")), pages())


def go(tour: Tour, through: Sequence[str]) -> None:
    try:
        for block in blocks():
            if block.page in through and block.language == "sh" and not NOT_RUN.match(block.text):
                tour.run(block, is_last=block.page == through[-1])
    finally:
        tour.end()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{tour.gateway_port}/health", timeout=2)


def check_live_system(tour: Tour) -> None:
    assert httpx.get(f"http://127.0.0.1:{tour.gateway_port}/health", timeout=5).status_code == 200
    assert "AutoNVIS" in httpx.get(f"http://127.0.0.1:{tour.web_port}/", timeout=5).text
    prefect = f"http://127.0.0.1:{tour.prefect_port}"
    assert (
        httpx.get(f"{prefect}/ui-settings", timeout=5).json()["api_url"] == "/api"
    )  # the server that they come from
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    answer = httpx.post(f"{prefect}/api/deployments/filter", json={}, timeout=10)
    assert {one["name"] for one in answer.json()} == {one["name"] for one in deployments}
    automations = httpx.post(f"{prefect}/api/automations/filter", json={}, timeout=10)
    assert "autonvis-nowcast-late" in {one["name"] for one in automations.json()}


def check_demo(tour: Tour) -> None:
    said = next(text for first, text in tour.output.items() if first.startswith("make demo"))
    assert "SIMULATED" in said
    map_path = Path(re.search(r"^map +(.+)$", said, re.MULTILINE).group(1))  # type: ignore[union-attr]
    assert map_path.read_bytes().startswith(b"\x89PNG")
    one_liner = re.search(r"^duckdb +(.+)$", said, re.MULTILINE).group(1)  # type: ignore[union-attr]
    tour.shell([one_liner], "the demo's one-liner")
    assert "SIM01" in tour.output[one_liner]


ONCE: dict[str, Callable[[Tour], None]] = {"make demo": check_demo, "make up": check_live_system}
"""What starts something is run once, and what it started is looked at."""
