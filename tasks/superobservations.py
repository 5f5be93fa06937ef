"""Many observations of one place and time taken as one, so that thousands of sounders can be analysed exactly.

Stations of a large network are gathered at nodes, and what the stations of a node observe of one quantity within one
interval becomes a superobservation: their mean by inverse error variance, at their mean time. Gaussian observations of the
same value lose nothing by it. A node is not a point: the analysis takes it as the mean over its stations, so that what a mean
over an area says of a place, and what it shares with the next one in space and time, is in its covariances. What is left,
because stations count differently in each mean and do not all observe at its time, is counted as error, by the covariance
itself. A network within the limits of the configuration is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from tasks.great_circle import unit_vectors
from tasks.kernel_config import KernelConfig, Term
from tasks.row_errors import NO_PAIRS, ErrorPairs
from tasks.window import EARTH_RADIUS_KM, Stations

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

FINEST_SPACING_KM = 50.0
COARSER = 2.0**0.25
FULL_RATE_H = 0.25
"""Interval of recent observations before any widening: the time between the ionograms of most sondes."""
LONGEST_H = ((0.25, 0.25), (1.0, 1.0), (4.0, 4.0), (np.inf, 16.0))
"""Age in hours up to which an interval is no longer than so many hours: what is now must not be mixed with what was."""
GRADED = 16
"""Widening up to which that holds; beyond, all intervals grow alike, to `WHOLE_H` at most."""
WHOLE_H = 64.0
WIDEST = 4096
"""All intervals are `WHOLE_H` long: nothing of time is left."""
MOST_FOLDS = 50
ACCEPTED = "accepted"
MOST_PLACES = 8
"""Stations of one node that its mean is taken over; others count as error."""
MOST_PAIRS = 400_000
"""Members compared at a time: bounds the memory."""
MOST_COMPARED = 48
"""Members of one superobservation whose places and times are compared pair by pair."""
FEWEST_TO_JUDGE = 3
"""Of two that disagree nobody knows which one is wrong: they stay apart, and the other nodes tell."""


@dataclass(frozen=True)
class Nodes:
    """Where the analysis takes the stations to be."""

    latitude_deg: Array
    """Quasi-dipole coordinates (N,)."""
    longitude_deg: Array
    of_station: Numbers
    """Node of each station (S,)."""
    spacing_km: float
    """Between the centres that the stations were gathered at; 0: every station is a node of its own."""
    footprint: Numbers
    """Stations over which the nodes are means (P,), node by node."""

    def network(self, stations: Stations) -> dict[str, Any]:
        """The arguments of `rust_core` that say where stations are."""
        if self.spacing_km == 0:
            return {"station_latitude_deg": self.latitude_deg, "station_longitude_deg": self.longitude_deg}
        return {
            "station_latitude_deg": stations.qd_latitude_deg[self.footprint],
            "station_longitude_deg": stations.qd_longitude_deg[self.footprint],
            "place_station": self.of_station[self.footprint],
        }

    def __len__(self) -> int:
        return self.latitude_deg.size

    def first_station(self) -> Numbers:
        """Of each node (N,)."""
        return np.unique(self.of_station, return_index=True)[1].astype(np.int64)

    def folds(self) -> Numbers:
        """Which stations (S,) are held out of the effective index together: each by itself, or by a fiftieth of them.

        The index of a large network does not feel one station, and finding it anew for each would take longest of all.
        """
        return self.of_station if len(self) <= MOST_FOLDS else self.of_station % MOST_FOLDS


def gather(stations: Stations, max_nodes: int) -> Nodes:
    """At most `max_nodes` nodes, as close together as that allows.

    The stations go to the nearest centre of a Fibonacci lattice; a node lies at the mean of its stations.
    """
    n_stations = len(stations.sounder_id)
    if n_stations <= max_nodes:
        every = np.arange(n_stations)
        return Nodes(stations.qd_latitude_deg, stations.qd_longitude_deg, every, 0.0, every)
    place = unit_vectors(stations.qd_latitude_deg, stations.qd_longitude_deg)
    spacing_km = FINEST_SPACING_KM
    while True:
        n_centres = int(np.ceil(4.0 * np.pi * (EARTH_RADIUS_KM / spacing_km) ** 2))
        _, nearest = cKDTree(_fibonacci(n_centres)).query(place)
        occupied, of_station = np.unique(nearest, return_inverse=True)
        if occupied.size <= max_nodes:
            break
        spacing_km *= COARSER
    mean = np.stack([np.bincount(of_station, weights=axis) for axis in place.T])
    x, y, z = mean / np.linalg.norm(mean, axis=0)
    return Nodes(
        np.degrees(np.arcsin(np.clip(z, -1.0, 1.0))),
        np.degrees(np.arctan2(y, x)),
        of_station.astype(np.int64),
        spacing_km,
        _footprint(of_station),
    )


def _footprint(of_station: Numbers) -> Numbers:
    """The stations of each node, or as many of them as `MOST_PLACES`, evenly picked."""
    order = np.argsort(of_station, kind="stable")
    size = np.bincount(of_station)
    position = np.arange(order.size) - np.repeat(np.cumsum(size) - size, size)
    step = np.repeat(size, size) / MOST_PLACES
    is_picked = (step <= 1.0) | (np.floor(position / step) != np.floor((position - 1) / step))
    picked: Numbers = order[is_picked].astype(np.int64)
    return picked


def _fibonacci(n: int) -> Array:
    """Points spread evenly on the unit sphere, shape (n, 3) (Gonzalez 2010, doi:10.1007/s11004-009-9257-x)."""
    number = np.arange(n) + 0.5
    longitude = np.pi * (1.0 + np.sqrt(5.0)) * number
    z = 1.0 - 2.0 * number / n
    radius = np.sqrt(1.0 - z**2)
    return np.column_stack([radius * np.cos(longitude), radius * np.sin(longitude), z])


@dataclass(frozen=True)
class Rows:
    """Observations that may enter an analysis; shapes (n,)."""

    station: Numbers
    quantity: Numbers
    time_h: Array
    value: Array
    innovation: Array
    error: Array
    """In the unit of the innovations."""
    amplitude: Array

    def take(self, at: Numbers) -> Rows:
        return Rows(**{name: values[at] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Superobservations:
    """What enters instead, shapes (M,), and which row went where, shapes (n,)."""

    node: Numbers
    quantity: Numbers
    time_h: Array
    value: Array
    innovation: Array
    error: Array
    amplitude: Array
    flag: NDArray[np.object_]
    """Of each row: `accepted`, or the check that stopped it."""
    member: Numbers
    """The superobservation of each accepted row, -1 of the others."""
    share: Array
    """Weight of each row in its superobservation, 1 in all."""
    weight: Array
    """Robust weight of each row among its neighbours in the node, 0..1."""
    representativeness: Array
    """Variance of each row for not being at the center of its node when its superobservation is, and for its station's bias
    beyond that of the node."""
    duration_h: Array
    """Time from the first to the last of the rows of each superobservation, (M,)."""
    widening: int
    """By which the intervals of time were made longer, within `LONGEST_H`; 0: every row is left by itself."""
    pairs: ErrorPairs
    """Superobservations whose errors go together."""

    def mean(self, values: Array) -> Array:
        """Of values of the rows (n,), what the superobservations have, (M,)."""
        if self.widening == 0:
            return values
        kept = self.member >= 0
        return _total((self.share * values)[kept], self.member[kept], self.node.size)


def combine(
    kernel: KernelConfig,
    stations: Stations,
    nodes: Nodes,
    rows: Rows,
    clock_h: float,
    pairs: ErrorPairs = NO_PAIRS,
) -> Superobservations:
    """The rows of each node, quantity and interval of time as one, where the limits of `kernel` ask for it.

    Args:
        rows: with possible values only.
        clock_h: hours since 1970 at `time_h` 0, so that intervals follow the clock and not the cycle.
        pairs: rows whose errors go together.
    """
    limit, n = kernel.scale.max_observations, rows.station.size
    links = np.unique(rows.quantity[pairs.pair], axis=0)
    if nodes.spacing_km == 0 and _factorised(kernel, rows.quantity, links) <= limit:
        return Superobservations(
            nodes.of_station[rows.station],
            *(rows.quantity, rows.time_h, rows.value, rows.innovation, rows.error, rows.amplitude),
            flag=np.full(n, ACCEPTED, dtype=object),
            member=np.arange(n),
            share=np.ones(n),
            weight=np.ones(n),
            representativeness=np.zeros(n),
            duration_h=np.zeros(n),
            widening=0,
            pairs=pairs,
        )
    prior_variance = np.zeros(n)
    for setting in kernel.terms:
        prior_variance += _variance(setting, rows)
    is_far = np.abs(rows.innovation) > kernel.quality.background_sd * np.sqrt(prior_variance + rows.error**2)
    near = np.flatnonzero(~is_far)
    widening = 1
    while True:
        groups = _groups(kernel, nodes, rows.take(near), clock_h, widening)
        _, first = np.unique(groups, return_index=True)
        if _factorised(kernel, rows.quantity[near][first], links) <= limit or widening >= WIDEST:
            break
        widening *= 2
    return _combined(kernel, stations, nodes, rows, near, groups, widening, pairs)


def _factorised(kernel: KernelConfig, quantity: Numbers, links: Numbers) -> int:
    """Rows of the largest factorisation: quantities that nothing correlates are factorised apart.

    `links` (K, 2) are the quantities whose errors go together.
    """
    if any(term.correlation for term in kernel.terms):
        return quantity.size
    size = np.bincount(quantity, minlength=int(links.max(initial=0)) + 1)
    graph = coo_matrix((np.ones(len(links)), links.T), shape=(size.size, size.size))
    _, together = connected_components(graph, directed=False)
    return int(np.bincount(together, weights=size).max())


def _groups(kernel: KernelConfig, nodes: Nodes, rows: Rows, clock_h: float, widening: int) -> Numbers:
    """A number for each row, the same for rows of one node, quantity and interval."""
    is_recent = -rows.time_h <= kernel.window.full_rate_h
    base_h = np.where(is_recent, FULL_RATE_H, kernel.window.thinned_minutes / 60.0)
    upto, longest = np.array(LONGEST_H).T
    longest_h = np.minimum(
        longest[np.searchsorted(upto, -rows.time_h)] * max(1.0, widening / GRADED), WHOLE_H
    )
    width_h = np.maximum(base_h, np.minimum(base_h * widening, longest_h))
    interval = np.floor((clock_h + rows.time_h) / width_h + 1e-9)
    keys = pd.DataFrame(
        {
            "node": nodes.of_station[rows.station],
            "quantity": rows.quantity,
            "width": width_h,
            "interval": interval,
        }
    )
    return np.asarray(keys.groupby(list(keys), sort=True).ngroup(), dtype=np.int64)


def _variance(setting: Term, rows: Rows) -> Array:
    """Prior variance of a term at each row."""
    sd = np.array(setting.sd.as_list())[rows.quantity]
    return np.asarray((sd * (rows.amplitude if setting.is_modulated else 1.0)) ** 2)


def _combined(
    kernel: KernelConfig,
    stations: Stations,
    nodes: Nodes,
    all_rows: Rows,
    near: Numbers,
    groups: Numbers,
    widening: int,
    pairs: ErrorPairs,
) -> Superobservations:
    """`groups` of the rows `near`; the others failed the background check."""
    rows = all_rows.take(near)
    node = nodes.of_station[rows.station]
    size = np.bincount(groups)
    mean_time_h = (np.bincount(groups, weights=rows.time_h) / size)[groups]
    apart = np.zeros(near.size)
    for setting in kernel.terms:
        if setting.spatial == "station":
            continue
        correlation = setting.build().correlation(
            stations.qd_latitude_deg[rows.station],
            stations.qd_longitude_deg[rows.station],
            nodes.latitude_deg[node],
            nodes.longitude_deg[node],
            rows.time_h - mean_time_h,
        )
        apart += 2.0 * _variance(setting, rows) * (1.0 - correlation)
    variance = rows.error**2 + apart

    # Against the median of the group, which half of the group may be wrong without moving.
    difference = np.abs(rows.innovation - _median(rows.innovation, groups)[groups])
    score = difference / np.sqrt(variance)
    is_judged = size[groups] >= FEWEST_TO_JUDGE
    is_wrong = is_judged & (score > kernel.quality.buddy_sd)
    full = kernel.quality.full_weight_sd
    robust = np.where(is_judged, full / np.maximum(score, full), 1.0)
    # The members of a pair lie on both sides of their median, each by half of what they differ by.
    pair_sd = np.sqrt(np.bincount(groups, weights=variance))[groups]
    is_torn = (size[groups] == 2) & (2.0 * difference > kernel.quality.buddy_sd * pair_sd)
    groups = np.where(is_torn, size.size + np.arange(near.size), groups)

    kept = np.flatnonzero(~is_wrong)
    _, first, of_kept = np.unique(groups[kept], return_index=True, return_inverse=True)
    # How far from the center of its node a station lies is no matter of its own: the node is the mean over all of them.
    apart_within = np.bincount(groups, weights=apart) / np.maximum(np.bincount(groups), 1)
    precision = robust[kept] / (rows.error**2 + apart_within[groups])[kept]
    sums = _total(precision, of_kept, first.size)
    share_of_kept = precision / sums[of_kept]

    def mean(values: Array) -> Array:
        return _total(share_of_kept * values[kept], of_kept, first.size)

    mean_rows = Rows(
        node[kept][first],
        rows.quantity[kept][first],
        *(mean(column) for column in (rows.time_h, rows.value, rows.innovation, rows.error, rows.amplitude)),
    )
    apart_of_mean = _variance_of_mean(
        kernel, stations, nodes, rows.take(kept), mean_rows, of_kept, share_of_kept
    )
    earliest, latest = (np.full(first.size, limit) for limit in (np.inf, -np.inf))
    np.minimum.at(earliest, of_kept, rows.time_h[kept])
    np.maximum.at(latest, of_kept, rows.time_h[kept])
    noise = _total(share_of_kept**2 * rows.error[kept] ** 2 / robust[kept], of_kept, first.size)
    n = all_rows.station.size
    flag = np.full(n, "background_check", dtype=object)
    flag[near] = np.where(is_wrong, "buddy_check", ACCEPTED)
    member, share, weight, representativeness = np.full(n, -1), np.zeros(n), np.zeros(n), np.zeros(n)
    member[near[kept]], share[near[kept]] = of_kept, share_of_kept
    weight[near[kept]] = robust[kept]
    representativeness[near] = apart + _variance_of_bias(kernel, nodes, rows)
    error = np.sqrt(noise + apart_of_mean)
    return Superobservations(
        node=mean_rows.station,
        quantity=mean_rows.quantity,
        time_h=mean_rows.time_h,
        value=mean_rows.value,
        innovation=mean_rows.innovation,
        error=error,
        amplitude=mean_rows.amplitude,
        flag=flag,
        member=member,
        share=share,
        weight=weight,
        representativeness=representativeness,
        duration_h=latest - earliest,
        widening=widening,
        pairs=_pairs_of_means(pairs, all_rows.error, member, share, weight, error),
    )


def _pairs_of_means(
    pairs: ErrorPairs, error: Array, member: Numbers, share: Array, weight: Array, error_of_mean: Array
) -> ErrorPairs:
    """Pairs of means whose errors go together because members' errors do; arrays of the rows, and `error_of_mean` (M,).

    The covariance of two means is the sum of s_i s_j R_ij over the pairs of their members; what each lacks in place and time
    is taken to be its own.
    """
    is_whole = np.all(member[pairs.pair] >= 0, axis=1)
    i, j = pairs.pair[is_whole].T
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # rows that are stopped have no weight, and are in no pair here
        effective = share * error / np.sqrt(weight)
    covariance = pairs.correlation[is_whole] * effective[i] * effective[j]
    between = np.sort(np.column_stack([member[i], member[j]]), axis=1)
    unique, of_pair = np.unique(between, axis=0, return_inverse=True)
    total = _total(covariance, of_pair.ravel(), len(unique))
    return ErrorPairs(unique, total / error_of_mean[unique].prod(axis=1))


def _variance_of_mean(
    kernel: KernelConfig,
    stations: Stations,
    nodes: Nodes,
    rows: Rows,
    means: Rows,
    groups: Numbers,
    share: Array,
) -> Array:
    """Variance of the mean of each group's members against the mean over the node at the mean time, shape of `means`.

    What members lack in place and time they lack together: with C the covariance of what stations report, s the shares of
    the members, and among them, as further members with shares of -1/n, the n stations of the node at the mean time, the sum
    of s_i s_j C_ij. Of large groups some members stand for all.
    """
    order = np.lexsort((rows.time_h, groups))
    size = np.bincount(groups)
    begin = np.cumsum(size) - size
    position = np.arange(order.size) - np.repeat(begin, size)
    step = np.repeat(size, size) / MOST_COMPARED
    is_compared = (step <= 1.0) | (np.floor(position / step) != np.floor((position - 1) / step))
    chosen = order[is_compared]
    of_chosen = groups[chosen]
    of_node = np.bincount(nodes.of_station[nodes.footprint], minlength=len(nodes))
    n_places = of_node[means.station]
    of_place = np.repeat(np.arange(n_places.size), n_places)
    place = np.repeat((np.cumsum(of_node) - of_node)[means.station], n_places) + (
        np.arange(of_place.size) - np.repeat(np.cumsum(n_places) - n_places, n_places)
    )
    members = rows.take(chosen)
    reference = replace(means.take(of_place), station=nodes.footprint[place])
    together = Rows(
        **{name: np.concatenate([own, getattr(reference, name)]) for name, own in vars(members).items()}
    )
    weight = np.concatenate(
        [share[chosen] / _total(share[chosen], of_chosen, size.size)[of_chosen], -1.0 / n_places[of_place]]
    )
    group = np.concatenate([of_chosen, of_place])
    in_order = np.argsort(group, kind="stable")
    together, weight, group = together.take(in_order), weight[in_order], group[in_order]
    size = np.bincount(group)
    begin = np.cumsum(size) - size
    chunk_of_group = np.cumsum(size**2) // MOST_PAIRS
    variance = np.zeros(size.size)
    for chunk in np.unique(chunk_of_group):
        own = np.flatnonzero(chunk_of_group[group] == chunk)
        partners = size[group[own]]
        one = np.repeat(own, partners)
        other = np.repeat(begin[group[own]], partners) + (
            np.arange(one.size) - np.repeat(np.cumsum(partners) - partners, partners)
        )
        among = _covariance(kernel, stations, together, one, other)
        variance += _total(weight[one] * weight[other] * among, group[one], size.size)
    return np.maximum(variance, 0.0)


def _variance_of_bias(kernel: KernelConfig, nodes: Nodes, rows: Rows) -> Array:
    """What the bias of each row's station has more of than the mean bias of its node."""
    of_node = np.bincount(nodes.of_station[nodes.footprint], minlength=len(nodes))
    total = np.zeros(rows.station.size)
    for setting in kernel.terms:
        if setting.spatial == "station":
            total += _variance(setting, rows)
    return total * (1.0 - 1.0 / of_node[nodes.of_station[rows.station]])


