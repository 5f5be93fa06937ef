"""What every landing door shares: who sends, what was sent, the receipts, and the wait until it is on disk.

HTTP (`services/gateway.py`) and TCP (`services/tcp.py`) differ in how bytes arrive and how answers leave, in nothing
else. Whatever is not landed is a `Problem`, in the words of RFC 9457.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Engine

from tasks import catalog
from tasks.item_check import Verdict
from tasks.landing.group_commit import GroupCommit, Overloaded
from tasks.landing.rates import Buckets, Exceeded, TooMany
from tasks.landing.receipts import Judge, Sent
from tasks.landing.recent import RecentObservations, Standing
from tasks.landing.spool import Record
from tasks.metrics.doors import count_landed
from tasks.revisions import CONFLICT, how_to_correct
from tasks.settings import UNDECLARED, Settings
from tasks.submissions import DecodeError, Delivery, read_delivery

log = logging.getLogger(__name__)
T = TypeVar("T")

BATCH_ITEMS = 10_000
LARGE_BATCH_ITEMS = 50
"""Above this the items are judged in a thread, so that single posts do not wait behind a large batch."""
CREDENTIAL_CACHE_S = 10.0
"""A credential that has expired or was revoked is refused within this time."""
REGISTERED_CACHE_S = 10.0
"""A sounder registered through another process needs its credential within this time."""
FREE_DISK_CACHE_S = 1.0
HELD_BYTES = 128 * 2**20
"""Request bytes in memory at most; what they decode to is several times as much."""
BURST_S = 300.0
"""A sounder that was silent may send this many seconds' worth at once."""
REGISTRATION_BURST_S = 60.0
RETRY_DISK_S = 30
RETRY_CATALOG_S = 30
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
        self.recent = RecentObservations()
        self._credentials: dict[str, tuple[float, str]] = {}
        self._tiers: dict[str, str] = {}
        """Of every registered sounder."""
        self._registered_until_s = 0.0
        self._first_refresh = asyncio.Lock()
        self._disk_until_s = 0.0
        self._n_held_bytes = 0
        self._rates = settings.items_per_s_by_tier
        self._items = Buckets(BURST_S)
        self._registrations = Buckets(REGISTRATION_BURST_S)

    async def refresh(self) -> None:
        """Learns which sounders are registered, if that is not known fresh; to be called before `admit`.

        Raises:
            Problem: 503, that is not known at all and the catalog does not answer.
        """
        if self._registered_until_s > time.monotonic():
            return
        if self._registered_until_s > 0:
            # Others go on meanwhile with what is known; only at the very beginning all wait for the same answer.
            self._registered_until_s = time.monotonic() + REGISTERED_CACHE_S
            with suppress(Problem):
                self._tiers |= await self.ask(catalog.sounder_tiers)
            return
        async with self._first_refresh:
            if self._registered_until_s == 0:
                self._tiers |= await self.ask(catalog.sounder_tiers)
                self._registered_until_s = time.monotonic() + REGISTERED_CACHE_S

    def registered(self, sounder_id: str, tier: str) -> None:
        """Notes a registration that this process has made: from now on the sounder needs its credential."""
        self._tiers[sounder_id] = tier

    def admit(self, items: Sequence[Sent], sounder_id: str | None) -> None:
        """Whether these items may land now, all of them or none.

        Raises:
            Problem: 401 a registered sounder's credential is missing, 403 the sounder must register first, 429 a
                sounder sends more than it may, 503 the disk is nearly full.
        """
        now_s = time.monotonic()
        if now_s > self._disk_until_s:
            self.check_disk()
            self._disk_until_s = now_s + FREE_DISK_CACHE_S
        senders = Counter(_sender(sent.value, sounder_id) for sent in items)
        if sounder_id is None:
            for sender in senders:
                if sender in self._tiers:
                    detail = f"{sender!r} is registered: send its credential"
                    raise Problem(401, "Not authorized", detail, WWW_Authenticate=CHALLENGE)
                if not self.settings.accept_unregistered:
                    detail = f"{sender!r} is not registered: register it, then send its credential"
                    raise Problem(403, "Not registered", detail)
            self._spend(senders)
        else:
            self._spend({sounder_id: len(items)})

    def _spend(self, n_items: Mapping[str, int]) -> None:
        rates = self._rates
        wanted = {
            sender: (number, rates[self._tiers.get(sender, UNDECLARED)]) for sender, number in n_items.items()
        }
        try:
            self._items.spend(wanted)
        except Exceeded as error:
            tier = self._tiers.get(error.name, UNDECLARED)
            detail = f"{error.name!r} sends more than {error.rate_per_s:g} items per second ({tier}); wait {error.wait_s} s"
            raise Problem(429, "Too many", detail, Retry_After=str(error.wait_s)) from error
        except TooMany as error:
            detail = "more sounders send at once than can be watched"
            raise Problem(503, "Busy", detail, Retry_After=str(RETRY_LOAD_S)) from error

    def admit_registration(self, address: str) -> None:
        """Whether this address may register a sounder, or change one, now.

        Raises:
            Problem: 429, it has done so too often; 503, too many do.
        """
        rate = self.settings.registrations_per_min / 60
        try:
            self._registrations.spend({address: (1, rate)})
        except Exceeded as error:
            detail = (
                f"more than {60 * rate:g} registrations per minute from one address; wait {error.wait_s} s"
            )
            raise Problem(429, "Too many", detail, Retry_After=str(error.wait_s)) from error
        except TooMany as error:
            raise Problem(503, "Busy", "too many register at once", Retry_After=str(RETRY_LOAD_S)) from error

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

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """What the catalog answers.

        Raises:
            Problem: 503, it does not.
        """
        try:
            return await asyncio.to_thread(lambda: question(catalog.open_catalog(self.settings)))
        except catalog.CatalogError as error:
            log.error("event=catalog-failed reason=%r", str(error))
            detail = f"{error.reason}; send it again later"
            raise Problem(503, "Catalog not available", detail, Retry_After=str(RETRY_CATALOG_S)) from error

    async def authenticate(self, credential: str) -> str:
        """The sounder a credential belongs to.

        Raises:
            Problem: 401, it is nobody's; 503, the catalog does not answer.
        """
        known_until_s, sounder_id = self._credentials.get(credential, (0.0, ""))
        if known_until_s > time.monotonic():
            return sounder_id

        owner = await self.ask(
            lambda engine: catalog.credential_owner(engine, credential, now=datetime.now(UTC))
        )
        if owner is None:
            raise Problem(
                401,
                "Not authorized",
                "the credential is not known, has expired or was revoked",
                WWW_Authenticate=CHALLENGE,
            )
        if len(self._credentials) > 10_000:
            self._credentials.clear()
        self._credentials[credential] = (time.monotonic() + CREDENTIAL_CACHE_S, owner)
        return owner

    async def judge(self, items: Sequence[tuple[Judge, Sent]]) -> list[dict[str, Any]]:
        """A receipt per item, as `land` would give it; nothing is stored."""
        receipts, verdicts = await self._receipts(items)
        standings = self.recent.claim(verdicts)
        self.recent.release(verdicts, standings)
        return _with_standings(receipts, verdicts, standings)

    async def land(
        self, records: Sequence[Record], items: Sequence[tuple[Judge, Sent]]
    ) -> list[dict[str, Any]]:
        """Lands the records; returns the receipt of each item in them once they are on disk.

        Raises:
            Problem: 503, more waits for the disk than may wait, or the disk refuses: nothing is stored.
        """
        began_s = time.perf_counter()
        receipts, verdicts = await self._receipts(items)
        # Claimed in the order in which they are handed to the commit, which is the order on disk.
        standings = self.recent.claim(verdicts)
        n_released = self.recent.n_released
        try:
            await self._commit(records)
        except BaseException:
            self.recent.release(verdicts, standings)
            raise
        if self.recent.n_released != n_released:
            # What some of these were compared with was not stored after all. What is stored is earlier than these.
            again = self.recent.claim(verdicts)
            standings = [
                first if first is Standing.NEW else now for first, now in zip(standings, again, strict=True)
            ]
        receipts = _with_standings(receipts, verdicts, standings)
        count_landed(records[0].channel, receipts, time.perf_counter() - began_s)
        return receipts

    async def _receipts(
        self, items: Sequence[tuple[Judge, Sent]]
    ) -> tuple[list[dict[str, Any]], list[Verdict]]:
        def receipts() -> tuple[list[dict[str, Any]], list[Verdict]]:
            judged = [judge.receipt(sent) for judge, sent in items]
            return [receipt for receipt, _ in judged], [verdict for _, verdict in judged]

        return receipts() if len(items) <= LARGE_BATCH_ITEMS else await asyncio.to_thread(receipts)

    async def _commit(self, records: Sequence[Record]) -> None:
        try:
            durable = asyncio.wrap_future(self.commit.submit(records))
        except Overloaded as error:
            raise Problem(503, "Busy", f"{error}; send again", Retry_After=str(RETRY_LOAD_S)) from error
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


