"""Plots of a series of cycles: errors beside references, calibration, distance, lead, and stations over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tasks.map import INK, QUIET
from tasks.skill_report import NAMES, scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PX = 1400
DPI = 100
HELD_OUT = "#1f6f8b"
COLOURS = {"fof2_mhz": "#1f6f8b", "hmf2_km": "#c8553d", "m3000f2": "#7a6c9d", "b0_km": "#6a994e"}
#: score, legend, colour, marker
METHODS = (
    ("rmse", "held out", HELD_OUT, "o"),
    ("rmse_kc2g_kernel", "KC2G's kernel", "#e09f3e", "D"),
    ("rmse_iri_index", "IRI, one index", "#9aa5b1", "s"),
    ("rmse_persistence_24h", "24-h persistence (own station)", "#7b3f61", "^"),
)
DEPARTURE_KEPT = ("rmse_persistence_departure", "departure kept", "#6a994e", "v")
MOST_STATIONS = 60
MOST_SERIES = 8
"""Stations drawn over time: those with most observations."""
SERIES_CYCLES = 300
"""Times at the end of the series that are drawn: more cannot be told apart."""
ALL = "all stations"


def draw_plots(verification: pd.DataFrame, folder: Path) -> list[str]:
    """Draw every plot of rows of the contract `verification`, which has some at lead 0; returns the file names."""
    now = verification[verification["lead_h"] == 0]
    names = ["rmse_by_station.png", "calibration.png", "error_by_distance.png"]
    draw_by_station(now, folder / names[0])
    draw_calibration(now, folder / names[1])
    draw_by_distance(now, folder / names[2])
    if (verification["lead_h"] > 0).any():
        names.append("error_by_lead.png")
        draw_by_lead(verification, folder / names[-1])
    for sounder_id in now["sounder_id"].value_counts().index[:MOST_SERIES].sort_values():
        names.append(f"station_{sounder_id}.png")
        draw_station(now[now["sounder_id"] == sounder_id], str(sounder_id), folder / names[-1])
    return names


def draw_by_station(rows: pd.DataFrame, path: Path) -> None:
    """RMSE of each station with every method, one panel per quantity."""
    quantities = list(rows["quantity"].drop_duplicates())
    stations = sorted(rows["sounder_id"].value_counts().index[:MOST_STATIONS])
    labels = [*stations, ALL]
    with _figure(path, 190 + 30 * len(labels)) as figure:
        for axes, quantity in zip(_panels(figure, len(quantities)), quantities, strict=True):
            of_quantity = rows[rows["quantity"] == quantity]
            table = {name: scores(group) for name, group in of_quantity.groupby("sounder_id")}
            table[ALL] = scores(of_quantity)
            at = {label: len(labels) - 1 - number for number, label in enumerate(labels)}
            shown = [label for label in labels if label in table]
            for score, legend, colour, marker in reversed(METHODS):
                axes.plot(
                    [table[label][score] for label in shown],
                    [at[label] for label in shown],
                    linestyle="",
                    marker=marker,
                    markersize=9 if score == "rmse" else 7,
                    color=colour,
                    label=legend,
                    markeredgecolor="white",
                    markeredgewidth=0.8,
                )
            axes.set_yticks(list(at.values()), list(at) if axes is figure.axes[0] else [""] * len(at))
            axes.axhline(0.5, color=QUIET, linewidth=0.8)
            axes.set_ylim(-0.6, len(labels) - 0.4)
            axes.margins(x=0.06)
            axes.set_xlim(left=0.0)
            axes.set_xlabel(f"RMSE of {NAMES[quantity]}")
        _title(figure, "Error at each station, which the prediction was not shown", legend_of=figure.axes[0])


def draw_calibration(rows: pd.DataFrame, path: Path) -> None:
    """Share of observations within central intervals, and the histogram of the probability integral transform."""
    nominal = np.linspace(0.02, 0.98, 49)
    edges = np.linspace(0.0, 1.0, 11)
    with _figure(path, 640) as figure:
        reliability, histogram = _panels(figure, 2)
        reliability.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        histogram.axhline(1.0, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        for quantity, of_quantity in rows.groupby("quantity", sort=False):
            pit = of_quantity["pit"].to_numpy(float)
            inside = [(np.abs(pit - 0.5) <= level / 2).mean() for level in nominal]
            legend = f"{NAMES[str(quantity)]} (n = {pit.size:,})"
            reliability.plot(nominal, inside, color=COLOURS[str(quantity)], linewidth=2.2, label=legend)
            density = np.histogram(pit, edges)[0] / (pit.size * np.diff(edges))
            histogram.stairs(density, edges, color=COLOURS[str(quantity)], linewidth=2.2)
        reliability.set(
            xlim=(0, 1), ylim=(0, 1), xlabel="probability of the interval", ylabel="observations inside"
        )
        reliability.set_title("Reliability: above the line, the bands are too wide", loc="left", fontsize=12)
        histogram.set(xlim=(0, 1), ylim=(0, None), xlabel="probability of smaller values", ylabel="density")
        histogram.set_title("PIT: flat when right, a hump when bands are too wide", loc="left", fontsize=12)
        _title(figure, "How honest the uncertainty is", legend_of=reliability)


def draw_by_distance(rows: pd.DataFrame, path: Path) -> None:
    """RMSE of each station against its median distance to the nearest other one."""
    quantities = list(rows["quantity"].drop_duplicates())
    with _figure(path, 600) as figure:
        for axes, quantity in zip(_panels(figure, len(quantities)), quantities, strict=True):
            groups = list(rows[rows["quantity"] == quantity].groupby("sounder_id"))
            distance = np.array(
                [group["distance_to_nearest_km"].astype(float).median() for _, group in groups]
            )
            table = [scores(group) for _, group in groups]
            for score, legend, colour, marker in reversed(METHODS[:3]):
                axes.plot(
                    distance,
                    [line[score] for line in table],
                    linestyle="",
                    marker=marker,
                    markersize=9 if score == "rmse" else 7,
                    color=colour,
                    markeredgecolor="white",
                    markeredgewidth=0.8,
                    label=legend,
                )
            if len(groups) <= 12:
                # Neighbours share a distance: their names go to either side.
                errors = [line["rmse"] for line in table]
                for number, at in enumerate(np.lexsort((errors, distance))):
                    if np.isfinite(distance[at]):
                        side = -1 if number % 2 else 1
                        axes.annotate(
                            str(groups[at][0]), (distance[at], errors[at]), (9 * side, 0), textcoords="offset points",
                            va="center", ha="left" if side > 0 else "right", fontsize=9, color=QUIET,
                        )  # fmt: skip
            axes.set_xlim(0.0, 1.18 * np.nanmax(distance) if np.isfinite(distance).any() else 1.0)
            axes.set_ylim(bottom=0.0)
            axes.set_xlabel("km to the nearest other station")
            axes.set_ylabel(f"RMSE of {NAMES[quantity]}")
        _title(figure, "Error against distance to the nearest other station", legend_of=figure.axes[0])


def draw_by_lead(verification: pd.DataFrame, path: Path) -> None:
    """RMSE of every method and coverage of the 90 % interval against the lead."""
    quantities = list(verification["quantity"].drop_duplicates())
    with _figure(path, 820) as figure:
        above, below = figure.subplots(2, len(quantities), squeeze=False, height_ratios=(3, 1), sharex=True)
        for error, coverage, quantity in zip(above, below, quantities, strict=True):
            groups = list(verification[verification["quantity"] == quantity].groupby("lead_h"))
            leads = [float(lead_h) for lead_h, _ in groups]  # type: ignore[arg-type]
            table = [scores(group) for _, group in groups]
            for score, legend, colour, marker in (*reversed(METHODS), DEPARTURE_KEPT):
                error.plot(leads, [line[score] for line in table], marker=marker, color=colour, label=legend)
            error.set(ylabel=f"RMSE of {NAMES[quantity]}", ylim=(0, None), xticks=leads)
            coverage.axhline(0.9, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
            coverage.plot(leads, [line["coverage90"] for line in table], marker="o", color=HELD_OUT)
            coverage.set(ylim=(0.5, 1.0), ylabel="within 90 %", xlabel="lead, h")
            coverage.set_xticks(leads, [f"{lead_h:g}" for lead_h in leads])
            for axes in (error, coverage):
                _dress(axes)
        _title(figure, "Forecasts of stations that they were not shown", legend_of=figure.axes[0])


def draw_station(rows: pd.DataFrame, sounder_id: str, path: Path) -> None:
    """A station's observations, its held-out prediction with the 90 % band, and IRI, over the end of the series."""
    times = np.sort(rows["valid_time"].unique())[-SERIES_CYCLES:]
    rows = rows[rows["valid_time"] >= times[0]].sort_values("observed_at")
    quantities = list(rows["quantity"].drop_duplicates())
    step = float(np.median(np.diff(times) / np.timedelta64(1, "m"))) if len(times) > 1 else 15.0
    with _figure(path, 140 + 330 * len(quantities)) as figure:
        for axes, quantity in zip(
            figure.subplots(len(quantities), 1, squeeze=False, sharex=True)[:, 0], quantities, strict=True
        ):
            of_quantity = rows[rows["quantity"] == quantity]
            # A gap is drawn as a gap: a line across it would claim what nobody said.
            at = of_quantity["observed_at"].dt.tz_localize(None)
            is_gap = at.diff() > pd.Timedelta(minutes=3 * step)
            column = _with_gaps(of_quantity, is_gap.to_numpy())
            axes.fill_between(
                column("time"), column("holdout_p05"), column("holdout_p95"), color=HELD_OUT, alpha=0.22, linewidth=0,
                label="held out, 90 % band",
            )  # fmt: skip
            axes.plot(
                column("time"), column("holdout_value"), color=HELD_OUT, linewidth=1.8, label="held out"
            )
            axes.plot(
                column("time"), column("iri_index_value"), color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)),
                label="IRI, one index",
            )  # fmt: skip
            axes.plot(
                at,
                of_quantity["obs_value"],
                linestyle="",
                marker=".",
                markersize=5,
                color=INK,
                label="observed",
            )
            axes.set_ylabel(NAMES[quantity])
            _dress(axes)
        _date_axis(figure.axes[-1])
        _title(figure, f"{sounder_id}: observed, and predicted without it", legend_of=figure.axes[0])


