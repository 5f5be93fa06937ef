"""Databases copied while they run; a catalog on PostgreSQL goes into a backup and comes back."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tasks import catalog
from tasks.backup import make_backup
from tasks.backup_store import BackupError
from tasks.database_copy import copy_prefect, copy_sqlite
from tasks.restore import restore
from tasks.settings import Settings
from tests.small_root import START, catalog_rows
from tests.test_catalog import POSTGRESQL


@pytest.fixture
def database() -> Iterator[str]:
    """URL of an empty database of our own."""
    server = create_engine(POSTGRESQL, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 2})
    name = f"backup_{uuid.uuid4().hex}"
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except OperationalError as error:
        pytest.skip(f"no PostgreSQL at {POSTGRESQL}: {str(error).splitlines()[0]}")
    yield server.url.set(database=name, drivername="postgresql").render_as_string(hide_password=False)
    catalog._open.cache_clear()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


def fill(settings: Settings) -> None:
    engine = catalog.open_catalog(settings)
    catalog.register_sounder(engine, "RO041", kind="ionosonde", details={"tier": "GOLD"}, now=START)
    catalog.register_sounder(engine, "RO041", kind="ionosonde", details={"tier": "SILVER"}, now=START)
    catalog.record_batch(
        engine, "b", state="curated", path="p", counts={"n": 1}, files=["f"], contract_versions={}, now=START
    )
    catalog.put_cursor(engine, "giro", "RO041", START)


def test_a_catalog_on_postgresql_comes_back(database: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "var", database_url=database, backup_to=str(tmp_path / "backups"))
    settings.home.mkdir()
    fill(settings)
    before = catalog_rows(settings)
    assert sum(map(len, before.values())) == 6
    make_backup(settings)
    with pytest.raises(BackupError, match="catalog of AUTONVIS_DATABASE_URL is not empty"):
        restore(settings.model_copy(update={"home": tmp_path / "other"}))

    catalog.put_cursor(catalog.open_catalog(settings), "giro", "AT138", START)  # since the backup
    restored = restore(settings, overwrite=True)
    assert catalog_rows(settings) == before
    assert any("AUTONVIS_DATABASE_URL" in note for note in restored.notes)
    # And on a host without a database server.
    plain = settings.model_copy(update={"home": tmp_path / "plain", "database_url": None})
    restore(plain)
    assert catalog_rows(plain) == before
    catalog.open_catalog(settings).dispose()


def test_prefects_database_on_postgresql_is_dumped_without_its_secrets(database: str, tmp_path: Path) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed")
    engine = create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for table, value in (("flow_run", "nowcast"), ("block_document", "hunter2-hunter2")):
            connection.execute(text(f"CREATE TABLE {table} (value TEXT)"))
            connection.execute(text(f"INSERT INTO {table} VALUES ('{value}')"))
    engine.dispose()
    address = database.replace("postgresql:", "postgresql+asyncpg:")
    for with_secrets in (True, False):
        dump = copy_prefect(address, tmp_path, with_secrets=with_secrets)
        said = subprocess.run(
            ["pg_restore", "-f", "-", str(dump)], capture_output=True, text=True, check=True
        )
        assert "nowcast" in said.stdout
        assert ("hunter2" in said.stdout) is with_secrets
    with pytest.raises(BackupError, match="pg_dump of Prefect's database failed"):
        copy_prefect(address.replace("backup_", "nosuch_"), tmp_path, with_secrets=True)


def test_prefects_database_comes_back_into_one_that_is_given(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed")
    engine = create_engine(
        database.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )

    def say(statement: str) -> list[str]:
        with engine.connect() as connection:
            found = connection.execute(text(statement))
            return [row[0] for row in found] if found.returns_rows else []

    say("CREATE EXTENSION pg_trgm")  # Prefect's indexes need it
    say("CREATE TABLE flow_run (name TEXT)")
    say("CREATE INDEX trigram ON flow_run USING gin (name gin_trgm_ops)")
    say("INSERT INTO flow_run VALUES ('nowcast')")
    monkeypatch.setenv(
        "PREFECT_SERVER_DATABASE_CONNECTION_URL", database.replace("postgresql:", "postgresql+asyncpg:")
    )
    settings = Settings(
        home=tmp_path / "var",
        backup_to=str(tmp_path / "backups"),
        backup_passphrase=SecretStr("correct horse battery"),
    )
    settings.home.mkdir()
    make_backup(settings)
    elsewhere = settings.model_copy(update={"home": tmp_path / "other"})

    say("INSERT INTO flow_run VALUES ('since then')")
    with pytest.raises(BackupError, match=r"is not empty: give --overwrite .* kept in a schema beside"):
        restore(elsewhere, prefect=database)
    assert not elsewhere.home.exists()
    untouched = restore(elsewhere)  # a drill, and verify-backup, leave the live database alone
    assert (elsewhere.home / "restored" / "prefect.pgdump").is_file()
    assert any("--prefect URL" in note for note in untouched.notes)
    assert say("SELECT name FROM flow_run ORDER BY name") == ["nowcast", "since then"]

    restored = restore(
        elsewhere, overwrite=True, prefect=database.replace("postgresql:", "postgresql+asyncpg:")
    )
    assert say("SELECT name FROM flow_run") == ["nowcast"]
    assert say("SELECT name FROM flow_run WHERE name % 'nowcast'") == ["nowcast"]
    (schema,) = say("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'replaced%'")
    assert say(f"SELECT name FROM {schema}.flow_run ORDER BY name") == ["nowcast", "since then"]
    assert any(schema in note for note in restored.notes)
    assert not (elsewhere.home / "restored" / "prefect.pgdump").exists()

    say("DROP SCHEMA public CASCADE")
    say("CREATE SCHEMA public")
    restore(elsewhere, overwrite=True, prefect=database)  # an empty one
    assert say("SELECT name FROM flow_run") == ["nowcast"]
    engine.dispose()
    with pytest.raises(BackupError, match="is not on PostgreSQL"):
        restore(elsewhere, overwrite=True, prefect="sqlite:///x.db")
    with pytest.raises(BackupError, match="psql of Prefect's database failed"):
        restore(elsewhere, overwrite=True, prefect="postgresql://postgres@127.0.0.1:5432/nosuch")


def test_a_copy_is_of_one_moment_while_others_write(tmp_path: Path) -> None:
    path, is_over = tmp_path / "busy.db", threading.Event()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE pair (a INTEGER, b INTEGER, pad TEXT)")
        database.execute("INSERT INTO pair VALUES (0, 0, ?)", ("x" * 2_000_000,))
    database.close()

    def write() -> None:
        busy = sqlite3.connect(path, timeout=30)
        while not is_over.is_set():
            with busy:
                busy.execute("UPDATE pair SET a = a + 1")
                busy.execute("UPDATE pair SET b = b + 1")
        busy.close()

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(20):
        copy_sqlite(path, tmp_path / f"copy-{number}.db")
    is_over.set()
    writer.join()
    for number in range(20):
        copy = sqlite3.connect(tmp_path / f"copy-{number}.db")
        assert copy.execute("SELECT a = b FROM pair").fetchone() == (1,)
        copy.close()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    path.write_bytes(b"SQLite format 3\0" + b"\x17" * 5000)
    with pytest.raises(BackupError, match=r"catalog\.db (cannot be copied|is damaged)"):
        copy_sqlite(path, tmp_path / "copy.db")
