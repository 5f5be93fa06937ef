"""The posterior of a cycle as network analysis asks for it: variances of foF2 over an area, and what a new station changes.

All variances are means over the area by its weights, in MHz^2: of ln foF2 by the kernel, times the analysed foF2 squared
(first order), times the cycle's factor on the field's variance (`tasks.adaptation`), which is held as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import rust_core
from tasks.adaptation import SpreadFactor
from tasks.amplitude import amplitudes
from tasks.analysis import MAX_JITTER
from tasks.background import Background
from tasks.estimate import Estimate
from tasks.kernel_config import QUANTITIES, KernelConfig
from tasks.row_errors import ErrorPairs
from tasks.superobservations import Rows
from tasks.target_area import Area

Array: TypeAlias = NDArray[np.float64]

FOF2 = QUANTITIES.index("fof2_mhz")


@dataclass(frozen=True)
class Posterior:
    """One solved analysis, its rows, and what is needed to ask it about any place at its time."""

    analysis: rust_core.Analysis
    entered: Rows
    pairs: ErrorPairs
    """Of the rows whose errors go together."""
    network: Mapping[str, Any]
    """Where the nodes are, as `rust_core` takes it."""
    n_nodes: int
    adaptation: SpreadFactor
    kernel: KernelConfig
    background: Background
    valid_at: pd.Timestamp
    ig12: float
    f107_sfu: float | None
    threads: int

    @classmethod
    def of(cls, now: Estimate, kernel: KernelConfig, background: Background, threads: int) -> Posterior:
        """The posterior of what is known at one time."""
        return cls(
            now.joint.analysis,
            now.joint.entered,
            now.joint.entered_pairs,
            now.joint.nodes.network(now.stations),
            len(now.joint.nodes),
            now.joint.adaptation,
            kernel,
            background,
            now.valid_at,
            now.chosen.ig12,
            now.f107_sfu,
            threads,
        )

    def over(self, area: Area) -> Targets:
        """The area as the kernel takes it."""
        latitude, longitude = area.latitude_deg, area.longitude_deg
        qd_latitude, qd_longitude = self.background.quasi_dipole(latitude, longitude, self.valid_at.year)
        amplitude = amplitudes(self.kernel, self.valid_at.to_pydatetime(), latitude, longitude, self.f107_sfu)
        state = self.background.on_grid(self.valid_at.to_pydatetime(), latitude, longitude, self.ig12)
        increment, sd = self.analysis.predict(qd_latitude, qd_longitude, 0.0, amplitude=amplitude)
        fof2 = state.fof2_mhz * np.exp(increment[FOF2])
        factor = self.adaptation.at(qd_latitude, qd_longitude, 0.0)[FOF2]
        return Targets(
            area=area,
            qd_latitude_deg=qd_latitude,
            qd_longitude_deg=qd_longitude,
            amplitude=amplitude,
            fof2_mhz=fof2,
            mhz2=factor * fof2**2,
            ln_variance=sd[FOF2] ** 2,
            ln_prior_variance=prior_variance(self.kernel, amplitude[FOF2]),
        )

    def ln_variance(self, targets: Targets) -> Array:
        """Posterior variance of ln foF2 at the targets, shape (G,)."""
        _, sd = self.analysis.predict(
            targets.qd_latitude_deg, targets.qd_longitude_deg, 0.0, amplitude=targets.amplitude
        )
        return np.asarray(sd[FOF2] ** 2)

    def variance_bought(self, targets: Targets, *, is_alone: bool = False) -> Array:
        """What each node buys given the others, or alone, MHz^2, shape (N,)."""
        ask = self.analysis.variance_bought_alone if is_alone else self.analysis.variance_bought
        return np.asarray(ask(*targets.places, weight=targets.weight, amplitude=targets.amplitude)[:, FOF2])

    def upgrade_gain(self, error_factor: Array, targets: Targets) -> Array:
        """What each node would buy besides, with its errors times its factor (N,), MHz^2, shape (N,)."""
        gain = self.analysis.upgrade_gain(
            error_factor, *targets.places, weight=targets.weight, amplitude=targets.amplitude
        )
        return np.asarray(gain[:, FOF2])

    def with_station(self, qd_latitude_deg: float, qd_longitude_deg: float, rows: Rows) -> Posterior:
        """The posterior with a new station, whose number is the next and whose values are what is expected."""
        own = replace(rows, station=np.full(rows.station.size, self.n_nodes))
        entered = Rows(
            **{
                name: np.concatenate([values, getattr(own, name)])
                for name, values in vars(self.entered).items()
            }
        )
        added = {
            "station_latitude_deg": qd_latitude_deg,
            "station_longitude_deg": qd_longitude_deg,
            "place_station": self.n_nodes,
        }
        network = {name: np.append(values, added[name]) for name, values in self.network.items()}
        analysis = rust_core.Analysis(
            self.kernel.build_terms(),
            **network,
            station=entered.station,
            quantity=entered.quantity,
            time_h=entered.time_h,
            innovation=entered.innovation,
            obs_error=entered.error,
            amplitude=entered.amplitude,
            **self.pairs.arguments(),
            max_jitter=MAX_JITTER,
            n_threads=self.threads,
        )
        return replace(
            self,
            analysis=analysis,
            entered=entered,
            network=network,
            n_nodes=self.n_nodes + 1,
        )


@dataclass(frozen=True)
class Targets:
    """The points (G,) of an area at the time of a posterior."""

    area: Area
    qd_latitude_deg: Array
    qd_longitude_deg: Array
    amplitude: Array
    """Of every quantity (Q, G)."""
    fof2_mhz: Array
    """Analysed."""
    mhz2: Array
    """What turns a variance of ln foF2 into one of foF2 as it is published."""
    ln_variance: Array
    ln_prior_variance: Array

    @property
    def places(self) -> tuple[Array, Array, float]:
        return self.qd_latitude_deg, self.qd_longitude_deg, 0.0

    @property
    def weight(self) -> Array:
        """With it a sum over ln variances is the area's mean in MHz^2."""
        return np.asarray(self.area.weight * self.mhz2)

    @property
    def variance_mhz2(self) -> float:
        """Mean over the area."""
        return float(self.weight @ self.ln_variance)

    @property
    def prior_variance_mhz2(self) -> float:
        """Mean over the area without any observation."""
        return float(self.weight @ self.ln_prior_variance)

    @property
    def sd_mhz(self) -> Array:
        return np.asarray(np.sqrt(self.mhz2 * self.ln_variance))

    @property
    def sd_share(self) -> Array:
        """Of the background's sd, 0..1: 1 where no sounder reaches."""
        return np.asarray(np.sqrt(self.ln_variance / self.ln_prior_variance))


def prior_variance(kernel: KernelConfig, amplitude: Array) -> Array:
    """Of ln foF2 as it is mapped, at places with the amplitudes (n,): the terms that are fields."""
    total = np.zeros(amplitude.size)
    for term in kernel.terms:
        if term.spatial != "station":
            total += (term.sd.fof2_mhz * (amplitude if term.is_modulated else 1.0)) ** 2
    return total
