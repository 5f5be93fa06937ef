"""What each sounder is worth to the map of a region, who says the same as whom, and where nobody looks.

Information and degrees of freedom are of all quantities; variances are of foF2, means over the area in MHz^2
(`tasks.posterior`). What a sounder buys is by how much the variance would rise without it, the others given: a sounder that
others duplicate buys little, however good it is. In a network gathered at nodes (`tasks.superobservations`) what a node is
worth is shared among its sounders by the precision that they brought.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.background import Background
from tasks.estimate import Estimate
from tasks.gaps import Gap, find_gaps
from tasks.great_circle import distance_km, unit_vectors
from tasks.kernel_config import KernelConfig, TierConfig
from tasks.masks import Mask
from tasks.placement import NewSounder, Placed, PlacementError, gain_at, place
from tasks.posterior import Posterior, Targets
from tasks.settings import TIERS
from tasks.target_area import Area
from tasks.tier_errors import MIX, TierError, measured, nearest_tier
from tasks.tiers import weight

Array: TypeAlias = NDArray[np.float64]

NEXT_TIER = "GOLD"
"""Of the sounder whose best place a report names."""
REDUNDANT = 0.9
"""A sounder is redundant when the others already have this share of what it would buy alone,"""
NEXT_TO_NOTHING = 0.01
"""and the variance over the area would rise by less than this share of itself without it."""
NEAR_KM = 500.0
"""A neighbour this near is named: the weather term reaches twice as far at least."""
WORTH_AN_UPGRADE = 0.02
"""Share of the area's variance that a better tier must take off to be advised."""
MOST_ANEW = 100
COLUMNS = (
    *("sounder_id", "latitude_deg", "longitude_deg", "tier", "tier_source", "n_obs", "fof2_error_share"),
    *("information_gain_nats", "degrees_of_freedom"),
    *("variance_bought_mhz2", "variance_bought_share", "variance_rise_percent", "rank"),
    *("variance_bought_alone_mhz2", "redundancy", "is_redundant", "nearest_sounder_id", "nearest_km"),
    *("upgrade_tier", "upgrade_gain_mhz2", "platinum_gain_mhz2", "advice"),
)


@dataclass(frozen=True)
class TierInfluence:
    """What the sounders of one tier do in the analysis, beside what the tier promises."""

    tier: str
    n_sounders: int
    share_of_sounders: float
    intended_share: float
    n_obs: int
    nominal_weight: float
    """Of one observation of signal strength beside one of the worst tier, `tasks.tiers.weight`."""
    freedom_per_obs: float | None
    """Degrees of freedom of an observation: 1 is one that decides by itself. None without observations."""
    variance_bought_share: float


@dataclass(frozen=True)
class NetworkReport:
    """A network at one time over one area."""

    sounders: pd.DataFrame
    """COLUMNS, in order of their rank."""
    prior_variance_mhz2: float
    """Mean over the area of the climatology alone."""
    variance_mhz2: float
    gaps: list[Gap]
    tiers: list[TierInfluence]
    errors: Mapping[str, TierError]
    next_sounder: NewSounder
    next_place: Placed | None
    """Best for one more sounder; None where none may stand."""

    def summary(self) -> dict[str, Any]:
        """Everything but the table, as JSON takes it."""
        return {
            "n_sounders": len(self.sounders),
            "prior_variance_mhz2": self.prior_variance_mhz2,
            "variance_mhz2": self.variance_mhz2,
            "n_redundant": int(self.sounders["is_redundant"].sum()),
            "gaps": [asdict(gap) for gap in self.gaps],
            "tiers": [asdict(influence) for influence in self.tiers],
            "tier_errors": {name: asdict(error) for name, error in self.errors.items()},
            "next_tier": self.next_sounder.tier,
            "next_place": None if self.next_place is None else asdict(self.next_place),
        }


def analyse_network(
    now: Estimate,
    kernel: KernelConfig,
    background: Background,
    area: Area,
    *,
    where: Mask,
    threads: int,
) -> NetworkReport:
    """The network of an estimate, judged by an area; `where` are places for the next sounder."""
    tiers = tiers_of(now)
    posterior = Posterior.of(now, kernel, background, threads)
    targets = posterior.over(area)
    feedback = pd.concat([part.feedback for part in now.solved.values()], ignore_index=True)
    errors = measured(feedback, tiers, now.valid_at, kernel.window.full_rate_h)
    sounders = sounder_table(now, posterior, targets, feedback, errors, tiers)
    next_sounder = NewSounder.of_tier(NEXT_TIER, errors)
    try:
        next_place = place(posterior, targets, next_sounder, 1, area, where)[0][0]
    except PlacementError:
        next_place = None
    return NetworkReport(
        sounders=sounders,
        prior_variance_mhz2=targets.prior_variance_mhz2,
        variance_mhz2=targets.variance_mhz2,
        gaps=find_gaps(targets),
        tiers=influences(sounders, kernel.tiers),
        errors=errors,
        next_sounder=next_sounder,
        next_place=next_place,
    )


