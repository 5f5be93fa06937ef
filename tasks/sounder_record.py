"""What is known of every sounder from cycle to cycle: read from the rows of the cycle before, written as those of this one.

The rows of the dataset `sounders` carry everything that the next cycle needs, so a cycle is a function of its inputs and of
the rows before it; a replay from any point gives the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from tasks.kernel_config import ErrorScale, TierConfig
from tasks.sounder_error import SounderError, forget, prior_error
from tasks.sounder_quality import SounderQuality, assess
from tasks.tiers import next_tier, reason, weight

REMEMBERED_D = 30.0
"""A sounder silent for longer is as new."""
UNITS = {"delay": "ms", "signal": "db"}
SPOKEN = {"delay": ("delay", "ms"), "signal": ("signal strength", "dB")}

Declared = Mapping[str, Mapping[str, Any]]
"""By sounder, what it registered with."""


@dataclass(frozen=True)
class Known:
    """One sounder at one time."""

    quality: SounderQuality
    errors: Mapping[str, SounderError]
    """By observable, `delay` in ms and `signal` in dB."""
    tiers: Mapping[str, str]
    previous_tier: str | None
    n_good: float
    n_bad: float
    has_delays: bool
    latitude_deg: float
    """Of the middle of its newest path."""
    longitude_deg: float

    @property
    def tier(self) -> str:
        """By its delays, which the analysis uses; by its signal if it gives none."""
        return self.tiers["delay" if self.has_delays else "signal"]


def newest_before(sounders: pd.DataFrame, valid_at: pd.Timestamp) -> pd.DataFrame:
    """The rows of the last cycle before a time, one per sounder; none if the last is too old."""
    earlier = sounders[sounders["valid_time"] < valid_at]
    earlier = earlier[earlier["valid_time"] == earlier["valid_time"].max()]
    is_remembered = earlier["valid_time"] > valid_at - pd.Timedelta(days=REMEMBERED_D)
    newest: pd.DataFrame = earlier[is_remembered].drop_duplicates("sounder_id", keep="last")
    return newest.reset_index(drop=True)


def know(
    before: pd.DataFrame,
    measurements: pd.DataFrame,
    declared: Declared,
    *,
    valid_at: pd.Timestamp,
    config: TierConfig,
) -> dict[str, Known]:
    """What is known of every sounder that measured or is remembered, before the innovations of the cycle.

    Args:
        before: as `newest_before` gives them.
        measurements: of the last 24 hours at least, as `tasks.echoes.prepare` gives them.
    """
    rows_of = {str(name): rows for name, rows in measurements.groupby("sounder_id", sort=True)}
    nothing = measurements.iloc[:0]
    record_of = {
        str(row["sounder_id"]): {str(name): value for name, value in row.items()}
        for row in before.to_dict("records")
    }
    return {
        sounder_id: _know_one(
            record_of.get(sounder_id),
            rows_of.get(sounder_id, nothing),
            declared.get(sounder_id, {}),
            valid_at=valid_at,
            config=config,
        )
        for sounder_id in sorted({*rows_of, *record_of})
    }


def _know_one(
    record: dict[str, Any] | None,
    rows: pd.DataFrame,
    declared: Mapping[str, Any],
    *,
    valid_at: pd.Timestamp,
    config: TierConfig,
) -> Known:
    age_d, n_good, n_bad = 0.0, 0.0, 0.0
    if record is not None:
        age_d = (valid_at - record["valid_time"]).total_seconds() / 86_400.0
        kept = float(np.exp(-age_d / config.memory_d))
        n_good, n_bad = kept * record["n_good"], kept * record["n_bad"]
    quality = assess(rows, declared, valid_at=valid_at, n_good=n_good, n_bad=n_bad)
    errors, tiers = {}, {}
    for name in UNITS:
        scale: ErrorScale = getattr(config, name)
        prior = prior_error(quality.prior_sd(scale.sd), scale, config)
        last = prior
        if record is not None:
            last = _read(record[f"{name}_state"], record["valid_time"])
        errors[name] = forget(last, prior, valid_at.to_pydatetime(), config)
        previous = None if record is None else record[f"tier_{name}"]
        tiers[name] = next_tier(errors[name].sd, scale.sd, previous, config)
    has_delays = bool(rows["group_delay_ms"].notna().any())
    if rows.empty and record is not None:
        has_delays = bool(record["n_delay_innovations"] > 0)
    place = record if rows.empty and record is not None else rows.iloc[-1]
    return Known(
        quality=quality,
        errors=errors,
        tiers=tiers,
        previous_tier=None if record is None else record["tier"],
        n_good=n_good,
        n_bad=n_bad,
        has_delays=has_delays,
        latitude_deg=float(place["latitude_deg"]),
        longitude_deg=float(place["longitude_deg"]),
    )


def _write(error: SounderError) -> str:
    """All of it but the time as JSON, whose numbers read back to the same bits."""
    return json.dumps([error.shape, error.scale, error.state, error.covariance, error.n_obs])


def _read(text: str, at: pd.Timestamp) -> SounderError:
    shape, scale, state, covariance, n_obs = json.loads(text)
    return SounderError(
        shape=shape,
        scale=scale,
        state=tuple(state),
        covariance=tuple(tuple(row) for row in covariance),
        n_obs=n_obs,
        updated_at=at.to_pydatetime(),
    )


def learned(
    known: Known, errors: Mapping[str, SounderError], n_good: float, n_bad: float, config: TierConfig
) -> Known:
    """A sounder after the innovations of a cycle: its tiers follow its errors."""
    return replace(
        known,
        errors=errors,
        tiers={
            name: next_tier(errors[name].sd, getattr(config, name).sd, known.tiers[name], config)
            for name in UNITS
        },
        n_good=known.n_good + n_good,
        n_bad=known.n_bad + n_bad,
    )


def describe(known: Known, config: TierConfig) -> dict[str, Any]:
    """The columns of the dataset `sounders` that say what is known of one sounder."""
    main = "delay" if known.has_delays else "signal"
    observable, unit = SPOKEN[main]
    row: dict[str, Any] = {
        "latitude_deg": known.latitude_deg,
        "longitude_deg": known.longitude_deg,
        "tier": known.tier,
        "tier_delay": known.tiers["delay"],
        "tier_signal": known.tiers["signal"],
        "previous_tier": known.previous_tier,
        "reason": reason(
            known.tier,
            known.previous_tier,
            known.errors[main],
            getattr(config, main),
            config,
            observable=observable,
            unit=unit,
            score=known.quality.score,
        ),
        "quality": known.quality.score,
        "n_good": known.n_good,
        "n_bad": known.n_bad,
    }
    row |= {f"quality_{part.name}": getattr(known.quality, part.name) for part in fields(SounderQuality)}
    for name, short in UNITS.items():
        error, scale = known.errors[name], getattr(config, name)
        low, high = error.interval
        row |= {
            f"weight_{name}": weight(known.tiers[name], scale.sd),
            f"{name}_sd_{short}": error.sd,
            f"{name}_sd_low_{short}": low,
            f"{name}_sd_high_{short}": high,
            f"{name}_bias_sd_{short}": error.bias_sd,
            f"is_{name}_biased": error.has_bias(scale, config),
            f"n_{name}_innovations": error.n_obs,
            f"{name}_bias_{short}": error.bias,
            f"{name}_state": _write(error),
        }
    return row
