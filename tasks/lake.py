"""The Parquet lake: plain files under one root, published whole, read by any tool.

A file is staged outside the published tree on the same file system, synced, renamed into
`<dataset>/date=YYYY-MM-DD/<name>.parquet`, and the directory is synced. A reader therefore sees a file
complete or not at all, a crash leaves nothing but staging, and publishing the same rows again under the
same name rewrites the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tasks.contracts import arrow_schema, load_contract
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
                _write(part, staged)
                targets[staged] = folder / f"{PARTITION_PREFIX}{day}" / f"{name}.parquet"
            for target in targets.values():
                _make_folder(target.parent)
            for staged, target in targets.items():
                os.replace(staged, target)
            for target in targets.values():
                sync_folder(target.parent)
    except OSError as error:
        raise _lake_error(f"cannot publish {dataset}/{name}", settings.lake_root, error) from error
    return list(targets.values())


def withdraw(dataset: str, name: str, *, settings: Settings, keep: Collection[Path] = ()) -> list[Path]:
    """Remove the files of this name that are not in `keep`: what an earlier run under other rules left."""
    removed = [path for path in files(dataset, settings=settings, name=name) if path not in keep]
    for path in removed:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    return removed


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


def _write(table: pa.Table, path: Path) -> None:
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
