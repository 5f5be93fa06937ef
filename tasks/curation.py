"""From landed raw batches to the lake: decode, judge by the contract, drop repeats, publish, keep the rest.

A batch is curated as a pure function of its bytes and of what other batches have already published. The files come
first, under the batch's id, the catalog row last: killed anywhere, a rerun rewrites the same files and ends the same.
"""

from __future__ import annotations

import gc
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Engine

from tasks import catalog, lake, quarantine
from tasks.at_work import at_work
from tasks.contracts import SUBMITTED_DATASETS, load_contract
from tasks.item_check import identity_fault
from tasks.landing.spool import Record, SegmentError, read_segment
from tasks.quarantine import Rejected, ReplayResult, known_rows, quarantine_rows, reason_code
from tasks.settings import Settings
from tasks.submissions import DecodeError, read_delivery, with_provenance
from tasks.validation import BatchRejected, Validation, build_frame, find_duplicates, validate_batch

log = logging.getLogger(__name__)

UNNAMED_DATASET = SUBMITTED_DATASETS[0]  # where a record is kept that names no dataset we know
GROUP_BYTES = 8 * 2**20  # of landed batches judged at once: some 25,000 rows


@dataclass(frozen=True)
class CurationResult:
    """Counts of one batch: n_items = n_accepted + n_duplicates + n_quarantined.

    A record that cannot be decoded counts as one item; conflicts (an id known with other content) are among the
    quarantined. `fault` says why the batch was refused in part or whole; nothing of it is lost, and it is not retried.
    """

    batch_id: str
    n_records: int
    n_items: int
    n_accepted: int
    n_duplicates: int
    n_conflicts: int
    n_quarantined: int
    files: list[Path]
    fault: str | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Items by the code of each reason for which they went to quarantine."""
    newest: Mapping[str, datetime] = field(default_factory=dict)
    """Time of the newest accepted observation by source."""


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
    """The items of one dataset within a batch that could be decoded, as rows, and whence each came."""

    frame: pd.DataFrame
    cast_failures: Mapping[int, list[str]]
    indices: list[int]  # of each item's record within the batch
    positions: list[int]  # of each item within its record


@dataclass
class _Batch:
    """A landed batch on its way: what it holds, what failed, and what passed of each dataset."""

    path: Path
    records: list[Record]
    submissions: dict[str, _Submissions]
    rejected: dict[str, list[Rejected]]
    faults: list[str]
    accepted: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def batch_id(self) -> str:
        return self.path.stem

    def reject(self, dataset: str, reasons: Mapping[int, Sequence[str]], stage: str) -> None:
        """Keeps items of `dataset` for the quarantine; `reasons` by their row."""
        submitted = self.submissions[dataset]
        index, delivery = -1, None
        for row, texts in reasons.items():
            if delivery is None or submitted.indices[row] != index:  # decoded again: few are rejected
                index = submitted.indices[row]
                delivery = read_delivery(self.records[index].payload, self.records[index].content_type)
            position = submitted.positions[row]
            raw, value = delivery.raw(position), delivery.values[position]
            self.rejected.setdefault(dataset, []).append(
                _rejected(index, position, self.records[index], raw, stage, texts, value)
            )


def pending_batches(settings: Settings) -> list[Path]:
    """Landed batches whose curation is not committed yet, oldest first."""
    done = catalog.curated_ids(catalog.open_catalog(settings))
    landed = (settings.lake_root / "landing").glob(f"{lake.PARTITION_PREFIX}*/*.seg")
    return sorted((path for path in landed if path.stem not in done), key=lambda path: path.name)


def curate_batch(batch_path: Path, *, settings: Settings, now: datetime | None = None) -> CurationResult:
    """As `curate_batches`, of one.

    Raises:
        BatchRejected: the segment is damaged, or a dataset in it was refused as a whole. This is raised after
            everything has been published, quarantined and committed: nothing is lost and nothing is retried.
        tasks.lake.LakeError: the lake cannot be written; the batch stays pending.
    """
    (result,) = curate_batches([batch_path], settings=settings, now=now)
    if result.fault is not None:
        raise BatchRejected(result.fault)
    return result


def curate_batches(
    batch_paths: Sequence[Path], *, settings: Settings, now: datetime | None = None
) -> list[CurationResult]:
    """Publish what landed batches hold, quarantine what fails, and commit each to the catalog.

    They are judged in one go, since that costs as much for one batch as for twenty; each is then published and
    committed by itself, in the order given, with the files it would have had alone.

    Args:
        batch_paths: segments in the lake's landing folder; the stem of each is its batch id.
        now: moment the contract measures future and age from; by default each record's own reception, as the doors do,
            so that a rerun years later judges the same.

    Raises:
        tasks.lake.LakeError: the lake cannot be written; the batch and those after it stay pending.
    """
    engine = catalog.open_catalog(settings)
    # Two at once could both publish the same observation.
    with catalog.exclusive(engine, "curation"), _collector_paused():
        batches = [_read_batch(path) for path in batch_paths]
        for dataset in SUBMITTED_DATASETS:
            _judge(dataset, [batch for batch in batches if dataset in batch.submissions], now, settings)
        results = []
        for batch in batches:
            with at_work("curate", batch_id=batch.batch_id):
                results.append(_publish(batch, settings, engine))
        return results


def groups(batch_paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Batches in their order, as many together as one process should hold in memory."""
    group: list[Path] = []
    n_bytes = 0
    for path in batch_paths:
        size = path.stat().st_size
        if group and n_bytes + size > GROUP_BYTES:
            yield group
            group, n_bytes = [], 0
        group.append(path)
        n_bytes += size
    if group:
        yield group


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
    for group in groups(paths):
        for result in curate_batches(group, settings=settings):
            n_accepted += result.n_accepted
            n_quarantined += result.n_quarantined
            faults += [result.fault] if result.fault is not None else []
    return LandingReplay(len(paths), n_accepted, n_quarantined, n_expired, faults)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Decoded items are many, live to the end of the batch and form no cycles: looking for cycles among them again and
    again costs more than decoding them. The engine does form some, and they hold the frames it judged: they are looked
    for once, at the end, among what was made since the start (half a second less where Prefect and the engine are loaded).
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        gc.enable()


