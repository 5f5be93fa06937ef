"""Flow `backup`: the root into the place of the backups, whole each night and what is new every three minutes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.watch import WATCHED
from services.broker_definitions import export_definitions
from tasks import backup as backups
from tasks.backup_retention import prune_backups
from tasks.disk_forecast import note_disk
from tasks.settings import load_settings
from tasks.upkeep_artifacts import backup_markdown

WAIT_S = {"full": 900.0, "increment": 60.0, "whole": 900.0}
"""How long to wait for another upkeep: an increment gives up before the next is due."""

export = task(name="export-definitions", retries=1, retry_delay_seconds=10, cache_policy=NO_CACHE)(
    export_definitions
)
make = task(name="make-backup", timeout_seconds=7_200, cache_policy=NO_CACHE)(backups.make_backup)
note = task(name="note-disk", cache_policy=NO_CACHE)(note_disk)
prune = task(name="prune-backups", timeout_seconds=1_800, cache_policy=NO_CACHE)(prune_backups)


def name_run() -> str:
    return f"backup-{flow_run.parameters.get('kind', 'full')}"


@flow(name="backup", flow_run_name=name_run, timeout_seconds=10_800, **WATCHED)
def backup(kind: Literal["full", "increment", "whole"] = "full") -> State:
    """Back up the root of this system; it goes on working meanwhile.

    Args:
        kind: full: everything, then the policy's removals. increment: what is new since the last full one. whole: one
            archive with every file in it, to be carried away.
    """
    settings = load_settings()
    definitions = export(settings.home) if kind != "increment" else None
    note(settings, now=datetime.now(UTC))
    made = make(settings, kind, definitions, wait_s=WAIT_S[kind])
    if made.kind == "full":
        pruned = prune(settings, now=datetime.now(UTC))
        get_run_logger().info("%d archives removed by the policy", len(pruned.archives))
    create_markdown_artifact(
        backup_markdown(made), key="backup", description=f"The newest backup, {made.kind}"
    )
    return Completed(message=made.summary())
