"""Files of observations as submission items: contract CSV and Parquet, GIRO text, tables without dates.

A fault of the whole file (empty, not UTF-8, cut off, a column missing, times without zone) is an
`ObservationFileError` that names file, line and remedy. A fault of one row is not decided here: its values
pass on as they stand (a number that is none as its text), and the data contract judges them.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import tomllib
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.contracts import load_contract
from tasks.landing.giro_text import LICENCE as GIRO_LICENCE
from tasks.landing.giro_text import is_giro_text, parse_giro_text

log = logging.getLogger(__name__)

FACTS = Path(__file__).with_name("observation_files.toml")
STATIONS_BESIDE = Path("stations") / "ursi_stations.csv"  # beside the folder of observations
UNREADABLE = "unreadable"  # a row that could not be split into values: the line and why; no contract has it
ZONE = r"[T ]\d.*(?:Z|z|[+-]\d{2}(?::?\d{2})?)\s*\Z"  # of a time: the end of 2022-10-24 is a day, no offset
TABLE_COLUMNS = {"foF2": "fof2_mhz", "hmF2": "hmf2_km", "TEC": "tec_tecu"}  # of the tables without dates
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".txt", ".txt.gz", ".dat", ".dat.gz")


class ObservationFileError(ValueError):
    """A file of observations cannot be used as a whole; the message names it, the line and what to do."""


def read_observations(
    path: Path, *, dataset: str = "ionograms", stations: Path | None = None, start: date | None = None
) -> list[dict[str, Any]]:
    """Submission items of one file, or of every file of observations below a directory: JSON objects with what the
    file says, absent values left out and times as ISO 8601 text in UTC. Arguments and errors as of `read_frame`.
    """
    return _as_json(read_frame(path, dataset=dataset, stations=stations, start=start))


def read_frame(
    path: Path, *, dataset: str = "ionograms", stations: Path | None = None, start: date | None = None
) -> pd.DataFrame:
    """The observations of one file, or of every file below a directory, as a frame.

    Formats, by suffix (each text format may be gzipped): `.csv` and `.parquet` with the contract's columns,
    `.txt` GIRO text (DIDBase and FastChar), `.dat` tables named by the station's URSI code whose times have
    no dates.

    Args:
        path: file or directory.
        dataset: contract of the CSV and Parquet files.
        stations: CSV with columns ursi, lat_deg, lon_deg for files without coordinates; default
            `stations/ursi_stations.csv` beside the folder, then the few stations of `observation_files.toml`.
        start: UTC date of the first row of files without dates; default by folder name from the same table.

    Returns:
        One row per observation with the contract's submitted columns. `observed_at` is datetime64[us, UTC],
        NaT where unreadable; numbers are float64 with NaN where absent, or objects where a file holds
        something else (kept as its text). A column `unreadable` exists if lines could not be split.

    Raises:
        ObservationFileError: the path, or a file as a whole, cannot be used.
    """
    if not path.exists():
        raise ObservationFileError(f"{path} does not exist: give a file or a directory of observations")
    if path.is_dir():
        paths = [
            file
            for file in sorted(path.rglob("*"))
            if file.is_file() and _suffix(file) and not file.name.startswith((".", "_"))
        ]
        if not paths:
            raise ObservationFileError(
                f"{path} is a directory without observations: expected files ending in {', '.join(SUFFIXES)}"
            )
    else:
        paths = [path]
    frames = []
    for file in paths:
        frame = _read_file(file, dataset, stations, start)
        if frame.empty and path.is_dir():
            log.info("%s holds no observations", file)
            continue
        frames.append(frame)
    if not any(len(frame) for frame in frames):
        raise ObservationFileError(f"{path} holds no observations: every file answers that there are none")
    return _in_contract_order(pd.concat(frames, ignore_index=True), dataset)


def read_payload(payload: bytes, *, kind: str, dataset: str) -> list[dict[str, Any]]:
    """Submission items of a contract file held in memory; `kind` is csv or parquet.

    Raises:
        ObservationFileError: the file cannot be used as a whole.
    """
    path = Path(f"{dataset}.{kind}")  # for the messages
    if not payload.strip():
        raise ObservationFileError(f"{path} is empty: give a file with observations")
    if kind == "parquet":
        frame = _read_parquet(path, dataset, pa.BufferReader(payload))
    else:
        frame = _read_csv(path, _decode_text(path, payload), dataset)
    return _as_json(_in_contract_order(frame, dataset))


def _as_json(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name in frame.columns:
        values = frame[name]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            texts = values.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ").astype(object)
            columns[name] = texts.where(values.notna(), None).tolist()
        else:
            columns[name] = values.astype(object).where(values.notna(), None).tolist()
    names = list(columns)
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    ]


def _read_file(path: Path, dataset: str, stations: Path | None, start: date | None) -> pd.DataFrame:
    suffix = _suffix(path)
    if suffix is None:
        raise ObservationFileError(
            f"{path} is of no known format: expected a name ending in {', '.join(SUFFIXES)}"
        )
    if path.stat().st_size == 0:
        raise ObservationFileError(f"{path} is empty: give a file with observations")
    if suffix == ".parquet":
        return _read_parquet(path, dataset)
    text = _read_text(path)
    if not text.strip():
        raise ObservationFileError(f"{path} is empty: give a file with observations")
    if suffix.startswith(".csv"):
        return _read_csv(path, text, dataset)
    if suffix.startswith(".txt"):
        return _read_giro(path, text)
    return _read_undated(path, text, stations, start)


def _read_csv(path: Path, text: str, dataset: str) -> pd.DataFrame:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[str | None]] = []
    lines: list[int] = []
    unreadable: dict[int, str] = {}
    try:
        names = [name.strip() for name in next(reader)]
        _require_columns(path, names, dataset)
        for values in reader:
            if not any(values):
                continue
            if len(values) != len(names):
                unreadable[len(rows)] = (
                    f"line {reader.line_num}: {len(values)} fields where the header names {len(names)}: "
                    + ",".join(values)
                )
            rows.append([*values[: len(names)], *[None] * (len(names) - len(values))])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ObservationFileError(
            f"{path} line {reader.line_num}: not CSV ({error}): correct that line"
        ) from error
    if not rows:
        raise ObservationFileError(f"{path} has a header but no rows: give a file with observations")
    table = pd.DataFrame(rows, columns=names, dtype=object)
    return _as_items(path, table, dataset, lambda row: f"line {lines[row]}", unreadable)


def _read_parquet(path: Path, dataset: str, content: pa.BufferReader | None = None) -> pd.DataFrame:
    try:
        table = pq.ParquetFile(path if content is None else content).read()
        table.validate(full=True)
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError) as error:  # names and texts may not even be UTF-8
        raise ObservationFileError(
            f"{path} is not a whole Parquet file ({error}): fetch or write it again"
        ) from error
    _require_columns(path, names, dataset)
    if table.num_rows == 0:
        raise ObservationFileError(f"{path} has no rows: give a file with observations")
    columns: dict[str, pd.Series[Any]] = {}
    for name, column in zip(names, table.columns, strict=True):
        if pa.types.is_timestamp(column.type):
            if column.type.tz is None:
                raise ObservationFileError(
                    f"{path} row 1: column {name} has times without zone: write it as timestamp with zone UTC"
                )
            columns[name] = column.cast(pa.timestamp("us", "UTC"), safe=False).to_pandas()
        else:
            _require_type(path, name, column.type, dataset)
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
    return _as_items(path, pd.DataFrame(columns), dataset, lambda row: f"row {row + 1}", {})


def _read_giro(path: Path, text: str) -> pd.DataFrame:
    if not is_giro_text(text):
        raise ObservationFileError(f"{path} line 1: is not GIRO text: its header names no station")
    parsed = parse_giro_text(text)
    if not parsed.items and not parsed.malformed:
        log.warning("%s: %s", path, parsed.status or "the header is followed by no observations")
    items = parsed.items
    for line in parsed.malformed:
        if "zone" in line.reason:
            raise ObservationFileError(
                f"{path} line {line.number}: {line.reason}: write times with zone, such as 2022-10-24T00:00:00Z"
            )
        log.warning("%s line %d cannot be read: %s", path, line.number, line.reason)
        items.append(
            {
                "sounder_id": parsed.station.ursi_code if parsed.station else None,
                UNREADABLE: f"line {line.number}: {line.reason}: {line.text}",
            }
        )
    frame = pd.DataFrame(items, columns=list(dict.fromkeys(key for item in items for key in item)))
    if "observed_at" in frame:
        frame["observed_at"] = _to_utc(frame["observed_at"])
    frame["licence"] = GIRO_LICENCE
    return frame


def _read_undated(path: Path, text: str, stations: Path | None, start: date | None) -> pd.DataFrame:
    """Tab-separated `HH:MM` rows below a header of characteristics; a time that goes back begins a new day."""
    code = path.name.split(".")[0].upper()
    latitude_deg, longitude_deg = _coordinates(path, code, stations)
    first = start if start is not None else _facts("first_date").get(path.resolve().parent.name)
    licence = _facts("licence").get(path.resolve().parent.name)
    if first is None:
        raise ObservationFileError(
            f"{path} has times without dates: give the UTC date of its first row (--start YYYY-MM-DD)"
        )
    header, *rows = text.splitlines()
    names = header.split("\t")[1:]
    unknown = [name for name in names if name and name not in TABLE_COLUMNS]
    if unknown or not set(names) & {"foF2", "hmF2"}:
        raise ObservationFileError(
            f"{path} line 1: columns {names}: expected a tab, then of {', '.join(TABLE_COLUMNS)}, foF2 or hmF2 at least"
        )
    items: list[dict[str, Any]] = []
    day, previous = first, time.min
    for number, line in enumerate(rows, start=2):
        if not line.strip():
            continue
        moment, *values = line.split("\t")
        item: dict[str, Any] = {"sounder_id": code, "licence": licence}
        items.append(item)
        try:
            clock: time | None = time.fromisoformat(moment.strip())
        except ValueError:
            clock = None
        # A table without dates has no zones either: its times are UTC.
        if clock is None or clock.tzinfo is not None:
            item[UNREADABLE] = f"line {number}: time {moment!r} is not HH:MM: {line}"
            continue
        if len(values) < len([name for name in names if name]):
            item[UNREADABLE] = (
                f"line {number}: {len(values)} values where the header names {len(names)}: {line}"
            )
            continue
        if clock < previous:
            day += timedelta(days=1)
        previous = clock
        item.update(
            observed_at=datetime.combine(day, clock, UTC),
            latitude_deg=latitude_deg,
            longitude_deg=longitude_deg,
        )
        for name, value in zip(names, values, strict=False):
            if name:
                item[TABLE_COLUMNS[name]] = _number(value)
    frame = pd.DataFrame(items)
    if frame.empty or "observed_at" not in frame:
        raise ObservationFileError(f"{path} has a header but no rows: give a file with observations")
    frame["observed_at"] = frame["observed_at"].astype("datetime64[us, UTC]")
    return frame


def _as_items(
    path: Path,
    table: pd.DataFrame,
    dataset: str,
    place: Callable[[int], str],
    unreadable: dict[int, str],
) -> pd.DataFrame:
    """The contract's submitted columns of a raw table, numbers as numbers, times as times."""
    contract = load_contract(dataset)
    foreign = [name for name in table.columns if name not in contract.column_names]
    if foreign:
        log.warning(
            "%s: columns the contract of %s does not know are left out: %s", path, dataset, ", ".join(foreign)
        )
    frame: dict[str, pd.Series[Any]] = {}
    for column in contract.columns:
        if column.name not in table.columns or column.filled_by == "landing":
            continue
        raw = table[column.name]
        if column.physical_type.startswith("timestamp"):
            frame[column.name] = _times(path, raw, place, unreadable)
        elif column.physical_type in ("double", "int32", "int64"):
            frame[column.name] = _numbers(raw)
        else:
            frame[column.name] = raw.astype(object).where(raw.notna() & (raw != ""), None)
    items = pd.DataFrame(frame)
    if unreadable:
        items[UNREADABLE] = pd.Series([unreadable.get(row) for row in range(len(items))], dtype=object)
        values = [name for name in items.columns if name not in (UNREADABLE, "sounder_id")]
        items.loc[items[UNREADABLE].notna(), values] = None
    return items


