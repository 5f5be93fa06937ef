"""Flow `restore`: a backup into a folder of its own, for a drill or to look something up."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.watch import WATCHED
from tasks import restore as restoring
from tasks.settings import load_settings

restore_root = task(name="restore-root", timeout_seconds=7_200, cache_policy=NO_CACHE)(restoring.restore_into)


def name_run() -> str:
    return f"restore-{flow_run.parameters.get('at') or 'newest'}"


@flow(name="restore", flow_run_name=name_run, timeout_seconds=10_800, **WATCHED)
def restore(
    into: Path, source: str | None = None, at: datetime | None = None, overwrite: bool = False
) -> State:
    """Make a root from a backup, apart from the live one; `autonvis restore` replaces that, with the system stopped.

    Args:
        into: folder to make; a system with this AUTONVIS_HOME then has it for its root.
        source: place of the backups, or one archive in it; default the one of the settings.
        at: with what was received until this time; default as the newest archive has it.
        overwrite: replace the folder if it is not empty; it is kept beside.
    """
    restored = restore_root(load_settings(), into, source, at, overwrite=overwrite)
    create_markdown_artifact(
        restored.summary().replace("; ", "\n\n"), key="restore", description=f"Restored into {into}"
    )
    return Completed(message=restored.summary())
