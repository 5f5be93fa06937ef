"""Whether the newest backup is one: restored into a scratch root, and its last cycle computed again, to the bit."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tasks import catalog, cycles, lake
from tasks.restore import restore
from tasks.settings import Settings

log = logging.getLogger(__name__)

STATUS = Path("run/verify-backup.json")


@dataclass(frozen=True)
class Verified:
    """What a verification found; `problems` are sentences, empty when the backup is good.

    `rto_s` is how long the restore took, `rpo_s` the age of the newest archive at the beginning: what a disaster then
    would have cost.
    """

    archive: str
    checked_at: datetime
    state_at: datetime
    n_files: int
    n_bytes: int
    rto_s: float
    rpo_s: float
    cycle_id: str | None
    n_compared: int
    problems: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        verdict = (
            "; ".join(self.problems)
            if self.problems
            else "restores, and its last cycle is the same to the bit"
        )
        cycle = (
            f"cycle {self.cycle_id}, {self.n_compared} files compared"
            if self.cycle_id
            else "no cycle to compare"
        )
        return (
            f"{self.archive}: {verdict} ({cycle}; {self.n_files} files, {self.n_bytes / 1e6:.1f} MB; RTO {self.rto_s:.1f} s, "
            f"RPO {self.rpo_s:.0f} s)"
        )


def verify_backup(settings: Settings, source: str | None = None) -> Verified:
    """Restores the newest archive beside the root, recomputes the last cycle in it, compares, and removes it again.

    Raises:
        tasks.backup_store.BackupError: it cannot be restored.
    """
    began = datetime.now(UTC)
    with _scratch(settings) as scratch:
        restored = restore(scratch, source or settings.backup_address)
        cycle_id, n_compared, problems = _recompute_last_cycle(scratch)
        catalog.open_catalog(scratch).dispose()
    verified = Verified(
        archive=restored.archive,
        checked_at=began,
        state_at=restored.state_at,
        n_files=restored.n_files,
        n_bytes=restored.n_bytes,
        rto_s=restored.duration_s,
        rpo_s=(began - restored.state_at).total_seconds(),
        cycle_id=cycle_id,
        n_compared=n_compared,
        problems=problems,
    )
    _write_status(settings, verified)
    log.log(logging.INFO if verified.is_good else logging.ERROR, "%s", verified.summary())
    return verified


@contextmanager
def _scratch(settings: Settings) -> Iterator[Settings]:
    """Settings of a root below the home's staging, which goes at the end, or with the next one's begin if we are killed."""
    with lake.staging_folder(settings) as stage:
        yield settings.model_copy(update={"home": stage / "root", "lake": None, "database_url": None})


def _recompute_last_cycle(settings: Settings) -> tuple[str | None, int, list[str]]:
    """Its id, how many files were compared, and what differs; of the last one by the kernel configuration in use."""
    config_hash = cycles.kernel_config(settings).config_hash
    known = [
        (cycle, plan)
        for cycle in catalog.cycles(catalog.open_catalog(settings))
        if cycle.config_hash == config_hash and (plan := cycles.plan_of(cycle)) is not None
    ]
    if not known:
        return None, 0, []
    cycle, plan = max(known, key=lambda pair: pair[0].recorded_at)
    for name in cycle.files:
        lake.loosen(name.partition("/")[0], Path(name).stem, settings=settings)
    paths = [settings.lake_root / name for name in cycle.files]
    missing = [name for name, path in zip(cycle.files, paths, strict=True) if not path.is_file()]
    if missing:
        return cycle.cycle_id, 0, [f"{missing[0]} of cycle {cycle.cycle_id} is not in the backup"]
    before = {path: path.read_bytes() for path in paths}
    observations, heard = cycles.read_window(settings, [plan]), cycles.read_heard(settings, [plan])
    again = cycles.assimilate(settings, plan, observations, heard)
    written = cycles.store_cycle(settings, plan, again)
    problems = []
    if again.metadata["cycle_id"] != cycle.cycle_id:
        problems.append(
            f"cycle {cycle.cycle_id} became {again.metadata['cycle_id']}: its inputs, grid or leads are others"
        )
    differing = [path for path in before if path.read_bytes() != before[path]]
    problems += [
        f"{path.relative_to(settings.lake_root)} differs when it is computed again" for path in differing
    ]
    if set(written) != set(paths):
        problems.append(
            f"cycle {cycle.cycle_id} has {len(written)} files when it is computed again, and had {len(paths)}"
        )
    return cycle.cycle_id, len(before), problems


def _write_status(settings: Settings, verified: Verified) -> None:
    path = settings.home / STATUS
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps({**asdict(verified), "is_good": verified.is_good}, default=str, indent=1))
    partial.replace(path)
