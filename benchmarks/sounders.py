"""Skill of the default simulated network of NVIS sounders at places of which nothing is sent: one JSON line per seed, and a table.

    python -m benchmarks.sounders [--seeds 1 2 3] [--hours 24] [--every 15] [--spin-up 2]

Each seed is another network and another ionosphere, with weather, travelling disturbances and, for odd seeds, a storm that begins after
10 hours. Cycles go one by what the one before knew of the sounders, as in live operation; those of the first hours, in which the network
has not been heard for long, are not scored. The bar: RMSE of foF2 at most 5 % of the truth, 86 to 94 % of the truths within the 90 % band, and
at least 40 % below the climatology without any observation (`background`); the climatology at the index that the sounders choose is
`indexed`.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from autonvis.simulate import Network, truth_of
from tasks.background import Background
from tasks.contracts import arrow_schema
from tasks.cycle import run_cycle
from tasks.kernel_config import load_kernel_config
from tasks.lake import to_frame
from tasks.prediction import Z_75, Z_95
from tasks.simulated_sounders import (
    DEFAULT_NETWORK,
    DEFAULT_REGION,
    SimulatedSounder,
    as_rows,
    draw_network,
    listen,
)
from tasks.simulated_truth import SimulatedTruth, Storm
from tasks.soundings import Heard

START = datetime(2026, 3, 20, tzinfo=UTC)
STORM_ONSET_H = 10.0
LATE = timedelta(minutes=3)
"""After the valid time the cycle runs, as deployed."""


COMPARED = (
    *("tier", "tier_made", "delay_sd_ms", "delay_sd_low_ms", "delay_sd_high_ms", "delay_sd_ms_made"),
    *("delay_bias_ms_made", "delay_bias_ms", "delay_bias_sd_ms", "is_delay_biased"),
    *("signal_sd_db", "signal_sd_db_made", "signal_bias_db", "signal_bias_db_made", "is_signal_biased"),
)


class Places:
    """The withheld places as the grid of a cycle."""

    def __init__(self, places: pd.DataFrame) -> None:
        self._latitude, self._longitude = (
            places[name].to_numpy(dtype=np.float64) for name in ("latitude_deg", "longitude_deg")
        )

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Latitude and longitude of the places."""
        return self._latitude.copy(), self._longitude.copy()


