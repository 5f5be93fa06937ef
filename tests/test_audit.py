"""`make audit`: a database that could not be asked is not a clean bill."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / ".ci" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", SCRIPT)
assert spec is not None
assert spec.loader is not None
audit = importlib.util.module_from_spec(spec)
sys.modules["audit"] = audit  # its dataclass looks itself up
spec.loader.exec_module(audit)

CLEAN = {"name": "numpy", "version": "2.0.0", "vulns": []}
SKIPPED = {"name": "mine", "skip_reason": "Dependency not found on PyPI and could not be audited: mine (1.0)"}
FLAWED = {
    "name": "jinja2",
    "version": "3.1.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.6"], "aliases": [], "description": ""}],
}


@pytest.mark.parametrize(
    ("packages", "outcome", "text"),
    [
        ([CLEAN, CLEAN], "CLEAN", "2 packages, no known vulnerability"),
        ([CLEAN, FLAWED, SKIPPED], "FOUND", "jinja2 3.1.0: PYSEC-1, mended in 3.1.6"),
        ([CLEAN, SKIPPED], "NOT_AUDITED", "1 of 2 packages were not looked up: Dependency not found on PyPI"),
        ([], "NOT_AUDITED", "0 of 0 packages were not looked up"),
    ],
)
def test_a_package_that_was_skipped_is_not_clean(
    packages: list[dict[str, object]], outcome: str, text: str
) -> None:
    found = audit.read_pip_audit({"dependencies": packages})
    assert found.outcome.name == outcome
    assert found.text.startswith(text)


def test_what_cannot_be_reached_is_said_and_is_an_exit_code_of_its_own() -> None:
    """Every request is refused at once, as without a network."""
    pytest.importorskip("pip_audit")
    nowhere = "http://127.0.0.1:9"
    environment = {**os.environ, "HTTPS_PROXY": nowhere, "https_proxy": nowhere, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "python: NOT AUDITED" in done.stdout


def test_crates_have_licences_and_sources_that_we_take() -> None:
    program = shutil.which("cargo-deny", path=f"{Path.home()}/.cargo/bin:{os.environ['PATH']}")
    if program is None:
        pytest.skip("cargo-deny is not installed: cargo install --locked cargo-deny")
    found = audit.deny(program, "crates", "licenses", "bans", "sources")
    assert found.outcome.name == "CLEAN", found.text
