"""Network analysis on demand: the pure cycle of a time again, from the lake, without a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from tasks.target_area import Area, with_demand_file
from tasks.tier_errors import TierError, measured


@dataclass(frozen=True)
class Question:
    """Which network, at which time, judged by which area."""

    settings: Settings
    plan: cycles.CyclePlan
    demand: Path | None = None

    def area(self) -> Area:
        """The plan's region, weighted by the demand.

        Raises:
            AreaError: the demand cannot be used.
        """
        area = cycles.region_area(self.plan)
        return area if self.demand is None else with_demand_file(area, self.demand)

    def known(self) -> Estimate:
        """What a cycle of the plan knows."""
        settings, plan = self.settings, self.plan
        heard = cycles.read_heard(settings, [plan])
        return estimate(
            cycles.read_window(settings, [plan]),
            valid_at=pd.Timestamp(plan.valid_time).as_unit("us"),
            available_at=pd.Timestamp(plan.available_until).as_unit("us"),
            kernel=cycles.kernel_config(settings),
            background=cycles.background(),
            f107_sfu=cycles.read_solar_flux(settings, plan),
            scored_h=settings.cycle_minutes / 60.0,
            threads=settings.threads,
            heard=None if heard.is_silent else heard,
        )

    def report(self, where: Mask = on_land) -> NetworkReport:
        """The network over the area.

        Raises:
            AreaError: the demand cannot be used.
        """
        area, now = self.area(), self.known()
        kernel, background = cycles.kernel_config(self.settings), cycles.background()
        return analyse_network(now, kernel, background, area, where=where, threads=self.settings.threads)

    def posterior(self) -> tuple[Posterior, Mapping[str, TierError], pd.DataFrame]:
        """The posterior, the errors by tier that it shows, and its sounders with what each buys over the area."""
        now = self.known()
        kernel, background = cycles.kernel_config(self.settings), cycles.background()
        feedback = pd.concat([part.feedback for part in now.solved.values()], ignore_index=True)
        errors = measured(feedback, tiers_of(now), now.valid_at, kernel.window.full_rate_h)
        posterior = Posterior.of(now, kernel, background, self.settings.threads)
        sounders = sounder_table(now, posterior, posterior.over(self.area()), feedback, errors, tiers_of(now))
        return posterior, errors, sounders

    def place(self, n_sounders: int, tier: str, where: Mask) -> Placement:
        """Places of new sounders.

        Raises:
            AreaError: the demand cannot be used.
            PlacementError: the tier, the number or the mask is at fault.
        """
        area = self.area()
        posterior, errors, sounders = self.posterior()
        targets = posterior.over(area)
        sounder = NewSounder.of_tier(tier, errors)
        placed, found = place(posterior, targets, sounder, n_sounders, area, where)
        return Placement(placed, found, sounders, find_gaps(targets))

    def what_if(self, latitude_deg: float, longitude_deg: float, tier: str) -> WhatIf:
        """One sounder more at a place.

        Raises:
            AreaError: the demand cannot be used.
            PlacementError: the tier or the place is at fault.
        """
        area = self.area()
        posterior, errors, _ = self.posterior()
        sounder = NewSounder.of_tier(tier, errors)
        return what_if(posterior, posterior.over(area), sounder, latitude_deg, longitude_deg)


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
    land = everywhere if at_sea else on_land
    return land if mask is None else both(land, polygon_mask(mask))