def run_seed(
    seed: int, hours: float, every_minutes: int, spin_up_h: float
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Scores of one seed, and its sounders beside what they were made as."""
    kernel, background = load_kernel_config(), Background()
    storm = Storm(STORM_ONSET_H) if seed % 2 else None
    network = Network(START, hours, seed, DEFAULT_REGION, DEFAULT_NETWORK, None, 50)
    truth = SimulatedTruth(seed, START, storm=storm, background=background)
    sounders = draw_network(seed)
    items = [item for sounder in sounders for item in listen(sounder, truth, START, hours, seed)]
    table = truth_of(network, truth, sounders)
    withheld = table[table["sounder_id"].isna()]
    places = withheld[["latitude_deg", "longitude_deg"]].drop_duplicates()
    default = background.at(
        pd.DatetimeIndex(withheld["valid_time"]),
        withheld["latitude_deg"].to_numpy(),
        withheld["longitude_deg"].to_numpy(),
        kernel.effective_index.default_ig12,
    )
    withheld = withheld.assign(default_mhz=default.fof2_mhz)
    heard = Heard(
        as_rows(items),
        to_frame(arrow_schema("sounders").empty_table()),
        {sounder.sounder_id: sounder.declared for sounder in sounders},
    )
    none = to_frame(arrow_schema("ionograms").empty_table())
    scored, seconds = [], []
    for number in range(int(hours * 60) // every_minutes + 1):
        valid_time = START + timedelta(minutes=every_minutes * number)
        began = time.perf_counter()
        cycle = run_cycle(
            none,
            valid_time=valid_time,
            available_until=valid_time + LATE,
            kernel=kernel,
            background=background,
            grid=Places(places),  # type: ignore[arg-type]
            heard=heard,
            cycle_minutes=every_minutes,
        )
        seconds.append(time.perf_counter() - began)
        heard = heard.after(cycle.sounders)
        if number * every_minutes >= spin_up_h * 60:
            real = withheld[withheld["valid_time"] == pd.Timestamp(valid_time)]
            scored.append(
                real.merge(
                    to_frame(cycle.analysis), on=["latitude_deg", "longitude_deg"], suffixes=("_true", "")
                )
            )
    rows = pd.concat(scored, ignore_index=True)
    scores = score(rows) | {
        "seed": seed,
        "storm": storm is not None,
        "cycle_s": round(float(np.median(seconds)), 2),
    }
    return scores, compare(to_frame(cycle.sounders), sounders)


def score(rows: pd.DataFrame) -> dict[str, Any]:
    """Of withheld places: columns of the dataset `analysis`, the truth with `_true`, and `default_mhz`."""
    true = rows["fof2_mhz_true"]
    spread = np.sqrt(np.log1p((rows["fof2_mhz_sd"] / rows["fof2_mhz"]) ** 2))
    z = np.log(true / rows["fof2_mhz"]) / spread

    def rmse(name: str) -> float:
        return float(np.sqrt(((rows[name] / true - 1.0) ** 2).mean()))

    return {
        "n": len(rows),
        "fof2_rmse": round(rmse("fof2_mhz"), 4),
        "fof2_bias": round(float((rows["fof2_mhz"] / true - 1.0).mean()), 4),
        "background_rmse": round(rmse("default_mhz"), 4),
        "indexed_rmse": round(rmse("fof2_background_mhz"), 4),
        "below_background": round(1.0 - rmse("fof2_mhz") / rmse("default_mhz"), 3),
        "coverage50": round(float((np.abs(z) < Z_75).mean()), 3),
        "coverage90": round(float((np.abs(z) < Z_95).mean()), 3),
        "hmf2_rmse_km": round(float(np.sqrt(((rows["hmf2_km"] - rows["hmf2_km_true"]) ** 2).mean())), 1),
        "hmf2_background_rmse_km": round(
            float(np.sqrt(((rows["hmf2_background_km"] - rows["hmf2_km_true"]) ** 2).mean())), 1
        ),
    }


def compare(found: pd.DataFrame, made: list[SimulatedSounder]) -> pd.DataFrame:
    """Tier, error and bias as estimated beside what each sounder was made as."""
    truth = pd.DataFrame([sounder.describe() for sounder in made]).set_index("sounder_id")
    frame = found.set_index("sounder_id").join(truth.add_suffix("_made"))
    return frame[list(COMPARED)]


def _by_tier(values: pd.Series, sounders: pd.DataFrame) -> dict[str, float]:
    """Mean over the sounders of a tier."""
    return {
        str(tier): round(float(mean), 2)
        for tier, mean in values.groupby(sounders["tier_made"]).mean().items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--every", type=int, default=15, metavar="MIN")
    parser.add_argument("--spin-up", type=float, default=2.0, metavar="H")
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        scores, sounders = run_seed(seed, arguments.hours, arguments.every, arguments.spin_up)
        is_right = sounders["tier"] == sounders["tier_made"]
        within = sounders["delay_sd_ms_made"].between(
            sounders["delay_sd_low_ms"], sounders["delay_sd_high_ms"]
        )
        scores |= {
            "tiers_right": round(float(is_right.mean()), 2),
            "delay_sd_within_90": round(float(within.mean()), 2),
            "delay_sd_over_made": _by_tier(sounders["delay_sd_ms"] / sounders["delay_sd_ms_made"], sounders),
            "delay_sd_within_90_of": _by_tier(within.astype(float), sounders),
            "biased_found": int(sounders["is_delay_biased"].sum()),
        }
        print(json.dumps({"name": "sounders", **scores}), flush=True)
        results.append(scores)
    print("\n| seed | storm | RMSE foF2 | background | below it | 90 % band | hmF2, km | tiers right |")
    print("|---|---|---|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['seed']} | {'yes' if row['storm'] else 'no'} | {row['fof2_rmse']:.1%} | {row['background_rmse']:.1%} | "
            f"{row['below_background']:.0%} | {row['coverage90']:.2f} | {row['hmf2_rmse_km']} | {row['tiers_right']:.0%} |"
        )


if __name__ == "__main__":
    main()
