"""How much wider or narrower than its covariance says the field is right now: a factor on its variance by place and time.

A storm makes the ionosphere depart from its climatology by more than on the quiet days that the covariance was learned
on, and the sounders hear of it at once: their newest observations lie farther from what the others predict. Each station
so gives an estimate of the factor (`rust_core.Analysis.spread_evidence`); at a place they are averaged with weights by
distance and age, and with a prior weight on 1. The mean stays: B and R are not changed in the solve, whose increments a
common factor would leave alone. The observation error is not scaled. Measured in docs/decisions/0026-adaptation.md.

For a station that is held out everything is computed without its observations, the predictions that the others are
judged by included: else a surprise at the station would widen its own prediction through its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rust_core
from tasks.great_circle import unit_vectors
from tasks.kernel_config import QUANTITIES, Adaptation
from tasks.superobservations import Nodes
from tasks.window import EARTH_RADIUS_KM

Array = NDArray[np.float64]

SMALLEST_WEIGHT = 1e-3
MOST_ASKED = 30
"""About a station held out so many others are asked, the nearest, none of them whose weight by distance is smaller."""
CHUNK_POINTS = 4096
"""Points of a map whose distances from all stations are held in memory at a time."""


@dataclass(frozen=True)
class SpreadFactor:
    """The factor on the field's variance, everywhere and for each station (in a large network: node) that is held out."""

    settings: Adaptation
    places: Array
    """Unit vectors of the nodes in quasi-dipole coordinates, shape (N, 3)."""
    excess: Array
    """What each node says: factor less 1, shape (N, Q)."""
    weight: Array
    """How many independent new observations that is worth, shape (N, Q)."""
    held_out_excess: Array
    """Sum of the other nodes' excess times weight at each node's place, shape (N, Q)."""
    held_out_weight: Array
    """Sum of their weights there, shape (N, Q)."""

    def at(self, latitude_deg: Array, longitude_deg: Array, lead_h: float) -> Array:
        """The factor of every quantity at quasi-dipole points (G,), `lead_h` hours after the time of the analysis, shape (Q, G)."""
        factor = np.ones((len(QUANTITIES), latitude_deg.size))
        if not self.weight.any():
            return factor
        points = unit_vectors(latitude_deg, longitude_deg)
        for first in range(0, latitude_deg.size, CHUNK_POINTS):
            chunk = slice(first, first + CHUNK_POINTS)
            factor[:, chunk] = self._factor(*self._told(points[chunk]), lead_h, self._prior).T
        return factor

    def of_node(
        self, node: NDArray[np.int64], quantity: NDArray[np.int64], time_h: Array, *, is_held_out: bool
    ) -> Array:
        """The factor at nodes for quantities at times (n,), in hours from the time of the analysis, shape (n,)."""
        excess, weight = (
            (self.held_out_excess, self.held_out_weight) if is_held_out else self._told(self.places)
        )
        return self._factor(excess[node, quantity], weight[node, quantity], time_h, self._prior[quantity])

    def _told(self, points: Array) -> tuple[Array, Array]:
        """Excess times weight, and weight, of all nodes at points of the sphere (n, 3), shapes (n, Q)."""
        near = nearness(points, self.places, self.settings.range_km)
        return near @ (self.excess * self.weight), near @ self.weight

    @property
    def _prior(self) -> Array:
        """Of every quantity; infinite for those that are not adapted."""
        return np.array([self.settings.prior_rows.get(name, np.inf) for name in QUANTITIES])

    def _factor(self, excess: Array, weight: Array, time_h: float | Array, prior: Array) -> Array:
        """The mean of the estimates, shrunk to 1; what is known of now fades with the time between.

        That stations agree now says how well they fill the gaps between them, and little of how the field will change.
        """
        fading = np.exp(-np.abs(time_h) / self.settings.memory_h)
        excess = fading * excess / (prior + fading * weight)
        ahead = np.exp(-np.maximum(time_h, 0.0) / self.settings.agreement_h)
        factor = 1.0 + np.where(excess < 0.0, ahead, 1.0) * excess
        return np.asarray(np.clip(factor, self.settings.smallest, self.settings.largest))

    def summary(
        self, sounder_id: Sequence[str], node: NDArray[np.int64]
    ) -> dict[str, dict[str, dict[str, float]]]:
        """By quantity adapted and sounder (S,): the factor at its node (S,), the one when that is held out, and the weight of
        the node's own word.
        """

        def told(number: int, *, is_held_out: bool) -> Array:
            return self.of_node(
                node, np.full(node.size, number), np.zeros(node.size), is_held_out=is_held_out
            )

        return {
            name: {
                sounder: {"factor": float(here), "factor_held_out": float(without), "weight": float(weight)}
                for sounder, here, without, weight in zip(
                    sounder_id,
                    told(number, is_held_out=False),
                    told(number, is_held_out=True),
                    self.weight[node, number],
                    strict=True,
                )
            }
            for number, name in enumerate(QUANTITIES)
            if name in self.settings.prior_rows
        }