def _covariance(kernel: KernelConfig, stations: Stations, rows: Rows, one: Numbers, other: Numbers) -> Array:
    """Prior covariance of pairs of rows of one quantity, shape of `one`: the terms of the field and of stations."""
    covariance = np.zeros(one.size)
    place = stations.qd_latitude_deg[rows.station], stations.qd_longitude_deg[rows.station]
    lag_h = rows.time_h[one] - rows.time_h[other]
    is_same = rows.station[one] == rows.station[other]
    for setting in kernel.terms:
        if setting.spatial == "station":
            # The term's correlation in time: that of a field at one place.
            at_one_place = setting.model_copy(
                update={"spatial": "gaussian", "zonal_km": EARTH_RADIUS_KM, "meridional_km": EARTH_RADIUS_KM}
            )
            here = np.zeros(one.size)
            correlation = is_same * at_one_place.build().correlation(here, here, here, here, lag_h)
        else:
            correlation = setting.build().correlation(
                place[0][one], place[1][one], place[0][other], place[1][other], lag_h
            )
        sd = np.sqrt(_variance(setting, rows))
        covariance += sd[one] * sd[other] * correlation
    return covariance


def _total(values: Array, groups: Numbers, n: int) -> Array:
    """Sum of each of `n` groups, numbered from 0."""
    return np.asarray(np.bincount(groups, weights=values, minlength=n), dtype=np.float64)


def _median(values: Array, groups: Numbers) -> Array:
    """Of each group, numbered from 0."""
    order = np.lexsort((values, groups))
    sorted_values = values[order]
    size = np.bincount(groups)
    begin = np.cumsum(size) - size
    middle = sorted_values[begin + (size - 1) // 2] + sorted_values[begin + size // 2]
    return np.asarray(0.5 * middle, dtype=np.float64)
