"""One cycle of the nowcast: a pure function of the observations available by a time and the configuration.

Window, effective index, innovations, quality control, analysis, grid, and the scores of every station held out. The
numbers come from ``rust_core``; this module says what enters and what each result means.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

import rust_core
from tasks.analysis import Solved, forward, solve
from tasks.background import Background
from tasks.contracts import arrow_schema
from tasks.effective_index import ChosenIndex, IndexChooser
from tasks.grid import Grid
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.prediction import Prediction
from tasks.verification import score
from tasks.window import INPUT_COLUMNS, known_rows, locate, microseconds

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Cycle:
    """What a cycle says: tables with the columns of their contracts, and how they came about."""

    analysis: pa.Table | None
    feedback: pa.Table
    verification: pa.Table
    metadata: dict[str, Any]


def run_cycle(
    observations: pd.DataFrame,
    *,
    valid_time: datetime,
    available_until: datetime,
    kernel: KernelConfig,
    background: Background,
    grid: Grid | None = None,
    f107_sfu: float | None = None,
    cycle_minutes: float = 15.0,
    threads: int = 0,
) -> Cycle:
    """Analyse the ionosphere at `valid_time` from what was available by `available_until`.

    Args:
        observations: rows of the dataset `ionograms`, at least the last `kernel.lookback_h` hours; others are ignored.
        grid: where to analyse; None scores the stations only.
        f107_sfu: solar flux, used with fewer than the minimum of stations and as a reference.
        cycle_minutes: observations newer than this before `valid_time` are scored.
        threads: threads of the kernel, 0 takes all cores; they change no bit of the result.

    Raises:
        ValueError: a time without zone, or an innovation covariance that is not positive definite (the message names
            the pair of observations).
    """
    valid_at, available_at = _utc(valid_time, "valid_time"), _utc(available_until, "available_until")
    known = known_rows(observations, valid_at, available_at, kernel.lookback_h)
    window = known[known["observed_at"] > valid_at - pd.Timedelta(hours=kernel.longest_window_h)].reset_index(
        drop=True
    )
    stations, station = locate(window, background, valid_at.year)
    latitude, longitude = stations.latitude_deg[station], stations.longitude_deg[station]
    levels = background.solar_levels(window["observed_at"], latitude, longitude)
    age_h = np.asarray((valid_at - window["observed_at"]).dt.total_seconds(), dtype=np.float64) / 3600.0

    index = IndexChooser(window, station, levels, age_h, kernel, f107_sfu)
    chosen = index.choose(None)
    held_out = [index.choose(excluded) for excluded in range(len(stations.sounder_id))]

    inputs_hash = _inputs_hash(known, f107_sfu)
    cycle_id = f"{valid_at:%Y%m%dT%H%MZ}-{_digest(kernel.config_hash, inputs_hash, repr(grid), str(cycle_minutes))[:12]}"
    scored = age_h < cycle_minutes / 60.0
    identity = {"cycle_id": cycle_id, "valid_time": valid_at}
    solved = {
        name: solve(name, kernel, window, stations, station, levels, age_h, chosen, held_out, scored, threads)
        for name in QUANTITIES
    }
    feedback = pd.concat(
        [identity_frame(part.feedback, identity) for part in solved.values()], ignore_index=True
    )
    scores = [
        score(name, part, known, window, stations, station, levels, chosen, held_out, f107_sfu)
        for name, part in solved.items()
    ]
    verification = pd.concat([identity_frame(part, identity) for part in scores], ignore_index=True)
    n_used = sum(int((part.feedback["qc_flag"] == "accepted").sum()) for part in solved.values())
    metadata: dict[str, Any] = {
        # Not when it was computed or until when it looked: equal inputs give equal bytes. The catalog has both.
        "cycle_id": cycle_id,
        "valid_time": valid_at.isoformat(),
        "config_hash": kernel.config_hash,
        "inputs_hash": inputs_hash,
        "kernel_version": rust_core.__version__,
        "effective_index": chosen.ig12,
        "index_source": chosen.source,
        "f107_sfu": f107_sfu,
        "n_observations": len(window),
        "n_stations": len(stations.sounder_id),
        "climatology_only": n_used == 0,
        "n_obs": {
            name: dict(sorted(Counter(part.feedback["qc_flag"]).items())) for name, part in solved.items()
        },
        "chi2": {name: part.chi2 for name, part in solved.items()},
        "log_evidence": {name: part.log_evidence for name, part in solved.items()},
        "stations": {name: part.information for name, part in solved.items()},
    }
    analysis = (
        None if grid is None else _on_grid(grid, identity, valid_at, solved, kernel, background, chosen)
    )
    return Cycle(
        analysis=analysis,
        feedback=_table(feedback, "feedback"),
        verification=_table(verification, "verification"),
        metadata=metadata,
    )


def identity_frame(frame: pd.DataFrame, identity: dict[str, Any]) -> pd.DataFrame:
    """The frame with the cycle's identity in front."""
    return frame.assign(**identity)


