"""What failed is kept with every reason and its raw bytes, and can be judged again after a contract changed.

`quarantine_rows` makes the rows of the dataset `quarantine`; `judge_again` is the replay as a pure function on frames;
`replay` runs it over the quarantine of a lake: it publishes what passes now and marks it. The published rows come
first and the marks second; a row that the lake already has is never published again, so a replay that is repeated, or
was killed anywhere, adds nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc

from tasks import lake
from tasks.contracts import SUBMITTED_DATASETS, load_contract
from tasks.revisions import OBSERVATION, REVISION
from tasks.settings import Settings
from tasks.submissions import DecodeError, decode, with_provenance
from tasks.validation import BatchRejected, build_frame, find_duplicates, validate_batch

logger = logging.getLogger(__name__)

KnownRows = Callable[
    [pd.DataFrame], pd.DataFrame | None
]  # rows of the lake that share an id with the given rows


CODE = re.compile(r"([a-z][a-z0-9_]{0,63}):")


@dataclass(frozen=True)
class Rejected:
    """One record or item that did not pass, as the step that stopped it saw it."""

    record_index: int
    item_index: int | None  # None: the record could not be decoded into items
    raw: bytes
    stage: str  # decode, schema, contract, conflict or batch
    reasons: Sequence[str]
    received_at: datetime
    sounder_id: object = None
    source: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Replay:
    """Outcome of judging quarantined rows again.

    `accepted` is to be published under the name `batch_name` (None when there is nothing to publish), `quarantine` are
    the given rows with those marked that need no further replay, `reasons` say by quarantine_id why the rest still fails.
    """

    accepted: pd.DataFrame
    quarantine: pd.DataFrame
    reasons: dict[str, list[str]]
    batch_name: str | None


@dataclass(frozen=True)
class ReplayResult:
    """Counts of one replay over a lake: items published, quarantine rows marked and still failing, and the files."""

    n_published: int
    n_marked: int
    n_failing: int
    files: list[Path]


def quarantine_rows(dataset: str, batch_id: str, rejected: Iterable[Rejected]) -> pd.DataFrame:
    """Rows of the dataset `quarantine` for what one batch could not pass on; the same input gives the same rows.

    Raises:
        ValueError: a rejected item has no reason.
    """
    contract = load_contract("quarantine")
    sounder_pattern = re.compile((contract.column("sounder_id").pattern or "")[:-1] + r"\Z")
    version = load_contract(dataset).version
    rows = []
    for item in rejected:
        if not item.reasons:
            raise ValueError(f"rejected: record {item.record_index} of {batch_id} has no reason")
        digest = hashlib.sha256(item.raw).hexdigest()
        identity = f"{dataset}|{batch_id}|{item.record_index}|{item.item_index}|{digest}"
        is_readable = isinstance(item.sounder_id, str) and sounder_pattern.match(item.sounder_id)
        rows.append(
            {
                "quarantine_id": hashlib.sha256(identity.encode()).hexdigest()[:32],
                "dataset": dataset,
                "sounder_id": item.sounder_id if is_readable else None,
                "received_at": item.received_at,
                "source": item.source,
                "licence": item.licence,
                "batch_id": batch_id,
                "record_index": item.record_index,
                "item_index": item.item_index,
                "reasons": json.dumps(list(item.reasons)),
                "stage": item.stage,
                "contract_version": version,
                "raw_sha256": digest,
                "raw": item.raw,
                "replayed_at": None,
                "replay_batch_id": None,
            }
        )
    frame, failures = build_frame("quarantine", rows)
    if failures:
        raise ValueError(f"rejected: not rows of the quarantine: {next(iter(failures.values()))}")
    return frame


def judge_again(
    dataset: str,
    quarantine: pd.DataFrame,
    *,
    now: datetime,
    known: KnownRows,
    max_future_s: float = 300.0,
    max_age_d: float = 36_500.0,
) -> Replay:
    """Judge the raw bytes of quarantined rows by the current contract.

    Only rows of `dataset` that no replay has accepted yet are judged. An accepted item becomes available `now`: no
    cycle before could have used it. A row is marked when each of its items passes or is in the lake already.

    Args:
        quarantine: rows of the dataset `quarantine`, any unique index.
        known: given candidate rows, the rows of the lake that share an `observation_id` with them.
    """
    rows = quarantine.copy()
    pending = rows[(rows["dataset"] == dataset) & rows["replayed_at"].isna()]
    items: list[Any] = []
    owners: list[Any] = []  # index label of the quarantine row each item came from
    reasons: dict[Any, list[str]] = {}
    for label, row in zip(pending.index, pending.to_dict("records"), strict=True):
        try:
            decoded = _decode(dataset, row["raw"])
        except ValueError as error:
            reasons[label] = [f"decode: {error}"]
            continue
        if not decoded:
            reasons[label] = ["decode: no item in the bytes"]
        provenance = {name: _text(row[name]) for name in ("sounder_id", "source", "licence", "batch_id")}
        items += [
            with_provenance(item, **provenance, received_at=row["received_at"], available_at=now)
            for item in decoded
        ]
        owners += [label] * len(decoded)
    frame, failures = build_frame(dataset, items)
    for index, label in enumerate(owners):
        sender, claimed = _text(rows.loc[label, "sounder_id"]), frame["sounder_id"].iloc[index]
        if sender is not None and isinstance(claimed, str) and claimed != sender:
            failures.setdefault(index, []).append(
                f"sounder_id_mismatch: the item says {claimed[:80]!r}, it was sent as {sender!r}"
            )
    accepted = frame.iloc[:0]
    if items:
        try:
            validation = validate_batch(
                dataset,
                frame,
                now=now,
                max_future_s=max_future_s,
                max_age_d=max_age_d,
                cast_failures=failures,
            )
        except BatchRejected as error:
            failing = {index: [str(error)] for index in range(len(items))}
        else:
            duplicates = find_duplicates(dataset, validation.accepted, known(validation.accepted))
            failing = {**validation.reasons, **duplicates.conflicts}
            accepted = validation.accepted.drop(index=[*duplicates.identical, *duplicates.conflicts])
        for index, texts in failing.items():
            reasons.setdefault(owners[index], []).extend(texts)
    batch_name = None
    if len(accepted):
        named = [name for name in (*OBSERVATION, REVISION) if name in accepted]
        rows_named = accepted[named].astype(str).agg("|".join, axis=1)
        digest = hashlib.sha256("|".join(sorted(rows_named)).encode()).hexdigest()
        batch_name = f"replay-{digest[:16]}"
    publishing = {owners[index] for index in accepted.index}
    for label in pending.index:
        if label not in reasons:
            rows.loc[label, "replayed_at"] = pd.Timestamp(now)
            rows.loc[label, "replay_batch_id"] = batch_name if label in publishing else None
    return Replay(
        accepted=accepted.reset_index(drop=True),
        quarantine=rows,
        reasons={str(rows.loc[label, "quarantine_id"]): texts for label, texts in reasons.items()},
        batch_name=batch_name,
    )


def reason_code(text: str) -> str:
    """The code in front of a reason, without what follows, which names values."""
    found = CODE.match(text)
    return found[1] if found else "other"


def replay(
    *,
    settings: Settings,
    now: datetime,
    datasets: Sequence[str] = SUBMITTED_DATASETS,
) -> ReplayResult:
    """Judge everything in the lake's quarantine again; publish what passes now and mark it.

    The caller sees to it that nobody else curates or replays meanwhile (`tasks.curation.replay_quarantine` does).

    Raises:
        tasks.lake.LakeError: the lake cannot be read or written; what was published before stays and is not repeated.
    """
    n_published = n_marked = n_failing = 0
    written: list[Path] = []
    for path in lake.files("quarantine", settings=settings):
        rows = lake.read_file("quarantine", path)
        before = rows["replayed_at"].notna().sum()
        for dataset in datasets:

            def known(candidates: pd.DataFrame, dataset: str = dataset) -> pd.DataFrame | None:
                return known_rows(dataset, candidates, settings=settings)

            outcome = judge_again(
                dataset,
                rows,
                now=now,
                known=known,
                max_future_s=settings.max_future_s,
                max_age_d=settings.max_age_d,
            )
            if outcome.batch_name is not None:
                written += lake.publish(dataset, outcome.accepted, outcome.batch_name, settings=settings)
            n_published += len(outcome.accepted)
            n_failing += len(outcome.reasons)
            rows = outcome.quarantine
        marked = int(rows["replayed_at"].notna().sum() - before)
        if marked:
            written += lake.publish("quarantine", rows, path.stem, settings=settings)
            n_marked += marked
    logger.info(
        "replayed the quarantine: %d items published, %d rows done, %d still fail",
        n_published,
        n_marked,
        n_failing,
    )
    return ReplayResult(n_published=n_published, n_marked=n_marked, n_failing=n_failing, files=written)


def known_rows(
    dataset: str, candidates: pd.DataFrame, *, settings: Settings, except_name: str | None = None
) -> pd.DataFrame | None:
    """Rows of the lake that share an `observation_id` with the candidates, looked for on the candidates' days.

    Files named `except_name` are left out: they are about to be written again.
    """
    found = []
    for day, of_day in candidates.groupby(candidates["observed_at"].dt.floor("D")):
        start = pd.Timestamp(str(day)).to_pydatetime()
        rows = lake.read(
            dataset,
            settings=settings,
            start=start,
            end=start + timedelta(days=1, microseconds=-1),
            filters=pc.field("observation_id").isin(of_day["observation_id"].to_numpy(dtype=object)),
            except_name=except_name,
        )
        if len(rows):
            found.append(rows)
    return pd.concat(found, ignore_index=True) if found else None


def _decode(dataset: str, raw: bytes) -> list[Any]:
    """The submitted items of quarantined bytes; a table of GIRO begins with a comment.

    Raises:
        DecodeError: they cannot be read.
    """
    items = decode(raw, _content_type(dataset, raw))
    for item in items:
        if item.fault is not None:
            raise DecodeError(item.fault)
    return [item.value for item in items]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _content_type(dataset: str, raw: bytes) -> str:
    """What quarantined bytes are: a dropped file of a contract, a table, else JSON."""
    from tasks.landing.sources import drop  # brings an HTTP client along

    start = raw.lstrip()[:1]
    if raw.startswith(b"PAR1"):
        return drop.content_type(dataset, "parquet")
    if start not in (b"{", b"[", b"#") and b"observed_at" in raw.partition(b"\n")[0]:
        return drop.content_type(dataset, "csv")
    return "text/plain" if start == b"#" else "application/json"
