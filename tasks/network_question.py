"""Network analysis on demand: the pure cycle of a time again, from the lake, without a grid."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from tasks import cycles
from tasks.estimate import Estimate, estimate
from tasks.gaps import Gap, find_gaps
from tasks.masks import Mask, both, everywhere, on_land, polygon_mask
from tasks.network import NetworkReport, analyse_network, sounder_table, tiers_of
from tasks.placement import GainMap, NewSounder, Placed, WhatIf, place, what_if
from tasks.posterior import Posterior
from tasks.settings import Settings
from tasks.target_area import Area, DemandPlaces, with_demand_places
from tasks.tier_errors import TierError, measured


@dataclass(frozen=True)
class Known:
    """What a cycle of a plan knows, read and solved when it is first asked for and then kept; any thread may ask."""

    settings: Settings
    plan: cycles.CyclePlan
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def solve(self) -> Solved:
        """Read the lake and solve, once.

        Raises:
            tasks.lake.LakeError, tasks.catalog.CatalogError: what it needs cannot be read.
        """
        with self._lock:
            return self._solved

    @cached_property
    def _solved(self) -> Solved:
        settings, plan = self.settings, self.plan
        heard = cycles.read_heard(settings, [plan])
        kernel, background = cycles.kernel_config(settings), cycles.background()
        now = estimate(
            cycles.read_window(settings, [plan]),
            valid_at=pd.Timestamp(plan.valid_time).as_unit("us"),
            available_at=pd.Timestamp(plan.available_until).as_unit("us"),
            kernel=kernel,
            background=background,
            f107_sfu=cycles.read_solar_flux(settings, plan),
            scored_h=settings.cycle_minutes / 60.0,
            threads=settings.threads,
            heard=None if heard.is_silent else heard,
        )
        feedback = pd.concat([part.feedback for part in now.solved.values()], ignore_index=True)
        return Solved(
            estimate=now,
            posterior=Posterior.of(now, kernel, background, settings.threads),
            feedback=feedback,
            errors=measured(feedback, tiers_of(now), now.valid_at, kernel.window.full_rate_h),
        )


@dataclass(frozen=True)
class Solved:
    """A solved cycle as network analysis asks it."""

    estimate: Estimate
    posterior: Posterior
    feedback: pd.DataFrame
    """Dataset `feedback` without the cycle's identity."""
    errors: Mapping[str, TierError]
    """By tier, as the cycle's own observations show them."""


@dataclass(frozen=True)
class Question:
    """Which network, at which time, judged by which area."""

    known: Known
    demand: DemandPlaces | None = None
    region: str | None = None
    """Another than the plan's."""

    @property
    def plan(self) -> cycles.CyclePlan:
        plan = self.known.plan
        return plan if self.region is None else replace(plan, region=self.region)

    def area(self) -> Area:
        """The region, weighted by the demand.

        Raises:
            AreaError: the demand cannot be used.
            CycleError: the region cannot.
        """
        area = cycles.region_area(self.plan)
        return area if self.demand is None else with_demand_places(area, self.demand)

    def report(self, where: Mask = on_land) -> NetworkReport:
        """The network over the area.

        Raises:
            AreaError, CycleError: the demand or the region cannot be used.
        """
        area, settings = self.area(), self.known.settings
        kernel, background = cycles.kernel_config(settings), cycles.background()
        now = self.known.solve().estimate
        return analyse_network(now, kernel, background, area, where=where, threads=settings.threads)

    def place(self, n_sounders: int, tier: str, where: Mask, per_h: float | None = None) -> Placement:
        """Places of new sounders of a tier, with so many observations of foF2 per hour; None: those of the tier.

        Raises:
            AreaError, CycleError: the demand or the region cannot be used.
            PlacementError: the tier, the number, the rate or the mask is at fault.
        """
        area = self.area()
        solved = self.known.solve()
        sounder = NewSounder.of_tier(tier, solved.errors, per_h)
        targets = solved.posterior.over(area)
        placed, found = place(solved.posterior, targets, sounder, n_sounders, area, where)
        now = solved.estimate
        sounders = sounder_table(
            now, solved.posterior, targets, solved.feedback, solved.errors, tiers_of(now)
        )
        return Placement(placed, found, sounders, find_gaps(targets))

    def what_if(
        self, latitude_deg: float, longitude_deg: float, tier: str, per_h: float | None = None
    ) -> WhatIf:
        """One sounder more at a place.

        Raises:
            AreaError, CycleError: the demand or the region cannot be used.
            PlacementError: the tier, the rate or the place is at fault.
        """
        area = self.area()
        solved = self.known.solve()
        sounder = NewSounder.of_tier(tier, solved.errors, per_h)
        return what_if(solved.posterior, solved.posterior.over(area), sounder, latitude_deg, longitude_deg)


@dataclass(frozen=True)
class Placement:
    """Where new sounders would be worth most."""

    placed: list[Placed]
    map: GainMap
    """Of the first one."""
    sounders: pd.DataFrame
    """Those that are there, `tasks.network.COLUMNS`."""
    gaps: list[Gap]
    """Before."""


def placement_mask(mask: Path | None, *, at_sea: bool) -> Mask:
    """Where new sounders may stand.

    Raises:
        AreaError: the file of the mask cannot be used.
    """
    return allowed(None if mask is None else polygon_mask(mask), at_sea=at_sea)


def allowed(mask: Mask | None, *, at_sea: bool) -> Mask:
    """Where new sounders may stand: within a mask, and at sea only if that is said."""
    land = everywhere if at_sea else on_land
    return land if mask is None else both(land, mask)
