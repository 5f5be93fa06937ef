"""Calls into the kernel that take a moment, or, where `endless`, minutes on any machine unless something ends them.

`python -m tests.reference.long_calls NAME` says `started` and makes the endless call.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import rust_core
from tasks.background import Background
from tasks.profile import Peaks
from tests.reference.problems import TERMS, Q, problem

Call = Callable[[], Any]


def factorization(endless: bool) -> Call:
    p = problem(n_stations=60, n_obs=2_500 if endless else 1_500, n_quantities=1)
    term = replace(TERMS[0], sd=(0.11,))
    if endless:
        # The last row has no variance and no error: no jitter mends that, and there are 310 powers of ten to try.
        p.error[-1] = p.amplitude[-1] = 0.0
        return partial(p.solve, [term], max_jitter=1e300)
    return partial(p.solve, [term])


def places(n: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.uniform(-90, 90, n), random.uniform(-180, 180, n)


def map_of_many_stations(endless: bool) -> Call:
    analysis = problem(n_stations=300, n_obs=600).solve()
    return partial(analysis.predict, *places(500_000 if endless else 1_000), 0.0)


def candidates(endless: bool) -> Call:
    analysis = problem(n_stations=30, n_obs=300).solve()
    n_candidates, n_targets = (5_000, 1_000_000) if endless else (200, 5_000)
    return partial(
        analysis.candidate_gain,
        *places(n_candidates),
        np.zeros(1),
        np.full((1, Q, n_candidates), 0.05),
        *places(n_targets),
        0.0,
        weight=np.ones(n_targets),
    )


def evidence_gradient(endless: bool) -> Call:
    return problem(n_stations=60, n_obs=6_000 if endless else 1_000).solve().evidence_gradient


def screening(endless: bool) -> Call:
    """Gross errors only: each one rejected is a change of the whole inverse."""
    p = problem(n_stations=60, n_obs=4_000 if endless else 1_000)
    return partial(
        rust_core.screen_observations,
        [term.build() for term in TERMS],
        station_latitude_deg=p.latitude,
        station_longitude_deg=p.longitude,
        station=p.station,
        quantity=p.quantity,
        time_h=p.time_h,
        value=np.ones(p.time_h.size),
        innovation=np.random.default_rng(1).normal(0, 1e3, p.time_h.size),
        obs_error=p.error,
        minimum=[0.0] * Q,
        maximum=[2.0] * Q,
        background_sd=1e9,
        buddy_sd=4.0,
        full_weight_sd=2.0,
        n_threads=1,
    )


def background(endless: bool) -> Call:
    """The coefficients are folded anew for every time."""
    n = 3_000_000 if endless else 2_000
    times = np.arange(n) * np.timedelta64(1, "m") + np.datetime64("2022-01-01")
    return partial(Background(n_threads=1).at, times, *places(n), np.full(n, 80.0))


def density(endless: bool) -> Call:
    n, n_heights = (20_000, 20_000) if endless else (20_000, 400)
    latitude, longitude = places(n)
    state = Background().on_grid(np.datetime64("2022-10-25T12:00"), latitude, longitude, 80.0)
    return partial(Peaks.of_background(state, 80.0).density, np.linspace(80, 1000, n_heights), n_threads=1)


CALLS: dict[str, Callable[[bool], Call]] = {
    call.__name__: call
    for call in (
        *(factorization, map_of_many_stations, candidates, evidence_gradient),
        *(screening, background, density),
    )
}


if __name__ == "__main__":
    endless_call = CALLS[sys.argv[1]](True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("started", flush=True)
    endless_call()
