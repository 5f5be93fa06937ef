"""The workflows: valid by GitHub's own schemas, the same make targets as on a desk, and no more rights than they need."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.conftest import ROOT
from tests.test_development import TARGETS

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
WRITES = {("benchmarks", "pull-requests")}
"""Job and permission."""


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # `on` is a word, not true
    return document


def jobs() -> dict[str, dict[str, Any]]:
    return {name: job for path in WORKFLOWS for name, job in read(path)["jobs"].items()}


def steps() -> list[dict[str, str]]:
    found: list[dict[str, str]] = [step for job in jobs().values() for step in job["steps"]]
    return found + [step for path in ACTIONS for step in read(path)["runs"]["steps"]]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_follows_githubs_schema(path: Path) -> None:
    found = find_spec("check_jsonschema")
    if found is None or found.origin is None:
        pytest.skip("check-jsonschema, which has the schemas, is not installed")
    name = "github-workflows" if path in WORKFLOWS else "github-actions"
    schema = Path(found.origin).parent / "builtin_schemas" / "vendor" / f"{name}.json"
    validator = jsonschema_rs.validator_for(json.loads(schema.read_text()))
    document = yaml.safe_load(path.read_text())
    if True in document:
        document["on"] = document.pop(True)  # YAML 1.1 takes the word for a truth value
    assert [
        f"{list(fault.instance_path)}: {fault.message[:200]}" for fault in validator.iter_errors(document)
    ] == []


def test_every_target_and_script_that_is_run_exists() -> None:
    runs = [line.strip() for step in steps() for line in step.get("run", "").splitlines()]
    made = {match[1] for line in runs if (match := re.match(r"make ([a-z-]+)", line))}
    assert {"lint", "coverage", "contracts-check", "bench-compare", "audit", "docs", "test-slow"} <= made
    assert made <= TARGETS
    scripts = {line.split()[0] for line in runs if line.startswith(".ci/")}
    assert ".ci/run" in scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_actions_are_pinned_and_those_of_this_repository_exist() -> None:
    for step in steps():
        used = step.get("uses", "")
        if used.startswith("./"):
            assert (ROOT / used / "action.yml") in ACTIONS, used
        elif used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+(\.\d+)*|[0-9a-f]{40})", used), used


def test_rights_time_and_text_from_outside() -> None:
    for path in WORKFLOWS:
        assert read(path)["permissions"] == {"contents": "read"}
        assert "concurrency" in read(path)
        assert "secrets." not in path.read_text()
    for name, job in jobs().items():
        assert int(job["timeout-minutes"]) <= 120, name
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]), name
        writes = {(name, what) for what, right in job.get("permissions", {}).items() if right != "read"}
        assert writes <= WRITES
    for step in steps():
        # A branch's name or a title within the text of a script would be run by the shell; by the environment it is only text.
        assert "${{" not in step.get("run", ""), step


def test_the_long_tests_run_every_night() -> None:
    (path,) = [path for path in WORKFLOWS if path.name == "ci.yml"]
    assert read(path)["on"]["schedule"]
    assert jobs()["long"]["if"] == "github.event_name == 'schedule'"
