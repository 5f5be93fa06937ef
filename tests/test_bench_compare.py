"""The comparison of benchmarks: what it reads of them, and a whole one of two commits of a small repository."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SCRIPT = ROOT / ".ci" / "bench_compare.py"
spec = importlib.util.spec_from_file_location("bench_compare", SCRIPT)
assert spec is not None
assert spec.loader is not None
bench_compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench_compare)

BENCHMARK = 'import json\nprint("noise")\nprint(json.dumps({"name": "background", "ours_s": %s, "peer_s": 9.0, "rows_per_s": 5}))\n'


def test_of_a_line_only_our_own_durations_and_memory_count() -> None:
    said = {
        "name": "x",
        "ours_s": 0.5,
        "cast_s": 1,
        "peer_s": 9,
        "peer_cpu_s": 9,
        "rows_per_s": 7,
        "ratio": 2,
        "ours_us": 3,
        "peak_rss_gb": 0.7,
    }
    found = bench_compare.figures(["not json", json.dumps(said)])
    assert found == {
        ("x", "ours_s"): 0.5,
        ("x", "cast_s"): 1.0,
        ("x", "ours_us"): 3.0,
        ("x", "peak_rss_gb"): 0.7,
    }


def test_the_best_run_counts_and_a_change_within_noise_is_none() -> None:
    base = bench_compare.best([{("a", "ours_s"): 1.0, ("b", "ours_s"): 2.0}, {("a", "ours_s"): 1.2}])
    head = {("a", "ours_s"): 1.1, ("b", "ours_s"): 4.0, ("c", "ours_s"): 1.0}
    rows = bench_compare.table(base, head).splitlines()[2:]
    assert rows == [
        "| a | `ours_s` | 1 | 1.1 | 1.10 |  |",
        "| b | `ours_s` | 2 | 4 | 2.00 | slower or larger |",
        "| c | `ours_s` |  | 1 |  | new |",
    ]


def test_two_commits_are_compared(tmp_path: Path) -> None:
    """A branch makes a benchmark slower; the branch that it left has since become faster, which does not count."""
    repository = tmp_path / "repository"
    (repository / ".ci").mkdir(parents=True)
    (repository / "benchmarks").mkdir()
    shutil.copy(SCRIPT, repository / ".ci")
    benchmark = repository / "benchmarks" / "background.py"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GITHUB_STEP_SUMMARY"] = str(tmp_path / "summary.md")

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(
            ["git", *identity, *arguments], cwd=repository, env=environment, check=True, capture_output=True
        )

    def commit(seconds: str) -> None:
        benchmark.write_text(BENCHMARK % seconds)
        git("add", ".")
        git("commit", "--message", seconds)

    git("init", "--initial-branch", "main")
    commit("1.0")
    git("switch", "--create", "branch")
    commit("1.5")
    git("switch", "main")
    commit("0.1")
    git("switch", "branch")
    done = subprocess.run(
        [sys.executable, ".ci/bench_compare.py", "main", "--runs", "1", "--only", "background.py"],
        cwd=repository, env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "| background | `ours_s` | 1 | 1.5 | 1.50 | slower or larger |" in done.stdout
    assert "peer_s" not in done.stdout
    assert (tmp_path / "summary.md").read_text().strip() == done.stdout.strip()
    assert not (repository / "build" / "bench-base").exists()