def _with_standings(
    receipts: list[dict[str, Any]], verdicts: Sequence[Verdict], standings: Sequence[Standing | None]
) -> list[dict[str, Any]]:
    """The receipts of the accepted, corrected where their observation is known already."""
    for receipt, verdict, standing in zip(receipts, verdicts, standings, strict=True):
        if standing is Standing.REPEATED:
            receipt["status"] = "duplicate"
        elif standing is Standing.CONTRADICTING:
            receipt["status"] = "rejected"
            receipt["codes"] = [CONFLICT]
            receipt["reasons"] = [
                f"{CONFLICT}: {receipt['observation_id']} has landed before with other content; the first one counts, "
                f"this one is kept in quarantine; {how_to_correct(verdict.revision)}"
            ]
    return receipts


def read(body: bytes) -> Delivery:
    """The items of a body, read as curation will read them.

    Raises:
        Problem: 400, it cannot be read as a whole.
    """
    try:
        return read_delivery(body)
    except DecodeError as error:
        raise Problem(400, "Not JSON", str(error)) from error


def check_count(items: Sequence[Any]) -> None:
    """Raises `Problem` for nothing and for too much."""
    if not items:
        raise Problem(400, "Empty", "there is no item in the body")
    if len(items) > BATCH_ITEMS:
        raise Problem(413, "Too many", f"{len(items)} items; at most {BATCH_ITEMS} a request")


def split(body: bytes, delivery: Delivery, items: Sequence[Sent]) -> list[tuple[str | None, bytes]]:
    """What to land per dataset: the body itself, or when it mixes datasets each one's items, byte by byte as sent."""
    datasets = list(dict.fromkeys(sent.dataset for sent in items))
    if len(datasets) == 1:
        return [(datasets[0], body)]
    raw = [delivery.raw(position) for position in range(len(items))]
    return [
        (dataset, b"[" + b",".join(raw[i] for i, sent in enumerate(items) if sent.dataset == dataset) + b"]")
        for dataset in datasets
    ]
