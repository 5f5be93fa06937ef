"""What the benchmarks compare is the same thing: our posterior and the peers' agree, small enough to be quick."""

from __future__ import annotations

import importlib
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