def _times(
    path: Path, raw: pd.Series[Any], place: Callable[[int], str], unreadable: dict[int, str]
) -> pd.Series[Any]:
    if isinstance(raw.dtype, pd.DatetimeTZDtype):
        return raw
    text = raw.fillna("").astype(str).str.strip()
    moments = _to_utc(text)
    is_split = pd.Series([row not in unreadable for row in range(len(raw))], index=raw.index)
    is_naive = is_split & moments.notna() & ~text.str.contains(ZONE, regex=True)
    for row in np.flatnonzero(is_naive)[:1]:
        raise ObservationFileError(
            f"{path} {place(int(row))}: time {text.iloc[row]!r} has no zone: write it with one, such as "
            "2022-10-24T00:00:00Z"
        )
    for row in np.flatnonzero(moments.isna()):
        unreadable.setdefault(
            int(row), f"{place(int(row))}: time {text.iloc[row]!r} is not ISO 8601 with a zone"
        )
    return moments


def _to_utc(text: pd.Series[Any]) -> pd.Series[Any]:
    return pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce").astype("datetime64[us, UTC]")


def _numbers(raw: pd.Series[Any]) -> pd.Series[Any]:
    """float64 when every present value is a finite number; else objects with the others kept as their text."""
    is_absent = raw.isna() if raw.dtype != object else raw.map(lambda value: value is None or value == "")
    is_absent |= raw.map(lambda value: isinstance(value, str) and not value.strip())
    numbers = pd.to_numeric(raw.where(~is_absent, None), errors="coerce").astype(float)
    is_number = np.isfinite(numbers)
    if (is_number | is_absent).all():
        return numbers
    mixed = numbers.astype(object)
    mixed[is_absent] = None
    return mixed.where(is_number | is_absent, raw.astype(str))


