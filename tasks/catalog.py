"""The catalog: sounders and their history, credentials, batches, cycles and where each source was left.

SQLite in the system's home by default, PostgreSQL by URL. The row written here is the commit point of a
batch or a cycle: files are published first, the row last, so a crash between the two is repaired by a rerun.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from alembic.util.exc import CommandError
from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    ForeignKey,
    Integer,
    NullPool,
    String,
    Text,
    TypeDecorator,
    and_,
    create_engine,
    delete,
    event,
    func,
    make_url,
    or_,
    select,
    text,
)
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tasks.mosquitto_hash import mosquitto_hash
from tasks.settings import TIERS, UNDECLARED, Settings

BUSY_TIMEOUT_MS = 30_000  # a writer waits for another this long; catalog transactions take milliseconds
CREDENTIAL_BYTES = 32  # 256 random bits: a fast hash is enough at rest, nothing can be guessed
MIGRATIONS = Path(__file__).with_name("catalog_migrations")
ADVISORY_LOCKS = {"migration": 0x41_56_01, "curation": 0x41_56_02}  # "AV" + number, unique per database


class CatalogError(RuntimeError):
    """The catalog cannot be opened or used: nothing of the transaction was stored, and it may be repeated.

    The message names the address without its password; `reason` is the same without the address, for strangers.
    """

    def __init__(self, message: str, reason: str = "the catalog cannot be used") -> None:
        super().__init__(message)
        self.reason = reason


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python on every database; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time {value.isoformat()} carries no zone; give aware UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of all catalog tables."""


class Sounder(Base):
    """One row per sounder with its present metadata; what it was before is in `sounder_versions`."""

    __tablename__ = "sounders"

    sounder_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(Text)
    latitude_deg: Mapped[float | None] = mapped_column(Float)
    longitude_deg: Mapped[float | None] = mapped_column(Float)
    altitude_m: Mapped[float | None] = mapped_column(Float)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    registered_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    version: Mapped[int] = mapped_column(Integer)


