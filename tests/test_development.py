"""What contributors and CI are told to run exists, and hooks fetch nothing."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.conftest import ROOT

TARGETS = {
    name
    for names in re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for name in names.split()
}
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
LINT = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_hooks_are_local_and_run_what_lint_runs() -> None:
    assert {repository["repo"] for repository in HOOKS["repos"]} == {"local"}
    hooks = [hook for repository in HOOKS["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert LINT is not None
    tools = set(re.findall(r"(?:\$\(BIN\)/|^\t)(ruff|mypy|cargo)\b", LINT.group(1), flags=re.MULTILINE))
    entries = " ".join(hook["entry"] for hook in hooks)
    assert {tool for tool in tools if tool in entries} == {"ruff", "mypy", "cargo"}


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".pre-commit-config.yaml", ".ci/run"]
)
def test_make_targets_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    commands = re.findall(r"(?:`|run: |entry: |^)make ((?:[a-z-]+ ?)+)", text, flags=re.MULTILINE)
    named = {target for command in commands for target in command.split()}
    assert named, f"{page} runs no make target"
    assert named <= TARGETS


def test_workflow_lints_and_tests_with_read_permission_only() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    commands = [step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    assert "make lint" in commands
    assert ".ci/run" in commands
    assert "secrets." not in (ROOT / ".github/workflows/ci.yml").read_text()


def test_decision_records_are_dated_and_numbered_once() -> None:
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    numbers = [record.name[:4] for record in records]
    assert len(numbers) == len(set(numbers))
    for record in records:
        text = record.read_text()
        assert text.startswith(f"# {record.name[:4]}"), record.name
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", text[:400]), f"{record.name} has no date"
