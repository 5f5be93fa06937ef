"""Backing up and restoring a root: a first full backup, the next ones, an increment, a restore; beside `tar --zstd`.

The root has incompressible files, as Parquet is: many small ones and some large.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tasks import catalog
from tasks.backup import make_backup
from tasks.restore import restore
from tasks.settings import Settings

N_SMALL, SMALL_BYTES = 10_000, 10_000
N_LARGE, LARGE_BYTES = 200, 4_000_000
N_NEW = 10


def seconds(work: Callable[[], object]) -> float:
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def fill(settings: Settings) -> int:
    """Bytes of a root of some days."""
    for number in range(N_SMALL + N_LARGE):
        is_small = number < N_SMALL
        folder = (
            settings.lake_root
            / ("feedback" if is_small else "analysis")
            / f"date=2026-11-{1 + number % 25:02d}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.parquet").write_bytes(os.urandom(SMALL_BYTES if is_small else LARGE_BYTES))
    catalog.open_catalog(settings)
    return N_SMALL * SMALL_BYTES + N_LARGE * LARGE_BYTES


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        settings = Settings(home=root / "var", backup_to=str(root / "backups"))
        n_bytes = fill(settings)

        def tar() -> None:
            subprocess.run(
                ["tar", "--zstd", "-cf", str(root / "peer.tar.zst"), "-C", str(settings.home), "."],
                check=True,
            )
            os.sync()

        def untar() -> None:
            (root / "peer").mkdir()
            subprocess.run(
                ["tar", "--zstd", "-xf", str(root / "peer.tar.zst"), "-C", str(root / "peer")], check=True
            )
            os.sync()

        tar_s = seconds(tar)
        first_s = seconds(lambda: make_backup(settings))
        again_s = seconds(lambda: make_backup(settings))
        for number in range(N_NEW):
            path = settings.lake_root / "feedback" / "date=2026-11-25" / f"new-{number}.parquet"
            path.write_bytes(os.urandom(SMALL_BYTES))
        increment_s = seconds(lambda: make_backup(settings, "increment"))
        archives = sorted((root / "backups" / "archives").glob("*.zst"), key=lambda path: path.name)
        untar_s = seconds(untar)
        fresh = settings.model_copy(update={"home": root / "restored"})
        restore_s = seconds(lambda: restore(fresh))
        result = {
            "benchmark": "backup",
            "root_mb": round(n_bytes / 1e6),
            "n_files": N_SMALL + N_LARGE,
            "first_full_s": round(first_s, 2),
            "next_full_s": round(again_s, 2),
            "increment_s": round(increment_s, 2),
            "increment_kb": round(archives[-1].stat().st_size / 1e3),
            "restore_s": round(restore_s, 2),
            "tar_s": round(tar_s, 2),
            "untar_s": round(untar_s, 2),
            "backup_to_tar": round(first_s / tar_s, 2),
            "restore_to_untar": round(restore_s / untar_s, 2),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
