"""The Parquet lake: plain files under one root, published whole, read by any tool.

A file is staged outside the published tree on the same file system, synced, renamed into
`<dataset>/date=YYYY-MM-DD/<name>.parquet`, and the directory is synced. A reader therefore sees a file
complete or not at all, a crash leaves nothing but staging, and publishing the same rows again under the
same name rewrites the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tasks import compacted
from tasks.contracts import arrow_schema, load_contract
from tasks.exchange import exchange
from tasks.settings import Settings

log = logging.getLogger(__name__)

COMPRESSION_LEVEL = 3  # zstd; measured: higher levels cost more time than they save space
ROW_GROUP_ROWS = 131_072
PARTITION_PREFIX = "date="
TIME_COLUMNS = ("valid_time", "observed_at", "received_at")  # the first one present partitions a dataset
SORT_COLUMNS = (
    "sounder_id",
    "valid_time",
    "observed_at",
    "received_at",
    "lead_h",
    "quantity",
    "latitude_deg",
    "longitude_deg",
    "record_index",
    "observation_id",
    "revision",
)
READ_ATTEMPTS = 5
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class LakeError(OSError):
    """The lake could not be written or read; nothing half-written is visible."""


def publish(
    dataset: str,
    rows: pd.DataFrame | pa.Table,
    name: str,
    *,
    settings: Settings,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Publish rows as one file per UTC date and return the paths, oldest date first.

    Args:
        dataset: name of a contract; its columns are required, in any order, and no others.
        rows: frame or table with the contract's columns; NaN and NaT become null.
        name: file name without suffix; the same name and rows give the same bytes.
        metadata: entries added to the Parquet schema metadata (cycle id, configuration hash, ...).

    Raises:
        ValueError: the columns are not the contract's, a value does not fit, or the name is not a file name.
        LakeError: the disk is full or refuses; files already published stay as they were.
    """
    if not NAME.match(name):
        raise ValueError(f"name: {name!r} is not a file name of letters, digits, '.', '_' and '-'")
    table = _conform(dataset, rows, metadata or {})
    folder = settings.lake_root / dataset
    targets: dict[Path, Path] = {}
    try:
        with staging_folder(settings) as stage:
            for day, part in _by_date(table):
                staged = stage / f"{day}.partial"
                write_table(part, staged)
                targets[staged] = folder / f"{PARTITION_PREFIX}{day}" / f"{name}.parquet"
            for target in targets.values():
                _make_folder(target.parent)
            with _without_compacted(dataset, name, settings, {target.parent for target in targets.values()}):
                for staged, target in targets.items():
                    os.replace(staged, target)
            for target in targets.values():
                sync_folder(target.parent)
    except OSError as error:
        raise _lake_error(f"cannot publish {dataset}/{name}", settings.lake_root, error) from error
    return list(targets.values())


def withdraw(dataset: str, name: str, *, settings: Settings, keep: Collection[Path] = ()) -> list[Path]:
    """Remove the files of this name that are not in `keep`: what an earlier run under other rules left."""
    with _without_compacted(dataset, name, settings):
        removed = [path for path in files(dataset, settings=settings, name=name) if path not in keep]
        for path in removed:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
    return removed


def loosen(dataset: str, name: str, *, settings: Settings, days: Collection[Path] | None = None) -> int:
    """Takes the files out of every compacted file that holds one of this name; returns how many those were.

    The day's folder is replaced in one step: whoever lists it sees the one file or the many.
    """
    n_loosened = 0
    for path in _holders(dataset, name, settings, days):
        before = signatures([path])
        with staging_folder(settings) as stage:
            fresh = stage / path.parent.name
            fresh.mkdir()
            for member, table in compacted.unpack(path):
                target = fresh / f"{member.name}.parquet"
                write_table(table, target)
                if _sha256(target) != member.sha256:
                    log.info(
                        "%s has the same rows as it had, written by another release of Arrow", target.name
                    )
                os.utime(target, ns=(member.mtime_ns, member.mtime_ns))
            n_loosened += replace_in_day(path.parent, before, fresh, settings=settings)
    return n_loosened


