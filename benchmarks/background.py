"""Background on a 1-degree grid (65,160 points) at one time, against PyIRI in the same run: one JSON line.

Bars: ours under 0.2 s on 2 cores, at least 50 times faster. `largest_difference` is relative, over all parameters.
"""

from __future__ import annotations

import json
import os
import statistics
import time
import warnings
from datetime import UTC, datetime

import numpy as np

from tasks.background import Background, f107_to_ig12

MOMENT = datetime(2022, 10, 25, 12, tzinfo=UTC)
F107_SFU = 115.0
REPEATS = 9


def main() -> None:
    latitude, longitude = (
        a.ravel() for a in np.meshgrid(np.arange(-90.0, 91.0), np.arange(-180.0, 180.0), indexing="ij")
    )
    background = Background()
    ig12 = f107_to_ig12(F107_SFU)
    timings = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ours = background.on_grid(MOMENT, latitude, longitude, ig12)
        timings.append(time.perf_counter() - start)
    ours_s = statistics.median(timings)

    import PyIRI
    import PyIRI.sh_library as pyiri

    warnings.simplefilter("ignore")
    start = time.perf_counter()
    # One altitude only: the profile is not part of what is compared.
    f2, _, e, *_ = pyiri.IRI_density_1day(
        MOMENT.year, MOMENT.month, MOMENT.day, np.array([12.0]), longitude, latitude, np.array([300.0]), F107_SFU,
        old_output=False,
    )  # fmt: skip
    peer_s = time.perf_counter() - start

    pairs = [
        (ours.fof2_mhz, f2["fo"]), (ours.hmf2_km, f2["hm"]), (ours.m3000f2, f2["M3000"]),
        (ours.b0_km, f2["B0"]), (ours.b1, f2["B1"]), (ours.foe_mhz, e["fo"]),
    ]  # fmt: skip
    print(
        json.dumps(
            {
                "name": "background, 65,160 points, one time",
                "ours_s": round(ours_s, 4),
                "peer": f"PyIRI {PyIRI.__version__}",
                "peer_s": round(peer_s, 3),
                "ratio": round(peer_s / ours_s, 1),
                "n_points": latitude.size,
                "n_cores": len(os.sched_getaffinity(0)),
                "largest_difference": max(float(np.abs(found / peer[0] - 1).max()) for found, peer in pairs),
            }
        )
    )


if __name__ == "__main__":
    main()