def tiers_of(now: Estimate) -> dict[str, str]:
    """Of the sounders whose tier was estimated (dataset `sounders`)."""
    return {} if now.soundings is None else {name: one.tier for name, one in now.soundings.known.items()}


def sounder_table(
    now: Estimate,
    posterior: Posterior,
    targets: Targets,
    feedback: pd.DataFrame,
    errors: Mapping[str, TierError],
    tiers: Mapping[str, str],
) -> pd.DataFrame:
    """One row per sounder of the window, COLUMNS, in order of rank; without observations no row.

    Sounders without an estimated tier (`tiers`) are taken to be of the one whose error of foF2 is nearest.
    """
    stations, node, share = now.stations, now.joint.nodes.of_station, now.joint.node_share
    names = list(stations.sounder_id)
    used = feedback[feedback["qc_flag"] == "accepted"]
    fof2 = used[(used["quantity"] == "fof2_mhz") & used["obs_error"].notna()]
    relative = (fof2["obs_error"] / fof2["obs_value"]).groupby(fof2["sounder_id"])
    own_error = relative.median().reindex(names).to_numpy(np.float64)
    n_obs = used["sounder_id"].value_counts().reindex(names).fillna(0).to_numpy(np.int64)
    tier = [
        tiers.get(name) or (nearest_tier(error, errors) if error > 0 else TIERS[-1])
        for name, error in zip(names, own_error, strict=True)
    ]
    given = posterior.variance_bought(targets)[node] * share
    alone = posterior.variance_bought(targets, is_alone=True)[node] * share
    counted = fof2["sounder_id"].value_counts()
    n_fof2 = np.array([counted.get(name, 0) for name in names], dtype=np.int64)
    better = [TIERS[max(TIERS.index(name) - 1, 0)] for name in tier]
    upgrade, platinum = (
        _upgrade_gain(posterior, targets, now, own_error, n_fof2, [*zip(tier, aims, strict=True)], errors)
        for aims in (better, [TIERS[0]] * len(names))
    )
    nearest, nearest_km = nearest_sounder(stations.latitude_deg, stations.longitude_deg)
    with np.errstate(invalid="ignore", divide="ignore"):
        redundancy = np.where(alone > 0, np.clip(1.0 - given / alone, 0.0, 1.0), np.nan)
        bought_share = given / given.sum()
    rise = given / targets.variance_mhz2
    frame = pd.DataFrame(
        {
            "sounder_id": names,
            "latitude_deg": stations.latitude_deg,
            "longitude_deg": stations.longitude_deg,
            "tier": tier,
            "tier_source": ["innovations" if name in tiers else "error" for name in names],
            "n_obs": n_obs,
            "fof2_error_share": own_error,
            **{
                key: [now.joint.information[name][key] + 0.0 for name in names]  # not -0
                for key in ("information_gain_nats", "degrees_of_freedom")
            },
            "variance_bought_mhz2": given,
            "variance_bought_share": np.nan_to_num(bought_share),
            "variance_rise_percent": 100.0 * rise,
            "variance_bought_alone_mhz2": alone,
            "redundancy": redundancy,
            "is_redundant": (redundancy > REDUNDANT) & (rise < NEXT_TO_NOTHING) & (n_obs > 0),
            "nearest_sounder_id": [None if other < 0 else names[other] for other in nearest],
            "nearest_km": nearest_km,
            "upgrade_tier": [
                None if own == TIERS[0] else name for own, name in zip(tier, better, strict=True)
            ],
            "upgrade_gain_mhz2": upgrade,
            "platinum_gain_mhz2": platinum,
        }
    )
    frame = frame.sort_values(["variance_bought_mhz2", "sounder_id"], ascending=[False, True])
    frame = frame.assign(rank=np.arange(1, len(frame) + 1))
    frame["advice"] = [
        advise(cast(dict[str, Any], row), targets.variance_mhz2) for row in frame.to_dict("records")
    ]
    return frame[list(COLUMNS)].reset_index(drop=True)


