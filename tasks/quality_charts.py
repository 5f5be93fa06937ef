"""Charts of the report on sounders, as SVG text to stand inside a page: no file beside it, nothing fetched."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tasks.kernel_config import ErrorScale
from tasks.tiers import boundaries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"PLATINUM": "#4c6a92", "GOLD": "#b8860b", "SILVER": "#7f8c8d", "BRONZE": "#a0522d"}
MOST_SOUNDERS = 60
"""In one chart; more would not be read."""


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # Without a date and with a fixed salt the same day gives the same bytes.
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "autonvis"
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def mix_chart(mix: pd.DataFrame) -> str:
    """Tiers of the network beside a healthy network's."""
    figure, axes = _figure(6, 2.2)
    place = np.arange(len(mix))
    axes.bar(
        place - 0.2, 100 * mix["share"], 0.4, color=[COLOURS[tier] for tier in mix["tier"]], label="here"
    )
    axes.bar(place + 0.2, 100 * mix["expected"], 0.4, color="#dddddd", label="healthy network")
    axes.set_xticks(place, [f"{row.tier} ({row.n})" for row in mix.itertuples()])
    axes.set_ylabel("% of sounders")
    axes.legend(frameon=False)
    return _svg(figure)


def error_chart(summary: pd.DataFrame, scale: ErrorScale, observable: str, unit: str) -> str:
    """Error of every sounder with its 90 % interval, on the ranges of the tiers."""
    rows = summary.head(MOST_SOUNDERS)[::-1].reset_index(drop=True)
    figure, axes = _figure(7, 0.6 + 0.2 * len(rows))
    low, high = (rows[f"{observable}_sd_{end}_{unit.lower()}"] for end in ("low", "high"))
    sd = rows[f"{observable}_sd_{unit.lower()}"]
    axes.hlines(rows.index, low, high, color=[COLOURS[tier] for tier in rows["tier"]], linewidth=2)
    axes.scatter(sd, rows.index, color=[COLOURS[tier] for tier in rows["tier"]], zorder=3, s=18)
    for limit in boundaries(scale.sd):
        axes.axvline(limit, color="#cccccc", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_yticks(rows.index, rows["sounder_id"], fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"error of one {observable} in {unit}: estimate and 90 % interval; lines end the tiers")
    return _svg(figure)


def bias_chart(summary: pd.DataFrame) -> str:
    """Bias of the delays of every sounder, two standard deviations either way."""
    rows = summary[summary["n_delay_innovations"] >= 1].head(MOST_SOUNDERS)[::-1].reset_index(drop=True)
    figure, axes = _figure(7, 0.6 + 0.2 * max(len(rows), 1))
    reach = 2 * rows["delay_bias_sd_ms"]
    colour = np.where(rows["is_delay_biased"], "#c0392b", "#888888")
    axes.hlines(rows.index, rows["delay_bias_ms"] - reach, rows["delay_bias_ms"] + reach, color=colour)
    axes.scatter(rows["delay_bias_ms"], rows.index, color=colour, s=18, zorder=3)
    axes.axvline(0.0, color="#cccccc", linewidth=1, zorder=0)
    axes.set_yticks(rows.index, rows["sounder_id"], fontsize=7)
    axes.set_ylim(-0.7, max(len(rows), 1) - 0.3)
    axes.set_xlabel("mean error of the delays in ms, two sd either way; red: beyond doubt")
    return _svg(figure)


def expected_chart(echoes: pd.DataFrame) -> str | None:
    """What one sounder reported beside what the analysis without it expects; None where nothing could be compared."""
    rows = echoes[echoes["expected_delay_ms"].notna() & echoes["group_delay_ms"].notna()]
    if rows.empty:
        return None
    figure, axes = _figure(8, 3)
    times = rows["observed_at"].dt.tz_convert(None).to_numpy()
    axes.errorbar(
        times,
        rows["expected_delay_ms"],
        yerr=1.6449 * rows["expected_delay_sd_ms"],
        fmt=".",
        color="#999999",
        elinewidth=1,
        label="analysis without it, 90 %",
    )
    is_used = (rows["outcome"] == "used").to_numpy()
    axes.scatter(
        times[is_used], rows["group_delay_ms"][is_used], s=10, color="#1f5fa8", label="reported, used"
    )
    axes.scatter(
        times[~is_used],
        rows["group_delay_ms"][~is_used],
        s=16,
        marker="x",
        color="#c0392b",
        label="reported, not used",
    )
    axes.set_ylabel("group delay, ms")
    _by_hour(axes)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def innovation_chart(echoes: pd.DataFrame, column: str, unit: str) -> str | None:
    """Innovations of one sounder over frequency; None where there are none."""
    rows = echoes[echoes[column].notna()]
    if rows.empty:
        return None
    figure, axes = _figure(8, 2.4)
    axes.scatter(rows["frequency_mhz"], rows[column], s=10, color="#1f5fa8")
    axes.axhline(0.0, color="#cccccc", linewidth=1, zorder=0)
    axes.set_xlabel("frequency, MHz")
    axes.set_ylabel(f"reported less expected, {unit}")
    return _svg(figure)


def history_chart(sounders: pd.DataFrame, scale: ErrorScale) -> str | None:
    """Error of one sounder's delays over the day with its interval; None with fewer than two cycles."""
    rows = sounders.sort_values("valid_time")
    if len(rows) < 2:
        return None
    figure, axes = _figure(8, 2.4)
    times = rows["valid_time"].dt.tz_convert(None).to_numpy()
    axes.fill_between(times, rows["delay_sd_low_ms"], rows["delay_sd_high_ms"], color="#d6e2f0")
    axes.plot(times, rows["delay_sd_ms"], color="#1f5fa8")
    for limit in boundaries(scale.sd):
        axes.axhline(limit, color="#cccccc", linewidth=1, zorder=0)
    axes.set_yscale("log")
    axes.set_ylabel("error of delays, ms")
    _by_hour(axes)
    return _svg(figure)


def _by_hour(axes: Any) -> None:
    from matplotlib.dates import ConciseDateFormatter

    formatter = ConciseDateFormatter(axes.xaxis.get_major_locator())  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(formatter)
    axes.set_xlabel("UTC")