def _with_gaps(rows: pd.DataFrame, is_gap: np.ndarray[Any, Any]) -> Callable[[str], Any]:
    before = np.flatnonzero(is_gap)

    def column(name: str) -> Any:
        if name == "time":
            time = rows["observed_at"].dt.tz_localize(None).to_numpy()
            return np.insert(time, before, time[before])
        return np.insert(rows[name].to_numpy(float), before, np.nan)

    return column


@contextmanager
def _figure(path: Path, height_px: float) -> Iterator[Figure]:
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The defaults, whatever matplotlibrc the user has.
    with (
        style.context("default"),
        mpl.rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": QUIET, "axes.labelcolor": INK}),
    ):
        figure = Figure(
            figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI, facecolor="white", layout="constrained"
        )
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def _panels(figure: Figure, n_panels: int) -> list[Axes]:
    panels = list(figure.subplots(1, n_panels, squeeze=False)[0])
    for axes in panels:
        _dress(axes)
    return panels


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=QUIET, labelcolor=INK, labelsize=10)
    axes.grid(color=QUIET, alpha=0.18, linewidth=0.8)
    axes.set_axisbelow(True)


def _date_axis(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=4, maxticks=12)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def _title(figure: Figure, title: str, *, legend_of: Axes) -> None:
    figure.suptitle(title, x=0.012, ha="left", fontsize=17, fontweight="bold")
    handles, labels = legend_of.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(labels), frameon=False)
