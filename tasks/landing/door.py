"""What every landing door shares: who sends, what was sent, the receipts, and the wait until it is on disk.

HTTP (`services/gateway.py`) and TCP (`services/tcp.py`) differ in how bytes arrive and how answers leave, in nothing
else. Whatever is not landed is a `Problem`, in the words of RFC 9457.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from tasks import catalog
from tasks.landing.group_commit import GroupCommit, Overloaded
from tasks.landing.receipts import DATASETS, receipt
from tasks.landing.spool import Record
from tasks.settings import Settings
from tasks.submissions import decode

log = logging.getLogger(__name__)

BATCH_ITEMS = 10_000
LARGE_BATCH_ITEMS = 50
"""Above this the items are judged in a thread, so that single posts do not wait behind a large batch."""
CREDENTIAL_CACHE_S = 10.0
"""A revoked credential is refused within this time."""
REGISTERED_CACHE_S = 10.0
"""A sounder registered through another process needs its credential within this time."""
FREE_DISK_CACHE_S = 1.0
HELD_BYTES = 128 * 2**20
"""Request bytes in memory at most; what they decode to is several times as much."""
BURST_S = 300.0
"""A sounder that was silent may send this many seconds' worth at once."""
BUCKETS = 100_000
RETRY_DISK_S = 30
RETRY_LOAD_S = 1
CHALLENGE = 'Bearer realm="autonvis"'


