"""From landed raw batches to the lake: decode, judge by the contract, drop repeats, publish, keep the rest.

A batch is curated as a pure function of its bytes and of what other batches have already published. The files come
first, under the batch's id, the catalog row last: killed anywhere, a rerun rewrites the same files and ends the same.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Engine

from tasks import catalog, lake, quarantine
from tasks.contracts import SUBMITTED_DATASETS, load_contract
from tasks.item_check import identity_fault
from tasks.landing.spool import Record, SegmentError, read_segment
from tasks.quarantine import Rejected, ReplayResult, known_rows, quarantine_rows
from tasks.settings import Settings
from tasks.submissions import DecodeError, Delivery, read_delivery, with_provenance
from tasks.validation import BatchRejected, build_frame, find_duplicates, validate_batch

log = logging.getLogger(__name__)

UNNAMED_DATASET = SUBMITTED_DATASETS[0]  # where a record is kept that names no dataset we know


@dataclass(frozen=True)
class CurationResult:
    """Counts of one batch: n_items = n_accepted + n_duplicates + n_quarantined.

    A record that cannot be decoded counts as one item; conflicts (an id known with other content) are among the
    quarantined.
    """

    batch_id: str
    n_records: int
    n_items: int
    n_accepted: int
    n_duplicates: int
    n_conflicts: int
    n_quarantined: int
    files: list[Path]


@dataclass(frozen=True)
class LandingReplay:
    """What a replay of landed batches came to; `faults` has a sentence for each batch refused in part or whole."""

    n_batches: int
    n_accepted: int
    n_quarantined: int
    n_expired: int
    faults: list[str]


@dataclass
class _Submissions:
    """The decoded items of one dataset within a batch, as judged, and whence each came."""

    values: list[Any] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of each item's record within the batch
    positions: list[int] = field(default_factory=list)  # of each item within its record
    deliveries: dict[int, tuple[Record, Delivery]] = field(default_factory=dict)  # by index of the record


def pending_batches(settings: Settings) -> list[Path]:
    """Landed batches whose curation is not committed yet, oldest first."""
    done = catalog.curated_ids(catalog.open_catalog(settings))
    landed = (settings.lake_root / "landing").glob(f"{lake.PARTITION_PREFIX}*/*.seg")
    return sorted((path for path in landed if path.stem not in done), key=lambda path: path.name)


def curate_batch(batch_path: Path, *, settings: Settings, now: datetime | None = None) -> CurationResult:
    """Publish what a landed batch holds, quarantine what fails, and commit it to the catalog.

    Args:
        batch_path: a segment in the lake's landing folder; its stem is the batch id.
        now: moment the contract measures future and age from; by default each record's own reception, as the doors do,
            so that a rerun years later judges the same.

    Raises:
        BatchRejected: the segment is damaged, or a dataset in it was refused as a whole. This is raised after
            everything has been published, quarantined and committed: nothing is lost and nothing is retried.
        tasks.lake.LakeError: the lake cannot be written; the batch stays pending.
    """
    engine = catalog.open_catalog(settings)
    # Two at once could both publish the same observation.
    with catalog.exclusive(engine, "curation"), _collector_paused():
        return _curate(batch_path, settings, now, engine)


def replay_quarantine(*, settings: Settings, now: datetime | None = None) -> ReplayResult:
    """Judge the quarantine by the present contracts, publish what passes now and mark it replayed."""
    engine = catalog.open_catalog(settings)
    moment = datetime.now(UTC) if now is None else now
    with catalog.exclusive(engine, "curation"):
        return quarantine.replay(settings=settings, now=moment)


def replay_landing(*, settings: Settings, since: datetime | None, until: datetime | None) -> LandingReplay:
    """Curate again the landed batches of a span, oldest first, by the present contracts and readers.

    Where nothing has changed since, the lake is byte for byte what it was; batches whose files were lost come back.

    Args:
        since, until: the batches whose first record was received in [since, until); None is open.

    Raises:
        ValueError: the span is empty, or no batch landed in it.
        tasks.lake.LakeError: the lake cannot be written; what was replayed before is done, and may be repeated.
    """
    if since is not None and until is not None and since >= until:
        raise ValueError(f"since {since.isoformat()} is not before until {until.isoformat()}")
    first = f"{since.astimezone(UTC):%Y%m%dT%H%M%SZ}" if since is not None else ""
    last = f"{until.astimezone(UTC):%Y%m%dT%H%M%SZ}" if until is not None else "~"
    landed = (settings.lake_root / "landing").glob(f"{lake.PARTITION_PREFIX}*/*.seg")
    paths = sorted((path for path in landed if first <= path.stem < last), key=lambda path: path.name)
    present = {path.stem for path in paths}
    recorded = catalog.curated_ids(catalog.open_catalog(settings))
    n_expired = sum(first <= batch_id < last and batch_id not in present for batch_id in recorded)
    if not paths:
        gone = f" ({n_expired} were removed after their retention)" if n_expired else ""
        raise ValueError(f"no landed batch between {since or 'the beginning'} and {until or 'now'}{gone}")
    n_accepted = n_quarantined = 0
    faults = []
    for path in paths:
        try:
            result = curate_batch(path, settings=settings)
        except BatchRejected as error:  # it is kept and committed, as when it landed
            faults.append(str(error))
            continue
        n_accepted += result.n_accepted
        n_quarantined += result.n_quarantined
    return LandingReplay(len(paths), n_accepted, n_quarantined, n_expired, faults)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Decoded items are many, live to the end of the batch and form no cycles: looking for cycles among them again and
    again costs more than decoding them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _curate(batch_path: Path, settings: Settings, now: datetime | None, engine: Engine) -> CurationResult:
    batch_id = batch_path.stem
    faults: list[str] = []
    records = _read_records(batch_path, faults)
    submissions, rejected = _decode_records(records, batch_id)
    n_items = sum(len(rows) for rows in rejected.values()) + sum(len(s.values) for s in submissions.values())
    files: list[Path] = []
    origins = sorted({record.origin for record in records if record.origin is not None})
    metadata = {"origins": json.dumps(origins)} if origins else None
    n_accepted = n_duplicates = n_conflicts = 0
    for dataset in SUBMITTED_DATASETS:
        submitted = submissions.get(dataset, _Submissions())
        accepted, repeated, conflicts = _judge(dataset, submitted, batch_id, now, settings, rejected, faults)
        published = lake.publish(dataset, accepted, batch_id, settings=settings, metadata=metadata)
        lake.withdraw(dataset, batch_id, settings=settings, keep=published)
        files += published
        n_accepted += len(accepted)
        n_duplicates += repeated
        n_conflicts += conflicts
    files += _publish_quarantine(batch_id, rejected, settings)
    result = CurationResult(
        batch_id=batch_id,
        n_records=len(records),
        n_items=n_items,
        n_accepted=n_accepted,
        n_duplicates=n_duplicates,
        n_conflicts=n_conflicts,
        n_quarantined=sum(len(rows) for rows in rejected.values()),
        files=files,
    )
    counts = {name: value for name, value in vars(result).items() if name.startswith("n_")}
    catalog.record_batch(
        engine,
        batch_id,
        state="curated",
        path=_relative(batch_path, settings),
        counts=counts,
        files=[_relative(path, settings) for path in files],
        contract_versions={dataset: load_contract(dataset).version for dataset in submissions},
        now=datetime.now(UTC),
    )
    log.info("curated %s: %s", batch_id, ", ".join(f"{name[2:]} {value}" for name, value in counts.items()))
    if faults:
        raise BatchRejected(
            f"{batch_id}: {'; '.join(faults)}; what could not be used is in quarantine or landing"
        )
    return result


def _read_records(path: Path, faults: list[str]) -> list[Record]:
    records: list[Record] = []
    try:
        for record in read_segment(path):
            records.append(record)
    except SegmentError as error:
        faults.append(f"{error}: {len(records)} records before it were used")
    return records


def _decode_records(
    records: Sequence[Record], batch_id: str
) -> tuple[dict[str, _Submissions], dict[str, list[Rejected]]]:
    submissions: dict[str, _Submissions] = {}
    rejected: dict[str, list[Rejected]] = {}
    for index, record in enumerate(records):
        dataset = record.dataset if record.dataset in SUBMITTED_DATASETS else None
        try:
            if dataset is None:
                raise DecodeError(
                    f"dataset {record.dataset!r} is unknown; known are {', '.join(SUBMITTED_DATASETS)}"
                )
            delivery = read_delivery(record.payload, record.content_type)
        except DecodeError as error:
            kept = rejected.setdefault(dataset or UNNAMED_DATASET, [])
            reason = f"decode: {error}" + (f" (from {record.origin})" if record.origin else "")
            kept.append(_rejected(index, None, record, record.payload, "decode", [reason]))
            continue
        submitted = submissions.setdefault(dataset, _Submissions())
        submitted.deliveries[index] = record, delivery
        for position, value in enumerate(delivery.values):
            fault = delivery.faults.get(position) or identity_fault(value, record.sounder_id)
            if fault is not None:
                stage = "decode" if position in delivery.faults else "schema"
                kept = rejected.setdefault(dataset, [])
                kept.append(_rejected(index, position, record, delivery.raw(position), stage, [fault], value))
                continue
            submitted.values.append(
                with_provenance(
                    value,
                    sounder_id=record.sounder_id,
                    received_at=record.received_at,
                    available_at=record.received_at,
                    source=record.source,
                    licence=record.licence,
                    batch_id=batch_id,
                )
            )
            submitted.indices.append(index)
            submitted.positions.append(position)
    return submissions, rejected


def _judge(
    dataset: str,
    submitted: _Submissions,
    batch_id: str,
    now: datetime | None,
    settings: Settings,
    rejected: dict[str, list[Rejected]],
    faults: list[str],
) -> tuple[pd.DataFrame, int, int]:
    """Rows to publish, and how many others repeat or contradict a known observation."""
    frame, cast_failures = build_frame(dataset, submitted.values)

    def reject(reasons: dict[int, list[str]], stage: str) -> None:
        for label, texts in reasons.items():
            index, position = submitted.indices[label], submitted.positions[label]
            record, delivery = submitted.deliveries[index]
            raw, value = delivery.raw(position), delivery.values[position]
            rejected.setdefault(dataset, []).append(
                _rejected(index, position, record, raw, stage, texts, value)
            )

    if frame.empty:
        return frame, 0, 0
    try:
        validation = validate_batch(
            dataset,
            frame,
            now=frame["received_at"] if now is None else now,
            max_future_s=settings.max_future_s,
            max_age_d=settings.max_age_d,
            cast_failures=cast_failures,
        )
    except BatchRejected as error:
        faults.append(str(error))
        reject({label: [str(error)] for label in range(len(frame))}, "batch")
        return frame.iloc[:0], 0, 0
    reject(validation.reasons, "contract")
    known = known_rows(dataset, validation.accepted, settings=settings, except_name=batch_id)
    duplicates = find_duplicates(dataset, validation.accepted, known)
    reject(duplicates.conflicts, "conflict")
    accepted = validation.accepted.drop(index=[*duplicates.identical, *duplicates.conflicts])
    return accepted, len(duplicates.identical), len(duplicates.conflicts)


def _publish_quarantine(batch_id: str, rejected: dict[str, list[Rejected]], settings: Settings) -> list[Path]:
    frames = [quarantine_rows(dataset, batch_id, rows) for dataset, rows in sorted(rejected.items()) if rows]
    published: list[Path] = []
    if frames:
        rows = _keep_replay_marks(pd.concat(frames, ignore_index=True), batch_id, settings)
        published = lake.publish("quarantine", rows, batch_id, settings=settings)
    lake.withdraw("quarantine", batch_id, settings=settings, keep=published)
    return published


def _keep_replay_marks(rows: pd.DataFrame, batch_id: str, settings: Settings) -> pd.DataFrame:
    """Rows already replayed stay marked when their batch is curated again."""
    marks = ["replayed_at", "replay_batch_id"]
    for path in lake.files("quarantine", settings=settings, name=batch_id):
        before = lake.read_file("quarantine", path)
        before = before[before["replayed_at"].notna()].set_index("quarantine_id")
        is_marked = rows["quarantine_id"].isin(before.index)
        for mark in marks:
            rows.loc[is_marked, mark] = before.loc[rows.loc[is_marked, "quarantine_id"], mark].to_numpy()
    return rows


def _rejected(
    index: int,
    position: int | None,
    record: Record,
    raw: bytes,
    stage: str,
    reasons: Sequence[str],
    value: Any = None,
) -> Rejected:
    claimed = value.get("sounder_id") if isinstance(value, dict) else None
    return Rejected(
        record_index=index,
        item_index=position,
        raw=raw,
        stage=stage,
        reasons=list(reasons),
        received_at=record.received_at,
        sounder_id=record.sounder_id if record.sounder_id is not None else claimed,
        source=record.source,
        licence=record.licence,
    )


def _relative(path: Path, settings: Settings) -> str:
    try:
        return path.relative_to(settings.lake_root).as_posix()
    except ValueError:
        return str(path)
