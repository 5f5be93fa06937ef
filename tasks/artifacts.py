"""What a run shows in the Prefect UI and on the terminal: skill, cycle, landing and map, as text.

Pure functions from tables to Markdown; the flows hand the result to Prefect.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from tasks.curation import CurationResult
    from tasks.kernel_config import KernelConfig
    from tasks.learning import Evaluation
    from tasks.network import NetworkReport

ARTIFACT_WIDTH_PX = 900
ARTIFACT_COLOURS = 128
"""Prefect keeps every artifact in its database: a quarter of the bytes of the published map is enough there."""

SKILL_COLUMNS: tuple[tuple[str, str, str], ...] = (
    # column of `skill_table`, heading, format
    ("n", "n", "{:.0f}"),
    ("rmse_holdout", "RMSE held out", "{:.2f}"),
    ("rmse_iri_index", "RMSE IRI, one index", "{:.2f}"),
    ("rmse_kc2g_kernel", "RMSE KC2G's method", "{:.2f}"),
    ("rmse_persistence", "RMSE yesterday", "{:.2f}"),
    ("bias", "bias", "{:+.2f}"),
    ("crps", "CRPS", "{:.2f}"),
    ("coverage50", "within 50 %", "{:.0%}"),
    ("coverage90", "within 90 %", "{:.0%}"),
)
TERMINAL_COLUMNS = ("n", "rmse_holdout", "rmse_iri_index", "coverage50", "coverage90")


def skill_markdown(skill: pd.DataFrame) -> str:
    """The skill table of `tasks.verification.skill_table` as Markdown, one table per quantity.

    Each row says how well the analysis predicts a station that it was not shown.
    """
    if skill.empty:
        return "No cycle had an observation to be scored against yet."
    parts = []
    for title, rows in _by_quantity(skill):
        columns = [column for column in SKILL_COLUMNS if column[0] in rows]
        table = [[station, *cells] for station, cells in _cells(rows, columns)]
        parts.append(
            f"### Held-out stations: {title}\n\n"
            + markdown_table(["station", *(column[1] for column in columns)], table)
        )
    parts.append(
        "Each station is predicted from all the others and compared with what it observed. "
        "*RMSE IRI, one index* is the climatology with the same effective index, "
        "*RMSE yesterday* the station's own value 24 h before, *KC2G's method* what prop.kc2g.com would say of the same "
        "background and observations; smaller is better. "
        "Of the observations, 50 and 90 % should lie within the intervals of the same name."
    )
    return "\n\n".join(parts) + "\n"


def skill_text(skill: pd.DataFrame, quantity: str = "fof2_mhz") -> str:
    """The skill table of one quantity for a terminal: station, n, RMSE held out, RMSE IRI, coverage."""
    if "quantity" in skill:
        skill = skill[skill["quantity"] == quantity]
    if skill.empty:
        return "no cycle had an observation to be scored against: nothing to compare"
    columns = [column for column in SKILL_COLUMNS if column[0] in TERMINAL_COLUMNS and column[0] in skill]
    rows = [["station", *(heading for _, heading, _ in columns)]]
    rows += [[station, *cells] for station, cells in _cells(skill, columns)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def cycle_markdown(metadata: Mapping[str, Any]) -> str:
    """What a cycle was made of, in words that a stranger understands, then every number of its metadata."""
    words = [f"### Cycle {metadata['cycle_id']}"]
    n_observations, n_stations = metadata.get("n_observations"), metadata.get("n_stations")
    if n_observations:
        words.append(
            f"The analysis combines the climatology with **{n_observations} observations of {n_stations} stations** "
            "heard up to the valid time."
        )
    elif n_observations is not None:
        words.append(
            "**No observation was available**: the map shows the climatology, with the uncertainty it deserves."
        )
    index = metadata.get("effective_index")
    if index is not None:
        source = {
            "stations": "the one that fits the observations of the window best",
            "f107": "taken from the solar flux F10.7, because too few stations reported",
            "few_stations": "from fewer stations than one would like, because no solar flux was known",
            "default": "a middle value, because neither stations nor a solar flux were known",
        }.get(str(metadata.get("index_source")), f"from {metadata.get('index_source', 'the cycle')}")
        words.append(
            f"The climatology runs at the effective ionospheric index **IG12 = {float(index):.1f}**, {source}."
        )
    rows = [[f"`{key}`", _cell_text(value)] for key, value in sorted(metadata.items())]
    return "\n\n".join([*words, markdown_table(["metadata", "value"], rows)]) + "\n"


def landing_markdown(results: Sequence[CurationResult]) -> str:
    """What each batch brought: received, accepted, known already, in conflict, quarantined."""
    if not results:
        return "Nothing waited in the landing zones."
    names = ("n_records", "n_items", "n_accepted", "n_duplicates", "n_conflicts", "n_quarantined")
    rows = [[f"`{result.batch_id}`", *(str(getattr(result, name)) for name in names)] for result in results]
    if len(rows) > 1:
        rows.append(["**all**", *(str(sum(getattr(result, name) for result in results)) for name in names)])
    headings = ["batch", "records", "items", "accepted", "known already", "in conflict", "quarantined"]
    text = markdown_table(headings, rows)
    if any(result.n_quarantined for result in results):
        text += (
            "\n\nQuarantined items are kept in `lake/quarantine` with their reasons and raw bytes; "
            "they can be replayed after the contract or the station is mended."
        )
    return text + "\n"


def map_markdown(path: Path, caption: str) -> str:
    """The map as Markdown with the picture inside, smaller than the published one.

    Prefect's image artifact shows an address below the picture, which for an embedded one
    is all of its bytes as text; its Markdown renderer shows the picture alone.
    """
    return f"![{_escape(caption)}]({image_data_uri(path)})\n\n{caption}\n"


def image_data_uri(path: Path) -> str:
    """A PNG as a `data:` address, at most 900 pixels wide and with 128 colours."""
    from PIL import Image

    with Image.open(path) as source:
        picture = source.convert("RGB")
    if picture.width > ARTIFACT_WIDTH_PX:
        height = round(picture.height * ARTIFACT_WIDTH_PX / picture.width)
        picture = picture.resize((ARTIFACT_WIDTH_PX, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.quantize(ARTIFACT_COLOURS, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GitHub-flavoured table, first column left, the others right."""
    lines = [
        "| " + " | ".join(_escape(heading) for heading in headings) + " |",
        "|" + "|".join([":--", *["--:"] * (len(headings) - 1)]) + "|",
    ]
    lines += ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _by_quantity(skill: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    titles = {"fof2_mhz": "foF2 in MHz", "hmf2_km": "hmF2 in km", "m3000f2": "M(3000)F2"}
    if "quantity" not in skill:
        return [("foF2 in MHz", skill)]
    found = skill.groupby("quantity", sort=False)
    order = [
        *(name for name in titles if name in found.groups),
        *sorted({*map(str, found.groups)} - {*titles}),
    ]
    return [(titles.get(str(name), str(name)), found.get_group(name)) for name in order]


def _cells(rows: pd.DataFrame, columns: Sequence[tuple[str, str, str]]) -> list[tuple[str, list[str]]]:
    stations = rows["sounder_id"] if "sounder_id" in rows else rows.index.to_series()
    numbers = [[_number(value, form) for value in rows[name]] for name, _, form in columns]
    return [(str(station), [column[i] for column in numbers]) for i, station in enumerate(stations)]


def _number(value: Any, form: str) -> str:
    return form.format(float(value)) if value is not None and math.isfinite(float(value)) else "-"


def _cell_text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    """Text that cannot leave its table cell or its brackets."""
    return (
        text.replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("[", "\\[")
        .replace("]", "\\]")
        .replace("\n", " ")
    )


def learning_markdown(
    kernel: KernelConfig, learned: KernelConfig, before: Evaluation, after: Evaluation
) -> str:
    """What learning changed: the skill at held-out stations before and after, and the values."""
    from tasks.learning import PARAMETERS

    skill = [
        [
            f"{old.data} {old.quantity}",
            str(old.n),
            *(f"{value:.3f}" for value in (old.rmse, new.rmse, old.crps, new.crps)),
            *(f"{value:.0%}" for value in (old.coverage90, new.coverage90)),
        ]
        for old, new in zip(before.skills, after.skills, strict=True)
    ]
    heading = ["data", "n", "RMSE", "then", "CRPS", "then", "within 90 %", "then"]
    values = [
        [parameter.name, parameter.unit, f"{parameter.get(kernel):.3g}", f"{parameter.get(learned):.3g}"]
        for parameter in PARAMETERS
    ]
    return (
        markdown_table(heading, skill)
        + "\n\n"
        + markdown_table(["value", "unit", "before", "learned"], values)
        + f"\n\nObjective {before.objective:.4f}, then {after.objective:.4f} (mean ln CRPS and log score, less a share of the evidence)."
    )


def tiers_markdown(mix: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Tiers of the network beside a healthy one's, and who changed, as Markdown; see `tasks.quality_report`."""
    table = markdown_table(
        ["tier", "sounders", "share", "healthy network"],
        [[str(row.tier), str(row.n), f"{row.share:.0%}", f"{row.expected:.0%}"] for row in mix.itertuples()],
    )
    changed = summary[summary["tier_before"].notna() & (summary["tier_before"] != summary["tier"])]
    lines = [
        f"* {row.sounder_id}: {row.tier_before} → {row.tier}. {row.reason}" for row in changed.itertuples()
    ]
    told = [
        "### Changed since the day before\n\n" + "\n".join(lines)
        if lines
        else "No tier changed since the day before."
    ]
    n_new = int(summary["tier_before"].isna().sum())
    if n_new:
        told.append("1 sounder is new." if n_new == 1 else f"{n_new} sounders are new.")
    return "\n\n".join([table, *told])


def sounder_table(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per sounder for a table artifact, what matters most to the left; numbers as text with the figures that mean something."""
    return [
        {
            "sounder": row["sounder_id"],
            "tier": _tier(row["tier"], row["tier_before"]),
            "delay error, ms": f"{_figures(row['delay_sd_ms'])} ({_figures(row['delay_sd_low_ms'])}–{_figures(row['delay_sd_high_ms'])})",
            "off by, ms": (
                "0" if abs(row["delay_bias_ms"]) < SMALLEST_BIAS_MS else f"{row['delay_bias_ms']:+.2f}"
            )
            + (" !" if row["is_delay_biased"] else ""),
            "signal, dB": _figures(row["signal_sd_db"]),
            "sent": int(row["n_measurements"]),
            "wrong": "" if math.isnan(row["outlier_share"]) else f"{row['outlier_share']:.0%}",
            "refused": int(row["n_refused"]),
            "dropouts": int(row["n_dropouts"]),
            "why": row["reason"],
        }
        for row in summary.to_dict("records")
    ]


SMALLEST_BIAS_MS = 0.005


def _tier(tier: str, before: Any) -> str:
    if not isinstance(before, str):
        return f"{tier}, new"
    return tier if before == tier else f"{tier}, was {before}"


def _figures(value: float) -> str:
    """Two significant figures, those that are zero too."""
    return f"{value:#.2g}".rstrip(".") if value < 100 else f"{value:.0f}"


NETWORK_LISTED = 10
"""Sounders, and gaps, in a network's table."""


def network_markdown(report: NetworkReport) -> str:
    """What the network is worth: top contributors, who is redundant, upgrades, gaps, tiers, the best place for one more."""
    from tasks.network import percent

    words = [
        f"Over the region foF2 is known to **{math.sqrt(report.variance_mhz2):.2f} MHz** (root mean variance); the climatology "
        f"alone would know it to {math.sqrt(report.prior_variance_mhz2):.2f} MHz."
    ]
    sounders = report.sounders
    if sounders.empty:
        words.append("**No sounder has reported**: nothing can be said of their worth.")
    else:
        headings = [
            *("sounder", "tier", "nats", "without it", "share", "others have", "upgrade"),
        ]
        rows = [
            [
                str(row["sounder_id"]),
                str(row["tier"]) + ("" if row["tier_source"] == "innovations" else " (by its error)"),
                f"{row['information_gain_nats']:.1f}",
                percent(row["variance_rise_percent"]),
                percent(100.0 * row["variance_bought_share"]),
                "-" if pd.isna(row["redundancy"]) else f"{row['redundancy']:.0%}",
                percent(100.0 * row["upgrade_gain_mhz2"] / report.variance_mhz2)
                if isinstance(row["upgrade_tier"], str)
                else "-",
            ]
            for row in sounders.head(NETWORK_LISTED).to_dict("records")
        ]
        words.append("#### Sounders that carry most\n\n" + markdown_table(headings, rows))
        words.append(
            "*Nats*: information brought. *Without it*: by how much the variance would rise. *Share*: of what all buy. "
            "*Others have*: of what it would buy alone. *Upgrade*: what the errors of the next tier would take off."
        )
        if len(sounders) > NETWORK_LISTED:
            words.append(f"{len(sounders) - NETWORK_LISTED} more are in the dataset `network`.")
        redundant = sounders[sounders["is_redundant"]]
        if len(redundant):
            names = ", ".join(redundant["sounder_id"].head(NETWORK_LISTED))
            words.append(f"**{len(redundant)} of {len(sounders)} would hardly be missed**: {names}.")
    if report.next_place is not None:
        best = report.next_place
        words.append(
            f"**The next sounder** ({report.next_sounder.tier}) gains most at {place_text(best.latitude_deg, best.longitude_deg)}: "
            f"it would take {percent(best.gain_percent)} off the variance ({best.gain_mhz2:.3g} MHz^2)."
        )
    words.append(_gaps_markdown(report))
    rows = [
        [
            influence.tier,
            str(influence.n_sounders),
            f"{influence.share_of_sounders:.0%}",
            f"{influence.intended_share:.0%}",
            f"{influence.nominal_weight:.1f}",
            "-" if influence.freedom_per_obs is None else f"{influence.freedom_per_obs:.3f}",
            f"{influence.variance_bought_share:.0%}",
        ]
        for influence in report.tiers
    ]
    headings = ["tier", "sounders", "share", "intended", "weight", "freedom", "of the variance bought"]
    words.append(
        "#### Tiers\n\n"
        + markdown_table(headings, rows)
        + "\n\n*Weight*: of a signal strength beside one of BRONZE. *Freedom*: degrees of freedom per observation."
    )
    return "\n\n".join(words) + "\n"


def _gaps_markdown(report: NetworkReport) -> str:
    if not report.gaps:
        return "#### Gaps\n\nNone: the observations reach every part of the region."
    rows = [
        [
            place_text(gap.latitude_deg, gap.longitude_deg),
            f"{gap.surface_km2 / 1e6:.2f}",
            f"{gap.demand_share:.0%}",
            f"{gap.sd_mhz:.2f}",
            f"{gap.sd_share:.0%}",
        ]
        for gap in report.gaps[:NETWORK_LISTED]
    ]
    headings = ["middle", "million km^2", "of the region", "sd of foF2, MHz", "of the climatology's"]
    more = len(report.gaps) - NETWORK_LISTED
    return (
        "#### Gaps\n\n" + markdown_table(headings, rows) + (f"\n\n{more} smaller ones." if more > 0 else "")
    )


def place_text(latitude_deg: float, longitude_deg: float) -> str:
    """A place in words, to a tenth of a degree."""
    return (
        f"{abs(latitude_deg):.1f}° {'N' if latitude_deg >= 0 else 'S'}, "
        f"{abs(longitude_deg):.1f}° {'E' if longitude_deg >= 0 else 'W'}"
    )
