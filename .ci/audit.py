"""`make audit`: known vulnerabilities of the pinned Python packages and of the crates, and the crates' licences and sources.

pip-audit says "No known vulnerabilities found", and succeeds, also where its database knew none of the packages. So there are
three outcomes: 0 looked at and clean, 1 something was found, 3 nothing was found but not everything could be looked at.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Outcome(IntEnum):
    """Exit code of one audit."""

    CLEAN = 0
    FOUND = 1
    NOT_AUDITED = 3


@dataclass(frozen=True)
class Audit:
    """What one audit says."""

    name: str
    outcome: Outcome
    text: str


def python_vulnerabilities() -> Audit:
    """Ask PyPI's advisories about everything that constraints.txt pins, extras and development tools included."""
    done = run(
        sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", "constraints.txt",
        "--format", "json", "--progress-spinner", "off",
    )  # fmt: skip
    try:
        return read_pip_audit(json.loads(done.stdout))
    except ValueError:
        return Audit("python", Outcome.NOT_AUDITED, last_line(done.stderr))


def read_pip_audit(report: dict[str, Any]) -> Audit:
    """What a report of pip-audit (`--format json`) says."""
    packages = report["dependencies"]
    found = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    skipped = [package["skip_reason"] for package in packages if "skip_reason" in package]
    if found:
        return Audit("python", Outcome.FOUND, "\n".join(found))
    if skipped or not packages:
        text = f"{len(skipped)} of {len(packages)} packages were not looked up: {skipped[0] if skipped else 'none'}"
        return Audit("python", Outcome.NOT_AUDITED, text)
    return Audit("python", Outcome.CLEAN, f"{len(packages)} packages, no known vulnerability")


def crates(program: str) -> list[Audit]:
    """Ask cargo-deny about licences, versions and sources by deny.toml, and about vulnerabilities."""
    rules, flaws = "crates: licences, versions, sources", "crates: vulnerabilities"
    crates_of_lock = run("cargo", "fetch", "--locked")
    if crates_of_lock.returncode:
        text = last_line(crates_of_lock.stderr)
        return [Audit(name, Outcome.NOT_AUDITED, text) for name in (rules, flaws)]
    audits = [deny(program, rules, "licenses", "bans", "sources")]
    database = run(program, "fetch", "db")
    if database.returncode:
        return [*audits, Audit(flaws, Outcome.NOT_AUDITED, last_line(database.stderr))]
    return [*audits, deny(program, flaws, "advisories")]


def deny(program: str, name: str, *checks: str) -> Audit:
    done = run(program, "--offline", "check", *checks)
    return Audit(
        name,
        Outcome.FOUND if done.returncode else Outcome.CLEAN,
        (done.stderr if done.returncode else done.stdout).strip(),
    )


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def main() -> int:
    audits = [python_vulnerabilities()]
    program = shutil.which("cargo-deny")
    if program:
        audits += crates(program)
    else:
        text = "cargo-deny is not installed: cargo install --locked cargo-deny"
        audits.append(Audit("crates", Outcome.NOT_AUDITED, text))
    for audit in audits:
        print(f"{audit.name}: {audit.outcome.name.replace('_', ' ')}\n  {audit.text}".rstrip())
    outcomes = {audit.outcome for audit in audits}
    return Outcome.FOUND if Outcome.FOUND in outcomes else max(outcomes)


if __name__ == "__main__":
    sys.exit(main())
