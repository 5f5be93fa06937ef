"""Flow `learn`: the values of the covariance from files of observations, as one configuration file to look at and adopt."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import PositiveFloat, PositiveInt

from flows.watch import WATCHED
from tasks import learning
from tasks.artifacts import learning_markdown
from tasks.kernel_config import load_kernel_config
from tasks.kernel_file import render
from tasks.settings import load_settings

read_data = task(name="read-data", cache_policy=NO_CACHE)(learning.read_data)


def name_run() -> str:
    return f"learn-{flow_run.parameters['out']}"


@flow(name="learn", flow_run_name=name_run, **WATCHED)
def learn(
    data: list[Path],
    out: Path,
    config: Path | None = None,
    cycles: PositiveInt = 150,
    evaluations: PositiveInt = 120,
    f107_sfu: PositiveFloat | None = None,
) -> Path:
    """Learn the values of the covariance and write them to `out`; nothing uses them until a setting names the file.

    Args:
        data: files or folders of ionograms; each is one data set and counts the same.
        out: the configuration file to write.
        config: the configuration to start from; default the one in use.
        cycles: cycles of each data set, spread over its span.
        evaluations: how many configurations to try at most.
        f107_sfu: solar flux of the time, used where fewer than the minimum of stations report.

    Returns:
        The file written.
    """
    logger = get_run_logger()
    base = config or load_settings().kernel_config
    kernel = load_kernel_config(base)
    observations = read_data(data)
    course = learning.Course(observations, kernel, n_cycles=cycles, f107_sfu=f107_sfu)
    artifact = cast(UUID, create_progress_artifact(0.0, key="learn-progress"))

    def progress(n_done: int, evaluation: learning.Evaluation) -> None:
        update_progress_artifact(artifact, min(100.0 * n_done / evaluations, 100.0))
        logger.info(
            "%d of at most %d configurations, objective %.4f", n_done, evaluations, evaluation.objective
        )

    learned = learning.learn(course, kernel, max_evaluations=evaluations, progress=progress)
    before, after = course.evaluate(kernel), course.evaluate(learned)
    text = render(learned, base, sorted(observations), datetime.now(UTC).date())
    learning.write_whole(out, text)
    summary = learning_markdown(kernel, learned, before, after)
    create_markdown_artifact(
        summary, key="learn", description="Values learned, and the skill before and after"
    )
    logger.info("%s written\n%s", out, summary)
    return out