def signatures(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    """What tells one content of a file from the next: inode, time of change, size."""
    return {
        path: (about.st_ino, about.st_mtime_ns, about.st_size) for path in paths for about in (path.stat(),)
    }


def replace_in_day(
    folder: Path, old: Mapping[Path, tuple[int, int, int]], fresh: Path, *, settings: Settings
) -> bool:
    """Puts the files of the staged folder `fresh` in the place of `old` in a day's folder, in one step for whoever lists it.

    Everything else in the day stays. Returns False, and does nothing, when one of `old` is not what its signature says.
    """
    with publishing(settings, alone=True):
        try:
            if signatures(old) != dict(old):
                return False
        except FileNotFoundError:
            return False
        for path in sorted(set(folder.glob("*.parquet")).difference(old)):
            os.link(path, fresh / path.name)
        sync_folder(fresh)
        exchange(fresh, folder)
        sync_folder(folder.parent)
    return True


def holds(path: Path) -> bool:
    """Whether a published file is there, by itself or within a compacted one."""
    if path.is_file():
        return True
    return any(compacted.is_within(other, path.stem) for other in path.parent.glob("*.parquet"))


@contextmanager
def publishing(settings: Settings, *, alone: bool = False) -> Iterator[None]:
    """Held, by many, while files are renamed into the lake; `alone` by whoever replaces a day's folder."""
    settings.lake_root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(settings.lake_root / ".lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _without_compacted(
    dataset: str, name: str, settings: Settings, days: Collection[Path] | None = None
) -> Iterator[None]:
    """Publishing, with no compacted file that holds this name: its rows would be there twice, or not go."""
    while True:
        loosen(dataset, name, settings=settings, days=days)
        with publishing(settings):
            if not _holders(dataset, name, settings, days):  # else it was compacted in between
                yield
                return


def _holders(dataset: str, name: str, settings: Settings, days: Collection[Path] | None) -> list[Path]:
    chosen = _days(settings.lake_root / dataset) if days is None else sorted(map(str, days))
    found: list[Path] = []
    for day in chosen:  # thousands: as text, and only listed when they have changed
        try:
            about = os.stat(day)
        except FileNotFoundError:
            continue
        found += _compacted_in(day, about.st_ino, about.st_mtime_ns)
    return [path for path in found if compacted.is_within(path, name)]


def _days(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.path for entry in entries if entry.name.startswith(PARTITION_PREFIX))


@lru_cache(maxsize=32_768)
def _compacted_in(day: str, _inode: int, _mtime_ns: int) -> tuple[Path, ...]:
    """The compacted files of a day's folder, listed once as long as it stays the same folder with the same files."""
    with os.scandir(day) as entries:
        names = sorted(entry.name for entry in entries if compacted.SEPARATOR in entry.name)
    return tuple(Path(day, name) for name in names if name.endswith(".parquet"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(
    dataset: str,
    *,
    settings: Settings,
    start: datetime | date | None = None,
    end: datetime | date | None = None,
    name: str = "*",
    except_name: str | None = None,
) -> list[Path]:
    """Published files of a dataset whose partition date lies in [start, end], oldest date first."""
    first, last = (_iso_day(start) or ""), (_iso_day(end) or "~")
    found = []
    for path in (settings.lake_root / dataset).glob(f"{PARTITION_PREFIX}*/{name}.parquet"):
        if path.stem != except_name and first <= path.parent.name.removeprefix(PARTITION_PREFIX) <= last:
            found.append(path)
    return sorted(found)


def read_table(
    dataset: str,
    *,
    settings: Settings,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] | None = None,
    filters: pc.Expression | None = None,
    except_name: str | None = None,
) -> pa.Table:
    """Rows whose partition time lies in [start, end] (both inclusive, None = open), as an Arrow table.

    The partition time is `valid_time`, else `observed_at`, else `received_at`. A file written under an
    older minor version of the contract reads with nulls, or the contract's default, in the columns it lacks. Row order is by date,
    file name and then as stored. `except_name` leaves out the files of that name.

    Raises:
        LakeError: a file cannot be read.
    """
    for _ in range(READ_ATTEMPTS - 1):
        try:
            return _read_listed(dataset, settings, start, end, columns, filters, except_name)
        except LakeError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            log.debug("a file was compacted or expired between listing and reading, once more: %s", error)
    return _read_listed(dataset, settings, start, end, columns, filters, except_name)


def _read_listed(
    dataset: str,
    settings: Settings,
    start: datetime | None,
    end: datetime | None,
    columns: Sequence[str] | None,
    filters: pc.Expression | None,
    except_name: str | None,
) -> pa.Table:
    schema = arrow_schema(dataset)
    names = list(columns) if columns is not None else schema.names
    paths = files(dataset, settings=settings, start=start, end=end, except_name=except_name)
    wanted = pa.schema([schema.field(name) for name in names])
    if not paths:
        return wanted.empty_table()
    time = pc.field(time_column(schema))
    bounds = [time >= _scalar(start)] if start is not None else []
    bounds += [time <= _scalar(end)] if end is not None else []
    condition = filters
    for bound in bounds:
        condition = bound if condition is None else condition & bound
    try:
        source = ds.dataset([str(path) for path in paths], schema=_nullable(schema), format="parquet")
        return _with_defaults(dataset, source.to_table(columns=names, filter=condition)).cast(wanted)
    except (OSError, pa.ArrowInvalid) as error:
        raise LakeError(f"cannot read {dataset} under {settings.lake_root}: {error}") from error


def read(
    dataset: str,
    *,
    settings: Settings,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] | None = None,
    filters: pc.Expression | None = None,
    except_name: str | None = None,
) -> pd.DataFrame:
    """As `read_table`, as a frame: float64 with NaN, datetime64[us, UTC], strings as objects."""
    return to_frame(
        read_table(
            dataset,
            settings=settings,
            start=start,
            end=end,
            columns=columns,
            filters=filters,
            except_name=except_name,
        )
    )


def read_file(dataset: str, path: Path) -> pd.DataFrame:
    """All rows of one published file, as `read` gives them."""
    schema = arrow_schema(dataset)
    table = ds.dataset(str(path), schema=_nullable(schema), format="parquet").to_table()
    return to_frame(_with_defaults(dataset, table).cast(schema))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a frame of NumPy dtypes as `tasks.validation.build_frame` makes them.

    Nullable integers are float64 with NaN whether or not a null is among them.
    """
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            columns[field.name] = pd.Series(column.to_numpy(), dtype=object)
        elif pa.types.is_integer(field.type) and field.nullable:
            columns[field.name] = column.cast(pa.float64()).to_pandas()
        else:
            columns[field.name] = column.to_pandas()
    return pd.DataFrame(columns)


def time_column(schema: pa.Schema) -> str:
    """The column whose UTC date partitions a dataset with this schema."""
    for name in TIME_COLUMNS:
        if name in schema.names:
            return name
    raise ValueError(f"schema: none of {', '.join(TIME_COLUMNS)} among {', '.join(schema.names)}")


@contextmanager
def staging_folder(settings: Settings) -> Iterator[Path]:
    """A private folder on the lake's file system, locked while in use and removed afterwards.

    What killed processes left behind is removed first: their locks went with them.
    """
    root = _staging_root(settings)
    root.mkdir(parents=True, exist_ok=True)
    clean_staging(settings)
    folder, lock = _locked_folder(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clean_staging(settings: Settings) -> int:
    """Remove staging folders that no live process holds; returns how many."""
    n_removed = 0
    root = _staging_root(settings)
    for folder in root.iterdir() if root.is_dir() else ():
        lock = _lock(folder)
        if lock is None:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        n_removed += 1
        log.info("removed staging left by a process that died: %s", folder)
    return n_removed


def _staging_root(settings: Settings) -> Path:
    settings.lake_root.mkdir(parents=True, exist_ok=True)
    settings.home.mkdir(parents=True, exist_ok=True)
    if settings.lake_root.stat().st_dev == settings.home.stat().st_dev:
        return settings.home / "staging"
    # A rename does not cross file systems. No dataset folder matches, and no staged name ends in .parquet.
    return settings.lake_root / ".staging"


def _locked_folder(root: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(dir=root))
        lock = _lock(folder)
        if lock is not None and folder.is_dir():
            return folder, lock
        if lock is not None:  # another process cleaned the folder between its creation and our lock
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Descriptor of the folder with its lock held, or None when another holds it or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _conform(dataset: str, rows: pd.DataFrame | pa.Table, metadata: Mapping[str, str]) -> pa.Table:
    schema = arrow_schema(dataset)
    names = list(rows.column_names if isinstance(rows, pa.Table) else rows.columns)
    missing = [name for name in schema.names if name not in names]
    foreign = [name for name in names if name not in schema.names]
    if missing or foreign:
        raise ValueError(
            f"rows: columns of {dataset} missing: {missing or 'none'}; unknown: {foreign or 'none'}"
        )
    relaxed = _nullable(schema)
    try:
        if isinstance(rows, pa.Table):
            table = rows.select(schema.names).cast(relaxed)
        else:
            table = pa.Table.from_pandas(rows[schema.names], schema=relaxed, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"rows: do not fit the contract of {dataset}: {error}") from error
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"rows: column {field.name} of {dataset} may not be null")
    entries = {**(schema.metadata or {}), **{key.encode(): value.encode() for key, value in metadata.items()}}
    return table.cast(schema.with_metadata(dict(sorted(entries.items()))))


def _with_defaults(dataset: str, table: pa.Table) -> pa.Table:
    for column in load_contract(dataset).columns:
        if column.default is not None and column.name in table.column_names:
            at = table.column_names.index(column.name)
            filled = pc.fill_null(table.column(at), pa.scalar(column.default, table.schema.field(at).type))
            table = table.set_column(at, table.schema.field(at), filled)
    return table


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _by_date(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    days = pc.cast(table.column(time_column(table.schema)), pa.date32())
    keys = [name for name in SORT_COLUMNS if name in table.schema.names]
    marked = table.append_column("__day", days)
    marked = marked.take(pc.sort_indices(marked, [(name, "ascending") for name in ("__day", *keys)]))
    counts = pc.value_counts(marked.column("__day")).to_pylist()
    ordered, offset = marked.drop_columns(["__day"]), 0
    for entry in counts:
        yield entry["values"], ordered.slice(offset, entry["counts"])
        offset += entry["counts"]


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a Parquet file as the lake has them, to the disk; the same table gives the same bytes."""
    with path.open("wb") as file:
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            row_group_size=ROW_GROUP_ROWS,
            write_page_checksum=True,
        )
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Create a folder and make its entry durable, parents first."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _iso_day(moment: datetime | date | None) -> str | None:
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).date().isoformat()
    return moment.isoformat() if moment is not None else None


def _scalar(moment: datetime) -> pa.Scalar:
    if moment.tzinfo is None:
        raise ValueError(f"time {moment.isoformat()} carries no zone; give aware UTC")
    return pa.scalar(moment.astimezone(UTC), pa.timestamp("us", "UTC"))


def _lake_error(action: str, root: Path, error: OSError) -> LakeError:
    if error.errno in FULL_DISK:
        reason = "the disk is full: free space or move the lake (AUTONVIS_LAKE), then run again"
    else:
        reason = str(error)
    return LakeError(error.errno, f"{action}: {reason}", str(root))
