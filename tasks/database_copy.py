"""Copies of running databases as they are at one moment, without stopping who writes to them."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine, delete, func, insert, make_url, select
from sqlalchemy.exc import DatabaseError

from tasks import catalog
from tasks.backup_store import BackupError

PAGES_AT_ONCE = 4_096  # 16 MB: a writer waits no longer than this takes to copy
ROWS_AT_ONCE = 1_000
DUMP_TIMEOUT_S = 1_800
SECRET_TABLES = ("block_document", "configuration")
"""Of Prefect: contents of blocks, and the key that they are encrypted with beside them."""


def copy_sqlite(source: Path, target: Path) -> None:
    """SQLite's online backup: a consistent copy while others read and write.

    Raises:
        BackupError: the database is damaged, or cannot be read or written.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as running,
            closing(sqlite3.connect(target)) as copy,
        ):
            running.backup(copy, pages=PAGES_AT_ONCE, sleep=0.01)
            # One file: no write-ahead log beside it that could be forgotten.
            copy.execute("PRAGMA journal_mode = DELETE")
            (verdict,) = copy.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source} cannot be copied: {error}") from error
    if verdict != "ok":
        raise BackupError(f"{source} is damaged: {verdict}; `autonvis rebuild-catalog` makes a catalog anew")


def copy_catalog(engine: Engine, target: Path) -> None:
    """The catalog as one SQLite file, whichever database keeps it: row by row in one transaction on a server."""
    if engine.dialect.name == "sqlite":
        copy_sqlite(Path(str(engine.url.database)), target)
        return
    copied = catalog.new_engine(f"sqlite:///{target}")
    try:
        _copy_rows(engine, copied)
    finally:
        copied.dispose()
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")


def load_catalog(source: Path, engine: Engine) -> None:
    """Replaces every row of a catalog on a server by those of a copy, in one transaction.

    Raises:
        tasks.catalog.CatalogError, BackupError: nothing of it is done.
    """
    copied = catalog.new_engine(f"sqlite:///{source}")  # brings an older release's to the present schema
    try:
        _copy_rows(copied, engine)
    except DatabaseError as error:
        raise BackupError(
            f"the catalog of the backup does not fit {engine.url.render_as_string()}: {error.orig}"
        ) from error
    finally:
        copied.dispose()


def n_catalog_rows(engine: Engine) -> int:
    """How many rows a catalog holds."""
    with engine.connect().execution_options(is_reading=True) as connection:
        return sum(
            connection.scalar(select(func.count()).select_from(table)) or 0
            for table in catalog.Base.metadata.sorted_tables
        )


def copy_prefect(address: str, folder: Path, *, with_secrets: bool) -> Path:
    """Prefect's database as `prefect.sqlite` or `prefect.pgdump` in a folder.

    Args:
        address: SQLAlchemy URL, of SQLite or PostgreSQL, with or without the name of a driver.

    Raises:
        BackupError: it cannot be copied.
    """
    url = make_url(address)
    if url.get_backend_name() == "sqlite":
        target = folder / "prefect.sqlite"
        copy_sqlite(Path(str(url.database)), target)
        if not with_secrets:
            _without_secrets(target)
        return target
    program = shutil.which("pg_dump")
    if program is None:
        raise BackupError("pg_dump is not installed: Prefect's database on PostgreSQL cannot be copied")
    target = folder / "prefect.pgdump"
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    excluded = [] if with_secrets else [f"--exclude-table-data={table}" for table in SECRET_TABLES]
    done = subprocess.run(
        [program, "--format=custom", "--no-owner", "--no-privileges", *excluded, f"--file={target}", plain],
        capture_output=True, text=True, timeout=DUMP_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise BackupError(f"pg_dump of Prefect's database failed: {done.stderr.strip()}")
    return target


def _without_secrets(path: Path) -> None:
    with closing(sqlite3.connect(path)) as copy:
        known = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in SECRET_TABLES:
            if table in known:
                copy.execute(f"DELETE FROM {table}")
        copy.commit()
        copy.execute("VACUUM")  # or the rows would still be in the free pages


def _copy_rows(source: Engine, target: Engine) -> None:
    isolation = "REPEATABLE READ" if source.dialect.name == "postgresql" else None
    reading = source.connect()
    if isolation is not None:
        reading = reading.execution_options(isolation_level=isolation)
    with reading, target.begin() as writing:
        for table in reversed(catalog.Base.metadata.sorted_tables):
            writing.execute(delete(table))
        for table in catalog.Base.metadata.sorted_tables:
            rows = reading.execution_options(yield_per=ROWS_AT_ONCE).execute(select(table)).mappings()
            for part in rows.partitions(ROWS_AT_ONCE):
                writing.execute(insert(table), [dict(row) for row in part])