def _read_batch(path: Path) -> _Batch:
    faults: list[str] = []
    records = _read_records(path, faults)
    submissions, rejected = _decode_records(records, path.stem)
    return _Batch(
        path=path,
        records=records,
        submissions=submissions,
        rejected=rejected,
        faults=faults,
    )


def _publish(batch: _Batch, settings: Settings, engine: Engine) -> CurationResult:
    """Drops repeats, publishes and commits; a later batch must see the rows of an earlier one in the lake."""
    batch_id = batch.batch_id
    files: list[Path] = []
    origins = sorted({record.origin for record in batch.records if record.origin is not None})
    metadata = {"origins": json.dumps(origins)} if origins else None
    n_accepted = n_duplicates = n_conflicts = 0
    newest: dict[str, datetime] = {}
    for dataset in SUBMITTED_DATASETS:
        lake.loosen(
            dataset, batch_id, settings=settings
        )  # what it published before is no repeat of another's
        published: list[Path] = []
        rows = batch.accepted.get(dataset)
        if rows is not None and len(rows):
            known = known_rows(dataset, rows, settings=settings, except_name=batch_id)
            duplicates = find_duplicates(dataset, rows, known)
            batch.reject(dataset, duplicates.conflicts, "conflict")
            rows = rows.drop(index=[*duplicates.identical, *duplicates.conflicts])
            published = lake.publish(dataset, rows, batch_id, settings=settings, metadata=metadata)
            n_accepted += len(rows)
            n_duplicates += len(duplicates.identical)
            n_conflicts += len(duplicates.conflicts)
            for source, time in rows.groupby("source")["observed_at"].max().items():
                newest[str(source)] = max(time.to_pydatetime(), newest.get(str(source), time.to_pydatetime()))
        lake.withdraw(dataset, batch_id, settings=settings, keep=published)
        files += published
    files += _publish_quarantine(batch_id, batch.rejected, settings)
    n_quarantined = sum(len(rows) for rows in batch.rejected.values())
    result = CurationResult(
        batch_id=batch_id,
        n_records=len(batch.records),
        n_items=n_accepted + n_duplicates + n_quarantined,
        n_accepted=n_accepted,
        n_duplicates=n_duplicates,
        n_conflicts=n_conflicts,
        n_quarantined=n_quarantined,
        files=files,
        fault=f"{batch_id}: {'; '.join(batch.faults)}; what could not be used is in quarantine or landing"
        if batch.faults
        else None,
        reasons=Counter(
            code
            for rows in batch.rejected.values()
            for item in rows
            for code in {reason_code(text) for text in item.reasons}
        ),
        newest=newest,
    )
    counts = {name: value for name, value in vars(result).items() if name.startswith("n_")}
    catalog.record_batch(
        engine,
        batch_id,
        state="curated",
        path=_relative(batch.path, settings),
        counts=counts,
        files=[_relative(path, settings) for path in files],
        contract_versions={dataset: load_contract(dataset).version for dataset in batch.submissions},
        now=datetime.now(UTC),
    )
    log.info("curated %s: %s", batch_id, ", ".join(f"{name[2:]} {value}" for name, value in counts.items()))
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
    decoded: dict[str, tuple[list[Any], list[int], list[int]]] = {}
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
        values, indices, positions = decoded.setdefault(dataset, ([], [], []))
        for position, value in enumerate(delivery.values):
            fault = delivery.faults.get(position) or identity_fault(value, record.sounder_id)
            if fault is not None:
                stage = "decode" if position in delivery.faults else "schema"
                kept = rejected.setdefault(dataset, [])
                kept.append(_rejected(index, position, record, delivery.raw(position), stage, [fault], value))
                continue
            values.append(
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
            indices.append(index)
            positions.append(position)
    submissions = {}
    for dataset, (values, indices, positions) in decoded.items():
        frame, cast_failures = build_frame(dataset, values)
        submissions[dataset] = _Submissions(frame, cast_failures, indices, positions)
    return submissions, rejected


def _judge(dataset: str, batches: Sequence[_Batch], now: datetime | None, settings: Settings) -> None:
    """Judges the items of `dataset` of all batches at once; a batch of which nothing passed, by itself.

    For of a batch from which a row passes, no rule on whole batches fails: neither is all of it too old, nor has it
    more rows than a batch may have, where all of them together have not.
    """
    batches = [batch for batch in batches if len(batch.submissions[dataset].frame)]
    if not batches:
        return
    parts = [batch.submissions[dataset] for batch in batches]
    ends = list(accumulate(len(part.frame) for part in parts))
    begins = [0, *ends[:-1]]
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    cast_failures = {
        begin + row: texts
        for begin, part in zip(begins, parts, strict=True)
        for row, texts in part.cast_failures.items()
    }

    def judge(begin: int, end: int) -> Validation:
        return validate_batch(
            dataset,
            frame.iloc[begin:end],
            now=frame["received_at"].iloc[begin:end] if now is None else now,
            max_future_s=settings.max_future_s,
            max_age_d=settings.max_age_d,
            cast_failures={label: texts for label, texts in cast_failures.items() if begin <= label < end},
        )

    together = None
    if len(batches) > 1:
        with suppress(BatchRejected):  # which of them it is must be found out one by one
            together = judge(0, len(frame))
    for batch, begin, end in zip(batches, begins, ends, strict=True):
        reasons: Mapping[int, Sequence[str]] = {}
        accepted = frame.iloc[:0]
        if together is not None:
            labels = together.accepted.index
            accepted = together.accepted.iloc[labels.searchsorted(begin) : labels.searchsorted(end)]
            reasons = {label: texts for label, texts in together.reasons.items() if begin <= label < end}
        stage = "contract"
        if accepted.empty:
            try:
                alone = judge(begin, end)
            except BatchRejected as error:
                batch.faults.append(str(error))
                stage, reasons = "batch", {label: [str(error)] for label in range(begin, end)}
            else:
                accepted, reasons = alone.accepted, alone.reasons
        batch.reject(dataset, {label - begin: texts for label, texts in reasons.items()}, stage)
        batch.accepted[dataset] = accepted.set_axis(accepted.index - begin)


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
