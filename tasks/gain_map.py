"""Pictures and files of a placement: the gain of one more sounder as a map, as rows and as GeoJSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from tasks.gaps import Gap
from tasks.map import DPI, INK, QUIET, WIDTH_PX, coastlines
from tasks.placement import GainMap, Placed
from tasks.target_area import AreaError

N_LEVELS = 9
MARGIN_PX = 60
TITLE_PX = 92
FOOT_PX = 128
TALLEST_PX = 1100.0
NEW = "#d81b60"


def gain_rows(found: GainMap) -> pd.DataFrame:
    """The map as rows: place, gain in MHz^2 and in per cent of the variance; places where none may stand are left out."""
    frame = pd.DataFrame(
        {
            "latitude_deg": found.area.latitude_deg,
            "longitude_deg": found.area.longitude_deg,
            "gain_mhz2": found.gain_mhz2,
            "gain_percent": found.percent,
        }
    )
    return frame[frame["gain_mhz2"].notna()].reset_index(drop=True)


def placement_geojson(
    found: GainMap, placed: Sequence[Placed], sounders: pd.DataFrame, gaps: Sequence[Gap]
) -> dict[str, Any]:
    """Points (RFC 7946) of kind `new`, `sounder`, `gap` and `gain`, each with what is known of it."""

    def point(longitude: float, latitude: float, **properties: Any) -> dict[str, Any]:
        return {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [round(longitude, 5), round(latitude, 5)]},
            "properties": properties,
        }

    features = [
        point(
            one.longitude_deg,
            one.latitude_deg,
            kind="new",
            rank=number,
            tier=found.sounder.tier,
            **asdict(one),
        )
        for number, one in enumerate(placed, 1)
    ]
    features += [
        point(row["longitude_deg"], row["latitude_deg"], kind="sounder", sounder_id=row["sounder_id"],
              tier=row["tier"], variance_bought_mhz2=row["variance_bought_mhz2"])
        for row in sounders.to_dict("records")
    ]  # fmt: skip
    features += [point(gap.longitude_deg, gap.latitude_deg, kind="gap", **asdict(gap)) for gap in gaps]
    features += [
        point(row["longitude_deg"], row["latitude_deg"], kind="gain",
              gain_mhz2=row["gain_mhz2"], gain_percent=row["gain_percent"])
        for row in gain_rows(found).to_dict("records")
    ]  # fmt: skip
    return {"type": "FeatureCollection", "features": features}


def draw_gain_map(
    found: GainMap,
    placed: Sequence[Placed],
    sounders: pd.DataFrame,
    *,
    title_note: str,
    path: Path | IO[bytes],
) -> None:
    """The gain of one more sounder in per cent of the variance as colours, with those that are there and those placed.

    Args:
        sounders: latitude_deg and longitude_deg of those that are there.
        title_note: second line of the title.
        path: file to write the PNG to.

    Raises:
        AreaError: the grid is not at least two points high and wide.
    """
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    latitudes, longitudes = found.area.grid.axes()
    if latitudes.size < 2 or longitudes.size < 2:
        raise AreaError(f"a map needs two points each way, the grid has {latitudes.size} x {longitudes.size}")
    half = found.area.grid.step_deg / 2.0
    west, east = longitudes[0] - half, longitudes[-1] + half
    south, north = max(latitudes[0] - half, -90.0), min(latitudes[-1] + half, 90.0)
    stretch = 1.0 if north - south > 100 else 1.0 / np.cos(np.radians(min(abs(south + north) / 2, 75.0)))
    shape = (east - west) / (north - south) / stretch
    inner = WIDTH_PX - 2 * MARGIN_PX
    height = min(inner / shape, TALLEST_PX)
    width = height * shape
    total = round(TITLE_PX + height + FOOT_PX)
    with (
        style.context("default"),
        mpl.rc_context({"font.size": 12, "text.color": INK, "axes.edgecolor": QUIET}),
    ):
        figure = Figure(figsize=(WIDTH_PX / DPI, total / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        left = (WIDTH_PX - width) / 2 / WIDTH_PX
        axes = figure.add_axes((left, FOOT_PX / total, width / WIDTH_PX, height / total))
        axes.set_facecolor("#eef1f4")
        mesh = axes.pcolormesh(
            np.append(longitudes - half, east),
            np.clip(np.append(latitudes - half, latitudes[-1] + half), -90.0, 90.0),
            np.ma.masked_invalid(found.percent.reshape(found.area.shape)),
            cmap="viridis",
            vmin=0.0,
            vmax=max(float(np.nanmax(found.percent)), 1e-9),
            rasterized=True,
        )
        axes.set_xlim(west, east)
        axes.set_ylim(south, north)
        _coast(axes, west, east)
        axes.tick_params(labelsize=10.5, colors=QUIET, length=3)
        axes.xaxis.set_major_formatter(lambda x, _: _degrees((x + 180.0) % 360.0 - 180.0, "E", "W"))
        axes.yaxis.set_major_formatter(lambda y, _: _degrees(y, "N", "S"))
        _points(axes, placed, sounders, west, east, south, north)
        figure.text(
            left,
            1 - 16 / total,
            "Where one more sounder gains most",
            fontsize=20,
            fontweight="bold",
            va="top",
        )
        figure.text(left, 1 - 52 / total, title_note, fontsize=12, color=QUIET, va="top")
        bar_axes = figure.add_axes((left, 62 / total, 0.42 * width / WIDTH_PX, 14 / total))
        bar = figure.colorbar(mesh, cax=bar_axes, orientation="horizontal")
        bar.set_label("variance of foF2 over the area that it takes off, % of now", fontsize=11)
        bar.ax.tick_params(labelsize=10, length=3, colors=QUIET)
        figure.legend(
            loc="lower right", bbox_to_anchor=(left + width / WIDTH_PX, 44 / total), ncols=3, frameon=False,
            fontsize=11, borderaxespad=0, handletextpad=0.4,
        )  # fmt: skip
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def _coast(axes: Any, west: float, east: float) -> None:
    from matplotlib.collections import LineCollection

    span = east - west
    lines = [
        np.column_stack([line[:, 0] + turn, line[:, 1]])
        for turn in (-360.0, 0.0, 360.0)
        for line in coastlines("c" if span > 140 else "l")
        if line[:, 0].max() + turn >= west and line[:, 0].min() + turn <= east
    ]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=1.8, zorder=2), autolim=False)
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.8, zorder=3), autolim=False)


def _points(
    axes: Any,
    placed: Sequence[Placed],
    sounders: pd.DataFrame,
    west: float,
    east: float,
    south: float,
    north: float,
) -> None:
    """Sounders that are there and new ones, the new ones with their rank."""
    latitude = sounders["latitude_deg"].to_numpy(float)
    longitude = west + (sounders["longitude_deg"].to_numpy(float) - west) % 360.0
    inside = (longitude <= east) & (latitude >= south) & (latitude <= north)
    axes.scatter(longitude[inside], latitude[inside], s=46, color="white", edgecolors=INK, linewidths=1.3, zorder=4,
                 label="sounder that is there")  # fmt: skip
    if not placed:
        return
    at = [(west + (one.longitude_deg - west) % 360.0, one.latitude_deg) for one in placed]
    axes.scatter(*zip(*at, strict=True), s=190, marker="*", color=NEW, edgecolors="white", linewidths=1.1, zorder=5,
                 label="new sounder, in the order of their gain")  # fmt: skip
    for number, place in enumerate(at, 1):
        axes.annotate(
            str(number), place, xytext=(8, 6), textcoords="offset points", fontsize=12, fontweight="bold", zorder=6,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip


def _degrees(value: float, positive: str, negative: str) -> str:
    if abs(value) < 1e-9 or abs(abs(value) - 180) < 1e-9:
        return f"{abs(value):g}°"
    return f"{abs(value):g}°{positive if value > 0 else negative}"
