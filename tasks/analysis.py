"""The joint analysis of all quantities: innovations, quality control, the solve, each station without itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import rust_core
from tasks.adaptation import SpreadFactor, spread_factor
from tasks.background import SolarLevels
from tasks.effective_index import ChosenIndex
from tasks.kernel_config import QUANTITIES, KernelConfig, Quantity
from tasks.prediction import Prediction
from tasks.rate_check import leaves_its_neighbours, stands_still
from tasks.row_errors import ErrorPairs, error_of, error_pairs, has_possible_errors
from tasks.superobservations import ACCEPTED, FULL_RATE_H, Nodes, Rows, combine
from tasks.window import Stations, hour_of, repeated

Array = NDArray[np.float64]

STOPPED = ("stuck", "rate_check", "background_check", "buddy_check")
"""Flags of observations whose values are possible and were found to be wrong."""
MAX_JITTER = 1e-6
"""Share of its variance that may be added to every observation's error variance, so that a cycle survives an
innovation covariance that is not positive definite: a thousandth of the sd, far below any observation error."""


@dataclass(frozen=True)
class Solved:
    """What the joint analysis says of one quantity: its feedback, and the held-out predictions of its scored rows."""

    feedback: pd.DataFrame
    rows: NDArray[np.int64]
    """Rows of the window that hold the quantity; feedback has one row for each."""
    is_scored: NDArray[np.bool_]
    observed: Array
    """In the quantity's unit, at `rows`."""
    held_out: Prediction
    analysed: Prediction
    """The analysis; its spread is that of a new observation, for rows that a check stopped and that it has not seen."""
    chi2: float | None
    obs_errors: dict[str, dict[str, float]]
    """By class of confidence, see `diagnose`."""


@dataclass(frozen=True)
class JointlySolved:
    analysis: rust_core.Analysis
    """Its stations are the nodes."""
    nodes: Nodes
    held_out_innovation: list[Array]
    """Innovations that entered, of all quantities, against the background without the stations of each node."""
    entered: Rows
    """Observations, or superobservations, that entered; their stations are the nodes, their errors what weights made of them."""
    entered_pairs: ErrorPairs
    """Those of `entered` whose errors go together."""
    node_share: Array
    """Of what its node is worth, what each station brought, by precision; shape (S,)."""
    n_analysed: int
    """Number of `entered`."""
    widening: int
    """By which intervals were made longer to take observations together, 0: none were."""
    adaptation: SpreadFactor
    """Already in the predictions of `of_quantity`; not in what `analysis` says."""
    of_quantity: dict[str, Solved]
    log_evidence: float
    jitter: float
    """See `MAX_JITTER`; 0 unless it was needed."""
    information: dict[str, dict[str, float]]
    """By sounder: degrees of freedom for signal and information gain in nats, all quantities together."""


def background_of(levels: SolarLevels, name: str, ig12: float) -> Array:
    at: dict[str, Callable[[float], Array]] = {
        "fof2_mhz": levels.fof2_at,
        "hmf2_km": levels.hmf2_at,
        "m3000f2": levels.m3000f2_at,
        "b0_km": levels.b0_at,
    }
    return at[name](ig12)


def forward(values: Array, quantity: Quantity) -> Array:
    if not quantity.is_logarithmic:
        return values
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # impossible values are stopped by the physical limits
        return np.log(values)


def diagnose(
    residual: Array, innovation: Array, error: Array, classes: NDArray[np.str_]
) -> dict[str, dict[str, float]]:
    """Observation errors as assumed and as the analysis finds them, by class (Desroziers et al. 2005, equation 1).

    With right covariances the mean of residual times innovation, (y - H xa)(y - H xb), is the error variance. All
    arguments (n,), in the unit of the innovations; `diagnosed_variance` may be negative in small samples.
    """
    return {
        str(name): {
            "n": int(own.sum()),
            "assumed_variance": float(np.mean(error[own] ** 2)),
            "diagnosed_variance": float(np.mean(residual[own] * innovation[own])),
        }
        for name in np.unique(classes)
        for own in [classes == name]
    }


