"""Flow `verify-backup`: the newest backup is restored beside the root, and its last cycle is the same to the bit."""

from __future__ import annotations

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.watch import WATCHED
from tasks import backup_verification
from tasks.settings import load_settings
from tasks.upkeep_artifacts import verified_markdown

verify = task(name="restore-and-compare", timeout_seconds=7_200, cache_policy=NO_CACHE)(
    backup_verification.verify_backup
)


@flow(name="verify-backup", flow_run_name="verify-backup", timeout_seconds=10_800, **WATCHED)
def verify_backup(source: str | None = None) -> State:
    """Restore the newest archive into a scratch root, recompute the last cycle, compare; the run fails if it differs.

    Args:
        source: place of the backups, or one archive in it; default the one of the settings.
    """
    verified = verify(load_settings(), source)
    create_markdown_artifact(
        verified_markdown(verified), key="verify-backup", description="Is the newest backup one?"
    )
    return (Completed if verified.is_good else Failed)(message=verified.summary())
