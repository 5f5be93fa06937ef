"""The newest cycle of the settings' region that has a grid: what it was asked, and what it left in the lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from tasks import catalog, lake
from tasks.cycles import CyclePlan, file_name
from tasks.settings import Settings

LOOK_BACK = 1_000
"""Cycles, newest first, among which one with a grid is looked for: `backfill` leaves many without."""


@dataclass(frozen=True)
class NewestCycle:
    """A recorded cycle."""

    cycle_id: str
    plan: CyclePlan

    def read(self, settings: Settings, dataset: str) -> pd.DataFrame:
        """Its rows of a dataset other than `analysis`; none where it left none.

        Raises:
            tasks.lake.LakeError: they cannot be read.
        """
        paths = lake.files(dataset, settings=settings, name=file_name(dataset, self.plan))
        if paths:
            rows = pd.concat([lake.read_file(dataset, path) for path in paths], ignore_index=True)
        else:  # none, or its day was compacted
            at = self.plan.valid_time
            rows = lake.read(dataset, settings=settings, start=at, end=at)
        return rows[rows["cycle_id"] == self.cycle_id].reset_index(drop=True)

    def network_summary(self, settings: Settings) -> Mapping[str, Any]:
        """`tasks.network.NetworkReport.summary` of the cycle.

        Raises:
            tasks.catalog.CatalogError: the catalog does not answer.
        """
        row = catalog.get_cycle(catalog.open_catalog(settings), self.cycle_id)
        assert row is not None  # the newest are never removed
        summary: Mapping[str, Any] = row.details["network"]
        return summary


def newest_cycle(settings: Settings) -> NewestCycle | None:
    """The newest one, None where there is none yet.

    Raises:
        tasks.catalog.CatalogError: the catalog does not answer.
    """
    engine = catalog.open_catalog(settings)
    for cycle_id, valid_time, available_until, files in catalog.newest_cycles(engine, LOOK_BACK):
        plan = CyclePlan(valid_time, available_until, settings.region, settings.grid_step_deg)
        if file_name("analysis", plan) in {PurePosixPath(file).stem for file in files}:
            return NewestCycle(cycle_id, plan)
    return None
