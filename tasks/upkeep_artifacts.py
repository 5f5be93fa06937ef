"""Backups and maintenance as text for the Prefect UI; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.artifacts import markdown_table

if TYPE_CHECKING:
    from tasks.backup import Backup
    from tasks.backup_verification import Verified
    from tasks.maintenance import Maintained


def backup_markdown(made: Backup) -> str:
    rows = [
        ["archive", f"`{made.archive}`"],
        ["in", f"`{made.address}`"],
        ["as at", f"{made.taken_at:%Y-%m-%d %H:%M:%S} UTC"],
        ["files of the root", f"{made.n_files:,}"],
        ["new in the store", f"{made.n_new:,}, {made.new_bytes / 1e6:.1f} MB"],
        ["archive", f"{made.archive_bytes / 1e6:.1f} MB"],
        ["took", f"{made.duration_s:.1f} s"],
    ]
    return _page(rows, made.notes)


def verified_markdown(verified: Verified) -> str:
    rows = [
        ["archive", f"`{verified.archive}`"],
        ["verdict", "good" if verified.is_good else "**not good**"],
        ["restored", f"{verified.n_files:,} files, {verified.n_bytes / 1e6:.1f} MB"],
        ["time to restore (RTO)", f"{verified.rto_s:.1f} s"],
        ["age of the backup (RPO)", f"{verified.rpo_s:.0f} s"],
        [
            "cycle computed again",
            f"`{verified.cycle_id}`, {verified.n_compared} files" if verified.cycle_id else "none",
        ],
    ]
    return _page(rows, verified.problems)


def maintenance_markdown(done: Maintained) -> str:
    largest = sorted(done.disk.folders.items(), key=lambda item: -item[1])[:8]
    rows = [
        ["disk", done.disk.summary()],
        ["files of the lake removed", f"{done.n_expired_files:,}"],
        ["products removed", f"{done.n_expired_products:,}"],
        ["records of cycles removed", f"{done.n_expired_cycles:,}"],
        ["compaction", done.compacted.summary()],
        ["logs", f"{done.logs.n_rotated} rotated, {done.logs.n_removed} removed"],
        ["Prefect's database", f"{done.vacuumed_bytes / 1e6:.1f} MB smaller"],
        *([f"`{name}`", f"{n_bytes / 1e6:,.1f} MB"] for name, n_bytes in largest),
    ]
    return _page(rows, [])


def _page(rows: Sequence[Sequence[str]], remarks: Sequence[str]) -> str:
    return markdown_table(["", ""], rows) + "".join(f"\n\n* {remark}" for remark in remarks)
