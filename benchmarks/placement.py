"""What a new sounder and an upgrade are predicted to gain, against what the cycle gives when they are really there.

    python benchmarks/placement.py [--networks 6]

Ionosondes over Europe hear a simulated ionosphere with noise, gaps (4 %) and gross errors (3 %). In each network a sounder is
placed where it gains most, and at a place drawn by chance, and its real soundings are given to the cycle; and in a network with
the errors of SILVER, or GOLD, one station after the other gets those of PLATINUM. Predicted and given: the fall of the mean variance of foF2 over the region. `published` is the fall of the variance as the map shows it, whose factor on the field's
variance, foF2 and index change with the new values too. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Background
from tasks.estimate import Estimate, estimate
from tasks.grid import Grid
from tasks.kernel_config import KernelConfig, load_kernel_config
from tasks.masks import on_land
from tasks.placement import NewSounder, gain_at, place
from tasks.posterior import Posterior, Targets
from tasks.simulation import STATIONS, SimulatedIonosphere
from tasks.target_area import Area, area_of
from tasks.tier_errors import ASSUMED, TierError

Array: TypeAlias = NDArray[np.float64]

VALID_TIME = datetime(2022, 10, 25, 12, tzinfo=UTC)
HOURS = 30.0
STEP_MINUTES = 15.0
GAP_SHARE, GROSS_SHARE = 0.04, 0.03
IONOSONDE = "ionosonde"
GRADES = (IONOSONDE, "GOLD")


@dataclass(frozen=True)
class World:
    """One truth and the instruments that hear it."""

    kernel: KernelConfig
    background: Background
    truth: SimulatedIonosphere
    threads: int

    @classmethod
    def of(cls, seed: int, threads: int = 0) -> World:
        background = Background()
        truth = SimulatedIonosphere(seed, VALID_TIME - timedelta(hours=48), background)
        return cls(load_kernel_config(), background, truth, threads)

    def error(self, grade: str) -> TierError:
        """Of an autoscaled ionosonde or a tier, at one report per quarter of an hour."""
        per_h = 60.0 / STEP_MINUTES
        if grade != IONOSONDE:
            return replace(ASSUMED[grade], per_h=per_h)
        fof2, hmf2 = (self.kernel.quantity(name).obs_error.high for name in ("fof2_mhz", "hmf2_km"))
        return TierError(0.0, hmf2, per_h, fof2_mhz=fof2)

    def soundings(
        self, sounder_id: str, latitude_deg: float, longitude_deg: float, grade: str, seed: int
    ) -> pd.DataFrame:
        """What one station reports: at the middle of every quarter of an hour, with the noise of its grade.

        The same seed is the same gaps, gross errors, and noise but for its size.
        """
        random = np.random.default_rng(seed)
        n_steps = int(HOURS * 60.0 / STEP_MINUTES)
        times = pd.date_range(end=VALID_TIME, periods=n_steps, freq=f"{STEP_MINUTES:g}min", unit="us")
        times = (times - pd.Timedelta(minutes=STEP_MINUTES / 2.0))[random.random(n_steps) >= GAP_SHARE]
        state = self.truth.at(times, latitude_deg, longitude_deg)
        noise, is_gross = random.standard_normal((3, len(times))), random.random(len(times)) < GROSS_SHARE
        error = self.error(grade)
        height_km = np.nan if error.hmf2_km is None else error.hmf2_km
        fof2 = state.fof2_mhz * np.exp(error.ln_fof2(state.fof2_mhz) * noise[0])
        fof2 = np.where(is_gross, fof2 * random.choice([0.5, 1.8], len(times)), fof2)
        return pd.DataFrame(
            {
                "observation_id": [f"{sounder_id}-{number}" for number in range(len(times))],
                "sounder_id": sounder_id,
                "observed_at": times,
                "available_at": times,
                "revision": 0,
                "latitude_deg": latitude_deg,
                "longitude_deg": longitude_deg,
                "confidence_score": 80.0,
                "fof2_mhz": fof2,
                "fof2_mhz_error": np.nan if grade == IONOSONDE else error.fof2_share * fof2,
                "hmf2_km": state.hmf2_km + height_km * noise[1],
                "hmf2_km_error": np.nan if grade == IONOSONDE else height_km,
                "m3000f2": state.m3000f2 + 0.05 * noise[2],
                "b0_km": np.nan,
            }
        )

    def known(self, parts: list[pd.DataFrame]) -> Estimate:
        """What the cycle knows from the reports of its stations."""
        at = pd.Timestamp(VALID_TIME).as_unit("us")
        return estimate(
            pd.concat(parts, ignore_index=True),
            valid_at=at,
            available_at=at,
            kernel=self.kernel,
            background=self.background,
            f107_sfu=None,
            scored_h=0.25,
            threads=self.threads,
        )

    def posterior(self, parts: list[pd.DataFrame]) -> Posterior:
        return Posterior.of(self.known(parts), self.kernel, self.background, self.threads)


@dataclass(frozen=True)
class Case:
    """One change of a network, MHz^2."""

    kind: str
    predicted: float
    given: float
    published: float


def compare(kind: str, predicted: float, before: Targets, after: Posterior) -> Case:
    """`given` is by the foF2 and the factor on the variance of before, as the prediction is."""
    given = before.variance_mhz2 - float(before.weight @ after.ln_variance(before))
    return Case(kind, predicted, given, before.variance_mhz2 - after.over(before.area).variance_mhz2)


def region(step_points: int) -> Area:
    return area_of(lambda step_deg: Grid.box(35.0, -10.0, 65.0, 35.0, step_deg), step_points)


def new_sounders(world: World, area: Area, seed: int, grade: str) -> list[Case]:
    """One at the best place and one at a place drawn by chance."""
    parts = [
        world.soundings(name, latitude, longitude, IONOSONDE, 1000 * seed + number)
        for number, (name, latitude, longitude) in enumerate(STATIONS)
    ]
    posterior = world.posterior(parts)
    targets = posterior.over(area)
    sounder = NewSounder(grade, world.error(grade))
    placed, _ = place(posterior, targets, sounder, 1, area, on_land)
    random = np.random.default_rng(seed)
    drawn = random.uniform(38.0, 62.0), random.uniform(-8.0, 32.0)
    cases = []
    for kind, (latitude, longitude) in {
        f"new_{grade}_best": (placed[0].latitude_deg, placed[0].longitude_deg),
        f"new_{grade}_drawn": drawn,
    }.items():
        predicted = gain_at(posterior, targets, sounder, np.array([latitude]), np.array([longitude]))[0]
        added = world.soundings("NEW", latitude, longitude, grade, 1000 * seed + 99)
        cases.append(compare(kind, float(predicted), targets, world.posterior([*parts, added])))
    return cases


def upgrades(world: World, area: Area, seed: int, grade: str, n_stations: int) -> list[Case]:
    """Stations of a network of one grade that get the errors of PLATINUM, one at a time."""
    poor = [
        world.soundings(name, latitude, longitude, grade, 1000 * seed + number)
        for number, (name, latitude, longitude) in enumerate(STATIONS)
    ]
    posterior = world.posterior(poor)
    targets = posterior.over(area)
    factor = np.full(posterior.n_nodes, ASSUMED["PLATINUM"].fof2_share / ASSUMED[grade].fof2_share)
    predicted = posterior.upgrade_gain(factor, targets)
    cases = []
    for number, (name, latitude, longitude) in enumerate(STATIONS[:n_stations]):
        better = [
            world.soundings(name, latitude, longitude, "PLATINUM", 1000 * seed + number)
            if other == number
            else part
            for other, part in enumerate(poor)
        ]
        cases.append(compare(f"upgrade_{grade}", float(predicted[number]), targets, world.posterior(better)))
    return cases


def summary(cases: list[Case]) -> dict[str, Any]:
    """By kind: the ratio of predicted to given of the sums, and its median and range over cases."""
    result: dict[str, Any] = {}
    for kind in sorted({case.kind for case in cases}):
        own = [case for case in cases if case.kind == kind]
        ratio = np.array([case.predicted / case.given for case in own])
        result[kind] = {
            "n": len(own),
            "ratio": round(sum(case.predicted for case in own) / sum(case.given for case in own), 3),
            "median": round(float(np.median(ratio)), 3),
            "lowest": round(float(ratio.min()), 3),
            "highest": round(float(ratio.max()), 3),
            "n_beyond_10_percent": int((np.abs(ratio - 1.0) > 0.1).sum()),
            "ratio_published": round(
                sum(case.predicted for case in own) / sum(case.published for case in own), 3
            ),
        }
    return result


def run(
    n_networks: int, *, n_stations: int = len(STATIONS), points: int = 500, threads: int = 0
) -> list[Case]:
    """The cases of several networks, each with a truth of its own."""
    area = region(points)
    cases = []
    for seed in range(1, n_networks + 1):
        world = World.of(seed, threads)
        cases += [case for grade in GRADES for case in new_sounders(world, area, seed, grade)]
        for grade in ("SILVER", "GOLD"):
            cases += upgrades(world, area, seed, grade, n_stations)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=6)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    cases = run(arguments.networks)
    print(
        json.dumps(
            {
                "name": "placement",
                "n_networks": arguments.networks,
                **summary(cases),
                "seconds": round(time.perf_counter() - begun, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
