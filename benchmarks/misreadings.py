"""What quality control makes of whole hours of a station in which foF2 was misread: the extraordinary trace, the F1 layer.

    python benchmarks/misreadings.py [--share 0.1] [--every 60] [--seed 1] [FILE...]

In a share of all hours of all stations every foF2 is replaced by what the misreading would give. A cycle an hour judges its
newest hour. One JSON line for each kind: how many were stopped and named, how far they were off, and the error of what is said
of the right readings without their station, beside the same without any misreading.
"""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Background, f107_to_ig12
from tasks.cycle import run_cycle
from tasks.kernel_config import load_kernel_config
from tasks.magnetic_field import extraordinary_mhz, gyrofrequency_mhz
from tasks.profile import Peaks
from tasks.series import read_ionograms

EUROPE = Path(__file__).resolve().parents[2] / "shared" / "data" / "europe_2022"
F107_SFU = 115.0  # of the time of EUROPE, for the climatology's F1 layer
SURELY_THERE = 0.5  # probability of an F1 layer from which on it can be taken for the F2 layer
READING_SD = 0.05  # of ln foF1 about the climatology: chosen
WINDOW_H = 30.0
KINDS = ("x_trace", "f1_layer")

Array = NDArray[np.float64]


def misread(kind: str, rows: pd.DataFrame, background: Background, random: np.random.Generator) -> Array:
    """What a misreading gives at every row (n,) in MHz; NaN where there is nothing to misread."""
    latitude, longitude = rows["latitude_deg"].to_numpy(), rows["longitude_deg"].to_numpy()
    fof2_mhz = rows["fof2_mhz"].to_numpy()
    if kind == "x_trace":
        return extraordinary_mhz(fof2_mhz, gyrofrequency_mhz(rows["observed_at"], latitude, longitude))
    ig12 = f107_to_ig12(F107_SFU)
    layers = Peaks.of_background(background.at(rows["observed_at"], latitude, longitude, ig12), ig12).layers()
    fof1_mhz = layers.fof1_mhz * np.exp(READING_SD * random.standard_normal(len(rows)))
    return np.where((layers.f1_probability > SURELY_THERE) & (fof1_mhz < fof2_mhz), fof1_mhz, np.nan)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE")
    parser.add_argument("--share", type=float, default=0.1, help="of the hours")
    parser.add_argument("--every", type=int, default=60, metavar="MINUTES")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    files = arguments.files or [EUROPE]
    if files == [EUROPE] and not EUROPE.is_dir():
        skipped = "no files given and no shared/data beside the checkout"
        print(json.dumps({"name": "misreadings", "skipped": skipped}))
        return
    right, background, kernel = read_ionograms(files), Background(), load_kernel_config()
    right = right[right["fof2_mhz"].notna()].reset_index(drop=True)
    hours = pd.DataFrame({"sounder": right["sounder_id"], "hour": right["observed_at"].dt.floor("h")})
    number = hours.groupby(["sounder", "hour"]).ngroup().to_numpy()
    random = np.random.default_rng(arguments.seed)
    is_chosen = (random.random(number.max() + 1) < arguments.share)[number]
    first = (right["observed_at"].min() + pd.Timedelta(hours=WINDOW_H)).ceil("h")
    times = pd.date_range(first, right["observed_at"].max(), freq=f"{arguments.every}min")

    def judged(rows: pd.DataFrame) -> pd.DataFrame:
        """Feedback of the newest hour of every cycle."""
        parts = []
        for time in times:
            moment = time.to_pydatetime()
            cycle = run_cycle(
                rows, valid_time=moment, available_until=moment, kernel=kernel, background=background
            )
            said = cycle.feedback.to_pandas()
            is_new = said["observed_at"] > time - timedelta(hours=1)
            parts.append(said[is_new & (said["quantity"] == "fof2_mhz")])
        return pd.concat(parts).drop_duplicates("observation_id").set_index("observation_id")

    def rmse(said: pd.DataFrame, ids: pd.Index[str]) -> float:
        chosen = said.loc[said.index.intersection(ids)]
        return float(np.sqrt(np.mean((chosen["holdout_value"] - chosen["obs_value"]) ** 2)))

    clean = judged(right)
    for kind in KINDS:
        value = misread(kind, right, background, random)
        is_wrong = is_chosen & ~np.isnan(value)
        said = judged(right.assign(fof2_mhz=np.where(is_wrong, value, right["fof2_mhz"])))
        off = pd.Series(np.abs(np.log(value / right["fof2_mhz"])).to_numpy(), right["observation_id"])[
            is_wrong
        ]
        wrong = said.loc[said.index.intersection(off.index)]
        off = off[wrong.index]
        stopped = wrong["qc_flag"] != "accepted"
        ids_of_right = pd.Index(right["observation_id"][~is_chosen])
        ids_of_right = ids_of_right.intersection(clean.index[clean["qc_flag"] == "accepted"])
        before, after = rmse(clean, ids_of_right), rmse(said, ids_of_right)
        small = off < off.median()
        line = {
            "name": "misreadings",
            "kind": kind,
            "n": len(wrong),
            "stopped": float(stopped.mean()),
            "named": float(wrong["qc_flag"].isin(["x_trace", "e_layer", "f1_layer"]).mean()),
            "median_ln_off": float(off.median()),
            "stopped_smaller_half": float(stopped[small].mean()),
            "stopped_larger_half": float(stopped[~small].mean()),
            "mean_weight_of_accepted": float(wrong["weight"][~stopped].mean()),
            "right_stopped": float(
                (said.loc[said.index.intersection(ids_of_right), "qc_flag"] != "accepted").mean()
            ),
            "rmse_of_right_mhz": after,
            "rmse_without_misreadings_mhz": before,
            "ratio": after / before,
        }
        rounded = {key: round(x, 4) if isinstance(x, float) else x for key, x in line.items()}
        print(json.dumps(rounded).replace("NaN", "null"), flush=True)


if __name__ == "__main__":
    main()
