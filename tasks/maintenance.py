"""What a maintenance of a root comes to, each step by itself; the flow runs them as tasks, `autonvis maintain` plainly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tasks import disk_forecast
from tasks.catalog_retention import expire_cycles
from tasks.compaction import Compacted, compact_lake
from tasks.disk_forecast import DiskForecast
from tasks.lake_retention import expire_lake
from tasks.log_rotation import Rotated, rotate_logs
from tasks.prefect_vacuum import vacuum_prefect
from tasks.products import expire_products
from tasks.settings import Settings


@dataclass(frozen=True)
class Maintained:
    """What all steps came to."""

    finished_at: datetime
    n_expired_files: int
    n_expired_products: int
    n_expired_cycles: int
    compacted: Compacted
    logs: Rotated
    vacuumed_bytes: int
    disk: DiskForecast

    def summary(self) -> str:
        return (
            f"{self.n_expired_files} files of the lake, {self.n_expired_products} products and {self.n_expired_cycles} records of cycles "
            "past their retention removed; "
            f"{self.compacted.summary()}; {self.logs.n_rotated} logs rotated, {self.logs.n_removed} old ones removed; "
            f"Prefect's database {self.vacuumed_bytes / 1e6:.1f} MB smaller; {self.disk.summary()}"
        )


def conclude(
    settings: Settings,
    expired: list[Path],
    products: list[Path],
    n_cycles: int,
    compacted: Compacted,
    logs: Rotated,
    vacuumed_bytes: int,
    *,
    now: datetime,
) -> Maintained:
    """Notes and forecasts the disk, and writes `run/maintenance.json`."""
    disk_forecast.note_disk(settings, now=now)
    done = Maintained(
        finished_at=datetime.now(UTC),
        n_expired_files=len(expired),
        n_expired_products=len(products),
        n_expired_cycles=n_cycles,
        compacted=compacted,
        logs=logs,
        vacuumed_bytes=vacuumed_bytes,
        disk=disk_forecast.forecast_disk(settings, now=now),
    )
    disk_forecast.write_status(settings, asdict(done))
    return done


def maintain(settings: Settings, *, now: datetime) -> Maintained:
    """Every step in turn, without an orchestrator.

    Raises:
        tasks.lake.LakeError, tasks.upkeep.Busy: as the steps do; those before are done.
    """
    expired = expire_lake(settings, now=now)
    products = expire_products(settings, now=now)
    n_cycles = expire_cycles(settings, now=now)
    compacted = compact_lake(settings, now=now)
    logs = rotate_logs(settings, now=now)
    vacuumed_bytes = vacuum_prefect(settings)
    return conclude(settings, expired, products, n_cycles, compacted, logs, vacuumed_bytes, now=now)
