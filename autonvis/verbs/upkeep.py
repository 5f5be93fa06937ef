"""The root kept: backed up, restored, and cleared of what is past its retention."""

from __future__ import annotations

import argparse
import sys
from typing import Literal

from autonvis.verbs.parser import Verbs
from tasks.settings import Settings


def add(verbs: Verbs) -> None:
    """Adds these verbs."""
    sub = verbs.add(
        "backup",
        run_backup,
        "Back up the root to AUTONVIS_BACKUP_TO while the system runs, and remove what the policy no longer keeps.",
        "autonvis backup\nautonvis backup --increment\nAUTONVIS_BACKUP_TO=/mnt/usb autonvis backup --whole",
    )
    kinds = sub.add_mutually_exclusive_group()
    kinds.add_argument(
        "--increment",
        action="store_true",
        help="only what is new since the last full backup: seconds, every three minutes",
    )
    kinds.add_argument(
        "--whole",
        action="store_true",
        help="one archive with everything in it, to be carried away; never removed by the policy",
    )
    sub = verbs.add(
        "restore",
        run_restore,
        "Make a root again from a backup, as it was at the newest one or at a time. Needs the system stopped.",
        "autonvis restore /mnt/backups\n"
        "autonvis restore s3://bucket/autonvis --at 2026-11-25T10:15Z\n"
        "AUTONVIS_HOME=/srv/drill autonvis restore /mnt/backups/archives/20261125T020000Z-full.tar.zst",
    )
    sub.add_argument(
        "source",
        nargs="?",
        metavar="FROM",
        help="place of the backups, or one archive in it; default AUTONVIS_BACKUP_TO",
    )
    sub.add_argument("--at", metavar="TIME", help="with what was received until then, ISO-8601 with zone")
    sub.add_argument(
        "--overwrite", action="store_true", help="replace a root that is not empty; it is kept beside"
    )
    sub.add_argument(
        "--prefect",
        metavar="URL",
        help="put Prefect's runs into this database on PostgreSQL, such as postgresql://user@host/prefect; on SQLite they come by themselves",
    )
    sub = verbs.add(
        "verify-backup",
        run_verify_backup,
        "Restore the newest backup into a scratch root, compute its last cycle again, compare it bit for bit; exit code 1 if it "
        "differs.",
        "autonvis verify-backup\nautonvis verify-backup s3://bucket/autonvis",
    )
    sub.add_argument("source", nargs="?", metavar="FROM", help="place of the backups, or one archive in it")
    verbs.add(
        "maintain",
        run_maintain,
        "Remove what is past its retention, compact the small files of settled days, rotate logs, vacuum Prefect's database, and "
        "say when the disk will be full; the system may run.",
        "autonvis maintain",
    )
    verbs.add(
        "rebuild-catalog", run_rebuild_catalog, "Make a lost catalog again from what landed and the lake."
    )


def run_backup(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from services.broker_definitions import export_definitions
    from tasks.backup import make_backup
    from tasks.backup_retention import prune_backups

    definitions = None if arguments.increment else export_definitions(settings.home)
    kind: Literal["full", "increment", "whole"] = "whole" if arguments.whole else "full"
    made = make_backup(settings, "increment" if arguments.increment else kind, definitions)
    print(made.summary())
    if made.kind == "full":
        pruned = prune_backups(settings, now=datetime.now(UTC))
        print(f"{len(pruned.archives)} archives and {pruned.n_objects} stored files removed by the policy")


def run_restore(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import status
    from services.broker import running_broker
    from tasks.cycles import parse_time
    from tasks.restore import restore

    if status(settings) or running_broker(settings.home) is not None:
        raise ValueError(f"the system of {settings.home} is up: `make down` stops it; then restore")
    at = parse_time(arguments.at, "--at") if arguments.at else None
    restored = restore(
        settings, arguments.source, at, overwrite=arguments.overwrite, prefect=arguments.prefect
    )
    print(restored.summary().replace("; ", "\n"))
    print("`make up` starts it")


def run_verify_backup(settings: Settings, arguments: argparse.Namespace) -> None:
    from tasks.backup_verification import verify_backup

    verified = verify_backup(settings, arguments.source)
    print(verified.summary())
    if not verified.is_good:
        sys.exit(1)


def run_maintain(settings: Settings, _: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks.maintenance import maintain

    if not settings.home.is_dir():
        raise ValueError(f"there is nothing to maintain: {settings.home} (AUTONVIS_HOME) is no folder")
    print(maintain(settings, now=datetime.now(UTC)).summary().replace("; ", "\n"))


def run_rebuild_catalog(settings: Settings, _: argparse.Namespace) -> None:
    from tasks.catalog_rebuild import rebuild_catalog

    rebuilt = rebuild_catalog(settings=settings)
    print(f"{rebuilt.n_batches} batches and {rebuilt.n_cycles} cycles recorded; sounders register again")