class Problem(Exception):  # noqa: N818 - named as in RFC 9457
    """Why something was not landed: `detail` tells the sender what to do."""

    def __init__(self, status: int, title: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def document(self) -> dict[str, Any]:
        """The problem as RFC 9457 writes it; bytes that are no text are replaced."""
        document = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
        if "Retry-After" in self.headers:
            document["retry_after_s"] = int(self.headers["Retry-After"])
        return {
            name: value.encode(errors="replace").decode() if isinstance(value, str) else value
            for name, value in document.items()
        }


class Door:
    """Takes submissions into one group commit; one for all doors of a process, used from its event loop."""

    def __init__(self, settings: Settings, commit: GroupCommit) -> None:
        self.settings = settings
        self.commit = commit
        self._credentials: dict[str, tuple[float, str]] = {}
        self._registered: set[str] = set()
        self._registered_until_s = 0.0
        self._disk_until_s = 0.0
        self._n_held_bytes = 0
        self._buckets: dict[str, tuple[float, float]] = {}
        """Per sounder the items it may still send, and when that was so."""

    async def refresh(self) -> None:
        """Learns which sounders are registered, if that is not known fresh; to be called before `admit`.

        Raises:
            Problem: 503, that is not known at all and the catalog does not answer.
        """
        if self._registered_until_s > time.monotonic():
            return
        is_first = self._registered_until_s == 0
        # Others go on meanwhile with what is known, except at the very beginning.
        self._registered_until_s = 0.0 if is_first else time.monotonic() + REGISTERED_CACHE_S

        def look_up() -> set[str]:
            return catalog.sounder_ids(catalog.open_catalog(self.settings))

        try:
            self._registered |= await asyncio.to_thread(look_up)
        except (SQLAlchemyError, catalog.CatalogError) as error:
            log.error("event=refresh-failed reason=%r", str(error))
            if is_first:
                raise Problem(
                    503, "Cannot authenticate", "the catalog is not available", Retry_After="30"
                ) from error
        self._registered_until_s = time.monotonic() + REGISTERED_CACHE_S

    def registered(self, sounder_id: str) -> None:
        """Notes a registration that this process has made: from now on the sounder needs its credential."""
        self._registered.add(sounder_id)

    def admit(self, items: Sequence[tuple[str | None, Any]], sounder_id: str | None) -> None:
        """Whether these items may land now, all of them or none.

        Raises:
            Problem: 401 a registered sounder's credential is missing, 403 the sounder must register first, 429 a
                sounder sends more than it may, 503 the disk is nearly full.
        """
        now_s = time.monotonic()
        if now_s > self._disk_until_s:
            self.check_disk()
            self._disk_until_s = now_s + FREE_DISK_CACHE_S
        senders = Counter(_sender(item, sounder_id) for _, item in items)
        if sounder_id is None:
            for sender in senders:
                if sender in self._registered:
                    detail = f"{sender!r} is registered: send its credential"
                    raise Problem(401, "Not authorized", detail, WWW_Authenticate=CHALLENGE)
                if not self.settings.accept_unregistered:
                    detail = f"{sender!r} is not registered: register it, then send its credential"
                    raise Problem(403, "Not registered", detail)
            self._spend(senders, now_s)
        else:
            self._spend({sounder_id: len(items)}, now_s)

    def _spend(self, n_items: Mapping[str, int], now_s: float) -> None:
        rate = self.settings.sounder_items_per_s
        if not rate:
            return
        full = rate * BURST_S
        left: dict[str, float] = {}
        for sender, wanted in n_items.items():
            had, at_s = self._buckets.get(sender, (full, now_s))
            left[sender] = min(full, had + rate * (now_s - at_s)) - wanted
            # What is more than a full bucket may pass on a full one, or it never could.
            if left[sender] < min(0.0, full - wanted):
                wait_s = math.ceil((min(0.0, full - wanted) - left[sender]) / rate)
                detail = f"{sender!r} sends more than {rate:g} items per second; wait {wait_s} s"
                raise Problem(429, "Too many", detail, Retry_After=str(wait_s))
        if len(self._buckets) + len(left) > BUCKETS:
            self._buckets = {
                sender: (had, at_s)
                for sender, (had, at_s) in self._buckets.items()
                if had + rate * (now_s - at_s) < full
            }
            if len(self._buckets) + len(left) > BUCKETS:
                detail = "more sounders send at once than can be watched"
                raise Problem(503, "Busy", detail, Retry_After=str(RETRY_LOAD_S))
        self._buckets.update((sender, (items, now_s)) for sender, items in left.items())

    def check_disk(self) -> None:
        """Raises `Problem` 503 when the spool's disk is nearly full or cannot be reached."""
        try:
            found = os.statvfs(self.commit.directory)
        except OSError as error:
            detail = f"the spool cannot be reached ({error.strerror}); send again later"
            raise Problem(503, "Cannot store", detail, Retry_After=str(RETRY_DISK_S)) from error
        if found.f_bavail * found.f_frsize < self.settings.min_free_disk_mb * 1e6:
            detail = f"less than {self.settings.min_free_disk_mb} MB of disk are free; send again later"
            raise Problem(503, "Disk nearly full", detail, Retry_After=str(RETRY_DISK_S))

    def hold(self, n_bytes: int) -> None:
        """Accounts for bytes that are about to be kept in memory, until `release`.

        Raises:
            Problem: 503, too much is in memory already.
        """
        if self._n_held_bytes + n_bytes > HELD_BYTES:
            raise Problem(503, "Busy", "too much is under way; send again", Retry_After=str(RETRY_LOAD_S))
        self._n_held_bytes += n_bytes

    def release(self, n_bytes: int) -> None:
        """Ends `hold`."""
        self._n_held_bytes -= n_bytes

    @contextmanager
    def holding(self) -> Iterator[Holding]:
        """A `hold` that grows, released at the end."""
        held = Holding(self)
        try:
            yield held
        finally:
            self.release(held.n_bytes)

    async def authenticate(self, credential: str) -> str:
        """The sounder a credential belongs to.

        Raises:
            Problem: 401, it is nobody's; 503, the catalog does not answer.
        """
        known_until_s, sounder_id = self._credentials.get(credential, (0.0, ""))
        if known_until_s > time.monotonic():
            return sounder_id

        def look_up() -> str | None:
            return catalog.credential_owner(catalog.open_catalog(self.settings), credential)

        try:
            owner = await asyncio.to_thread(look_up)
        except (SQLAlchemyError, catalog.CatalogError) as error:
            log.error("event=authenticate-failed reason=%r", str(error))
            raise Problem(
                503, "Cannot authenticate", "the catalog is not available", Retry_After="30"
            ) from error
        if owner is None:
            raise Problem(
                401,
                "Not authorized",
                "the credential is not known",
                WWW_Authenticate='Bearer realm="autonvis"',
            )
        if len(self._credentials) > 10_000:
            self._credentials.clear()
        self._credentials[credential] = (time.monotonic() + CREDENTIAL_CACHE_S, owner)
        return owner

    async def judge(
        self,
        items: Sequence[tuple[str | None, Any]],
        sounder_id: str | None,
        now: datetime,
        sent_at: datetime | None = None,
    ) -> list[dict[str, Any]]:
        """A receipt per (dataset, item); `sounder_id` is the credential's owner, None without a credential.

        `sent_at` is the sender's own time of sending, where it says it.
        """

        def receipts() -> list[dict[str, Any]]:
            max_future_at = now + timedelta(seconds=self.settings.max_future_s)
            clock_offset_s = None if sent_at is None else round((now - sent_at).total_seconds(), 3)
            server_time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            return [
                receipt(
                    dataset,
                    item,
                    sounder_id=sounder_id,
                    server_time=server_time,
                    max_future_at=max_future_at,
                    clock_offset_s=clock_offset_s,
                )
                for dataset, item in items
            ]

        return receipts() if len(items) <= LARGE_BATCH_ITEMS else await asyncio.to_thread(receipts)

    def submit(self, records: Sequence[Record]) -> asyncio.Future[None]:
        """Hands the records to the group commit; `stored` waits for what this returns.

        Raises:
            Problem: 503, more waits for the disk than may wait.
        """
        try:
            return asyncio.wrap_future(self.commit.submit(records))
        except Overloaded as error:
            raise Problem(503, "Busy", f"{error}; send again", Retry_After=str(RETRY_LOAD_S)) from error

    async def stored(self, durable: asyncio.Future[None]) -> None:
        """Returns when the submitted records are on disk.

        Raises:
            Problem: 503, they are not, none of them.
        """
        try:
            await durable
        except OSError as error:
            detail = f"the observations could not be stored ({error.strerror}); send them again later"
            raise Problem(503, "Cannot store", detail, Retry_After=str(RETRY_DISK_S)) from error


class Holding:
    """Bytes held by one request."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.n_bytes = 0

    def add(self, n_bytes: int) -> None:
        """As `Door.hold`."""
        self.door.hold(n_bytes)
        self.n_bytes += n_bytes


def _sender(item: Any, sounder_id: str | None) -> str:
    claimed = item.get("sounder_id") if isinstance(item, dict) else None
    return claimed[:128] if isinstance(claimed, str) else sounder_id or ""


def parse(body: bytes) -> Any:
    """The body's JSON. NaN and Infinity, which JSON forbids, are read too: the item is refused, not its neighbours."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        pass
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Problem(400, "Not JSON", f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise Problem(400, "Not JSON", "it is nested too deeply") from error
    except ValueError as error:
        raise Problem(400, "Not JSON", str(error)) from error


def check_count(items: list[Any]) -> None:
    """Raises `Problem` for nothing and for too much."""
    if not items:
        raise Problem(400, "Empty", "there is no item in the body")
    if len(items) > BATCH_ITEMS:
        raise Problem(413, "Too many", f"{len(items)} items; at most {BATCH_ITEMS} a request")


def dataset_of(item: Any, default: str | None) -> str | None:
    """The dataset an item names itself, or else `default`; None when it is unknown."""
    named = item.get("dataset", default) if isinstance(item, dict) else default
    return named if named in DATASETS else None


def split(body: bytes, named: list[tuple[str | None, Any]]) -> list[tuple[str | None, bytes]]:
    """What to land per dataset: the body itself, or when it mixes datasets each one's items, byte by byte as sent."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in named))
    if len(datasets) == 1:
        return [(datasets[0], body)]
    raw = [item.raw() for item in decode(body)]
    return [
        (dataset, b"[" + b",".join(raw[i] for i, (name, _) in enumerate(named) if name == dataset) + b"]")
        for dataset in datasets
    ]
