"""Skill at held-out stations over whole files of observations, one JSON line per quantity.

    python benchmarks/skill.py ../shared/data/europe_2022
    python benchmarks/skill.py --every 180 --stations ../shared/data/americas_2019
    python benchmarks/skill.py --every 30 --gross-errors 0.1 --without-control ../shared/data/europe_2022

Runs a cycle for every quarter of an hour, each from the observations up to its own time; the last line per quantity
says how the held-out prediction compares with IRI driven by the one index that the other stations give.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.background import Background
from tasks.contracts import load_contract
from tasks.cycle import run_cycle
from tasks.kernel_config import QUANTITIES, load_kernel_config
from tasks.observation_files import read_frame
from tasks.verification import ALL_STATIONS, skill_table

EUROPE = Path(__file__).resolve().parents[2] / "shared" / "data" / "europe_2022"

LOOSE_SD = 1e9  # a threshold that nothing reaches


def spoil(observations: pd.DataFrame, share: float) -> tuple[pd.DataFrame, set[tuple[str, pd.Timestamp]]]:
    """The observations with gross errors in a share of foF2, by factors 0.5-0.82 and 1.22-2, and which these are."""
    random = np.random.default_rng(5)
    n = len(observations)
    is_spoiled = (random.uniform(size=n) < share) & observations["fof2_mhz"].notna().to_numpy()
    factor = np.exp(random.choice([-1, 1], n) * random.uniform(0.2, 0.7, n))
    spoiled = observations.copy()
    spoiled["fof2_mhz"] *= np.where(is_spoiled, factor, 1.0)
    rows = observations[is_spoiled]
    return spoiled, set(zip(rows["sounder_id"], rows["observed_at"], strict=True))


def as_ionograms(items: pd.DataFrame) -> pd.DataFrame:
    """Submission items as rows of the dataset: available when observed, physically possible values only."""
    frame = pd.DataFrame(index=items.index)
    for column in load_contract("ionograms").columns:
        frame[column.name] = items.get(column.name)
    for name in (*QUANTITIES, "confidence_score", "latitude_deg", "longitude_deg"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce")
    frame["available_at"] = frame["observed_at"]
    frame["observation_id"] = frame["sounder_id"] + "|" + frame["observed_at"].astype("int64").astype(str)
    return frame.dropna(subset=["latitude_deg", "longitude_deg"])


def verify(
    observations: pd.DataFrame,
    *,
    start: pd.Timestamp,
    end: pd.Timestamp,
    every_minutes: int,
    f107_sfu: float | None,
    config: Path | None,
    is_controlled: bool = True,
) -> pd.DataFrame:
    kernel, background = load_kernel_config(config), Background()
    if not is_controlled:
        loose = {"background_sd": LOOSE_SD, "buddy_sd": LOOSE_SD, "full_weight_sd": LOOSE_SD}
        kernel = kernel.model_copy(update={"quality": kernel.quality.model_copy(update=loose)})
    observations = observations.sort_values("observed_at")
    parts = []
    for valid_time in pd.date_range(start, end, freq=f"{every_minutes}min"):
        first = observations["observed_at"].searchsorted(valid_time - pd.Timedelta(hours=kernel.lookback_h))
        last = observations["observed_at"].searchsorted(valid_time, side="right")
        cycle = run_cycle(
            observations.iloc[first:last],
            valid_time=valid_time.to_pydatetime(),
            available_until=valid_time.to_pydatetime(),
            kernel=kernel,
            background=background,
            f107_sfu=f107_sfu,
        )
        parts.append(cycle.verification.to_pandas())
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="default: ../shared/data/europe_2022")
    parser.add_argument(
        "--start", type=lambda text: pd.Timestamp(datetime.fromisoformat(text).replace(tzinfo=UTC))
    )
    parser.add_argument("--days", type=float)
    parser.add_argument("--every", type=int, default=15, help="minutes between cycles")
    parser.add_argument("--f107", type=float, help="solar flux in sfu")
    parser.add_argument("--config", type=Path, help="kernel configuration")
    parser.add_argument(
        "--gross-errors", type=float, default=0.0, help="share of foF2 to spoil; the rest is scored"
    )
    parser.add_argument(
        "--without-control", action="store_true", help="no quality control beside physical limits"
    )
    parser.add_argument("--stations", action="store_true", help="print the table by station too")
    arguments = parser.parse_args()
    if not arguments.files and not EUROPE.is_dir():
        print(
            json.dumps({"name": "skill", "skipped": "no files given and no shared/data beside the checkout"})
        )
        return

    items = pd.concat([read_frame(path) for path in arguments.files or [EUROPE]], ignore_index=True)
    observations, spoiled = spoil(as_ionograms(items), arguments.gross_errors)
    start = arguments.start or observations["observed_at"].min().ceil("15min")
    end = observations["observed_at"].max()
    if arguments.days:
        end = min(end, start + pd.Timedelta(days=arguments.days))
    begun = time.perf_counter()
    verification = verify(
        observations,
        start=start,
        end=end,
        every_minutes=arguments.every,
        f107_sfu=arguments.f107,
        config=arguments.config,
        is_controlled=not arguments.without_control,
    )
    keys = zip(verification["sounder_id"], verification["observed_at"], strict=True)
    verification = verification[[key not in spoiled for key in keys]]
    elapsed = time.perf_counter() - begun
    table = skill_table(verification)
    if arguments.stations:
        print(table.to_string(index=False))
    for row in table[table["sounder_id"] == ALL_STATIONS].to_dict("records"):
        line = {"name": "skill", **row, "elapsed_s": round(elapsed, 1)}
        line["improvement"] = 1 - row["rmse_holdout"] / row["rmse_iri_index"]
        print(
            json.dumps(
                {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}
            )
        )


if __name__ == "__main__":
    main()
