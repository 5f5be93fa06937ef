"""One cycle of a network of thousands of sounders: seconds of its analysis, of all of it, and peak memory.

Processor seconds, of all threads together, stand beside the seconds by the clock, which other processes spoil.

    python benchmarks/large_network.py [--sounders 2000] [--quantities 1]

Every sounder reports each 15 minutes for 2 h and each hour for 28 h before; global grid of 1 degree. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from tasks import estimate
from tasks.background import Background
from tasks.cycle import run_cycle
from tasks.grid import Grid
from tasks.kernel_config import load_kernel_config

VALID_TIME = datetime(2022, 10, 25, 12, tzinfo=UTC)
AGES_H = np.concatenate([np.arange(0.02, 2.0, 0.25), np.arange(2.0, 30.0)])


def network(n_sounders: int, n_quantities: int) -> pd.DataFrame:
    """Places spread over the globe; the climatology and the noise of the instruments."""
    random = np.random.default_rng(1)
    latitude = np.degrees(np.arcsin(random.uniform(-0.95, 0.95, n_sounders)))
    longitude = random.uniform(-180.0, 180.0, n_sounders)
    sounder = np.repeat(np.arange(n_sounders), AGES_H.size)
    age_s = np.tile(AGES_H * 3600.0, n_sounders)
    observed_at = (pd.Timestamp(VALID_TIME) - pd.to_timedelta(np.round(age_s), unit="s")).as_unit("us")
    levels = Background().solar_levels(pd.Series(observed_at), latitude[sounder], longitude[sounder])
    values = {
        "fof2_mhz": levels.fof2_at(100.0) + random.normal(0.0, 0.11, sounder.size),
        "hmf2_km": levels.hmf2_at(100.0) + random.normal(0.0, 9.0, sounder.size),
        "m3000f2": levels.m3000f2_at(100.0) + random.normal(0.0, 0.15, sounder.size),
    }
    missing = dict.fromkeys([*list(values)[n_quantities:], "b0_km"], np.nan)
    return pd.DataFrame(
        {
            "observation_id": [str(number) for number in range(sounder.size)],
            "sounder_id": [f"S{number:05d}" for number in sounder],
            "observed_at": observed_at,
            "available_at": observed_at,
            "latitude_deg": latitude[sounder],
            "longitude_deg": longitude[sounder],
            "confidence_score": 80.0,
            **values,
            **missing,
            "revision": 0,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sounders", type=int, default=2_000)
    parser.add_argument("--quantities", type=int, choices=(1, 2, 3), default=1, help="foF2, hmF2, M(3000)F2")
    arguments = parser.parse_args()
    observations = network(arguments.sounders, arguments.quantities)
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    solve = estimate.solve

    def timed(*positional: Any) -> Any:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        try:
            return solve(*positional)
        finally:
            seconds.append(time.perf_counter() - begun)
            cpu_seconds.append(time.process_time() - cpu_begun)

    begun, cpu_begun = time.perf_counter(), time.process_time()
    with patch.object(estimate, "solve", timed):
        cycle = run_cycle(
            observations,
            valid_time=VALID_TIME,
            available_until=VALID_TIME,
            kernel=load_kernel_config(),
            background=Background(),
            grid=Grid.globe(),
            f107_sfu=120.0,
        )
    result = {
        "name": "large_network",
        "n_sounders": arguments.sounders,
        "n_rows": len(observations),
        "n_quantities": arguments.quantities,
        "analysis_s": round(sum(seconds), 1),
        "analysis_cpu_s": round(sum(cpu_seconds), 1),
        "cycle_s": round(time.perf_counter() - begun, 1),
        "cycle_cpu_s": round(time.process_time() - cpu_begun, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **cycle.metadata["scale"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
