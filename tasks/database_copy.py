"""Copies of running databases as they are at one moment, without stopping who writes to them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, Engine, delete, func, insert, make_url, select
from sqlalchemy.exc import ArgumentError, DatabaseError

from tasks import catalog
from tasks.backup_store import BackupError

PAGES_AT_ONCE = 4_096  # 16 MB: a writer waits no longer than this takes to copy
ROWS_AT_ONCE = 1_000
DUMP_TIMEOUT_S = 1_800
PREFECT_DUMP = "prefect.pgdump"
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
    target = folder / PREFECT_DUMP
    excluded = [] if with_secrets else [f"--exclude-table-data={table}" for table in SECRET_TABLES]
    _run(
        "pg_dump", "--format=custom", "--no-owner", "--no-privileges", *excluded, f"--file={target}", url=url
    )
    return target


def prefect_url(address: str) -> URL:
    """Of a database on PostgreSQL, with or without the name of a driver.

    Raises:
        BackupError: it is none.
    """
    try:
        url = make_url(address)
    except ArgumentError as error:
        raise BackupError(f"{address!r} is no address of a database: {error}") from error
    if url.get_backend_name() != "postgresql":
        raise BackupError(
            f"{url.render_as_string()} is not on PostgreSQL: on SQLite Prefect's database is restored with the root, by itself"
        )
    return url.set(drivername="postgresql")


def is_empty(url: URL) -> bool:
    """Whether the schema `public` of a database on PostgreSQL holds no table.

    Raises:
        BackupError: it cannot be reached.
    """
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    return _run("psql", "--no-psqlrc", "--tuples-only", f"--command={count}", url=url).strip() == "0"


def load_prefect(dump: Path, url: URL, now: datetime) -> str | None:
    """Puts a dump of Prefect's database into a database, in one transaction; returns the schema that holds what was there before.

    Raises:
        BackupError: nothing of it is done.
    """
    replaced = None if is_empty(url) else f"replaced_{now:%Y%m%dt%H%M%Sz}"
    script = dump.with_suffix(".sql")
    try:
        _run("pg_restore", "--no-owner", "--no-privileges", f"--file={script}", str(dump))
        if replaced is not None:
            script.write_text(ASIDE.format(replaced=replaced) + script.read_text())
        quiet = (
            "--no-psqlrc",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            f"--file={script}",
        )
        _run("psql", *quiet, url=url)
    finally:
        script.unlink(missing_ok=True)
    return replaced


ASIDE = """
ALTER SCHEMA public RENAME TO {replaced};
CREATE SCHEMA public;
DO $$ DECLARE one record; BEGIN
  FOR one IN SELECT extname FROM pg_extension WHERE extnamespace = '{replaced}'::regnamespace LOOP
    EXECUTE format('ALTER EXTENSION %I SET SCHEMA public', one.extname);
  END LOOP;
END $$;
"""
"""Everything in a schema apart, and the extensions, of which a database has each once, where the dump expects them."""


def _run(program: str, *arguments: str, url: URL | None = None) -> str:
    """What a tool of PostgreSQL says; the password is not among its arguments, which everybody on the host can read.

    Raises:
        BackupError: it is not installed, or fails.
    """
    found = shutil.which(program)
    if found is None:
        raise BackupError(f"{program} is not installed: Prefect's database on PostgreSQL needs it")
    environment = dict(os.environ)
    if url is not None:
        if url.password is not None:
            environment["PGPASSWORD"] = str(url.password)
        plain = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
        arguments = (*arguments, f"--dbname={plain.render_as_string()}")
    done = subprocess.run(
        [found, *arguments],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DUMP_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise BackupError(f"{program} of Prefect's database failed: {done.stderr.strip()}")
    return done.stdout


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
