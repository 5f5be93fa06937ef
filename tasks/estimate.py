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
from tasks.background import Background, SolarLevels, f107_to_ig12
from tasks.effective_index import ChosenIndex, IndexChooser
from tasks.kernel_config import KernelConfig
from tasks.misreadings import named
from tasks.soundings import Heard, Soundings, sound
from tasks.superobservations import Nodes, gather
from tasks.window import Stations, known_rows, locate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """What can be seen at one time, before any covariance: rows, stations, climatology, index with and without each station."""

    valid_at: pd.Timestamp
    known: pd.DataFrame
    """Rows of the look-back, in order of time."""
    window: pd.DataFrame
    """Rows of the analysis and the index: the newest of `known`."""
    stations: Stations
    nodes: Nodes
    """Where the analysis takes them to be."""
    station: NDArray[np.int64]
    """Station of each row of the window."""
    levels: SolarLevels
    age_h: Array
    chosen: ChosenIndex
    held_out: list[ChosenIndex]
    """The index without each station, or in a large network without some stations of which it is one."""
    f107_sfu: float | None
    soundings: Soundings | None
    """What sounders heard, which is part of the rows; None where no measurements were given."""

    def solve(self, kernel: KernelConfig, *, scored_h: float, threads: int) -> JointlySolved:
        """The analysis with the covariance of `kernel`; rows newer than `scored_h` are scored.

        Raises:
            ValueError: an innovation covariance is far from positive definite; the message names the pair of observations.
        """
        latitude, longitude = (
            self.stations.latitude_deg[self.station],
            self.stations.longitude_deg[self.station],
        )
        amplitude = amplitudes(kernel, self.window["observed_at"], latitude, longitude, self.f107_sfu)
        return solve(
            kernel,
            self.window,
            self.stations,
            self.nodes,
            self.station,
            self.levels,
            self.age_h,
            amplitude,
            self.chosen,
            self.held_out,
            self.age_h < scored_h,
            threads,
        )


@dataclass(frozen=True)
class Estimate(View):
    """Everything that a view says, with and without each station."""

    joint: JointlySolved

    @property
    def solved(self) -> dict[str, Solved]:
        """What the joint analysis says of each quantity."""
        return self.joint.of_quantity


def look(
    observations: pd.DataFrame,
    *,
    valid_at: pd.Timestamp,
    available_at: pd.Timestamp,
    kernel: KernelConfig,
    background: Background,
    f107_sfu: float | None,
    heard: Heard | None = None,
    threads: int = 0,
) -> View:
    """The view at `valid_at` of the rows available at `available_at`; of `kernel` it takes windows, the index' settings and
    how echoes become observations.
    """
    soundings = None
    if heard is not None:
        first_guess = kernel.effective_index.default_ig12 if f107_sfu is None else f107_to_ig12(f107_sfu)
        soundings = sound(
            heard,
            valid_at=valid_at,
            available_at=available_at,
            kernel=kernel,
            background=background,
            ig12=first_guess,
            threads=threads,
        )
        observations = pd.concat([observations, soundings.observations], ignore_index=True)
    known = known_rows(observations, valid_at, available_at, kernel.lookback_h)
    window = known[known["observed_at"] > valid_at - pd.Timedelta(hours=kernel.longest_window_h)].reset_index(
        drop=True
    )
    stations, station = locate(window, background, valid_at.year)
    nodes = gather(stations, kernel.scale.max_nodes)
    latitude, longitude = stations.latitude_deg[station], stations.longitude_deg[station]
    levels = background.solar_levels(window["observed_at"], latitude, longitude)
    age_h = np.asarray((valid_at - window["observed_at"]).dt.total_seconds(), dtype=np.float64) / 3600.0
    index = IndexChooser(window, station, levels, age_h, kernel, f107_sfu)
    chosen = index.choose()
    folds = nodes.folds()
    without = [
        index.choose(np.flatnonzero(folds == number)) for number in range(int(folds.max(initial=-1)) + 1)
    ]
    held_out = [without[number] for number in folds]
    return View(
        *(
            valid_at,
            known,
            window,
            stations,
            nodes,
            station,
            levels,
            age_h,
            chosen,
            held_out,
            f107_sfu,
            soundings,
        )
    )


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
    heard: Heard | None = None,
) -> Estimate:
    """The estimate at `valid_at` from the rows available at `available_at`; rows newer than `scored_h` are scored.

    Raises:
        ValueError: an innovation covariance is far from positive definite; the message names the pair of observations.
    """
    view = look(
        observations,
        valid_at=valid_at,
        available_at=available_at,
        kernel=kernel,
        background=background,
        f107_sfu=f107_sfu,
        heard=heard,
        threads=threads,
    )
    joint = view.solve(kernel, scored_h=scored_h, threads=threads)
    joint = named(joint, view.chosen.ig12, background, kernel.quality)
    return Estimate(**vars(view), joint=joint)
