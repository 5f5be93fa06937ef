"""Learning the values of the covariance from observations: how well would each station be predicted by the others?

The objective is the mean, over data sets and quantities, of ln CRPS at stations held out from the analysis and from the
effective index, with a share of their log score, less a small share of the log evidence per observation, which keeps
what held-out stations hardly feel (station bias) at its most probable. Both scores are proper: neither too wide nor too
narrow a spread pays, and the log score does not forgive a narrow one. Which observations are scored is fixed once, by the quality control of the values at the start; otherwise a
configuration would gain by rejecting what it cannot predict.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.analysis import JointlySolved
from tasks.background import Background
from tasks.estimate import View, look
from tasks.kernel_config import QUANTITIES, KernelConfig, Term
from tasks.prediction import Z_95
from tasks.series import read_ionograms

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

LOG_SCORE_SHARE = 0.5  # of the log score, which CRPS hardly replaces where the spread is too narrow; chosen
EVIDENCE_SHARE = 0.05  # of the log evidence per observation, against ln CRPS: chosen, a tie-breaker
SCORED_H = 0.25
FIRST_CYCLE_H = 24.0  # after the first observation: windows are full
TERMS = ("weather", "large_scale", "quasi_diurnal", "station_bias")
"""Names of the terms of the configuration, in its order."""


@dataclass(frozen=True)
class Parameter:
    """One number that is learned, positive, searched in its logarithm."""

    name: str
    unit: str
    lower: float
    upper: float
    get: Callable[[KernelConfig], float]
    put: Callable[[KernelConfig, float], KernelConfig]


def _of_term(number: int, name: str, unit: str, lower: float, upper: float) -> Parameter:
    def put(kernel: KernelConfig, value: float) -> KernelConfig:
        change: dict[str, object] = {name: value}
        if name == "zonal_km":  # both lengths together: their ratio is a choice
            term = kernel.terms[number]
            assert term.zonal_km is not None
            assert term.meridional_km is not None
            change["meridional_km"] = value * term.meridional_km / term.zonal_km
        return _with_term(kernel, number, change)

    return Parameter(
        f"{TERMS[number]}.{name}", unit, lower, upper, lambda kernel: getattr(kernel.terms[number], name), put
    )


def _sd_of_term(number: int, quantity: str, unit: str, lower: float, upper: float) -> Parameter:
    def put(kernel: KernelConfig, value: float) -> KernelConfig:
        sd = kernel.terms[number].sd.model_copy(update={quantity: value})
        return _with_term(kernel, number, {"sd": sd})

    return Parameter(
        *(f"{TERMS[number]}.sd.{quantity}", unit, lower, upper),
        lambda kernel: getattr(kernel.terms[number].sd, quantity),
        put,
    )


def _errors(quantity: str) -> Parameter:
    """All classes of the observation error together, told by the unknown one."""

    def put(kernel: KernelConfig, value: float) -> KernelConfig:
        of = kernel.quantity(quantity)
        factor = value / of.obs_error.unknown
        scaled = {name: error * factor for name, error in of.obs_error.model_dump().items()}
        errors = of.obs_error.model_copy(update=scaled)
        return kernel.model_copy(update={quantity: of.model_copy(update={"obs_error": errors})})

    unit = "MHz" if quantity == "fof2_mhz" else "km"
    lower, upper = (0.10, 0.40) if quantity == "fof2_mhz" else (8.0, 30.0)
    return Parameter(
        *(f"{quantity}.obs_error", unit, lower, upper),
        lambda kernel: kernel.quantity(quantity).obs_error.unknown,
        put,
    )


def _with_term(kernel: KernelConfig, number: int, change: dict[str, object]) -> KernelConfig:
    terms: list[Term] = list(kernel.terms)
    terms[number] = terms[number].model_copy(update=change)
    return kernel.model_copy(update={"terms": tuple(terms)})


PARAMETERS = (
    _of_term(0, "zonal_km", "km", 1500.0, 4000.0),
    _of_term(0, "time_scale_h", "h", 1.0, 8.0),
    _sd_of_term(0, "fof2_mhz", "ln MHz", 0.08, 0.30),
    _sd_of_term(0, "hmf2_km", "km", 8.0, 30.0),
    _of_term(1, "zonal_km", "km", 3000.0, 8000.0),
    _of_term(1, "time_scale_h", "h", 6.0, 36.0),
    _sd_of_term(1, "fof2_mhz", "ln MHz", 0.05, 0.25),
    _sd_of_term(1, "hmf2_km", "km", 5.0, 25.0),
    _sd_of_term(2, "fof2_mhz", "ln MHz", 0.05, 0.18),
    _sd_of_term(2, "hmf2_km", "km", 4.0, 20.0),
    _sd_of_term(3, "fof2_mhz", "ln MHz", 0.01, 0.06),
    _sd_of_term(3, "hmf2_km", "km", 1.0, 10.0),
    _errors("fof2_mhz"),
    _errors("hmf2_km"),
)
"""Bounds: the literature's range, widened by about half."""