def solve(
    kernel: KernelConfig,
    window: pd.DataFrame,
    stations: Stations,
    nodes: Nodes,
    station_of_window: NDArray[np.int64],
    levels: SolarLevels,
    age_of_window_h: Array,
    amplitude_of_window: Array,
    chosen: ChosenIndex,
    held_out: list[ChosenIndex],
    scored: NDArray[np.bool_],
    threads: int,
) -> JointlySolved:
    """Analyse the window; one row below is one observed quantity of one ionogram, quantity by quantity.

    `amplitude_of_window` (Q, n) are the amplitude factors of the quantities at the n rows of the window, `held_out` the
    index without each station (and those held out with it).
    """
    is_recent = age_of_window_h < kernel.window.window_h
    values = {name: window[name].to_numpy(dtype=np.float64) for name in QUANTITIES}
    rows_of = {name: np.flatnonzero(~np.isnan(values[name]) & is_recent) for name in QUANTITIES}

    def gather(of: Callable[[str], Array]) -> Array:
        """Values of the window for each quantity, at the rows."""
        return np.concatenate([of(name)[rows_of[name]] for name in QUANTITIES])

    def transform(of: Callable[[str], Array]) -> Array:
        return gather(lambda name: forward(of(name), kernel.quantity(name)))

    confidence = window["confidence_score"].to_numpy(dtype=np.float64)
    rows = np.concatenate([rows_of[name] for name in QUANTITIES])
    quantity = np.repeat(np.arange(len(QUANTITIES)), [rows_of[name].size for name in QUANTITIES])
    station, age_h = station_of_window[rows], age_of_window_h[rows]
    time_h = -age_h
    value, transformed = gather(values.__getitem__), transform(values.__getitem__)
    hofx = gather(lambda name: background_of(levels, name, chosen.ig12))
    prior = transform(lambda name: background_of(levels, name, chosen.ig12))
    innovation = transformed - prior
    amplitude = amplitude_of_window[quantity, rows]
    obs_error = gather(lambda name: error_of(window, name, kernel))
    pairs = error_pairs(window, rows_of)
    is_logarithmic = np.array([kernel.quantity(name).is_logarithmic for name in QUANTITIES])[quantity]
    # Error of ln x is the error of x over x; of a value of zero it is infinite, and physical limits stop that.
    scale = np.where(is_logarithmic, np.abs(value), 1.0)
    with np.errstate(divide="ignore"):
        error = obs_error / scale
    terms = kernel.build_terms()
    network = nodes.network(stations)

    limits = np.array([(kernel.quantity(name).minimum, kernel.quantity(name).maximum) for name in QUANTITIES])
    is_possible = (value >= limits[quantity, 0]) & (value <= limits[quantity, 1])
    is_possible &= has_possible_errors(window)[rows]
    own_past = {
        "series": quantity * len(stations.sounder_id) + station,
        "time_h": time_h,
        "departure": np.where(is_possible, innovation, np.nan),
        "floor": np.array(kernel.quality.rate_floor.as_list())[quantity],
        "limit_sd": kernel.quality.rate_sd,
    }
    is_stuck = stands_still(value=value, **own_past)
    is_off = leaves_its_neighbours(**own_past) | is_stuck
    # An error does not stand for its hour: what is impossible or off does not count when the rest is thinned.
    clock_h = hour_of(window, age_of_window_h)
    is_repeated = np.zeros(rows.size, dtype=np.bool_)
    for number in range(len(QUANTITIES)):
        own = np.flatnonzero((quantity == number) & is_possible & ~is_off)
        is_repeated[own] = repeated(age_h[own], station[own], kernel, clock_h)
    is_thinned = (age_h > kernel.window.full_rate_h) & is_repeated
    flag = np.select(
        [is_stuck, is_off, ~is_possible, is_thinned],
        ["stuck", "rate_check", "physical_limits", "thinned"],
        ACCEPTED,
    ).astype(object)
    candidates = np.flatnonzero(flag == ACCEPTED)
    entering = combine(
        kernel,
        stations,
        nodes,
        Rows(
            station[candidates],
            quantity[candidates],
            time_h[candidates],
            value[candidates],
            innovation[candidates],
            error[candidates],
            amplitude[candidates],
        ),
        clock_h,
        pairs.renumbered(_numbered(candidates, rows.size)),
    )
    verdict, screened_weight = rust_core.screen_observations(
        terms,
        **network,
        station=entering.node,
        quantity=entering.quantity,
        time_h=entering.time_h,
        value=entering.value,
        innovation=entering.innovation,
        obs_error=entering.error,
        amplitude=entering.amplitude,
        **entering.pairs.arguments(),
        minimum=limits[:, 0].tolist(),
        maximum=limits[:, 1].tolist(),
        background_sd=kernel.quality.background_sd,
        buddy_sd=kernel.quality.buddy_sd,
        full_weight_sd=kernel.quality.full_weight_sd,
        max_jitter=MAX_JITTER,
        n_threads=threads,
    )
    is_member = entering.member >= 0
    members, of_member = candidates[is_member], entering.member[is_member]
    flag[candidates[~is_member]] = entering.flag[~is_member]
    flag[members] = np.array(verdict, dtype=object)[of_member]
    weight = np.zeros(rows.size)
    weight[members] = entering.weight[is_member] * screened_weight[of_member]
    used = np.flatnonzero(flag == ACCEPTED)
    effective = np.full(rows.size, np.nan)
    effective[used] = error[used] / np.sqrt(weight[used])

    # What enters, numbered anew; of each row used, which of them it is part of.
    chosen_super = np.flatnonzero(np.array(verdict, dtype=object) == ACCEPTED)
    super_of_row = np.full(rows.size, -1)
    super_of_row[members] = np.searchsorted(chosen_super, of_member)
    part_of = super_of_row[used]
    entered_error = entering.error[chosen_super] / np.sqrt(screened_weight[chosen_super])
    entered_pairs = entering.pairs.renumbered(_numbered(chosen_super, entering.node.size))
    apart = np.zeros(rows.size)
    apart[candidates] = entering.representativeness

    analysis = rust_core.Analysis(
        terms,
        **network,
        station=entering.node[chosen_super],
        quantity=entering.quantity[chosen_super],
        time_h=entering.time_h[chosen_super],
        innovation=entering.innovation[chosen_super],
        obs_error=entered_error,
        amplitude=entering.amplitude[chosen_super],
        **entered_pairs.arguments(),
        max_jitter=MAX_JITTER,
        n_threads=threads,
    )
    fitted = np.full(rows.size, np.nan)
    fitted[used] = prior[used] + (entering.innovation[chosen_super] - analysis.residual())[part_of]
    center = np.full(rows.size, np.nan)
    variance = np.full(rows.size, np.nan)
    # Rows that a check stopped are predicted too: their feedback shows by how much they are off.
    stopped = np.flatnonzero(np.isin(flag, STOPPED))
    analysed_variance = np.full(rows.size, np.nan)
    node_of_row = nodes.of_station[station]
    used_of_node = _by_number(node_of_row[used], len(nodes))

    @cache
    def without(ig12: float) -> tuple[Array, Array]:
        """Background of the rows and innovations that enter, with the index of some stations held out."""
        own_background = transform(lambda name: background_of(levels, name, ig12))
        return own_background, entering.mean((transformed - own_background)[candidates])[chosen_super]

    index_of_node = np.array([held_out[first].ig12 for first in nodes.first_station()])
    held_out_innovation = [without(ig12)[1] for ig12 in index_of_node]
    adaptation = spread_factor(
        kernel.adaptation,
        analysis,
        nodes,
        quantity=entering.quantity[chosen_super],
        error=entering.error[chosen_super],
        age_h=-entering.time_h[chosen_super],
        is_asked=entering.duration_h[chosen_super] <= FULL_RATE_H,
        held_out_innovation=held_out_innovation,
    )

    def at(chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        return node_of_row[chosen], quantity[chosen], time_h[chosen]

    for number, ig12 in enumerate(index_of_node):
        own_background, own_innovation = without(ig12)
        held, residual, covariance = analysis.leave_station_out(number, own_innovation)
        position = np.full(chosen_super.size, -1)
        position[held] = np.arange(held.size)
        held_rows = used[used_of_node[number]]
        at_held = position[part_of[used_of_node[number]]]
        center[held_rows] = own_background[held_rows] + (own_innovation[held] - residual)[at_held]
        # The prediction is of a new observation with the nominal error, not with the one that control inflated.
        field_variance = (np.diag(covariance) - entered_error[held] ** 2)[at_held] + apart[held_rows]
        factor = adaptation.of_node(*at(held_rows), is_held_out=True)
        variance[held_rows] = factor * field_variance + error[held_rows] ** 2

    for ig12 in np.unique(index_of_node[node_of_row[stopped]]):
        own = stopped[index_of_node[node_of_row[stopped]] == ig12]
        own_background, own_innovation = without(ig12)
        mean, sd = analysis.predict_sites(
            *at(own), amplitude=amplitude[own], is_held_out=True, innovation=own_innovation
        )
        center[own] = own_background[own] + mean
        variance[own] = adaptation.of_node(*at(own), is_held_out=True) * sd**2 + error[own] ** 2
    mean, sd = analysis.predict_sites(*at(stopped), amplitude=amplitude[stopped])
    fitted[stopped] = prior[stopped] + mean
    factor = adaptation.of_node(*at(stopped), is_held_out=False)
    analysed_variance[stopped] = factor * sd**2 + error[stopped] ** 2
    confidence_class = kernel.confidence.class_of(confidence)[rows]
    misfit = np.zeros(rows.size)
    # d_i (S^-1 d)_i of what entered, to each row by its share.
    share = np.ones(rows.size)
    share[members] = entering.share[is_member]
    misfit[used] = (entering.innovation[chosen_super] * analysis.alpha())[part_of] * share[used]

    def of_quantity(number: int, name: str) -> Solved:
        own = quantity == number
        back = np.exp(fitted[own]) if kernel.quantity(name).is_logarithmic else fitted[own]
        prediction = Prediction(center[own], np.sqrt(variance[own]), kernel.quantity(name).is_logarithmic)
        feedback = pd.DataFrame(
            {
                "observation_id": window["observation_id"].to_numpy()[rows[own]],
                "sounder_id": window["sounder_id"].to_numpy()[rows[own]],
                "observed_at": window["observed_at"].iloc[rows[own]].reset_index(drop=True),
                "latitude_deg": stations.latitude_deg[station[own]],
                "longitude_deg": stations.longitude_deg[station[own]],
                "quantity": name,
                "obs_value": value[own],
                "obs_error": obs_error[own],
                "effective_error": effective[own] * scale[own],
                "hofx": hofx[own],
                "omb": value[own] - hofx[own],
                "oma": value[own] - back,
                "qc_flag": flag[own],
                "weight": weight[own],
                "holdout_value": prediction.median,
                "holdout_sd": prediction.sd,
            }
        )
        mine = used[quantity[used] == number]
        n_used = mine.size
        return Solved(
            feedback=feedback,
            rows=rows[own],
            is_scored=scored[rows[own]] & (flag[own] == ACCEPTED),
            observed=value[own],
            held_out=prediction,
            analysed=Prediction(
                fitted[own], np.sqrt(analysed_variance[own]), kernel.quantity(name).is_logarithmic
            ),
            # The expectation of d_i (S^-1 d)_i is 1 for every row, so the sum over one quantity's rows is its share.
            chi2=float(misfit[own].sum()) / share[mine].sum() if n_used else None,
            obs_errors=diagnose(
                transformed[mine] - fitted[mine], innovation[mine], effective[mine], confidence_class[mine]
            ),
        )

    degrees, gain = analysis.station_information()
    # A node's information goes to its stations by the precision that they brought.
    precision = np.bincount(
        station[used], weights=effective[used] ** -2.0, minlength=len(stations.sounder_id)
    )
    with np.errstate(invalid="ignore"):
        part = precision / np.bincount(nodes.of_station, weights=precision)[nodes.of_station]
    part = np.nan_to_num(part)
    return JointlySolved(
        analysis=analysis,
        nodes=nodes,
        held_out_innovation=held_out_innovation,
        entered=Rows(
            entering.node[chosen_super],
            entering.quantity[chosen_super],
            entering.time_h[chosen_super],
            entering.value[chosen_super],
            entering.innovation[chosen_super],
            entered_error,
            entering.amplitude[chosen_super],
        ),
        entered_pairs=entered_pairs,
        node_share=part,
        n_analysed=chosen_super.size,
        widening=entering.widening,
        adaptation=adaptation,
        of_quantity={name: of_quantity(number, name) for number, name in enumerate(QUANTITIES)},
        log_evidence=analysis.log_evidence,
        jitter=analysis.jitter,
        information={
            sounder_id: {
                "degrees_of_freedom": float(part[number] * degrees[nodes.of_station[number]]),
                "information_gain_nats": float(part[number] * gain[nodes.of_station[number]]),
            }
            for number, sounder_id in enumerate(stations.sounder_id)
        },
    )


def _numbered(chosen: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Of each of `n`, its position among the `chosen`; -1 of the others."""
    number = np.full(n, -1, dtype=np.int64)
    number[chosen] = np.arange(chosen.size)
    return number


def _by_number(numbers: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """Where each of the numbers 0..n stands."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.searchsorted(numbers[order], np.arange(1, n)))
