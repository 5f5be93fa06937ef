"""What a series of cycles was worth: one line per quantity and lead, and a page of Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.artifacts import markdown_table
from tasks.background import Background

Array: TypeAlias = NDArray[np.float64]
Line: TypeAlias = dict[str, Any]

NAMES = {"fof2_mhz": "foF2, MHz", "hmf2_km": "hmF2, km", "m3000f2": "M(3000)F2", "b0_km": "B0, km"}
DIGITS = {"fof2_mhz": 3, "hmf2_km": 1, "m3000f2": 3, "b0_km": 1}
REFERENCES = {
    "iri_index": "IRI, one index",
    "kc2g_kernel": "KC2G's kernel",
    "persistence_24h": "24-h persistence",
    "persistence_departure": "departure kept",
}
DISTANCES_KM = (300.0, 700.0, 1500.0)
LATITUDES_DEG = (20.0, 50.0)  # magnetic; the crests of the equatorial anomaly lie below, the trough above
KPS = (3.0, 5.0)
ZENITHS_DEG = (80.0, 100.0)  # the Sun sets in the F layer some 15 degrees after it does on the ground


def skill_lines(verification: pd.DataFrame, rejected: pd.DataFrame) -> list[Line]:
    """Scores per quantity and lead, leads first and the nowcast last: what the command prints as JSON.

    `bias` is prediction minus observation; a reference without a distribution has its mean absolute error as CRPS.
    At lead 0 `rmse_all` counts the newest observations that quality control stopped too, `n_rejected` of them. Scores of
    `persistence_24h` cover the `n_persistence_24h` rows that have an observation a day earlier.
    """
    lines = []
    leads = sorted(verification["lead_h"].unique(), key=lambda lead_h: (lead_h == 0, lead_h))
    for lead_h in leads:
        of_lead = verification[verification["lead_h"] == lead_h]
        for quantity, rows in of_lead.groupby("quantity", sort=True):
            line: Line = {"quantity": quantity, "lead_h": float(lead_h), **scores(rows)}
            if lead_h == 0:
                stopped = rejected[(rejected["quantity"] == quantity) & rejected["holdout_value"].notna()]
                error = np.concatenate([_error(rows, "holdout_value"), _error(stopped, "holdout_value")])
                line |= {"n_rejected": len(stopped), "rmse_all": _rms(error)}
            lines.append(line)
    return lines


def scores(rows: pd.DataFrame) -> Line:
    """Scores of rows of one quantity and lead."""
    error = _error(rows, "holdout_value")
    line: Line = {
        "n": len(rows),
        "rmse": _rms(error),
        "bias": float(error.mean()),
        "mae": float(np.abs(error).mean()),
        "crps": float(rows["crps"].mean()),
        "coverage50": float(rows["is_within_50"].astype(float).mean()),
        "coverage90": float(rows["is_within_90"].astype(float).mean()),
    }
    errors = {name: _error(rows, f"{name}_value") for name in REFERENCES}
    line |= {f"rmse_{name}": _rms(of_reference) for name, of_reference in errors.items()}
    for name, of_reference in errors.items():
        known = np.abs(of_reference[~np.isnan(of_reference)])
        line[f"crps_{name}"] = float(known.mean()) if known.size else math.nan
    line["crps_kc2g_kernel"] = float(rows["kc2g_kernel_crps"].mean())
    line["n_persistence_24h"] = int((~np.isnan(errors["persistence_24h"])).sum())
    return line


def printable(line: Line) -> Line:
    """The line with four significant decimals and null for what is not defined: valid JSON."""
    return {
        key: (None if math.isnan(value) else round(value, 4)) if isinstance(value, float) else value
        for key, value in line.items()
    }


def summary(
    verification: pd.DataFrame,
    rejected: pd.DataFrame,
    facts: Mapping[str, object],
    plots: Sequence[str],
) -> str:
    """The page: what was run, scores by lead, by station and by stratum, and the plots."""
    lines = skill_lines(verification, rejected)
    now = verification[verification["lead_h"] == 0]
    parts = ["# Verification at held-out stations"]
    parts.append("\n".join(f"* {name}: {value}" for name, value in facts.items()))
    parts.append(
        "Each station is predicted without its own observations: they are left out of the analysis and of the effective "
        "index. Scores are RMSE unless said otherwise; bias is prediction minus observation. *KC2G's kernel* is the "
        "published method of prop.kc2g.com on the same background, observations and errors; *departure kept* is the "
        "held-out analysis at the time of the forecast with its departure from the background unchanged."
    )
    parts.append("## Scores by lead")
    for quantity in now["quantity"].drop_duplicates():
        of_quantity = sorted(
            (line for line in lines if line["quantity"] == quantity), key=lambda line: line["lead_h"]
        )
        parts += [
            f"### {NAMES[quantity]}",
            _table(quantity, "lead, h", [(f"{line['lead_h']:g}", line) for line in of_quantity]),
        ]
        nowcast = of_quantity[0]
        if nowcast["lead_h"] == 0:
            parts.append(
                f"Quality control stopped {nowcast['n_rejected']} of the newest observations, which are not scored; with "
                f"them the RMSE is {nowcast['rmse_all']:.{DIGITS[quantity]}f}."
            )
    for title, heading, labels in (
        ("By station, lead 0", "station", now["sounder_id"]),
        ("By distance to the nearest other station, lead 0", "distance, km", by_distance(now)),
        ("By magnetic latitude, lead 0", "latitude", by_latitude(now)),
        ("By the Sun, lead 0", "zenith angle", by_sun(now)),
        ("By geomagnetic disturbance, lead 0", "Kp", by_kp(now)),
    ):
        if labels.isna().all():
            continue
        parts.append(f"## {title}")
        for quantity, rows in now.groupby("quantity", sort=False):
            groups = rows.groupby(labels.loc[rows.index], sort=True, observed=True)
            table = [(str(label), scores(group)) for label, group in groups]
            parts += [f"### {NAMES[str(quantity)]}", _table(str(quantity), heading, table)]
    parts.append("## Plots")
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in plots]
    return "\n\n".join(parts) + "\n"


def by_distance(rows: pd.DataFrame) -> pd.Series[Any]:
    return _binned(rows["distance_to_nearest_km"].astype(float), DISTANCES_KM, "km").fillna("alone")


def by_latitude(rows: pd.DataFrame) -> pd.Series[Any]:
    """Bands of the absolute quasi-dipole latitude."""
    year = int(rows["valid_time"].dt.year.iloc[0])
    latitude, _ = Background(n_threads=1).quasi_dipole(
        rows["latitude_deg"].to_numpy(float), rows["longitude_deg"].to_numpy(float), year
    )
    return _binned(pd.Series(np.abs(latitude), rows.index), LATITUDES_DEG, "deg")


def by_sun(rows: pd.DataFrame) -> pd.Series[Any]:
    """Day, terminator and night by the solar zenith angle at the ground."""
    state = Background(n_threads=1).at(
        rows["observed_at"], rows["latitude_deg"].to_numpy(float), rows["longitude_deg"].to_numpy(float), 0.0
    )
    day, night = ZENITHS_DEG
    names = [f"1 day, below {day:g} deg", "2 terminator", f"3 night, above {night:g} deg"]
    return pd.Series(
        np.array(names, dtype=object)[np.digitize(state.solar_zenith_deg, ZENITHS_DEG)], rows.index
    )


def by_kp(rows: pd.DataFrame) -> pd.Series[Any]:
    """Quiet, disturbed and storm (NOAA's G1 begins at 5); none where Kp is not known."""
    kp, (disturbed, storm) = rows["kp"].astype(float), KPS
    names = [f"1 quiet, below {disturbed:g}", "2 disturbed", f"3 storm, from {storm:g}"]
    label = np.array(names, dtype=object)[np.digitize(kp.fillna(0.0), KPS)]
    return pd.Series(label, rows.index).where(kp.notna())


def _binned(values: pd.Series[Any], edges: Sequence[float], unit: str) -> pd.Series[Any]:
    names = [f"below {edges[0]:g} {unit}"]
    names += [f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)]
    names += [f"above {edges[-1]:g} {unit}"]
    kind = pd.CategoricalDtype([*names, "alone"], ordered=True)
    return pd.Series(
        pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=names), values.index
    ).astype(kind)


def _table(quantity: str, heading: str, lines: Sequence[tuple[str, Line]]) -> str:
    digits = DIGITS[quantity]

    def number(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.{digits}f}"

    columns = [
        heading,
        "n",
        "held out",
        *REFERENCES.values(),
        "bias",
        "CRPS",
        "CRPS KC2G",
        "in 50 %",
        "in 90 %",
    ]
    rows = []
    for label, line in lines:
        references = [number(line[f"rmse_{name}"]) for name in REFERENCES]
        rows.append(
            [label, f"{line['n']:,}", f"**{number(line['rmse'])}**", *references, f"{line['bias']:+.{digits}f}",
             number(line["crps"]), number(line["crps_kc2g_kernel"]), f"{line['coverage50']:.2f}", f"{line['coverage90']:.2f}"]
        )  # fmt: skip
    return markdown_table(columns, rows)


def _error(rows: pd.DataFrame, column: str) -> Array:
    return np.asarray(rows[column].to_numpy(dtype=np.float64) - rows["obs_value"].to_numpy(dtype=np.float64))


def _rms(error: Array) -> float:
    known = error[~np.isnan(error)]
    return float(np.sqrt((known**2).mean())) if known.size else math.nan
