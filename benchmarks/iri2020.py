"""Background foF2 against 37,035 hourly IRI-2020 values (Fortran, URSI and CCIR maps) and observations of 2019: one JSON line.

Not a timing. Reads `iri2020_2019/predictions_iri.csv.gz` of the shared observations (first argument: their folder; default beside the
checkout). The index that drove the reference is not in the file, so ours is fitted to it, one value a month and the same for both maps:
what remains is the difference between the maps (ours are spherical-harmonic fits to IRI's). Against the observations each map is scored with
three drivers: the day's F10.7, the index fitted to the reference, and the index fitted to the day before's observations; beside it the
reference itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Background, SolarLevels, f107_to_ig12
from tasks.effective_index import estimate_effective_index

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
NAME = "background foF2 against IRI-2020, 2019, five American stations"
#: Our maps, and the columns of IRI-2020's values.
REFERENCE = {"URSI": "foF2_U", "CCIR": "foF2_C"}
#: Below this many stations the index of the day before is not fitted and F10.7 drives.
FEWEST_STATIONS = 3
#: Solar zenith angles that part day, twilight and night.
DAY_DEG, NIGHT_DEG = 80.0, 100.0
Array = NDArray[np.float64]


def score(ours: Array, reference: Array) -> dict[str, float]:
    difference = ours - reference
    return {
        "rmse_mhz": round(float(np.sqrt(np.mean(difference**2))), 3),
        "bias_mhz": round(float(difference.mean()), 3),
    }


def fit(values: Array, levels: SolarLevels, where: NDArray[np.bool_]) -> float:
    return estimate_effective_index(values[where], levels.fof2_mhz[0, where], levels.fof2_mhz[1, where])


def index_of_reference(rows: pd.DataFrame, levels: SolarLevels) -> dict[int, float]:
    """The IG12 of each month that drives our URSI map to IRI-2020's."""
    reference = rows[REFERENCE["URSI"]].to_numpy()
    return {
        int(month): fit(reference, levels, rows["month"].to_numpy() == month)
        for month in sorted(rows["month"].unique())
    }


def compare(
    rows: pd.DataFrame, levels: SolarLevels, by_f107: Array, monthly: dict[int, float], name: str
) -> dict[str, Any]:
    observed, reference = rows["foF2"].to_numpy(), rows[REFERENCE[name]].to_numpy()
    fitted, effective = np.empty_like(observed), by_f107.copy()
    for month, index in monthly.items():
        where = rows["month"].to_numpy() == month
        fitted[where] = levels.fof2_at(index)[where]
    day = rows["DayOfYear"].to_numpy()
    for number in np.unique(day)[1:]:
        yesterday, today = day == number - 1, day == number
        if rows["Station"][yesterday].nunique() >= FEWEST_STATIONS:
            effective[today] = levels.fof2_at(fit(observed, levels, yesterday))[today]
    zenith = rows["solar_zenith_deg"].to_numpy()
    parts = {
        **{station: rows["Station"].to_numpy() == station for station in sorted(rows["Station"].unique())},
        "day": zenith < DAY_DEG,
        "twilight": (zenith >= DAY_DEG) & (zenith <= NIGHT_DEG),
        "night": zenith > NIGHT_DEG,
    }
    return {
        "ours_vs_iri2020": score(fitted, reference)
        | {"largest_mhz": round(float(np.abs(fitted - reference).max()), 3)},
        "ours_vs_iri2020_by_part": {
            part: score(fitted[where], reference[where]) for part, where in parts.items()
        },
        "iri2020_vs_observed": score(reference, observed),
        "ours_f107_vs_observed": score(by_f107, observed),
        "ours_index_of_iri2020_vs_observed": score(fitted, observed),
        "ours_yesterdays_effective_index_vs_observed": score(effective, observed),
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
    latitude, longitude = rows["Latitude"].to_numpy(), rows["Longitude"].to_numpy()
    maps: dict[str, dict[str, Any]] = {}
    monthly: dict[int, float] = {}
    for name in ("URSI", "CCIR"):
        background = Background(fof2_map=name)
        state = background.at(times, latitude, longitude, daily)
        rows = rows.assign(month=times.dt.month, solar_zenith_deg=state.solar_zenith_deg)
        levels = background.solar_levels(times, latitude, longitude)
        monthly = monthly or index_of_reference(rows, levels)
        maps[name] = compare(rows, levels, state.fof2_mhz, monthly, name)
    print(json.dumps({"name": NAME, "n": len(rows), "ig12_of_iri2020_by_month": monthly, **maps}))


if __name__ == "__main__":
    main()
