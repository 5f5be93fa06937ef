"""Rate from received records to published Parquet: spool, hand-off, decode, contract, repeats, publish, catalog.

    python benchmarks/lake.py [n_rows] [items_per_message]

The import of Great Expectations (once per process) is left out by a first small batch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.curation import curate_batch
from tasks.landing.spool import Record, SpoolWriter, hand_off
from tasks.settings import Settings

START = datetime(2022, 10, 24, tzinfo=UTC)
N_STATIONS = 100


def main(n_rows: int, items_per_message: int) -> None:
    """Land and curate `n_rows` ionograms of 100 stations and print one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        run(settings, records(N_STATIONS, 1, START - timedelta(days=1)))
        messages = list(records(n_rows, items_per_message, START))
        began_s = time.perf_counter()
        path = land(settings, messages)
        landed_s = time.perf_counter() - began_s
        result = curate_batch(path, settings=settings)
        total_s = time.perf_counter() - began_s
        if result.n_accepted != n_rows:
            raise SystemExit(f"{result.n_accepted} of {n_rows} rows were accepted: {result}")
    line = {
        "name": "land_to_parquet",
        "n_rows": n_rows,
        "items_per_message": items_per_message,
        "rate": round(n_rows / total_s),
        "unit": "observations/s",
        "landed_s": round(landed_s, 3),
        "total_s": round(total_s, 3),
        "n_files": len(result.files),
    }
    print(json.dumps(line))


def run(settings: Settings, messages: Iterator[Record]) -> None:
    """Land and curate."""
    curate_batch(land(settings, list(messages)), settings=settings)


def land(settings: Settings, messages: list[Record]) -> Path:
    """Spool the records, 1,000 per sync as the consumers do, and hand the segment to the lake."""
    writer = SpoolWriter(settings.spool_root / "benchmark", segment_bytes=2**40)
    for first in range(0, len(messages), 1_000):
        writer.append_many(messages[first : first + 1_000])
    sealed = writer.seal()
    assert sealed is not None
    return hand_off(sealed, settings.lake_root)


def records(n_rows: int, items_per_message: int, start: datetime) -> Iterator[Record]:
    """Messages of distinct ionograms, all stations every 15 minutes."""
    items = [
        {
            "sounder_id": f"ST{row % N_STATIONS:03d}",
            "observed_at": (start + row // N_STATIONS * timedelta(minutes=15)).isoformat(),
            "latitude_deg": 40.0 + row % N_STATIONS / 10,
            "longitude_deg": 10.0,
            "confidence_score": 80,
            "fof2_mhz": 4.0 + row % 97 / 50,
            "hmf2_km": 300.0 + row % 89,
            "m3000f2": 3.1,
        }
        for row in range(n_rows)
    ]
    for first in range(0, n_rows, items_per_message):
        part = items[first : first + items_per_message]
        yield Record(
            channel="mqtt",
            dataset="ionograms",
            sounder_id=None,
            received_at=start + timedelta(days=60),
            content_type="application/json",
            payload=json.dumps(part if items_per_message > 1 else part[0]).encode(),
            source="mqtt",
            licence=None,
        )


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[1:]]
    main(*(arguments + [100_000, 1][len(arguments) :]))
