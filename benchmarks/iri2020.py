"""Background foF2 against 37,035 hourly IRI-2020 values (Fortran, URSI maps) and observations of 2019: one JSON line.

Not a timing. Reads `iri2020_2019/predictions_iri.csv.gz` of the shared observations (first argument: their folder; default beside the
checkout). The index that drove the reference is not in the file, so ours is fitted to it, one value a month: what remains
is the difference between the maps (ours are spherical-harmonic fits to IRI's). Against the observations three drivers
are scored: the day's F10.7, the index fitted to the reference, and the index fitted to the day before's observations.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Background, f107_to_ig12
from tasks.effective_index import estimate_effective_index

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
NAME = "background foF2 against IRI-2020 (URSI), 2019, five American stations"
#: Below this many stations the index of the day before is not fitted and F10.7 drives.
FEWEST_STATIONS = 3
Array = NDArray[np.float64]


def score(ours: Array, reference: Array) -> dict[str, float]:
    difference = ours - reference
    return {
        "rmse_mhz": round(float(np.sqrt(np.mean(difference**2))), 3),
        "bias_mhz": round(float(difference.mean()), 3),
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER
    path = folder / "iri2020_2019" / "predictions_iri.csv.gz"
    if not path.is_file():
        print(
            json.dumps({"name": NAME, "skipped": f"{path.name} is not in the folder of shared observations"})
        )
        return
    rows = pd.read_csv(path)
    times = pd.Timestamp("2019-01-01") + pd.to_timedelta(
        (rows["DayOfYear"] - 1) * 24 + rows["Hour"], unit="h"
    )
    daily = rows["F10.7"].map({value: f107_to_ig12(value) for value in rows["F10.7"].unique()}).to_numpy()

    background = Background()
    latitude, longitude = rows["Latitude"].to_numpy(), rows["Longitude"].to_numpy()
    by_f107 = background.at(times, latitude, longitude, daily).fof2_mhz
    levels = background.solar_levels(times, latitude, longitude)
    observed, reference = rows["foF2"].to_numpy(), rows["foF2_U"].to_numpy()

    def fit(values: Array, where: Array) -> float:
        return estimate_effective_index(values[where], levels.fof2_mhz[0, where], levels.fof2_mhz[1, where])

    fitted, effective = np.empty_like(observed), by_f107.copy()
    month, day = times.dt.month.to_numpy(), rows["DayOfYear"].to_numpy()
    monthly_index = {}
    for number in np.unique(month):
        where = month == number
        monthly_index[int(number)] = fit(reference, where)
        fitted[where] = levels.fof2_at(monthly_index[int(number)])[where]
    for number in np.unique(day)[1:]:
        yesterday, today = day == number - 1, day == number
        if rows["Station"][yesterday].nunique() >= FEWEST_STATIONS:
            effective[today] = levels.fof2_at(fit(observed, yesterday))[today]
    print(
        json.dumps(
            {
                "name": NAME,
                "n": len(rows),
                "ours_vs_iri2020": score(fitted, reference),
                "ig12_of_iri2020_by_month": monthly_index,
                "iri2020_vs_observed": score(reference, observed),
                "ours_f107_vs_observed": score(by_f107, observed),
                "ours_index_of_iri2020_vs_observed": score(fitted, observed),
                "ours_yesterdays_effective_index_vs_observed": score(effective, observed),
            }
        )
    )


if __name__ == "__main__":
    main()
