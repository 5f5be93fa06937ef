"""Electron density in three dimensions from an analysis: a box of places, a range of heights, one NetCDF file.

What the analysis holds of foF2, hmF2, M(3000)F2 and B0 is carried to the points of the box as increments on the background (linear between the
analysis' grid points), so that a finer box has the background's detail. The rest, B1, foE and the sun's height, is the background's at the
analysis' index.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from tasks import lake
from tasks.background import Array, Background, ig12_to_r12
from tasks.grid import Grid
from tasks.map import GriddedFields, grid_of
from tasks.profile import TEC_HEIGHTS_KM, Peaks
from tasks.settings import Settings

MOST_VALUES = 50_000_000
"""Densities in one request (400 MB)."""

#: Analysed column, its background, and whether the increment is of the logarithm.
ANALYSED = {
    "fof2_mhz": ("fof2_background_mhz", True),
    "hmf2_km": ("hmf2_background_km", False),
    "m3000f2": ("m3000f2_background", True),
    "b0_km": ("b0_background_km", True),
}
SPREADS = ("fof2_mhz_sd", "hmf2_km_sd")


class DensityError(ValueError):
    """A density was asked for that cannot be given; the message names the argument."""


@dataclass(frozen=True)
class Analysis:
    """One time of a gridded analysis."""

    rows: pd.DataFrame
    """Contract `analysis`, one valid time and lead."""
    valid_time: datetime
    cycle_id: str
    lead_h: float
    ig12: float
    """The effective index that drove its background."""


@dataclass(frozen=True)
class DensityGrid:
    """Electron density on a box.

    Attributes:
        latitude_deg, longitude_deg, height_km: axes (n_lat,), (n_lon,), (n_height,); longitudes go on beyond 180 over the date line.
        density_m3: (n_height, n_lat, n_lon).
        peaks: what the profiles were made of, values (n_lat * n_lon,).
        analysed: the columns of ANALYSED that the analysis gave; the other peaks are the background's.
        fof2_mhz_sd, hmf2_km_sd: the analysis' standard deviations, (n_lat, n_lon).
        tec_tecu: vertical content from 80 to 20,200 km, (n_lat, n_lon).
    """

    analysis: Analysis
    latitude_deg: Array
    longitude_deg: Array
    height_km: Array
    density_m3: Array
    peaks: Peaks
    analysed: tuple[str, ...]
    fof2_mhz_sd: Array
    hmf2_km_sd: Array
    tec_tecu: Array


def parse_heights(text: str) -> Array:
    """Heights in km of `first:last:step`, both ends included. Raises DensityError."""
    try:
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise DensityError(f"heights {text!r} are not first:last:step in km, e.g. 80:600:10") from error
    if not (0 <= first <= last <= 50_000 and 0 < step < np.inf):
        raise DensityError(f"heights {text!r}: 0 <= first <= last <= 50000 and step > 0 are needed")
    if (last - first) / step > MOST_VALUES:
        raise DensityError(f"heights {text!r} are more than {MOST_VALUES:,} values")
    return first + step * np.arange(int(np.floor((last - first) / step + 1e-9)) + 1, dtype=np.float64)


def compute_density(
    analysis: Analysis, grid: Grid, heights_km: Array, background: Background, *, n_threads: int | None = None
) -> DensityGrid:
    """Electron density of an analysis on a box.

    Raises:
        DensityError: more than MOST_VALUES values, or a box that reaches beyond the analysis.
        ValueError: the analysis is no grid, or a value cannot be a profile's (the message names it).
    """
    latitudes, longitudes = grid.axes()
    shape = (latitudes.size, longitudes.size)
    if heights_km.size * latitudes.size * longitudes.size > MOST_VALUES:
        raise DensityError(
            f"{heights_km.size} heights x {shape[0]} x {shape[1]} places are more than {MOST_VALUES:,} values: "
            "ask for fewer heights, a wider step or a smaller box"
        )
    latitude, longitude = grid.points()
    state = background.on_grid(analysis.valid_time, latitude, longitude, analysis.ig12)
    increments = _increments(analysis.rows)
    fields = grid_of(analysis.rows.assign(**increments), [*increments, *SPREADS])
    at = {name: fields.at(name, latitude, longitude) for name in fields.fields}
    if any(np.isnan(values).any() for values in at.values()):
        raise DensityError(
            f"the box {_box(grid)} reaches beyond the analysis, which covers {_extent(fields)}"
        )
    values = vars(state) | {
        name: getattr(state, name) * np.exp(at[name])
        if ANALYSED[name][1]
        else getattr(state, name) + at[name]
        for name in increments
    }
    peaks = Peaks(**values, r12=ig12_to_r12(analysis.ig12))
    return DensityGrid(
        analysis=analysis,
        latitude_deg=latitudes,
        longitude_deg=longitudes,
        height_km=heights_km,
        density_m3=peaks.density(heights_km, n_threads=n_threads).reshape(-1, *shape),
        peaks=peaks,
        analysed=tuple(increments),
        fof2_mhz_sd=at["fof2_mhz_sd"].reshape(shape),
        hmf2_km_sd=at["hmf2_km_sd"].reshape(shape),
        tec_tecu=peaks.vertical_tec(n_threads=n_threads).reshape(shape),
    )


# --- which analysis ---------------------------------------------------------------------------------------------------


def find_analysis(settings: Settings, time: datetime | None) -> Analysis:
    """The analysis of a valid time in the lake, shortest lead first, or the one that products/current shows.

    Raises:
        DensityError: there is none; the message says what there is.
    """
    cycle_id = None
    if time is None:
        shown = settings.products_root / "current" / "cycle.json"
        try:
            description = json.loads(shown.read_bytes())
        except FileNotFoundError as error:
            raise DensityError(
                f"{shown.parent} does not exist: run `autonvis nowcast` first, or name a file with --analysis"
            ) from error
        time, cycle_id = datetime.fromisoformat(description["valid_time"]), description["cycle_id"]
    paths = lake.files("analysis", settings=settings, start=time, end=time)
    condition = pc.field("valid_time") == pa.scalar(time.astimezone(UTC), pa.timestamp("us", "UTC"))
    if cycle_id is not None:
        condition &= pc.field("cycle_id") == cycle_id
    found = (
        ds.dataset([str(path) for path in paths], format="parquet")
        .to_table(columns=["lead_h", "__filename"], filter=condition)
        .to_pandas()
        .value_counts()
        .reset_index()
        .sort_values(["lead_h", "count", "__filename"], ascending=[True, False, True])
        if paths
        else pd.DataFrame()
    )
    if found.empty:
        every = lake.files("analysis", settings=settings)
        span = (
            f"its {len(every)} files go from {_stem(every[0])} to {_stem(every[-1])}"
            if every
            else "it is empty"
        )
        raise DensityError(
            f"no gridded analysis is valid at {time.isoformat()} in {settings.lake_root}: {span}"
        )
    return read_analysis(Path(found["__filename"].iloc[0]), time)


def read_analysis(path: Path, time: datetime | None = None) -> Analysis:
    """The analysis in a Parquet file of the lake: the rows valid at `time`, or the only ones of the shortest lead.

    Raises:
        DensityError: not an analysis of this system, or none valid at `time`.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        if b"effective_index" not in metadata:
            raise DensityError(
                f"{path} does not say which index drove its background: it is no analysis of the lake"
            )
        rows = lake.read_file("analysis", path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DensityError(f"cannot read {path}: {error}") from error
    times = sorted(rows["valid_time"].unique())
    if time is not None:
        rows = rows[rows["valid_time"] == pd.Timestamp(time)]
        if rows.empty:
            listed = ", ".join(moment.isoformat() for moment in times[:10])
            raise DensityError(f"{path} holds no analysis valid at {time.isoformat()}, but at {listed}")
    rows = rows[rows["lead_h"] == rows["lead_h"].min()]
    return Analysis(
        rows=rows,
        valid_time=rows["valid_time"].iloc[0].to_pydatetime(),
        cycle_id=str(rows["cycle_id"].iloc[0]),
        lead_h=float(rows["lead_h"].iloc[0]),
        ig12=float(json.loads(metadata[b"effective_index"])),
    )


def _increments(rows: pd.DataFrame) -> dict[str, Array]:
    """Departure from the background of each quantity that the analysis holds, by the name of its column."""
    increments: dict[str, Array] = {}
    for name, (background, is_logarithmic) in ANALYSED.items():
        if {name, background} <= set(rows) and rows[[name, background]].notna().all(axis=None):
            value, prior = rows[name].to_numpy(np.float64), rows[background].to_numpy(np.float64)
            increments[name] = np.log(value / prior) if is_logarithmic else value - prior
    return increments


def _box(grid: Grid) -> str:
    return f"{grid.south:g}..{grid.north:g} N, {grid.west:g}..{grid.east:g} E"


def _extent(fields: GriddedFields) -> str:
    latitude, longitude = fields.latitude_deg, fields.longitude_deg
    around = "all longitudes" if fields.is_global else f"{longitude[0]:g}..{longitude[-1]:g} E"
    return f"{latitude[0]:g}..{latitude[-1]:g} N, {around}"


def _stem(path: Path) -> str:
    return path.stem.removeprefix("analysis-")


# --- the file ---------------------------------------------------------------------------------------------------------


def write_netcdf(density: DensityGrid, path: Path) -> None:
    """Writes a NetCDF-4 file of the CF conventions 1.11, whole or not at all; densities in single precision.

    Raises OSError when the folder does not exist or the disk refuses.
    """
    import netCDF4

    handle, staged = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with netCDF4.Dataset(staged, "w") as file:
            _fill(file, density)
        Path(staged).chmod(0o644)
        os.replace(staged, path)
    finally:
        Path(staged).unlink(missing_ok=True)


def _fill(file: Any, density: DensityGrid) -> None:
    analysis = density.analysis
    file.setncatts(
        {
            "Conventions": "CF-1.11",
            "title": "Electron density of the ionosphere, AutoNVIS",
            "cycle_id": analysis.cycle_id,
            "lead_h": analysis.lead_h,
            "effective_index_ig12": analysis.ig12,
            "analysed": ", ".join(density.analysed),
            "comment": "profiles as in PyIRI, from what is analysed and the climatology's other parameters",
            "references": "doi:10.1029/2025SW004853, doi:10.1029/2022RG000792",
        }
    )
    axes = {
        "height": (
            density.height_km,
            {"units": "km", "positive": "up", "axis": "Z", "standard_name": "height"},
        ),
        "latitude": (
            density.latitude_deg,
            {"units": "degrees_north", "axis": "Y", "standard_name": "latitude"},
        ),
        "longitude": (
            density.longitude_deg,
            {"units": "degrees_east", "axis": "X", "standard_name": "longitude"},
        ),
    }
    for name, (axis, attributes) in axes.items():
        file.createDimension(name, axis.size)
        variable = file.createVariable(name, "f8", (name,))
        variable.setncatts(attributes)
        variable[:] = axis
    time = file.createVariable("time", "f8", ())
    time.setncatts(
        {
            "units": "seconds since 1970-01-01 00:00:00",
            "calendar": "standard",
            "standard_name": "time",
            "axis": "T",
        }
    )
    time[...] = analysis.valid_time.timestamp()
    peaks, (low_km, high_km) = density.peaks, TEC_HEIGHTS_KM
    columns: list[tuple[str, ArrayLike, str, str]] = [
        ("electron_density", density.density_m3, "m-3", "electron density"),
        ("fof2", peaks.fof2_mhz, "MHz", "critical frequency of the F2 layer"),
        ("fof2_sd", density.fof2_mhz_sd, "MHz", "standard deviation of fof2"),
        ("hmf2", peaks.hmf2_km, "km", "height of the F2 peak"),
        ("hmf2_sd", density.hmf2_km_sd, "km", "standard deviation of hmf2"),
        ("m3000f2", peaks.m3000f2, "1", "M(3000)F2"),
        ("b0", peaks.b0_km, "km", "bottomside thickness B0"),
        ("b1", peaks.b1, "1", "bottomside shape B1"),
        ("foe", peaks.foe_mhz, "MHz", "critical frequency of the E layer"),
        ("tec", density.tec_tecu, "1e16 m-2", f"vertical electron content, {low_km:g} to {high_km:g} km"),
    ]
    for name, values, unit, text in columns:
        dimensions = ["latitude", "longitude"]
        if name == "electron_density":
            dimensions.insert(0, "height")
        variable = file.createVariable(name, "f4", dimensions, compression="zlib", complevel=1)
        variable.setncatts({"units": unit, "long_name": text, "coordinates": "time"})
        variable[:] = np.reshape(values, variable.shape)