def _upgrade_gain(
    posterior: Posterior,
    targets: Targets,
    now: Estimate,
    own_error: Array,
    n_fof2: NDArray[np.int64],
    steps: list[tuple[str, str]],
    errors: Mapping[str, TierError],
) -> Array:
    """What every sounder (S,) would buy besides in a better tier, `steps` from one to another; 0 for one that stays.

    Its observations get the errors of that tier, if these are smaller; all sounders of a node are upgraded together and share
    what that brings. A sounder with less than half of the observations that the tier gives would give more of them too: it
    counts as a new one at its place where that is more, its own kept (at most MOST_ANEW sounders, those with the fewest).
    """
    node, share = now.joint.nodes.of_station, now.joint.node_share
    rises = np.array([own != aim for own, aim in steps], dtype=np.bool_)
    aimed = np.array([errors[aim].fof2_share for _, aim in steps])
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.where(rises, np.fmin(aimed / own_error, 1.0), 1.0)
    of_node = np.exp(
        np.bincount(node, weights=share * np.log(factor), minlength=posterior.n_nodes)
    )  # the shares of a node sum to 1, or are 0 where nothing entered
    gain = np.asarray(posterior.upgrade_gain(of_node, targets)[node] * share)
    fewest_first = np.argsort(n_fof2, kind="stable")[:MOST_ANEW]
    for aim in TIERS[:-1]:
        sounder = NewSounder.of_tier(aim, errors)
        n_given = sounder.ages_h(posterior.kernel, posterior.valid_at).size
        own = np.array(
            [i for i in fewest_first if rises[i] and steps[i][1] == aim and 2 * n_fof2[i] < n_given],
            dtype=np.int64,
        )
        if own.size:
            place = now.stations.latitude_deg[own], now.stations.longitude_deg[own]
            gain[own] = np.maximum(gain[own], gain_at(posterior, targets, sounder, *place))
    return gain


def nearest_sounder(latitude_deg: Array, longitude_deg: Array) -> tuple[NDArray[np.int64], Array]:
    """Number of the nearest other sounder of each (S,) and its distance in km; -1 and NaN where there is none."""
    from scipy.spatial import cKDTree

    n = latitude_deg.size
    if n < 2:
        return np.full(n, -1), np.full(n, np.nan)
    _, found = cKDTree(unit_vectors(latitude_deg, longitude_deg)).query(
        unit_vectors(latitude_deg, longitude_deg), k=2
    )
    # Of several at one place the tree may name any first.
    other = np.where(found[:, 0] == np.arange(n), found[:, 1], found[:, 0]).astype(np.int64)
    distance = distance_km(latitude_deg, longitude_deg, latitude_deg[other], longitude_deg[other])
    return other, distance


def advise(row: Mapping[str, Any], variance_mhz2: float) -> str:
    """What to do about one sounder of the table, in a sentence or two."""
    has_upgrade = isinstance(row["upgrade_tier"], str)  # a frame has NaN where there is none
    if not row["n_obs"]:
        text = "None of its observations was used: its echoes tell no foF2, or its rows of the dataset feedback say why."
        gain = 100.0 * row["upgrade_gain_mhz2"] / variance_mhz2
        if has_upgrade and gain >= 100.0 * WORTH_AN_UPGRADE:
            text += f" As {row['upgrade_tier']} it would take {percent(gain)} of the variance off."
        return text
    rise = percent(row["variance_rise_percent"])
    if row["is_redundant"]:
        neighbour = (
            f"{row['nearest_sounder_id']}, {row['nearest_km']:.0f} km away, says the same"
            if isinstance(row["nearest_sounder_id"], str) and row["nearest_km"] <= NEAR_KM
            else "the others together say the same"
        )
        return f"Without it the variance would rise by {rise}; {neighbour}. It would be worth more elsewhere."
    text = f"Without it the variance over the area would rise by {rise}."
    if not has_upgrade:
        return text
    gain = 100.0 * row["upgrade_gain_mhz2"] / variance_mhz2
    if gain >= 100.0 * WORTH_AN_UPGRADE:
        return f"{text} As {row['upgrade_tier']} it would take {percent(gain)} more off: worth an upgrade."
    return f"{text} As {row['upgrade_tier']} it would take off only {percent(gain)} more."


def percent(value: float) -> str:
    """Two digits, in words that people read."""
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %" if value >= 0.05 else "less than 0.1 %"


def influences(sounders: pd.DataFrame, config: TierConfig) -> list[TierInfluence]:
    """By tier, best first: its part of the network against the intended mix, and its weight as measured."""
    result = []
    for tier in TIERS:
        own = sounders[sounders["tier"] == tier]
        n_obs = int(own["n_obs"].sum())
        result.append(
            TierInfluence(
                tier=tier,
                n_sounders=len(own),
                share_of_sounders=len(own) / len(sounders) if len(sounders) else 0.0,
                intended_share=MIX[tier],
                n_obs=n_obs,
                nominal_weight=weight(tier, config.signal.sd),
                freedom_per_obs=float(own["degrees_of_freedom"].sum()) / n_obs if n_obs else None,
                variance_bought_share=float(own["variance_bought_share"].sum()),
            )
        )
    return result
