"""Virtual heights of one profile at many frequencies, both modes, beside PyRayHF's in the same run: one JSON line.

Errors are against brute force (`tests/reference/virtual_height.py`); PyRayHF gets the same density every 0.5 km and its default of 200
points. CPU seconds of one thread, the fastest of several, so that a busy machine counts little.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.group_delay import ceilings_mhz, virtual_heights_km
from tasks.profile import Peaks
from tests.reference.virtual_height import virtual_height_km

NOON = Peaks(8.0, 290.0, 3.1, 95.0, 1.9, 3.2, 40.0, 70.0)
NIGHT = Peaks(4.0, 330.0, 2.9, 70.0, 2.7, 0.7, 130.0, 70.0)
GYROFREQUENCY_MHZ, DIP_DEG = 1.2, 62.0
N_FREQUENCIES = 20_000
N_CHECKED = 25
REPEATS = 15


def cpu_s(work: Callable[[], object]) -> float:
    timings = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        timings.append(time.process_time() - start)
    return min(timings)


def main() -> None:
    warnings.simplefilter("ignore")
    from importlib.metadata import version

    from PyRayHF.library import vertical_forward_operator

    ours_s, peer_s, ours_error, peer_error = 0.0, 0.0, [], []
    for peaks in (NOON, NIGHT):
        heights = np.arange(60.0, float(np.asarray(peaks.hmf2_km)) + 0.25, 0.5)
        density = peaks.density(heights)[:, 0]
        # fH = 28.0 GHz/T.
        field = np.full(heights.size, GYROFREQUENCY_MHZ / 2.799249e4)
        angle = np.full(heights.size, 90.0 - DIP_DEG)
        for is_x, mode in ((False, "O"), (True, "X")):
            ceiling = ceilings_mhz(peaks, 0, is_x, 0.0, GYROFREQUENCY_MHZ, DIP_DEG)[0]
            many = np.linspace(0.45 * ceiling, 0.99 * ceiling, N_FREQUENCIES)
            few = np.linspace(0.45 * ceiling, 0.99 * ceiling, N_CHECKED)

            def ours(frequency: np.ndarray = many, peaks: Peaks = peaks, is_x: bool = is_x) -> np.ndarray:
                return virtual_heights_km(peaks, 0, frequency, is_x, GYROFREQUENCY_MHZ, DIP_DEG, n_threads=1)

            def peer(
                frequency: np.ndarray = few,
                given: tuple[np.ndarray, ...] = (density, field, angle, heights),
                mode: str = mode,
            ) -> np.ndarray:
                return np.asarray(vertical_forward_operator(frequency, *given, mode=mode))

            exact = np.array(
                [
                    virtual_height_km(
                        lambda height, peaks=peaks: peaks.density(height)[:, 0],
                        float(np.asarray(peaks.hmf2_km)),
                        frequency,
                        GYROFREQUENCY_MHZ,
                        DIP_DEG,
                        is_x,
                    )
                    for frequency in few
                ]
            )
            ours_s += cpu_s(ours) / N_FREQUENCIES / 4
            peer_s += cpu_s(peer) / N_CHECKED / 4
            ours_error.append(np.abs(ours(few) - exact))
            peer_error.append(np.abs(peer() - exact))
    errors = {name: np.concatenate(values) for name, values in (("ours", ours_error), ("peer", peer_error))}
    print(
        json.dumps(
            {
                "name": "virtual height, one profile x 20,000 frequencies, day and night, O and X",
                "ours_us": round(1e6 * ours_s, 2),
                "peer": f"PyRayHF {version('PyRayHF')}, 200 points",
                "peer_us": round(1e6 * peer_s, 1),
                "ratio": round(peer_s / ours_s, 1),
                "n_threads": 1,
                "ours_error_m": {
                    "median": round(1e3 * float(np.median(errors["ours"])), 3),
                    "largest": round(1e3 * float(errors["ours"].max()), 2),
                },
                "peer_error_m": {
                    "median": round(1e3 * float(np.median(errors["peer"])), 1),
                    "largest": round(1e3 * float(np.nanmax(errors["peer"])), 1),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