@dataclass
class Example:
    """One cycle of a data set, and which of its rows are scored: by quantity, positions in the rows of the analysis."""

    view: View
    scored: dict[str, NDArray[np.intp]] = field(default_factory=dict)


@dataclass(frozen=True)
class Skill:
    """Scores of one quantity at held-out stations of one data set."""

    data: str
    quantity: str
    n: int
    rmse: float
    crps: float
    coverage90: float
    log_score: float
    """Mean of z^2 / 2 + ln sd, in the assimilated variable: the log score but for a constant."""


@dataclass(frozen=True)
class Evaluation:
    skills: tuple[Skill, ...]
    log_evidence_per_observation: float

    @property
    def objective(self) -> float:
        scores = [np.log(skill.crps) + LOG_SCORE_SHARE * skill.log_score for skill in self.skills]
        return float(np.mean(scores)) - EVIDENCE_SHARE * self.log_evidence_per_observation


class Course:
    """Data sets by name, each as cycles spread over its span; what does not depend on the values is computed once.

    Raises:
        ValueError: a data set is shorter than a day, or has nothing to score.
    """

    def __init__(
        self,
        data: dict[str, pd.DataFrame],
        kernel: KernelConfig,
        *,
        n_cycles: int,
        f107_sfu: float | None = None,
    ) -> None:
        background = Background()
        self._examples: dict[str, list[Example]] = {}
        for name, observations in data.items():
            ordered = observations.sort_values("observed_at")
            examples = [
                Example(
                    look(
                        part,
                        valid_at=at,
                        available_at=at,
                        kernel=kernel,
                        background=background,
                        f107_sfu=f107_sfu,
                    )
                )
                for at, part in _windows(name, ordered, kernel, n_cycles)
            ]
            for example in examples:
                solved = example.view.solve(kernel, scored_h=SCORED_H, threads=0).of_quantity
                example.scored = {q: np.flatnonzero(solved[q].is_scored) for q in QUANTITIES}
            if not any(rows.size for example in examples for rows in example.scored.values()):
                raise ValueError(f"{name}: none of {n_cycles} cycles has an observation to score")
            self._examples[name] = examples
            logger.info("%s: %d cycles", name, len(examples))

    def evaluate(self, kernel: KernelConfig) -> Evaluation:
        """Skill of a configuration on every data set."""
        skills: list[Skill] = []
        evidence: list[float] = []
        for name, examples in self._examples.items():
            solved = [example.view.solve(kernel, scored_h=SCORED_H, threads=0) for example in examples]
            n_used = sum(joint.analysis.n_obs for joint in solved)
            evidence.append(sum(joint.log_evidence for joint in solved) / max(n_used, 1))
            for quantity in QUANTITIES:
                skill = _skill(name, quantity, examples, solved)
                skills += [skill] if skill else []
        return Evaluation(tuple(skills), float(np.mean(evidence)))


