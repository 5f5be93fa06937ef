"""Flow `maintain`: what is past its retention goes, small files become few, and how long the disk will last."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.watch import WATCHED
from tasks import maintenance
from tasks.catalog_retention import expire_cycles
from tasks.compaction import compact_lake
from tasks.lake_retention import expire_lake
from tasks.log_rotation import rotate_logs
from tasks.prefect_vacuum import vacuum_prefect
from tasks.products import expire_products
from tasks.settings import load_settings
from tasks.upkeep_artifacts import maintenance_markdown

expire_files = task(name="expire-lake", cache_policy=NO_CACHE)(expire_lake)
expire_versions = task(name="expire-products", cache_policy=NO_CACHE)(expire_products)
expire_records = task(name="expire-cycles", cache_policy=NO_CACHE)(expire_cycles)
compact = task(name="compact-lake", timeout_seconds=7_200, cache_policy=NO_CACHE)(compact_lake)
rotate = task(name="rotate-logs", cache_policy=NO_CACHE)(rotate_logs)
vacuum = task(name="vacuum-prefect", timeout_seconds=600, cache_policy=NO_CACHE)(vacuum_prefect)
conclude = task(name="forecast-disk", cache_policy=NO_CACHE)(maintenance.conclude)


@flow(name="maintain", flow_run_name="maintain", timeout_seconds=10_800, **WATCHED)
def maintain() -> State:
    """Remove what is past its retention, compact settled days, rotate logs, vacuum Prefect's database, forecast the disk."""
    settings, now = load_settings(), datetime.now(UTC)
    expired = expire_files(settings, now=now)
    products = expire_versions(settings, now=now)
    n_cycles = expire_records(settings, now=now)
    compacted = compact(settings, now=now)
    logs = rotate(settings, now=now)
    vacuumed_bytes = vacuum(settings)
    done = conclude(settings, expired, products, n_cycles, compacted, logs, vacuumed_bytes, now=now)
    create_markdown_artifact(maintenance_markdown(done), key="maintenance", description=done.disk.summary())
    return Completed(message=done.summary())