def spread_factor(
    settings: Adaptation,
    analysis: rust_core.Analysis,
    nodes: Nodes,
    *,
    quantity: NDArray[np.int64],
    error: Array,
    age_h: Array,
    is_asked: NDArray[np.bool_],
    held_out_innovation: Sequence[Array],
) -> SpreadFactor:
    """The factor by the rows (m,) of an analysis.

    Args:
        quantity: number of each row's quantity.
        error: of the observations as their class has it, without what robust weights added, in the unit of the innovations.
        is_asked: rows whose residuals say something: not the means over a longer time, which err alike at all nodes, so that
            the others seem to know them better than they do.
        held_out_innovation: (N) arrays (m,), the innovations against the background without each node.
    """
    shape = (len(nodes), len(QUANTITIES))
    places = unit_vectors(nodes.latitude_deg, nodes.longitude_deg)
    if not settings.prior_rows or not error.size:
        return SpreadFactor(settings, places, *(np.zeros(shape) for _ in range(4)))
    is_adapted = np.array([name in settings.prior_rows for name in QUANTITIES])
    recency = np.where(is_adapted[quantity] & is_asked, np.exp(-age_h / settings.memory_h), 0.0)

    def ask(asked: NDArray[np.int64], excluded: int | None, innovation: Array | None) -> tuple[Array, Array]:
        excess, weight = analysis.spread_evidence(
            asked,
            error=error,
            recency=recency,
            largest_z2=settings.largest_z**2,
            mean_z2=mean_of_capped(settings.largest_z),
            excluded=excluded,
            innovation=innovation,
        )
        return (1.0 + excess) / settings.usual - 1.0, weight

    excess, weight = ask(np.arange(len(nodes)), None, None)
    near = nearness(places, places, settings.range_km)
    held_out_excess, held_out_weight = np.zeros(shape), np.zeros(shape)
    for node, innovation in enumerate(held_out_innovation):
        others = np.argsort(-near[node], kind="stable")
        others = others[(others != node) & (near[node, others] > SMALLEST_WEIGHT)][:MOST_ASKED]
        theirs, counts = ask(others, node, innovation)
        held_out_excess[node] = near[node, others] @ (theirs * counts)
        held_out_weight[node] = near[node, others] @ counts
    return SpreadFactor(settings, places, excess, weight, held_out_excess, held_out_weight)


def mean_of_capped(largest_z: float) -> float:
    """The expectation of min(z^2, c^2) for a standard normal z."""
    inside = math.erf(largest_z / math.sqrt(2.0))
    density = math.exp(-(largest_z**2) / 2.0) / math.sqrt(2.0 * math.pi)
    return inside - 2.0 * largest_z * density + largest_z**2 * (1.0 - inside)


def nearness(a: Array, b: Array, range_km: float) -> Array:
    """exp(-d^2 / 2 range^2) between unit vectors, d the chord: d^2 = 2 R^2 (1 - a b), shape (a, b)."""
    return np.asarray(np.exp(np.minimum(a @ b.T - 1.0, 0.0) * (EARTH_RADIUS_KM / range_km) ** 2))
