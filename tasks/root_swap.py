"""A folder made beside its place, and put there whole when it is finished."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tasks import lake
from tasks.backup_store import STAMP, BackupError
from tasks.exchange import exchange

SPARE = 1.05  # of the size that is known, for what databases and file systems add
STAGED = ".restoring-"


@contextmanager
def staged_beside(place: Path, n_bytes: int) -> Iterator[Path]:
    """An empty folder on the file system of `place`; it goes when the block ends.

    Raises:
        BackupError: there is no right or no space to make it, or the disk became full within the block.
    """
    place = place.resolve()
    parent, prefix = place.parent, place.name
    while not parent.exists():
        parent = parent.parent
    if place.is_mount():  # nothing beside it is on its file system
        parent, prefix = place, ""
    try:
        free = shutil.disk_usage(parent).free
        if n_bytes * SPARE > free:
            raise BackupError(
                f"the disk of {parent} has {free / 1e6:.1f} MB free and {n_bytes * SPARE / 1e6:.1f} MB are needed: free space, or "
                "name another place"
            )
        stage = parent / f"{prefix}{STAGED}{secrets.token_hex(4)}"
        stage.mkdir(mode=0o700)
    except OSError as error:
        raise BackupError(f"nothing can be made beside {place}: {error.strerror}") from error
    try:
        yield stage
    except OSError as error:
        if error.errno in lake.FULL_DISK:
            raise BackupError(
                f"the disk of {parent} is full: nothing was changed; free space, then again"
            ) from error
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def swap(fresh: Path, place: Path) -> Path | None:
    """`fresh` under the name of `place`, in one step; returns where the old content went, None where there was none.

    A mounted volume cannot be renamed: there it goes entry by entry, the catalog out first and in last.
    """
    place = place.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        fresh.rename(place)
        lake.sync_folder(place.parent)
        return None
    is_empty = not any(path.name != "run" and not path.name.startswith(STAGED) for path in place.iterdir())
    stamp = f"{datetime.now(UTC):{STAMP}}"
    if place.is_mount():
        replaced = place / f".replaced-{stamp}"
        _swap_entries(fresh, place, replaced)
    else:
        replaced = place.with_name(f"{place.name}.replaced-{stamp}")
        exchange(fresh, place)
        fresh.rename(replaced)
        lake.sync_folder(place.parent)
    if is_empty:
        shutil.rmtree(replaced)
        return None
    return replaced


def _swap_entries(fresh: Path, place: Path, replaced: Path) -> None:
    def catalog_last(path: Path) -> bool:
        return path.name.startswith("catalog.db")

    replaced.mkdir(mode=0o700)
    for path in sorted(place.iterdir(), key=catalog_last, reverse=True):
        if path != replaced and not path.name.startswith(STAGED):
            os.rename(path, replaced / path.name)
    for path in sorted(fresh.iterdir(), key=catalog_last):
        os.rename(path, place / path.name)
    lake.sync_folder(place)
