"""Electron density on 73 x 73 places and 55 heights, and finer, against PyIRI's builder in the same run: one JSON line.

`largest_difference` is that of the densities over the peak density of their place.
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
from tasks.profile import Peaks

MOMENT = datetime(2022, 10, 25, 12, tzinfo=UTC)
F107_SFU = 115.0
REPEATS = 9


def places(n: int) -> tuple[np.ndarray, np.ndarray]:
    latitude, longitude = np.meshgrid(np.linspace(-90, 90, n), np.linspace(-180, 175, n), indexing="ij")
    return latitude.ravel(), longitude.ravel()


def main() -> None:
    background, ig12 = Background(), f107_to_ig12(F107_SFU)
    heights = np.linspace(60.0, 600.0, 55)
    latitude, longitude = places(73)
    peaks = Peaks.of_background(background.on_grid(MOMENT, latitude, longitude, ig12), ig12)
    timings = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ours = peaks.density(heights)
        timings.append(time.perf_counter() - start)
    ours_s = statistics.median(timings)
    start = time.perf_counter()
    content = peaks.vertical_tec()
    content_s = time.perf_counter() - start

    fine_heights = np.linspace(60.0, 1000.0, 189)
    fine_latitude, fine_longitude = places(181)
    start = time.perf_counter()
    state = background.on_grid(MOMENT, fine_latitude, fine_longitude, ig12)
    Peaks.of_background(state, ig12).density(fine_heights)
    fine_s = time.perf_counter() - start

    import PyIRI
    import PyIRI.sh_library as pyiri

    warnings.simplefilter("ignore")
    f2, f1, e, *_, theirs = pyiri.IRI_density_1day(
        MOMENT.year, MOMENT.month, MOMENT.day, np.array([12.0]), longitude, latitude, heights, F107_SFU,
        old_output=False,
    )  # fmt: skip
    start = time.perf_counter()
    theirs = pyiri.EDP_builder_continuous(f2, f1, e, heights)[0]
    peer_s = time.perf_counter() - start
    # PyIRI scales the F1 layer by the largest probability of the call: compare where there is none.
    is_night = f1["P"][0] < 0.1
    difference = np.abs(ours - theirs) / f2["Nm"][0]
    print(
        json.dumps(
            {
                "name": "electron density, 73 x 73 places x 55 heights, from given peaks",
                "ours_s": round(ours_s, 4),
                "peer": f"PyIRI {PyIRI.__version__}, EDP_builder_continuous",
                "peer_s": round(peer_s, 3),
                "ratio": round(peer_s / ours_s, 1),
                "n_cores": len(os.sched_getaffinity(0)),
                "largest_difference": float(difference[:, is_night].max()),
                "tec_s": round(content_s, 4),
                "tec_median_tecu": round(float(np.median(content)), 1),
                "fine": "181 x 181 places x 189 heights with the background",
                "fine_s": round(fine_s, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
