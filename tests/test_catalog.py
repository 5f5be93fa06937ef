"""The catalog on SQLite and, where a server answers, on PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import OperationalError

from tasks import catalog
from tasks.settings import Settings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
POSTGRESQL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql+psycopg://127.0.0.1:5432/test")


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    if request.param == "sqlite":
        yield Settings(home=tmp_path / "var")
        return
    server = create_engine(POSTGRESQL, connect_args={"connect_timeout": 2})
    schema = f"catalog_{uuid.uuid4().hex}"
    try:
        with server.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    except OperationalError as error:
        pytest.skip(f"no PostgreSQL at {POSTGRESQL}: {str(error).splitlines()[0]}")
    yield Settings(
        home=tmp_path / "var",
        database_url=f"{POSTGRESQL.replace('+psycopg', '')}?options=-csearch_path%3D{schema}",
    )
    catalog._open.cache_clear()
    with server.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    server.dispose()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = catalog.open_catalog(settings)
    yield engine
    engine.dispose()
    catalog._open.cache_clear()


def register(engine: Engine, **changes: object) -> str | None:
    described: dict[str, object] = {
        "kind": "ionosonde",
        "name": "Rome",
        "latitude_deg": 41.9,
        "longitude_deg": 12.5,
    }
    return catalog.register_sounder(engine, "RO041", **{**described, "now": NOW, **changes})  # type: ignore[arg-type]


def test_migrations_build_exactly_the_models(engine: Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, catalog.Base.metadata) == []
        assert context.get_current_revision() is not None


def test_opening_again_changes_nothing_and_finds_what_was_stored(settings: Settings, engine: Engine) -> None:
    register(engine)
    catalog._open.cache_clear()
    again = catalog.open_catalog(settings)
    found = catalog.get_sounder(again, "RO041")
    assert found is not None
    assert found.registered_at == NOW
    again.dispose()


def test_a_catalog_of_another_release_is_refused_by_name(settings: Settings, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    catalog._open.cache_clear()
    with pytest.raises(catalog.CatalogError, match="another release"):
        catalog.open_catalog(settings)


def test_several_processes_may_create_the_catalog_at_once(settings: Settings) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom tasks import catalog\nfrom tasks.settings import Settings\n"
        "catalog.open_catalog(Settings(home=Path(sys.argv[1]), database_url=sys.argv[2] or None))\n"
    )
    command = [sys.executable, "-c", program, str(settings.home), settings.database_url or ""]
    root = Path(__file__).resolve().parents[1]
    started = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    failures = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], failures
    engine = catalog.open_catalog(settings)
    assert "sounders" in inspect(engine).get_table_names()
    engine.dispose()


def test_a_credential_is_shown_once_and_only_its_hash_is_stored(settings: Settings, engine: Engine) -> None:
    credential = register(engine)
    assert credential is not None
    assert register(engine) is None
    assert catalog.credential_owner(engine, credential, now=NOW) == "RO041"
    assert catalog.credential_owner(engine, credential + "x", now=NOW) is None
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT * FROM credentials")).all()
    assert credential not in str(stored)
    if engine.dialect.name == "sqlite":
        for path in settings.home.glob("catalog.db*"):
            assert credential.encode() not in path.read_bytes()


def test_changed_metadata_becomes_a_version_and_unchanged_does_not(engine: Engine) -> None:
    register(engine)
    register(engine, now=NOW + timedelta(hours=1))
    register(engine, now=NOW + timedelta(hours=2), longitude_deg=12.6, details={"antenna": "delta"})
    history = catalog.sounder_history(engine, "RO041")
    assert [(row.version, row.longitude_deg, row.valid_from) for row in history] == [
        (1, 12.5, NOW),
        (2, 12.6, NOW + timedelta(hours=2)),
    ]
    sounder = catalog.get_sounder(engine, "RO041")
    assert sounder is not None
    assert (sounder.version, sounder.details) == (2, {"antenna": "delta"})


def test_a_batch_row_is_rewritten_not_doubled(engine: Engine) -> None:
    for state in ("landed", "curated", "curated"):
        catalog.record_batch(
            engine,
            "20221024T001500Z-00",
            state=state,
            path="landing/date=2022-10-24/x.seg",
            counts={"n_items": 3},
            files=["a.parquet"],
            contract_versions={"ionograms": "1.0.0"},
            now=NOW,
        )
    (batch,) = catalog.batches(engine)
    assert (batch.state, batch.counts, batch.files) == ("curated", {"n_items": 3}, ["a.parquet"])
    assert catalog.curated_ids(engine) == {"20221024T001500Z-00"}
    assert catalog.batches(engine, state="landed") == []


def test_cycles_are_found_by_valid_time_in_utc(engine: Engine) -> None:
    for hours in (2, 0, 1):
        catalog.record_cycle(
            engine,
            f"cycle-{hours}",
            valid_time=(NOW + timedelta(hours=hours)).astimezone(timezone(timedelta(hours=9))),
            available_until=NOW,
            config_hash="c",
            inputs_hash="i",
            effective_ig12=102.5,
            details={"n_obs": 4},
            files=[],
            now=NOW,
        )
    assert [cycle.cycle_id for cycle in catalog.cycles(engine)] == ["cycle-0", "cycle-1", "cycle-2"]
    found = catalog.cycles(engine, start=NOW + timedelta(minutes=30), end=NOW + timedelta(hours=1))
    assert [(cycle.cycle_id, cycle.valid_time) for cycle in found] == [("cycle-1", NOW + timedelta(hours=1))]
    with pytest.raises(Exception, match="carries no zone"):
        catalog.cycles(engine, start=datetime(2026, 11, 24))  # noqa: DTZ001


def test_cursor_moves_per_source_and_key(engine: Engine) -> None:
    assert catalog.get_cursor(engine, "giro", "RO041") is None
    catalog.put_cursor(engine, "giro", "RO041", NOW)
    catalog.put_cursor(engine, "giro", "RO041", NOW + timedelta(hours=1))
    assert catalog.get_cursor(engine, "giro", "RO041") == NOW + timedelta(hours=1)
    assert catalog.get_cursor(engine, "swpc", "RO041") is None


def test_the_exclusive_lock_keeps_processes_apart(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tasks import catalog\nfrom tasks.settings import Settings\n"
        "engine = catalog.open_catalog(Settings(home=Path(sys.argv[1]), database_url=sys.argv[2] or None))\n"
        "log = Path(sys.argv[3])\n"
        "for _ in range(5):\n"
        "    with catalog.exclusive(engine, 'curation'):\n"
        "        with log.open('a') as file: file.write('in\\n')\n"
        "        time.sleep(0.01)\n"
        "        with log.open('a') as file: file.write('out\\n')\n"
        "engine.dispose()\n"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", program, str(settings.home), settings.database_url or "", str(log)]
    root = Path(__file__).resolve().parents[1]
    for process in [subprocess.Popen(command, cwd=root) for _ in range(2)]:
        assert process.wait(60) == 0
    assert log.read_text().split() == ["in", "out"] * 10


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url="postgresql://someone:secret@127.0.0.1:1/catalog")
    with pytest.raises(catalog.CatalogError, match=r"127\.0\.0\.1:1/catalog cannot be opened") as caught:
        catalog.open_catalog(settings)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(catalog.CatalogError, match=r"catalog\.db cannot be opened"):
        catalog.open_catalog(Settings(home=tmp_path))


@pytest.mark.parametrize("address", ["blah", "oracle://nowhere/x", "nosuch://x"])
def test_an_address_that_is_none_is_named(tmp_path: Path, address: str) -> None:
    with pytest.raises(catalog.CatalogError, match=f"AUTONVIS_DATABASE_URL '{address}'"):
        catalog.open_catalog(Settings(home=tmp_path, database_url=address))
