"""What is known of the sounders as JSON takes it: the list of all, and everything of one."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tasks import catalog, lake
from tasks.cycles import kernel_config
from tasks.network import COLUMNS
from tasks.network_documents import records
from tasks.newest_cycle import NewestCycle
from tasks.settings import Settings
from tasks.sounder_record import SPOKEN, UNITS

PARTS = ("signal", "calibration", "temporal", "spatial", "equipment", "historical")
DECLARED = ("equipment", "calibration", "calibrated_at", "tier")
"""Of a sounder's metadata: what the system reads. The rest may say where and who somebody is, and is for the sounder alone."""
WORTH = tuple(name for name in COLUMNS if name not in ("sounder_id", "latitude_deg", "longitude_deg", "tier"))
LISTED = (
    *("latitude_deg", "longitude_deg", "tier", "previous_tier", "reason", "quality", "n_measurements"),
    *("delay_sd_ms", "delay_sd_low_ms", "delay_sd_high_ms", "delay_bias_ms", "is_delay_biased"),
    *("signal_sd_db", "signal_sd_low_db", "signal_sd_high_db", "signal_bias_db", "is_signal_biased"),
)
COUNTS = ("n_measurements", "n_obs", "rank")
HISTORY = (
    *("valid_time", "tier", "previous_tier", "reason", "quality", "n_measurements"),
    *("delay_sd_ms", "delay_sd_low_ms", "delay_sd_high_ms", "delay_bias_ms"),
    *("signal_sd_db", "signal_sd_low_db", "signal_sd_high_db", "signal_bias_db"),
)
ECHO = (
    *("observed_at", "frequency_mhz", "mode_used", "n_combined", "outcome", "weight"),
    *("group_delay_ms", "expected_delay_ms", "expected_delay_sd_ms", "delay_innovation_ms"),
    *("signal_strength_dbm", "expected_signal_dbm", "signal_innovation_db"),
)
MOST_ECHOES = 500
"""Newest first."""
OBSERVED = (
    *("observed_at", "quantity", "obs_value", "obs_error", "effective_error", "qc_flag", "weight"),
    *("hofx", "omb", "oma", "holdout_value", "holdout_sd"),
)


def sounder_list(settings: Settings, cycle: NewestCycle) -> pd.DataFrame:
    """One row per sounder that the cycle knows, best rank first: LISTED where its tier was estimated, `last_heard` where it
    reported in the cycle's window, and WORTH where that told the analysis something.

    Raises:
        tasks.lake.LakeError: the lake cannot be read.
    """
    worth = cycle.read(settings, "network").set_index("sounder_id")
    known = cycle.read(settings, "sounders").set_index("sounder_id")
    names = pd.Index(sorted({*worth.index, *known.index}), name="sounder_id", dtype=object)
    frame = known.reindex(names)[list(LISTED)]
    for name in ("latitude_deg", "longitude_deg", "tier"):
        frame[name] = frame[name].where(frame[name].notna(), worth[name].reindex(names))
    frame["last_heard"] = last_heard(settings, cycle).reindex(names)
    frame = frame.join(worth[list(WORTH)]).astype(dict.fromkeys(COUNTS, "Int64"))
    return frame.reset_index().sort_values(["rank", "sounder_id"], na_position="last", ignore_index=True)


def heard_since(settings: Settings, cycle: NewestCycle) -> pd.Timestamp:
    """Beginning of the cycle's window."""
    lookback = timedelta(hours=kernel_config(settings).lookback_h)
    return pd.Timestamp(cycle.plan.valid_time - lookback)


def last_heard(settings: Settings, cycle: NewestCycle) -> pd.Series[Any]:
    """The newest observation of each sounder in the cycle's window."""
    parts = []
    for dataset in ("ionograms", "measurements"):
        table = lake.read_table(
            dataset,
            settings=settings,
            start=heard_since(settings, cycle).to_pydatetime(),
            end=cycle.plan.valid_time,
            columns=["sounder_id", "observed_at"],
            filters=pc.field("available_at")
            <= pa.scalar(cycle.plan.available_until, pa.timestamp("us", "UTC")),
        )
        parts.append(table)
    newest = pa.concat_tables(parts).group_by("sounder_id").aggregate([("observed_at", "max")])
    times: pd.Series[Any] = newest.to_pandas().set_index("sounder_id")["observed_at_max"]
    return times


def sounder_document(
    settings: Settings, cycle: NewestCycle, listed: pd.DataFrame, sounder_id: str, days: float
) -> dict[str, Any] | None:
    """Everything of one sounder; None where neither the cycle nor the register knows it.

    Args:
        listed: `sounder_list` of the cycle.
        days: of its history.

    Raises:
        tasks.lake.LakeError, tasks.catalog.CatalogError: it cannot be read.
    """
    registered = catalog.get_sounder(catalog.open_catalog(settings), sounder_id)
    own = listed[listed["sounder_id"] == sounder_id]
    if registered is None and own.empty:
        return None
    rows = cycle.read(settings, "sounders")
    known = rows[rows["sounder_id"] == sounder_id]
    echoes = cycle.read(settings, "echoes")
    echoes = echoes[echoes["sounder_id"] == sounder_id].sort_values("observed_at", ascending=False)
    feedback = cycle.read(settings, "feedback")
    feedback = feedback[feedback["sounder_id"] == sounder_id].sort_values(["observed_at", "quantity"])
    history = lake.read(
        "sounders",
        settings=settings,
        start=cycle.plan.valid_time - timedelta(days=days),
        end=cycle.plan.valid_time,
        columns=list(HISTORY),
        filters=pc.field("sounder_id") == sounder_id,
    )
    return {
        "sounder": records(own)[0] if len(own) else None,
        "quality": {name: float(known[f"quality_{name}"].iloc[0]) for name in PARTS} if len(known) else None,
        "errors": {name: _error(known.iloc[0], name) for name in UNITS} if len(known) else None,
        "history": records(history.sort_values("valid_time")),
        "echo_outcomes": {
            str(name): int(n)
            for name, n in echoes.groupby("outcome")["n_combined"].sum().sort_index().items()
        },
        "echoes": records(echoes[list(ECHO)].head(MOST_ECHOES)),
        "observations": records(feedback[list(OBSERVED)]),
        "registration": None if registered is None else _registration(registered),
    }


def _error(row: pd.Series[Any], name: str) -> dict[str, Any]:
    """The posterior of one observable's error: inverse gamma of its variance with shape and scale, and a bias."""
    short = UNITS[name]
    shape, scale, _, _, n_innovations = json.loads(row[f"{name}_state"])
    return {
        "unit": SPOKEN[name][1],
        "tier": row[f"tier_{name}"],
        "weight": float(row[f"weight_{name}"]),
        "sd": float(row[f"{name}_sd_{short}"]),
        "sd_low": float(row[f"{name}_sd_low_{short}"]),
        "sd_high": float(row[f"{name}_sd_high_{short}"]),
        "variance_shape": shape,
        "variance_scale": scale,
        "bias": float(row[f"{name}_bias_{short}"]),
        "bias_sd": float(row[f"{name}_bias_sd_{short}"]),
        "is_biased": bool(row[f"is_{name}_biased"]),
        "n_innovations": n_innovations,
    }


def _registration(sounder: catalog.Sounder) -> dict[str, Any]:
    return {
        "kind": sounder.kind,
        "name": sounder.name,
        "version": sounder.version,
        "registered_at": sounder.registered_at.isoformat(),
        "changed_at": sounder.changed_at.isoformat(),
        **{name: sounder.details.get(name) for name in DECLARED},
    }
