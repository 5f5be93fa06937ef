"""`make bench-compare BASE=…`: the short benchmarks on this tree and where it left BASE, in turns, as a Markdown table.

Both are timed on one machine within minutes, alternately, and the best run of each counts: what differs is the code.
A ratio within NOISE says nothing. The table goes to stdout and, on GitHub, to the summary of the job. Exit code 0 whatever
the ratios: a shared machine is no judge, and whoever reads the table is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHORT: tuple[tuple[str, ...], ...] = (
    ("background.py",),
    ("analysis.py", "--peer", "none"),
    ("density.py",),
    ("virtual_height.py",),
    ("validate.py",),
    ("nowcast.py",),
)
"""Within a minute each; the others of benchmarks/ take longer or are scores."""
NOISE = 1.25
"""Slower or faster by less is not marked: it may be the machine."""

Figures = dict[tuple[str, str], float]


def figures(lines: Iterable[str]) -> Figures:
    """The durations (s, us) and memory that a benchmark's lines of JSON say of us, by benchmark and name; smaller is better."""
    found: Figures = {}
    for line in lines:
        if not line.startswith("{"):
            continue
        said: dict[str, Any] = json.loads(line)
        for name, value in said.items():
            is_ours = not name.startswith("peer") and not name.endswith("per_s")
            if (
                is_ours
                and name.endswith(("_s", "_us", "_memory_mb", "_rss_gb"))
                and isinstance(value, int | float)
            ):
                found[said["name"], name] = float(value)
    return found


def best(runs: Iterable[Figures]) -> Figures:
    """The smallest of each figure."""
    found: Figures = {}
    for run in runs:
        for key, value in run.items():
            found[key] = min(value, found.get(key, value))
    return found


def table(base: Mapping[tuple[str, str], float], head: Mapping[tuple[str, str], float]) -> str:
    """Both side by side in Markdown; what only one of them has is shown too."""
    lines = ["| benchmark | figure | base | head | head / base | |", "|---|---|---:|---:|---:|---|"]
    for key in sorted(base.keys() | head.keys()):
        was, is_now = base.get(key), head.get(key)
        if was and is_now is not None:
            ratio = is_now / was
            verdict = (
                "slower or larger" if ratio > NOISE else "faster or smaller" if ratio < 1 / NOISE else ""
            )
            shown = f"{ratio:.2f}"
        else:
            shown, verdict = "", "gone" if is_now is None else "new" if was is None else ""
        values = " | ".join("" if value is None else f"{value:g}" for value in (was, is_now))
        lines.append(f"| {key[0]} | `{key[1]}` | {values} | {shown} | {verdict} |")
    return "\n".join(lines) + "\n"


def prepare(commit: str, folder: Path) -> dict[str, str]:
    """Check the commit out into a folder and build its kernel if that differs; returns the environment to run it in."""
    if folder.exists():
        git("worktree", "remove", "--force", str(folder))
    git("worktree", "add", "--detach", str(folder), commit)
    paths = [str(folder)]
    if git("diff", "--name-only", commit, "--", "rust_core", "Cargo.toml", "Cargo.lock"):
        site = folder / "build" / "site-packages"
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
             "--target", str(site), str(folder / "rust_core")],
            check=True, env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )  # fmt: skip
        paths.append(str(site))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def run(root: Path, benchmark: tuple[str, ...], environment: Mapping[str, str]) -> Figures:
    """One run; a benchmark that the commit does not have, or that fails there, has no figures."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{benchmark[0]}", *benchmark[1:]],
        cwd=root, env=dict(environment), stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"{benchmark[0]} failed in {root} ({done.returncode})", file=sys.stderr)
        return {}
    return figures(done.stdout.splitlines())


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="branch or commit to compare with: where this branch left it")
    parser.add_argument("--runs", type=int, default=3, help="of each benchmark on each side (default 3)")
    parser.add_argument("--only", nargs="+", help="file names of benchmarks", metavar="FILE")
    parser.add_argument("--out", type=Path, help="write the table here too", metavar="FILE.md")
    arguments = parser.parse_args()
    commit = git("merge-base", arguments.base, "HEAD")
    folder = ROOT / "build" / "bench-base"
    sides = {
        "base": (folder, prepare(commit, folder)),
        "head": (ROOT, {**os.environ, "PYTHONPATH": str(ROOT)}),
    }
    try:
        runs: dict[str, list[Figures]] = {side: [] for side in sides}
        for benchmark in SHORT:
            if arguments.only and benchmark[0] not in arguments.only:
                continue
            for number in range(arguments.runs):
                # Who goes first takes turns too: the second finds a warmer machine.
                for side in sorted(sides, reverse=bool(number % 2)):
                    print(f"{benchmark[0]} {number + 1} of {arguments.runs}, {side}", file=sys.stderr)
                    runs[side].append(run(sides[side][0], benchmark, sides[side][1]))
    finally:
        git("worktree", "remove", "--force", str(folder))
    text = f"Benchmarks against {commit[:10]}, best of {arguments.runs}, {os.cpu_count()} cores\n\n"
    text += table(best(runs["base"]), best(runs["head"]))
    print(text)
    for path in (arguments.out, os.environ.get("GITHUB_STEP_SUMMARY")):
        if path:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text)


if __name__ == "__main__":
    main()