def _number(text: str) -> float | str | None:
    text = text.strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    return value if np.isfinite(value) else text


def _require_columns(path: Path, names: list[str], dataset: str) -> None:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ObservationFileError(
            f"{path} line 1: column {', '.join(repeated)} twice: name each column once"
        )
    columns = load_contract(dataset).columns
    required = [column.name for column in columns if column.filled_by == "sender" and not column.nullable]
    missing = [name for name in required if name not in names]
    if missing:
        if len(names) == 1 and (separator := next((s for s in ";\t|" if s in names[0]), None)):
            raise ObservationFileError(
                f"{path} line 1: its columns are separated by {separator!r}: separate them by commas, with a point "
                "in decimal numbers"
            )
        raise ObservationFileError(
            f"{path} line 1: column {', '.join(missing)} missing; it has {', '.join(names[:20])}: rename or add it "
            f"as in the data contract {dataset}"
        )


def _require_type(path: Path, name: str, stored: pa.DataType, dataset: str) -> None:
    """A column of a wrong kind is wrong in every row: one sentence, not a quarantine full of it. Numbers and times may
    be stored as texts, as in CSV."""
    column = next((column for column in load_contract(dataset).columns if column.name == name), None)
    is_text = pa.types.is_string(stored) or pa.types.is_large_string(stored) or pa.types.is_null(stored)
    if pa.types.is_dictionary(stored):
        _require_type(path, name, stored.value_type, dataset)
        return
    is_number = pa.types.is_integer(stored) or pa.types.is_floating(stored) or pa.types.is_decimal(stored)
    if column is None or is_text or (is_number and column.physical_type in ("double", "int32", "int64")):
        return
    raise ObservationFileError(
        f"{path}: column {name} is stored as {stored}: write it as {column.physical_type}, as in the data contract "
        f"{dataset}"
    )