class SounderVersion(Base):
    """What a sounder said of itself from `valid_from` until the next version."""

    __tablename__ = "sounder_versions"

    sounder_id: Mapped[str] = mapped_column(ForeignKey("sounders.sounder_id"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(Text)
    latitude_deg: Mapped[float | None] = mapped_column(Float)
    longitude_deg: Mapped[float | None] = mapped_column(Float)
    altitude_m: Mapped[float | None] = mapped_column(Float)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    valid_from: Mapped[datetime] = mapped_column(UtcDateTime)


class Credential(Base):
    """A submission credential; only its hash is stored."""

    __tablename__ = "credentials"

    credential_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    sounder_id: Mapped[str] = mapped_column(ForeignKey("sounders.sounder_id"), index=True)
    issued_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    is_revoked: Mapped[bool] = mapped_column(Boolean, default=False)
    mosquitto_hash: Mapped[str | None] = mapped_column(String(160))


class Batch(Base):
    """One landed batch of raw records; `curated` once its rows are in the lake or in quarantine."""

    __tablename__ = "batches"

    batch_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    path: Mapped[str] = mapped_column(Text)
    counts: Mapped[dict[str, int]] = mapped_column(JSON)
    files: Mapped[list[str]] = mapped_column(JSON)
    contract_versions: Mapped[dict[str, str]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Cycle(Base):
    """One nowcast cycle: what went in (hashes), what came out (files), and its own account (metadata)."""

    __tablename__ = "cycles"

    cycle_id: Mapped[str] = mapped_column(String(96), primary_key=True)
    valid_time: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    available_until: Mapped[datetime] = mapped_column(UtcDateTime)
    config_hash: Mapped[str] = mapped_column(String(64))
    inputs_hash: Mapped[str] = mapped_column(String(64))
    effective_ig12: Mapped[float | None] = mapped_column(Float)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    files: Mapped[list[str]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SourceCursor(Base):
    """The time up to which a pull source has been fetched, per station or series."""

    __tablename__ = "source_cursors"

    source: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    fetched_until: Mapped[datetime] = mapped_column(UtcDateTime)


class PulledResource(Base):
    """A document or file of a pull source as it was last seen: how to ask whether it changed, and its hash."""

    __tablename__ = "pulled_resources"

    address: Mapped[str] = mapped_column(Text, primary_key=True)
    etag: Mapped[str | None] = mapped_column(Text)
    last_modified: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    is_landed: Mapped[bool] = mapped_column(Boolean)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)


class FailingHost(Base):
    """A host whose last requests failed in a row; while `open_until` lies ahead it is left alone."""

    __tablename__ = "failing_hosts"

    host: Mapped[str] = mapped_column(String(255), primary_key=True)
    n_failures: Mapped[int] = mapped_column(Integer)
    problem: Mapped[str] = mapped_column(Text)
    open_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


def open_catalog(settings: Settings) -> Engine:
    """Engine of the catalog, created and migrated to the newest schema; one engine per address and process.

    Raises:
        CatalogError: the database cannot be reached, or was written by a newer release. So does whatever uses the
            engine later when the database refuses: it is locked, full, gone.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    return _open(settings.catalog_url)


def revision(engine: Engine) -> str:
    """The schema of an open catalog, by the number of its last migration."""
    from alembic.runtime.migration import MigrationContext

    with engine.connect().execution_options(is_reading=True) as connection:
        return str(MigrationContext.configure(connection).get_current_revision())


def register_sounder(
    engine: Engine,
    sounder_id: str,
    *,
    kind: str,
    name: str = "",
    latitude_deg: float | None = None,
    longitude_deg: float | None = None,
    altitude_m: float | None = None,
    details: Mapping[str, Any] | None = None,
    now: datetime,
    issue_credential: bool = True,
) -> str | None:
    """Register a sounder or record its changed metadata as a new version of its history.

    Returns:
        A new credential, shown only this once, for a sounder that has none; otherwise None. Rotating is
        `tasks.credentials.rotate`, a decision of its own, so that whoever knows an id cannot fetch its credential.
    """
    described = {
        "kind": kind,
        "name": name,
        "latitude_deg": latitude_deg,
        "longitude_deg": longitude_deg,
        "altitude_m": altitude_m,
        "details": dict(details or {}),
    }
    with Session(engine) as session, session.begin():
        sounder = session.get(Sounder, sounder_id)
        if sounder is None:
            sounder = Sounder(
                sounder_id=sounder_id, registered_at=now, changed_at=now, version=1, **described
            )
            session.add(sounder)
            session.flush()
            session.add(SounderVersion(sounder_id=sounder_id, version=1, valid_from=now, **described))
        elif any(getattr(sounder, field) != value for field, value in described.items()):
            for field, value in described.items():
                setattr(sounder, field, value)
            sounder.version += 1
            sounder.changed_at = now
            session.add(
                SounderVersion(sounder_id=sounder_id, version=sounder.version, valid_from=now, **described)
            )
        has_credential = session.scalars(
            select(Credential).where(Credential.sounder_id == sounder_id, Credential.is_revoked.is_(False))
        ).first()
        if not issue_credential or has_credential is not None:
            return None
        return add_credential(session, sounder_id, now)


def is_valid(now: datetime) -> ColumnElement[bool]:
    """Whether a credential counts at this time."""
    return and_(
        Credential.is_revoked.is_(False),
        or_(Credential.expires_at.is_(None), Credential.expires_at > now),
    )


def adopt_sounders(source: Engine, target: Engine, *, until: datetime) -> None:
    """Gives a catalog the sounders of another as they were at a time, with their versions and credentials up to it."""
    with (
        Session(source.execution_options(is_reading=True)) as known,
        Session(target) as session,
        session.begin(),
    ):
        versions = select(SounderVersion).where(SounderVersion.valid_from <= until)
        for version in known.scalars(versions.order_by(SounderVersion.sounder_id, SounderVersion.version)):
            said = {
                column.key: getattr(version, column.key)
                for column in SounderVersion.__table__.columns
                if column.key != "valid_from"
            }
            known_since = session.get(Sounder, version.sounder_id)
            registered_at = version.valid_from if known_since is None else known_since.registered_at
            session.merge(Sounder(**said, registered_at=registered_at, changed_at=version.valid_from))
            session.flush()
            session.merge(SounderVersion(**said, valid_from=version.valid_from))
        for credential in known.scalars(select(Credential).where(Credential.issued_at <= until)):
            columns = {column.key: getattr(credential, column.key) for column in Credential.__table__.columns}
            session.merge(Credential(**columns))


def credential_owner(engine: Engine, credential: str, *, now: datetime) -> str | None:
    """The sounder a valid credential belongs to; None for any other text."""
    query = select(Credential.sounder_id).where(
        Credential.credential_hash == _hash(credential), is_valid(now)
    )
    with Session(engine.execution_options(is_reading=True)) as session:
        return session.scalars(query).first()


def mosquitto_hashes(engine: Engine, *, now: datetime) -> list[tuple[str, str]]:
    """Sounder and password hash of its newest valid credential that has one: a user of Mosquitto has one password."""
    query = (
        select(Credential.sounder_id, Credential.mosquitto_hash)
        .where(is_valid(now), Credential.mosquitto_hash.is_not(None))
        .order_by(Credential.issued_at)
    )
    with Session(engine.execution_options(is_reading=True)) as session:
        newest = {sounder_id: text for sounder_id, text in session.execute(query)}
    return [(sounder_id, text) for sounder_id, text in newest.items() if text is not None]


def get_sounder(engine: Engine, sounder_id: str) -> Sounder | None:
    """The sounder's present metadata, detached from the session."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        return session.get(Sounder, sounder_id)


def sounder_tiers(engine: Engine) -> dict[str, str]:
    """The declared tier of every registered sounder."""
    declared = Sounder.details["tier"].as_string()
    with Session(engine.execution_options(is_reading=True)) as session:
        rows = session.execute(select(Sounder.sounder_id, declared))
        return {sounder_id: tier if tier in TIERS else UNDECLARED for sounder_id, tier in rows}


def declared_at(engine: Engine, moment: datetime) -> dict[str, dict[str, Any]]:
    """The details of every sounder's metadata as they were at a time; those that registered later are not in it."""
    newest = (
        select(SounderVersion.sounder_id, func.max(SounderVersion.version).label("version"))
        .where(SounderVersion.valid_from <= moment)
        .group_by(SounderVersion.sounder_id)
        .subquery()
    )
    query = (
        select(SounderVersion.sounder_id, SounderVersion.details)
        .join(
            newest,
            (SounderVersion.sounder_id == newest.c.sounder_id) & (SounderVersion.version == newest.c.version),
        )
        .order_by(SounderVersion.sounder_id)
    )
    with Session(engine.execution_options(is_reading=True)) as session:
        return {sounder_id: dict(details) for sounder_id, details in session.execute(query)}


def sounder_history(engine: Engine, sounder_id: str) -> list[SounderVersion]:
    """All versions of a sounder's metadata, oldest first."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        query = select(SounderVersion).where(SounderVersion.sounder_id == sounder_id)
        return list(session.scalars(query.order_by(SounderVersion.version)))


def record_batch(
    engine: Engine,
    batch_id: str,
    *,
    state: str,
    path: str,
    counts: Mapping[str, int],
    files: Sequence[str],
    contract_versions: Mapping[str, str],
    now: datetime,
) -> None:
    """Write or rewrite a batch's row: the commit point of its curation. `state` is landed or curated."""
    row = Batch(
        batch_id=batch_id,
        state=state,
        path=path,
        counts=dict(counts),
        files=list(files),
        contract_versions=dict(contract_versions),
        recorded_at=now,
    )
    with Session(engine) as session, session.begin():
        session.merge(row)


def batches(engine: Engine, *, state: str | None = None) -> list[Batch]:
    """The recorded batches in order of their id (which begins with their UTC time)."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        query = select(Batch).order_by(Batch.batch_id)
        return list(session.scalars(query if state is None else query.where(Batch.state == state)))


def batches_since(engine: Engine, since: datetime) -> list[Batch]:
    """The batches recorded from a time on, in order of their id."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        query = select(Batch).where(Batch.recorded_at >= since).order_by(Batch.batch_id)
        return list(session.scalars(query))


def curated_ids(engine: Engine) -> set[str]:
    """Ids of the batches whose curation is committed."""
    with Session(engine.execution_options(is_reading=True)) as session:
        return set(session.scalars(select(Batch.batch_id).where(Batch.state == "curated")))


def record_cycle(
    engine: Engine,
    cycle_id: str,
    *,
    valid_time: datetime,
    available_until: datetime,
    config_hash: str,
    inputs_hash: str,
    effective_ig12: float | None,
    details: Mapping[str, Any],
    files: Sequence[str],
    now: datetime,
) -> None:
    """Write or rewrite a cycle's row: its commit point. `details` must be JSON."""
    row = Cycle(
        cycle_id=cycle_id,
        valid_time=valid_time,
        available_until=available_until,
        config_hash=config_hash,
        inputs_hash=inputs_hash,
        effective_ig12=effective_ig12,
        details=dict(details),
        files=list(files),
        recorded_at=now,
    )
    with Session(engine) as session, session.begin():
        session.merge(row)


def cycles(engine: Engine, *, start: datetime | None = None, end: datetime | None = None) -> list[Cycle]:
    """The recorded cycles with valid time in [start, end], in order of valid time."""
    query = select(Cycle).order_by(Cycle.valid_time, Cycle.cycle_id)
    query = query if start is None else query.where(Cycle.valid_time >= start)
    query = query if end is None else query.where(Cycle.valid_time <= end)
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        return list(session.scalars(query))


def cycle_times(engine: Engine, start: datetime, end: datetime) -> set[datetime]:
    """The valid times in [start, end] of which there is a cycle."""
    query = select(Cycle.valid_time).where(Cycle.valid_time >= start, Cycle.valid_time <= end)
    with Session(engine.execution_options(is_reading=True)) as session:
        return set(session.scalars(query))


def first_cycle(engine: Engine) -> datetime | None:
    """The earliest valid time of which there is a cycle."""
    with Session(engine.execution_options(is_reading=True)) as session:
        return session.scalar(select(Cycle.valid_time).order_by(Cycle.valid_time).limit(1))


def newest_cycles(engine: Engine, n_cycles: int) -> list[tuple[str, datetime, datetime, list[str]]]:
    """Id, valid time, availability and files of the recorded cycles, newest valid time first; of one time the last recorded."""
    query = select(Cycle.cycle_id, Cycle.valid_time, Cycle.available_until, Cycle.files)
    query = query.order_by(Cycle.valid_time.desc(), Cycle.recorded_at.desc()).limit(n_cycles)
    with Session(engine.execution_options(is_reading=True)) as session:
        return [
            (row.cycle_id, row.valid_time, row.available_until, row.files) for row in session.execute(query)
        ]


def remove_cycles(engine: Engine, before: datetime, *, n_newest: int) -> int:
    """Removes the cycles that are of and were recorded before a time, but the newest; returns how many."""
    newest = select(Cycle.cycle_id).order_by(Cycle.valid_time.desc()).limit(n_newest)
    old = (Cycle.valid_time < before) & (Cycle.recorded_at < before)
    with Session(engine) as session, session.begin():
        kept = list(session.scalars(newest))
        found = session.scalars(select(Cycle.cycle_id).where(old, Cycle.cycle_id.not_in(kept))).all()
        session.execute(delete(Cycle).where(old, Cycle.cycle_id.not_in(kept)))
        return len(found)


def get_cycle(engine: Engine, cycle_id: str) -> Cycle | None:
    """A recorded cycle, detached from the session."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        return session.get(Cycle, cycle_id)


def get_cursor(engine: Engine, source: str, key: str) -> datetime | None:
    """The time up to which this series of a source has been fetched, None before the first fetch."""
    with Session(engine.execution_options(is_reading=True)) as session:
        row = session.get(SourceCursor, (source, key))
        return None if row is None else row.fetched_until


def put_cursor(engine: Engine, source: str, key: str, fetched_until: datetime) -> None:
    """Remember the time up to which this series of a source has been fetched and landed."""
    with Session(engine) as session, session.begin():
        session.merge(SourceCursor(source=source, key=key, fetched_until=fetched_until))


def get_resource(engine: Engine, address: str) -> PulledResource | None:
    """What is remembered of a pulled document, None before it was first seen."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        return session.get(PulledResource, address)


def put_resource(engine: Engine, resource: PulledResource) -> None:
    """Remember a pulled document; to be called once what it held is on disk."""
    with Session(engine) as session, session.begin():
        session.merge(resource)


def get_failing_host(engine: Engine, host: str) -> FailingHost | None:
    """The failures of a host since it last answered, None when there are none."""
    with Session(engine.execution_options(is_reading=True), expire_on_commit=False) as session:
        return session.get(FailingHost, host)


def put_failing_host(
    engine: Engine, host: str, *, n_failures: int, problem: str, open_until: datetime | None
) -> None:
    """Remember that a host failed, and until when it is left alone."""
    row = FailingHost(host=host, n_failures=n_failures, problem=problem, open_until=open_until)
    with Session(engine) as session, session.begin():
        session.merge(row)


def claim_probe(engine: Engine, host: str, open_until: datetime, probing_until: datetime) -> bool:
    """Move the end of a host's pause from `open_until` to `probing_until`; False when another process was first."""
    with Session(engine) as session, session.begin():
        row = session.get(FailingHost, host)
        if row is None or row.open_until != open_until:
            return False
        row.open_until = probing_until
        return True


def forget_failing_host(engine: Engine, host: str) -> None:
    """The host answered."""
    with Session(engine) as session, session.begin():
        session.execute(delete(FailingHost).where(FailingHost.host == host))


@lru_cache(maxsize=8)
def _open(address: str) -> Engine:
    return new_engine(address)


def new_engine(address: str) -> Engine:
    """As `open_catalog`, of any address and apart from the engines that are kept: for catalogs of a moment."""
    try:
        url = make_url(address)
        engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _server(url)
    except (ArgumentError, ImportError) as error:
        raise CatalogError(
            f"AUTONVIS_DATABASE_URL {address!r} is not the address of a catalog such as "
            f"sqlite:////srv/autonvis/catalog.db or postgresql+psycopg://user@host/name: {error}"
        ) from error
    event.listen(engine, "handle_error", _named)
    try:
        _migrate(engine)
    except (DatabaseError, CatalogError, CommandError) as error:
        engine.dispose()
        shown = url.render_as_string(hide_password=True)
        if isinstance(error, CatalogError):
            raise CatalogError(
                str(error).replace("cannot be used", "cannot be opened"), error.reason
            ) from error
        reason = error.orig if isinstance(error, DatabaseError) else f"it is of another release: {error}"
        raise CatalogError(f"the catalog {shown} cannot be opened: {reason}") from error
    return engine


REMEDIES = (
    ("is full", "its disk is full: free space, then run again"),
    ("disk I/O error", "its disk refuses or is full: see the system's log, free space, then run again"),
    (
        "locked",
        f"another program has kept it locked for {BUSY_TIMEOUT_MS // 1000} s: end that program, then run again",
    ),
    ("readonly", "it may not be written: give this user the right to its folder and file"),
    ("read-only", "it may not be written: give this user the right to its folder and file"),
    ("unable to open", "its file cannot be opened: give this user the right to its folder and file"),
)
"""What SQLite says, and what it means to whom it befalls."""


def _named(context: ExceptionContext) -> None:
    """Turns what the database itself refuses into our own error; a wrong statement stays what it is."""
    error = context.original_exception
    # Of the other kinds a damaged file alone is not our own mistake; SQLite has no kind for it.
    is_refusal = isinstance(context.sqlalchemy_exception, OperationalError)
    if context.engine is None or not (is_refusal or type(context.sqlalchemy_exception) is DatabaseError):
        return
    said = " ".join(str(error).split())
    reason = next((remedy for sign, remedy in REMEDIES if sign in said), f"the database says: {said}")
    shown = context.engine.url.render_as_string(hide_password=True)
    raise CatalogError(
        f"the catalog {shown} cannot be used ({said}): {reason}", f"the catalog cannot be used ({said})"
    ) from error


def _sqlite(url: URL) -> Engine:
    # One connection per use: safe across forks, no descriptors held between transactions.
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, so DDL belongs to them too
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer must take its lock at once: a reader that turns writer fails without waiting.
        is_reading = connection.get_execution_options().get("is_reading", False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")

    return engine


def _server(url: URL) -> Engine:
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return create_engine(url, pool_pre_ping=True)


def _migrate(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    newest = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect().execution_options(is_reading=True) as connection:
        if MigrationContext.configure(connection).get_current_revision() == newest:
            return
    with exclusive(engine, "migration"), engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def exclusive(engine: Engine, purpose: str) -> Iterator[None]:
    """Hold a lock named in `ADVISORY_LOCKS` across processes (hosts, with PostgreSQL); waits for it."""
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCKS[purpose]})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCKS[purpose]})
        return
    path = Path(f"{engine.url.database}.{purpose}.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def add_credential(
    session: Session, sounder_id: str, now: datetime, expires_at: datetime | None = None
) -> str:
    """A new credential within a transaction; the text is returned and kept nowhere."""
    credential = secrets.token_urlsafe(CREDENTIAL_BYTES)
    session.add(
        Credential(
            credential_hash=_hash(credential),
            sounder_id=sounder_id,
            issued_at=now,
            expires_at=expires_at,
            mosquitto_hash=mosquitto_hash(credential),
        )
    )
    return credential


def _hash(credential: str) -> str:
    return hashlib.sha256(credential.encode()).hexdigest()