# --- what enters --------------------------------------------------------------------------------------------------


def _utc(value: datetime, name: str) -> pd.Timestamp:
    if value.tzinfo is None:
        raise ValueError(f"{name} {value.isoformat()} has no zone: give an aware UTC time")
    return pd.Timestamp(value.astimezone(UTC)).as_unit("us")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _inputs_hash(known: pd.DataFrame, f107_sfu: float | None) -> str:
    rows = known[INPUT_COLUMNS].drop(columns="available_at")
    rows = rows.assign(observed_at=microseconds(known["observed_at"]))
    return _digest(rows.to_json(orient="values", double_precision=15), json.dumps(f107_sfu))[:32]


def _on_grid(
    grid: Grid,
    identity: dict[str, Any],
    valid_at: pd.Timestamp,
    solved: dict[str, Solved],
    kernel: KernelConfig,
    background: Background,
    chosen: ChosenIndex,
) -> pa.Table:
    latitude, longitude = grid.points()
    qd_latitude, qd_longitude = background.quasi_dipole(latitude, longitude, valid_at.year)
    state = background.on_grid(valid_at.to_pydatetime(), latitude, longitude, chosen.ig12)
    prior = {"fof2_mhz": state.fof2_mhz, "hmf2_km": state.hmf2_km, "m3000f2": state.m3000f2}
    fields = {}
    for name, part in solved.items():
        quantity = kernel.quantity(name)
        increment, sd = part.analysis.predict(qd_latitude, qd_longitude, 0.0)
        fields[name] = Prediction(forward(prior[name], quantity) + increment, sd, quantity.is_logarithmic)
    # MUF(3000) = foF2 x M(3000)F2: the logarithms add, and the two are analysed independently.
    muf = Prediction(
        fields["fof2_mhz"].center + fields["m3000f2"].center,
        np.hypot(fields["fof2_mhz"].spread, fields["m3000f2"].spread),
        is_logarithmic=True,
    )
    columns: dict[str, Any] = {
        "cycle_id": pa.repeat(pa.scalar(identity["cycle_id"], pa.string()), latitude.size),
        "valid_time": pa.repeat(pa.scalar(valid_at.to_pydatetime(), TIMESTAMP), latitude.size),
        "lead_h": np.zeros(latitude.size),
        "latitude_deg": latitude,
        "longitude_deg": longitude,
    }
    for name, field in (*fields.items(), ("muf3000_mhz", muf)):
        columns[name] = field.median
        columns[f"{name}_sd"] = field.sd
    columns["foe_mhz"] = state.foe_mhz
    columns["fof2_background_mhz"] = state.fof2_mhz
    columns["hmf2_background_km"] = state.hmf2_km
    columns["m3000f2_background"] = state.m3000f2
    return pa.table(columns)


def _table(frame: pd.DataFrame, dataset: str) -> pa.Table:
    """The rows in the contract's columns and types; NaN becomes null."""
    return pa.Table.from_pandas(frame, schema=arrow_schema(dataset), preserve_index=False)