def read_data(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Ionograms by the name of their file or folder: each path is one data set.

    Raises:
        tasks.observation_files.ObservationFileError, tasks.series.SeriesError: a path cannot be used.
        ValueError: two paths have one name, or there are none.
    """
    names = [path.resolve().name for path in paths]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"data: at least one file or folder, each with its own name, is needed, got {names}")
    return {name: read_ionograms([path]) for name, path in zip(names, paths, strict=True)}


def write_whole(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.partial")
    staged.write_text(text, encoding="utf-8")
    staged.replace(path)


def _windows(
    name: str, ordered: pd.DataFrame, kernel: KernelConfig, n_cycles: int
) -> Iterator[tuple[pd.Timestamp, pd.DataFrame]]:
    """Cycles evenly over the span, on quarters of an hour; the step is no divisor of a day, so all hours come up."""
    times = ordered["observed_at"]
    first, last = (
        times.iloc[0].ceil("15min") + pd.Timedelta(hours=FIRST_CYCLE_H),
        times.iloc[-1].floor("15min"),
    )
    if last <= first:
        raise ValueError(
            f"{name}: spans {times.iloc[-1] - times.iloc[0]}; more than a day is needed to learn from"
        )
    for at in pd.DatetimeIndex(
        np.linspace(first.value, last.value, n_cycles).astype("int64"), tz="UTC"
    ).round("15min"):
        at = at.as_unit("us")
        begin = times.searchsorted(at - pd.Timedelta(hours=kernel.lookback_h))
        yield at, ordered.iloc[begin : times.searchsorted(at, side="right")]


def _skill(
    data: str, quantity: str, examples: Sequence[Example], solved: Sequence[JointlySolved]
) -> Skill | None:
    parts = [
        (joint.of_quantity[quantity].held_out.take(rows), joint.of_quantity[quantity].observed[rows])
        for example, joint in zip(examples, solved, strict=True)
        if (rows := example.scored[quantity]).size
    ]
    if not parts:
        return None
    error = np.concatenate([prediction.median - observed for prediction, observed in parts])
    crps = np.concatenate([prediction.crps(observed) for prediction, observed in parts])
    inside = np.concatenate(
        [(prediction.quantile(-Z_95) <= o) & (o <= prediction.quantile(Z_95)) for prediction, o in parts]
    )
    log_score = np.concatenate([prediction.log_score(observed) for prediction, observed in parts])
    rmse = float(np.sqrt(np.mean(error**2)))
    return Skill(
        *(data, quantity, error.size, rmse, float(crps.mean()), float(inside.mean()), float(log_score.mean()))
    )


def learn(
    course: Course,
    kernel: KernelConfig,
    *,
    max_evaluations: int = 150,
    progress: Callable[[int, Evaluation], None] = lambda number, evaluation: None,
) -> KernelConfig:
    """The configuration within the bounds that minimises the objective, from `kernel` on (COBYQA, no derivatives).

    Powell-type trust-region search by Ragonneau and Zhang (2022) as in SciPy; `progress` hears of every evaluation.
    """
    from scipy.optimize import Bounds, minimize

    lower = np.log([p.lower for p in PARAMETERS])
    upper = np.log([p.upper for p in PARAMETERS])
    start = np.clip(np.log([p.get(kernel) for p in PARAMETERS]), lower, upper)
    best: list[tuple[float, KernelConfig]] = []

    def configure(point: Array) -> KernelConfig:
        result = kernel
        for parameter, value in zip(PARAMETERS, np.exp(np.clip(point, lower, upper)), strict=True):
            result = parameter.put(result, float(f"{value:.3g}"))
        return result

    n_done = 0

    def objective(point: Array) -> float:
        nonlocal n_done
        candidate = configure(point)
        evaluation = course.evaluate(candidate)
        n_done += 1
        if not best or evaluation.objective < best[0][0]:
            best[:] = [(evaluation.objective, candidate)]
        progress(n_done, evaluation)
        return evaluation.objective

    minimize(
        objective,
        start,
        method="COBYQA",
        bounds=Bounds(lower, upper),
        options={"maxfev": max_evaluations, "initial_tr_radius": 0.2, "final_tr_radius": 0.02},
    )
    return best[0][1]
