"""Which archives are kept, and the removal of the others with what they alone had in the store.

Of full backups the newest of each of so many days and weeks; of increments those of the last days. Whole archives are
made by hand, and removed by hand. Days without a backup do not count: a system that was off keeps what it has.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.backup_archive import parse_name, read_manifest
from tasks.backup_store import BackupError, Destination
from tasks.settings import Settings

log = logging.getLogger(__name__)

YOUNGEST_REMOVED = timedelta(days=1)
"""Objects without an archive are left for this long: a backup of another process may be about to name them."""


@dataclass(frozen=True)
class Pruned:
    """What was removed."""

    archives: list[str]
    n_objects: int


def kept_archives(
    names: Sequence[str], *, now: datetime, daily: int, weekly: int, increments_d: float
) -> list[str]:
    """The archives that the policy keeps, oldest first; an increment keeps the full one that it builds on."""
    times = {name: parse_name(name) for name in sorted(names)}
    newest_first = [name for name in reversed(times) if times[name][1] == "full"]
    of_days: dict[str, str] = {}
    of_weeks: dict[str, str] = {}
    for name in newest_first:
        moment = times[name][0]
        of_days.setdefault(f"{moment:%Y-%m-%d}", name)
        of_weeks.setdefault(f"{moment:%G-%V}", name)
    kept = {*list(of_days.values())[:daily], *list(of_weeks.values())[:weekly]}
    kept |= {name for name in times if times[name][1] == "whole"}
    kept |= set(newest_first[:2])  # an increment under way may build on the one before
    since = now - timedelta(days=increments_d)
    for name, (moment, kind) in times.items():
        base = next((full for full in newest_first if full < name), None)
        if kind == "increment" and moment >= since and base is not None:
            kept |= {name, base}
    return sorted(kept)


def prune_backups(settings: Settings, *, now: datetime) -> Pruned:
    """Removes what the policy of the settings does not keep.

    Where a kept archive cannot be read nothing leaves the store: what it needs is not known.
    """
    destination = Destination(settings.backup_address)
    names = destination.archives()
    wanted = kept_archives(
        names,
        now=now,
        daily=settings.backup_daily,
        weekly=settings.backup_weekly,
        increments_d=settings.backup_increments_d,
    )
    kept: dict[str, set[str]] = {}
    unread = None
    while wanted:
        name = wanted.pop()
        kept[name] = set()
        try:
            manifest = read_manifest(destination, name)
        except BackupError as error:
            unread = error
            continue
        kept[name] = {entry.sha256 for entry in manifest.files}
        # One that was made while a full one was made builds on the one before that, whatever the order of their names.
        if manifest.base in names and manifest.base not in kept and manifest.base not in wanted:
            wanted.append(manifest.base)
    removed = [name for name in names if name not in kept]
    for name in removed:
        destination.remove_archive(name)
    if unread is not None:
        log.warning("nothing is removed from the store of %s: %s", destination.address, unread)
        return Pruned(removed, 0)
    needed = set().union(*kept.values())
    last = now - YOUNGEST_REMOVED
    unneeded = [
        sha256 for sha256, age in destination.objects().items() if sha256 not in needed and age < last
    ]
    for sha256 in unneeded:
        destination.remove_object(sha256)
    if removed or unneeded:
        log.info("removed %d archives and %d objects by the policy", len(removed), len(unneeded))
    return Pruned(removed, len(unneeded))
