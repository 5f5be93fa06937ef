"""The gradient of the evidence against central differences of the evidence itself."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.reference.problems import LOOSE_TERMS, TERMS, Problem, Term, problem

STEP = 1e-5


def moved(p: Problem, terms: list[Term], name: str, step: float) -> float:
    """The evidence with one parameter moved: ln of it by `step`, a correlation itself."""
    if name == "obs_error":
        return replace(p, error=p.error * np.exp(step)).solve(terms).log_evidence
    match = re.fullmatch(r"terms\[(\d+)\]\.(\w+?)(?:\[(\d+)(?:,(\d+))?\])?", name)
    assert match is not None
    number, field = int(match[1]), match[2]
    term = terms[number]
    if field == "sd":
        sd = np.array(term.sd)
        sd[int(match[3])] *= np.exp(step)
        changed = replace(term, sd=tuple(sd))
    elif field == "correlation":
        matrix = np.eye(len(term.sd)) if term.correlation is None else np.array(term.correlation, dtype=float)
        a, b = int(match[3]), int(match[4])
        matrix[a, b] = matrix[b, a] = matrix[a, b] + step
        changed = replace(term, correlation=tuple(map(tuple, matrix)))
    else:
        changed = replace(term, **{field: getattr(term, field) * np.exp(step)})
    return p.solve([*terms[:number], changed, *terms[number + 1 :]]).log_evidence


# The correlation of the third of TERMS is singular: moved, it would be none. The isotropic one may only grow apart.
REGULAR = [
    TERMS[0],
    replace(TERMS[1], zonal_km=1501.0),
    replace(TERMS[2], correlation=((1.0, 0.7, -0.5), (0.7, 1.0, -0.5), (-0.5, -0.5, 1.0))),
    *TERMS[3:],
]


@pytest.mark.parametrize("terms", [REGULAR, LOOSE_TERMS])
def test_the_gradient_equals_central_differences(terms: list[Term]) -> None:
    p = problem(31, n_obs=70)
    gradient = p.solve(terms).evidence_gradient()
    assert len({name for name, _ in gradient}) == len(gradient)
    for name, derivative in gradient:
        expected = (moved(p, terms, name, STEP) - moved(p, terms, name, -STEP)) / (2 * STEP)
        assert derivative == pytest.approx(expected, rel=1e-5, abs=1e-6), name


def test_every_parameter_has_its_derivative() -> None:
    names = {name for name, _ in problem(32).solve(TERMS).evidence_gradient()}
    for number, term in enumerate(TERMS):
        own = {f"terms[{number}].sd[{q}]" for q in range(3)} | {f"terms[{number}].time_scale_h"}
        own |= {f"terms[{number}].correlation[{a},{b}]" for a, b in ((0, 1), (0, 2), (1, 2))}
        if term.zonal_km is not None:
            own |= {f"terms[{number}].zonal_km", f"terms[{number}].meridional_km"}
        if term.phase_scale_h is not None:
            own.add(f"terms[{number}].phase_scale_h")
        assert own <= names
        names -= own
    assert names == {"obs_error"}


def test_without_observations_nothing_pulls() -> None:
    nothing = problem(33).keep(np.zeros(60, dtype=bool)).solve(TERMS)
    assert all(derivative == 0 for _, derivative in nothing.evidence_gradient())
