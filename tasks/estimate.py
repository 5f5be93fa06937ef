"""What can be known at one time: window, effective index, innovations, quality control and analysis of every quantity.

A nowcast grids and scores an estimate; a forecast is an earlier estimate, asked about a later time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.amplitude import amplitudes
from tasks.analysis import JointlySolved, Solved, solve
from tasks.background import Background, SolarLevels
from tasks.effective_index import ChosenIndex, IndexChooser
from tasks.kernel_config import KernelConfig
from tasks.misreadings import named
from tasks.window import Stations, known_rows, locate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Everything that the observations available at `valid_at` say, with and without each station."""

    valid_at: pd.Timestamp
    known: pd.DataFrame
    """Rows of the look-back, in order of time."""
    window: pd.DataFrame
    """Rows of the analysis and the index: the newest of `known`."""
    stations: Stations
    station: NDArray[np.int64]
    """Station of each row of the window."""
    levels: SolarLevels
    age_h: Array
    chosen: ChosenIndex
    held_out: list[ChosenIndex]
    """The index without each station."""
    joint: JointlySolved
    f107_sfu: float | None

    @property
    def solved(self) -> dict[str, Solved]:
        """What the joint analysis says of each quantity."""
        return self.joint.of_quantity


def estimate(
    observations: pd.DataFrame,
    *,
    valid_at: pd.Timestamp,
    available_at: pd.Timestamp,
    kernel: KernelConfig,
    background: Background,
    f107_sfu: float | None,
    scored_h: float,
    threads: int,
) -> Estimate:
    """The estimate at `valid_at` from the rows available at `available_at`; rows newer than `scored_h` are scored.

    Raises:
        ValueError: an innovation covariance is far from positive definite; the message names the pair of observations.
    """
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
    scored = age_h < scored_h
    amplitude = amplitudes(kernel, background, window["observed_at"], latitude, longitude)
    joint = solve(
        *(kernel, window, stations, station, levels, age_h, amplitude, chosen, held_out, scored, threads)
    )
    joint = named(joint, chosen.ig12, background, kernel.quality)
    return Estimate(
        valid_at, known, window, stations, station, levels, age_h, chosen, held_out, joint, f107_sfu
    )