def _in_contract_order(frame: pd.DataFrame, dataset: str) -> pd.DataFrame:
    known = [name for name in load_contract(dataset).column_names if name in frame.columns]
    return frame[known + [name for name in frame.columns if name not in known]]


def _coordinates(path: Path, code: str, stations: Path | None) -> tuple[float, float]:
    beside = path.resolve().parent.parent / STATIONS_BESIDE
    table = stations if stations is not None else (beside if beside.is_file() else None)
    if table is not None:
        listed = pd.read_csv(table, dtype={"ursi": str})
        for row in listed[listed["ursi"] == code].itertuples():
            return float(row.lat_deg), float(row.lon_deg)  # type: ignore[arg-type]
    station = _facts("stations").get(code)
    if station is None:
        raise ObservationFileError(
            f"{path}: unknown station {code!r} (from the file name): add it to {table or 'a station table'} "
            "with columns ursi, lat_deg, lon_deg (--stations)"
        )
    return float(station["latitude_deg"]), float(station["longitude_deg"])


def _facts(section: str) -> Mapping[str, Any]:
    facts: dict[str, Mapping[str, Any]] = tomllib.loads(FACTS.read_text(encoding="utf-8"))
    return facts[section]


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except gzip.BadGzipFile as error:
            raise ObservationFileError(
                f"{path} is damaged or not gzip ({error}): fetch it again, or drop .gz from the name of a plain file"
            ) from error
        except (EOFError, zlib.error) as error:
            raise ObservationFileError(
                f"{path} is truncated or damaged gzip ({error}): fetch it again"
            ) from error
    return _decode_text(path, data)


def _decode_text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ObservationFileError(
            f"{path} line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error


def _suffix(path: Path) -> str | None:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return suffix
    return None
