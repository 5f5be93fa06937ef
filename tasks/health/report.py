"""All checks in order, from the ground up, and their result as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from tasks.catalog import CatalogError
from tasks.health.finding import Finding, Level
from tasks.health.landing import check_quarantine, check_spool
from tasks.health.machine import check_backup, check_disk, check_errors
from tasks.health.nowcasts import check_cycle, check_data, check_public, check_skill
from tasks.health.promises import check_objectives
from tasks.health.services import check_endpoints, check_memory, check_processes
from tasks.settings import Settings

RUNBOOK = "docs/operations/runbook.md"
CHECKS: dict[str, Callable[[Settings, datetime], Iterable[Finding]]] = {
    "disk": check_disk,
    "memory": check_memory,
    "processes": check_processes,
    "endpoints": check_endpoints,
    "spool": check_spool,
    "data": check_data,
    "quarantine": check_quarantine,
    "cycle": check_cycle,
    "public": check_public,
    "skill": check_skill,
    "backup": check_backup,
    "errors": check_errors,
    "objectives": check_objectives,
}
MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAULT: "FAULT"}
COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.FAULT: "1;31"}


def examine(settings: Settings, now: datetime) -> list[Finding]:
    """Every check's findings. A check that cannot look, for a catalog or disk that refuses, is a fault itself."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(settings, now)
        except (CatalogError, OSError, ValueError) as error:
            findings.append(Finding(name, Level.FAULT, f"cannot be looked at: {error}", "mend that first"))
    return findings


def worst(findings: Sequence[Finding]) -> Level:
    """The worst level, which is the exit code."""
    return max((finding.level for finding in findings), default=Level.OK)


def text(findings: Sequence[Finding], *, has_colour: bool) -> str:
    """A line per finding, and below what is not well the next step."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        mark = f"{MARKS[finding.level]:7s}"
        if has_colour:
            mark = f"\033[{COLOURS[finding.level]}m{mark}\033[0m"
        lines.append(f"{mark}  {finding.check:{width}s}  {finding.sentence}")
        if finding.level is not Level.OK:
            lines.append(f"{'':9s}{'':{width}s}  → {finding.next_step} ({RUNBOOK}#{finding.runbook})")
    return "\n".join(lines)


def summary(findings: Sequence[Finding]) -> str:
    """All of it in one sentence."""
    bad = [finding for finding in findings if finding.level is not Level.OK]
    if not bad:
        return f"all is well: {len(findings)} checks"
    first = max(bad, key=lambda finding: finding.level)
    return f"{len(bad)} of {len(findings)} checks need attention; {first.check}: {first.sentence}"


def markdown(findings: Sequence[Finding]) -> str:
    """The table of the run's artifact."""
    from tasks.artifacts import markdown_table

    rows = [[MARKS[one.level], one.check, one.sentence, one.next_step] for one in findings]
    return f"{summary(findings)}\n\n" + markdown_table(["", "check", "found", "next step"], rows)
