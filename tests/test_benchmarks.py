"""What the benchmarks compare is the same thing: our posterior and the peers' agree, small enough to be quick."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize("peer", ["george", "numpy"])
def test_the_analysis_is_the_posterior_of_its_peers(
    peer: str, correlation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if peer == "george":
        pytest.importorskip("george", reason="george has wheels for Linux on x86-64 only")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("analysis")
    problem = benchmark.Problem.random(n_stations=12, n_obs=90, n_points=5_000, correlation=correlation)
    _, posterior = benchmark.PEERS[peer]
    for ours, theirs in zip(problem.ours(), posterior(problem), strict=True):
        assert np.ptp(ours) > 0.01
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_network_costs_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/costs.py", "--sounders", "4", "--hours", "1", "--minutes", "0", "--step", "10"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=800,
    )  # fmt: skip
    (said,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said["n_sounders"] == 4
    assert all(
        value > 0
        for name, value in said.items()
        if name.endswith(("_day", "_s", "_mb")) and name != "prefect_mb_per_day"
    ), said
