"""One cycle of the nowcast: a pure function of the observations available by a time and the configuration.

Window, effective index, innovations, quality control, analysis, grid, and the scores of every station held out. The
numbers come from ``rust_core``; this module says what enters and what each result means.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

import rust_core
from tasks.amplitude import amplitudes
from tasks.analysis import forward
from tasks.background import Background
from tasks.contracts import arrow_schema
from tasks.estimate import Estimate, estimate
from tasks.geomagnetic import kp_at
from tasks.grid import Grid
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.magnetic_field import extraordinary_mhz, gyrofrequency_mhz
from tasks.masks import on_land
from tasks.network import NetworkReport, analyse_network, tiers_of
from tasks.prediction import Prediction
from tasks.row_errors import carried
from tasks.sounder_innovations import what_echoes_tell
from tasks.sounder_rows import echo_rows, sounder_rows
from tasks.soundings import Heard
from tasks.target_area import Area
from tasks.verification import forecast_held_out, score, targets_of
from tasks.window import INPUT_COLUMNS, microseconds

logger = logging.getLogger(__name__)

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Cycle:
    """What a cycle says: tables with the columns of their contracts, and how they came about."""

    analysis: pa.Table | None
    forecast: pa.Table | None
    """Fields ahead, in the columns of `analysis`; `valid_time` less `lead_h` is the time they were made."""
    feedback: pa.Table
    verification: pa.Table
    sounders: pa.Table | None
    """What is known of every sounder now; None where no measurements were given."""
    echoes: pa.Table | None
    metadata: dict[str, Any]
    network: pa.Table | None = None
    """What each sounder is worth; None where no area was given."""
    network_report: NetworkReport | None = None


def run_cycle(
    observations: pd.DataFrame,
    *,
    valid_time: datetime,
    available_until: datetime,
    kernel: KernelConfig,
    background: Background,
    grid: Grid | None = None,
    forecast_grid: Grid | None = None,
    forecast_leads_h: Sequence[float] = (),
    f107_sfu: float | None = None,
    due: Mapping[float, float | None] | None = None,
    kp: pd.DataFrame | None = None,
    heard: Heard | None = None,
    network_area: Area | None = None,
    cycle_minutes: float = 15.0,
    threads: int = 0,
) -> Cycle:
    """Analyse the ionosphere at `valid_time` from what was available by `available_until`.

    Args:
        observations: rows of the dataset `ionograms`, at least the last `kernel.lookback_h` hours and the longest of the leads
            due; others are ignored.
        grid: where to analyse; None scores the stations only.
        forecast_grid, forecast_leads_h: where and how many hours ahead to forecast.
        f107_sfu: solar flux, used with fewer than the minimum of stations and as a reference.
        due: leads in hours of forecasts to score now, each with the solar flux known when it was made. It is made again,
            from what was available that much before `available_until`: one more solve per lead.
        kp: rows of the dataset `indices` known by `available_until`, beside which skill is told; None without.
        heard: what sounders measured, of the same days, and what was known of them; None for a cycle of ionograms alone.
        network_area: what the worth of the sounders is judged by; None leaves that out.
        cycle_minutes: observations newer than this before `valid_time` are scored.
        threads: threads of the kernel, 0 takes all cores; they change no bit of the result.

    Raises:
        ValueError: a time without zone, or an innovation covariance that is far from positive definite (the message names
            the pair of observations).
    """
    valid_at, available_at = _utc(valid_time, "valid_time"), _utc(available_until, "available_until")
    scored_h = cycle_minutes / 60.0

    def known_by(lead_h: float, flux: float | None) -> Estimate:
        """What was known `lead_h` hours earlier, with the same delay of the observations."""
        lead = pd.Timedelta(hours=lead_h)
        return estimate(
            observations,
            valid_at=valid_at - lead,
            available_at=available_at - lead,
            kernel=kernel,
            background=background,
            f107_sfu=flux,
            scored_h=scored_h,
            threads=threads,
            heard=heard,
        )

    estimates = {lead_h: known_by(lead_h, flux) for lead_h, flux in {0.0: f107_sfu, **(due or {})}.items()}
    now = estimates[0.0]
    solved, chosen = now.solved, now.chosen
    inputs_hash = _inputs_hash(estimates, kp)
    grids = (repr(grid), repr(forecast_grid), repr(tuple(forecast_leads_h)))
    cycle_id = (
        f"{valid_at:%Y%m%dT%H%MZ}-{_digest(kernel.config_hash, inputs_hash, *grids, str(cycle_minutes))[:12]}"
    )
    identity: dict[str, Any] = {"cycle_id": cycle_id, "valid_time": valid_at}
    targets = targets_of(now.known, valid_at, scored_h, kernel.scale.max_scored_stations)
    scores = [
        score(now, forecast_held_out(origin, targets, valid_at, kernel, background), lead_h)
        for lead_h, origin in estimates.items()
    ]
    feedback = pd.concat(
        [identity_frame(part.feedback, identity) for part in solved.values()], ignore_index=True
    )
    feedback["tier"] = feedback["sounder_id"].map(tiers_of(now)).astype(object)
    verification = identity_frame(pd.concat(scores, ignore_index=True), identity)
    verification["kp"] = np.nan if kp is None else kp_at(kp, verification["observed_at"])
    sounders, echoes = None, None
    if now.soundings is not None:
        told, known = what_echoes_tell(now, kernel, background)
        echoes = _table(identity_frame(echo_rows(told), identity), "echoes")
        sounders = _table(identity_frame(sounder_rows(told, known, kernel), identity), "sounders")
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
        "n_observations": len(now.window),
        "n_stations": len(now.stations.sounder_id),
        # How a large network was made to fit, `tasks.superobservations`: as many nodes as stations and no widening, it was not.
        "scale": {
            "n_nodes": len(now.nodes),
            "spacing_km": now.nodes.spacing_km,
            "widening": now.joint.widening,
            "n_analysed": now.joint.n_analysed,
        },
        "climatology_only": n_used == 0,
        "soundings": None if now.soundings is None else now.soundings.summary(),
        "n_obs": {
            name: dict(sorted(Counter(part.feedback["qc_flag"]).items())) for name, part in solved.items()
        },
        "chi2": {name: part.chi2 for name, part in solved.items()},
        "obs_errors": {name: part.obs_errors for name, part in solved.items()},
        "adaptation": now.joint.adaptation.summary(now.stations.sounder_id, now.nodes.of_station),
        "log_evidence": now.joint.log_evidence,
        "jitter": now.joint.jitter,
        "stations": now.joint.information,
    }
    network_report, network = None, None
    if network_area is not None:
        network_report = analyse_network(
            now, kernel, background, network_area, where=on_land, threads=threads
        )
        network = _table(network_report.sounders.assign(**identity), "network")
        metadata["network"] = network_report.summary()
    return Cycle(
        analysis=None if grid is None else _on_grid(grid, now, 0.0, cycle_id, kernel, background),
        forecast=_forecast(forecast_grid, forecast_leads_h, now, cycle_id, kernel, background),
        feedback=_table(feedback, "feedback"),
        verification=_table(verification, "verification"),
        sounders=sounders,
        echoes=echoes,
        metadata=metadata,
        network=network,
        network_report=network_report,
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


def _inputs_hash(estimates: dict[float, Estimate], kp: pd.DataFrame | None) -> str:
    parts = []
    for made in estimates.values():
        rows = made.known[[*INPUT_COLUMNS, *carried(made.known)]].drop(columns="available_at")
        rows = rows.assign(observed_at=microseconds(made.known["observed_at"]))
        parts += [rows.to_json(orient="values", double_precision=15), json.dumps(made.f107_sfu)]
        if made.soundings is not None:
            parts.append(made.soundings.inputs_hash)
    if kp is not None and not kp.empty:
        parts.append(kp[["observation_id", "value"]].to_json(orient="values", double_precision=15))
    return _digest(*parts)[:32]


def _forecast(
    grid: Grid | None,
    leads_h: Sequence[float],
    now: Estimate,
    cycle_id: str,
    kernel: KernelConfig,
    background: Background,
) -> pa.Table | None:
    if grid is None or not leads_h:
        return None
    return pa.concat_tables(_on_grid(grid, now, lead_h, cycle_id, kernel, background) for lead_h in leads_h)


def _on_grid(
    grid: Grid, now: Estimate, lead_h: float, cycle_id: str, kernel: KernelConfig, background: Background
) -> pa.Table:
    latitude, longitude = grid.points()
    valid_at = now.valid_at + pd.Timedelta(hours=lead_h)
    qd_latitude, qd_longitude = background.quasi_dipole(latitude, longitude, valid_at.year)
    state = background.on_grid(valid_at.to_pydatetime(), latitude, longitude, now.chosen.ig12)
    amplitude = amplitudes(kernel, valid_at.to_pydatetime(), latitude, longitude, now.f107_sfu)
    pair = QUANTITIES.index("fof2_mhz"), QUANTITIES.index("m3000f2")
    increment, sd, (covariance,) = now.joint.analysis.predict_pairs(
        qd_latitude, qd_longitude, lead_h, [pair], amplitude=amplitude
    )
    wider = np.sqrt(now.joint.adaptation.at(qd_latitude, qd_longitude, lead_h))
    sd, covariance = sd * wider, covariance * wider[pair[0]] * wider[pair[1]]
    fields = {
        name: Prediction(
            forward(getattr(state, name), kernel.quantity(name)) + increment[number],
            sd[number],
            kernel.quantity(name).is_logarithmic,
        )
        for number, name in enumerate(QUANTITIES)
    }
    # MUF(3000) = foF2 x M(3000)F2: the logarithms add, and the two go together.
    fof2, m3000f2 = (fields[QUANTITIES[number]] for number in pair)
    spread = np.sqrt(np.maximum(fof2.spread**2 + m3000f2.spread**2 + 2 * covariance, 0.0))
    muf = Prediction(fof2.center + m3000f2.center, spread, is_logarithmic=True)
    columns: dict[str, Any] = {
        "cycle_id": pa.repeat(pa.scalar(cycle_id, pa.string()), latitude.size),
        "valid_time": pa.repeat(pa.scalar(valid_at.to_pydatetime(), TIMESTAMP), latitude.size),
        "lead_h": np.full(latitude.size, lead_h),
        "latitude_deg": latitude,
        "longitude_deg": longitude,
    }
    for name, field in (*fields.items(), ("muf3000_mhz", muf)):
        columns[name] = field.median
        columns[f"{name}_sd"] = field.sd
    gyrofrequency = gyrofrequency_mhz(valid_at.to_pydatetime(), latitude, longitude)
    columns["fxf2_mhz"] = extraordinary_mhz(columns["fof2_mhz"], gyrofrequency)
    # fxF2 rises with foF2: its median is that of foF2's median; its sd is foF2's times the slope, to first order.
    slope = columns["fof2_mhz"] / (columns["fxf2_mhz"] - gyrofrequency / 2.0)
    columns["fxf2_mhz_sd"] = columns["fof2_mhz_sd"] * slope
    columns["foe_mhz"] = state.foe_mhz
    columns["fof2_background_mhz"] = state.fof2_mhz
    columns["hmf2_background_km"] = state.hmf2_km
    columns["m3000f2_background"] = state.m3000f2
    columns["b0_background_km"] = state.b0_km
    return pa.table(columns)


def _table(frame: pd.DataFrame, dataset: str) -> pa.Table:
    """The rows in the contract's columns and types; NaN becomes null."""
    return pa.Table.from_pandas(frame, schema=arrow_schema(dataset), preserve_index=False)
