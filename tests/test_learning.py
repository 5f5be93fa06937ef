"""Learning the covariance: better than it started on a world whose truth is known, the same rows scored, a file that reads back."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.kernel_config import DEFAULT_FILE, KernelConfig, load_kernel_config
from tasks.kernel_file import render
from tasks.learning import PARAMETERS, Course, Evaluation, learn, read_data
from tasks.simulation import simulate_network

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("learning") / "network.csv"
    pd.DataFrame(simulate_network(START, 36, 4)).to_csv(file, index=False)
    return file


def narrow(kernel: KernelConfig) -> KernelConfig:
    """A configuration that believes IRI far too much."""
    for parameter in PARAMETERS:
        if ".sd.fof2" in parameter.name:
            kernel = parameter.put(kernel, parameter.lower)
    return kernel


def test_learning_leaves_a_bad_start_and_tells_of_every_configuration(network: Path) -> None:
    start = narrow(load_kernel_config())
    course = Course(read_data([network]), start, n_cycles=4)
    told: list[Evaluation] = []
    learned = learn(course, start, max_evaluations=32, progress=lambda n, e: told.append(e))
    before, after = course.evaluate(start), course.evaluate(learned)
    assert len(told) <= 32
    assert after.objective == min(evaluation.objective for evaluation in told) < before.objective - 0.02
    # The same rows, whatever a configuration's quality control would stop.
    assert [skill.n for skill in before.skills] == [skill.n for skill in after.skills]
    assert all(p.lower <= p.get(learned) <= p.upper for p in PARAMETERS)


def test_the_objective_counts_crps_and_a_little_evidence(network: Path) -> None:
    kernel = load_kernel_config()
    evaluation = Course(read_data([network]), kernel, n_cycles=4).evaluate(kernel)
    assert {skill.quantity for skill in evaluation.skills} == {"fof2_mhz", "hmf2_km", "m3000f2"}
    expected = (
        np.mean([np.log(s.crps) + 0.5 * s.log_score for s in evaluation.skills])
        - 0.05 * evaluation.log_evidence_per_observation
    )
    assert evaluation.objective == pytest.approx(expected)
    assert all(0 < skill.crps < skill.rmse for skill in evaluation.skills)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda p: p.name)
def test_a_parameter_reads_what_it_was_given_and_changes_the_hash(parameter: object) -> None:
    kernel = load_kernel_config()
    value = parameter.get(kernel) * 1.01  # type: ignore[attr-defined]
    changed = parameter.put(kernel, value)  # type: ignore[attr-defined]
    assert parameter.get(changed) == pytest.approx(value)  # type: ignore[attr-defined]
    assert changed.config_hash != kernel.config_hash


def test_the_file_reads_back_with_its_comments_and_says_whence_values_come(tmp_path: Path) -> None:
    kernel = load_kernel_config()
    learned = kernel
    for parameter in PARAMETERS:
        learned = parameter.put(learned, float(f"{parameter.get(kernel) * 1.1:.3g}"))
    text = render(learned, None, ["one.csv", "two"], date(2026, 11, 24))
    file = tmp_path / "kernel.toml"
    file.write_text(text, encoding="utf-8")
    back = load_kernel_config(file)
    assert back.terms == learned.terms
    assert back.fof2_mhz.obs_error.unknown == pytest.approx(learned.fof2_mhz.obs_error.unknown, abs=1e-4)
    assert text.count("[L] 2026-11-24, one.csv, two") >= 12
    assert "# today's weather" in text
    assert render(kernel, None, ["x"], date(2026, 11, 24)) == DEFAULT_FILE.read_text(encoding="utf-8")


def test_what_cannot_be_learned_from_is_named(network: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each with its own name"):
        read_data([network, network])
    short = tmp_path / "short.csv"
    pd.DataFrame(simulate_network(START, 3, 4)).to_csv(short, index=False)
    with pytest.raises(ValueError, match=r"short.csv: spans .* more than a day is needed"):
        Course(read_data([short]), load_kernel_config(), n_cycles=2)


def test_the_command_writes_a_configuration_and_says_what_it_is_worth(network: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [sys.executable, "-m", "autonvis", "learn", str(network), "--cycles", "2", "--evaluations", "3"]
    run = subprocess.run(
        command,
        env={**os.environ, "AUTONVIS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    learned = load_kernel_config(home / "kernel.toml")
    assert len(learned.terms) == len(load_kernel_config().terms)
    assert "weather.zonal_km" in run.stdout + run.stderr
    assert f"{network.name} fof2_mhz" in run.stdout + run.stderr
