"""Rate of validation: 100,000 ionograms cast and judged by their contract, once all good and once half of them bad.

Run as `python -m benchmarks.validate`; prints one JSON line. The import of the engine and the compilation of the suite
are paid once per process and given apart.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.validation import build_frame, validate_batch

N_ROWS = 100_000
REPEATS = 3
NOW = datetime(2022, 10, 25, 12, tzinfo=UTC)


def items(*, is_half_bad: bool) -> list[dict[str, Any]]:
    """Ionograms of ten sounders, as decoded from JSON; every other foF2 impossible if asked for."""
    provenance = {
        "received_at": NOW,
        "available_at": NOW,
        "source": "http",
        "licence": None,
        "batch_id": "benchmark",
    }
    return [
        {
            "sounder_id": f"SIM{index % 10:02d}",
            "observed_at": (NOW - timedelta(seconds=30 * (index // 10))).isoformat(),
            "latitude_deg": -60.0 + index % 121,
            "longitude_deg": float(index % 360),
            "confidence_score": index % 101,
            "fof2_mhz": 99.0 if is_half_bad and index % 2 else 5.5,
            "hmf2_km": 250.0,
            "m3000f2": None if index % 3 else 3.1,
            **provenance,
        }
        for index in range(N_ROWS)
    ]


def best_seconds(submitted: list[dict[str, Any]]) -> tuple[float, float]:
    """Best of some runs: seconds of the cast and of the judgement."""
    cast, judge = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        frame, failures = build_frame("ionograms", submitted)
        middle = time.perf_counter()
        validate_batch("ionograms", frame, now=NOW, cast_failures=failures)
        cast.append(middle - start)
        judge.append(time.perf_counter() - middle)
    return min(cast), min(judge)


def main() -> None:
    start = time.perf_counter()
    frame, _ = build_frame("ionograms", items(is_half_bad=False)[:10])
    validate_batch("ionograms", frame, now=NOW)
    first_s = time.perf_counter() - start
    cast_s, judge_s = best_seconds(items(is_half_bad=False))
    _, half_bad_s = best_seconds(items(is_half_bad=True))
    print(
        json.dumps(
            {
                "name": "validate",
                "n_rows": N_ROWS,
                "first_batch_s": round(first_s, 3),
                "cast_s": round(cast_s, 3),
                "validate_s": round(judge_s, 3),
                "validate_half_bad_s": round(half_bad_s, 3),
                "rows_per_s": round(N_ROWS / (cast_s + judge_s)),
            }
        )
    )


if __name__ == "__main__":
    main()
