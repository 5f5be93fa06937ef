"""The six parts of a sounder's quality, and the error that they suggest before its innovations have a say.

| part | what it is, 0..1 | when nothing is known |
|---|---|---|
| signal | mean over its measurements of the SNR from 0 to 30 dB | measurements without SNR count 0 |
| calibration | calibrated 1, halving every 2 years since `calibrated_at`, never below self_calibrated; undated as after a year | as uncalibrated |
| temporal | share of the 24 hours before with a measurement | 0 |
| spatial | share of its measurements within 10 km of its usual midpoint and over no more than the longest path | 0 |
| equipment | professional 1, research 0.75, amateur_advanced 0.5, amateur_basic 0.25 | as amateur_basic |
| historical | share of its measurements that were good, with three bad ones assumed at the start | 0.25 |

Everything counts by the time of observation, so late data and replays say the same. What is not declared never scores above the
honest answer that is worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from tasks.echoes import HEARD, SAME_PATH_KM
from tasks.great_circle import distance_km
from tasks.kernel_config import PerTier

CALIBRATION = {"calibrated": 1.0, "self_calibrated": 0.5, "uncalibrated": 0.2}
CALIBRATION_HALF_LIFE_Y = 2.0
UNDATED_Y = 1.0
EQUIPMENT = {"professional": 1.0, "research": 0.75, "amateur_advanced": 0.5, "amateur_basic": 0.25}
FULL_SNR_DB = 30.0
OBSERVED_H = 24.0
ASSUMED_GOOD, ASSUMED_BAD = 1.0, 3.0
DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class SounderQuality:
    """The six parts, each 0..1; the mean by these weights is the quality."""

    signal: float
    calibration: float
    temporal: float
    spatial: float
    equipment: float
    historical: float

    WEIGHTS = (0.15, 0.25, 0.10, 0.10, 0.25, 0.15)

    @property
    def score(self) -> float:
        return float(np.dot(self.WEIGHTS, [getattr(self, part.name) for part in fields(self)]))

    def prior_sd(self, sd: PerTier) -> float:
        """Error (1 sd) that the quality suggests: from the best tier's at 1 to the worst tier's at 0, in equal ratios."""
        best, worst = sd.PLATINUM, sd.BRONZE
        return float(worst * (best / worst) ** self.score)


def assess(
    rows: pd.DataFrame, declared: Mapping[str, Any], *, valid_at: pd.Timestamp, n_good: float, n_bad: float
) -> SounderQuality:
    """The quality of one sounder.

    Args:
        rows: its measurements of the 24 hours before, as `tasks.echoes.prepare` gives them.
        declared: what it registered with; an entry that is missing or not understood counts as undeclared.
        n_good, n_bad: its past measurements that the retrieval used, and that it found wrong.
    """
    recent = rows[rows["observed_at"] > valid_at - pd.Timedelta(hours=OBSERVED_H)]
    return SounderQuality(
        signal=_signal(recent),
        calibration=_calibration(declared, valid_at),
        temporal=_temporal(recent, valid_at),
        spatial=_spatial(recent),
        equipment=EQUIPMENT.get(str(declared.get("equipment")), min(EQUIPMENT.values())),
        historical=(ASSUMED_GOOD + n_good) / (ASSUMED_GOOD + ASSUMED_BAD + n_good + n_bad),
    )


def _signal(rows: pd.DataFrame) -> float:
    if rows.empty:
        return 0.0
    snr = rows["snr_db"].to_numpy(dtype=np.float64)
    return float(np.clip(np.nan_to_num(snr, nan=0.0) / FULL_SNR_DB, 0.0, 1.0).mean())


def _calibration(declared: Mapping[str, Any], valid_at: pd.Timestamp) -> float:
    said = str(declared.get("calibration"))
    score = CALIBRATION.get(said, min(CALIBRATION.values()))
    if said != "calibrated":
        return score
    age_y: float = UNDATED_Y
    try:
        calibrated_at = datetime.fromisoformat(str(declared.get("calibrated_at")))
        calibrated_at = calibrated_at if calibrated_at.tzinfo else calibrated_at.replace(tzinfo=UTC)
        since: float = (valid_at - pd.Timestamp(calibrated_at)).total_seconds() / 86_400.0 / DAYS_PER_YEAR
        # A date that has not come is no date.
        age_y = since if since >= 0 else UNDATED_Y
    except ValueError:
        pass
    aged: float = max(score * 0.5 ** (age_y / CALIBRATION_HALF_LIFE_Y), CALIBRATION["self_calibrated"])
    return aged


def _temporal(rows: pd.DataFrame, valid_at: pd.Timestamp) -> float:
    hours = np.floor((valid_at - rows["observed_at"]).dt.total_seconds() / 3600.0)
    return float(len(hours.unique())) / OBSERVED_H


def _spatial(rows: pd.DataFrame) -> float:
    if rows.empty:
        return 0.0
    latitude, longitude = (
        rows[name].to_numpy(dtype=np.float64) for name in ("latitude_deg", "longitude_deg")
    )
    # The usual place is that of the row in the middle by both coordinates, a real one: no mean over the date line.
    ordered = np.lexsort((longitude, latitude))
    usual = ordered[len(ordered) // 2]
    near = distance_km(latitude, longitude, latitude[usual], longitude[usual]) < SAME_PATH_KM
    return float((near & rows["outcome"].isin(HEARD).to_numpy()).mean())
