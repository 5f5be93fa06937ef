"""What every landing door shares: who sends, what was sent, the receipts, and the wait until it is on disk.

HTTP (`services/gateway.py`) and TCP (`services/tcp.py`) differ in how bytes arrive and how answers leave, in nothing
else. Whatever is not landed is a `Problem`, in the words of RFC 9457.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
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
RETRY_DISK_S = 30
RETRY_LOAD_S = 1


class Problem(Exception):  # noqa: N818 - named as in RFC 9457
    """Why something was not landed: `detail` tells the sender what to do."""

    def __init__(self, status: int, title: str, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail = status, title, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def document(self) -> dict[str, Any]:
        """The problem as RFC 9457 writes it; bytes that are no text are replaced."""
        document = {"type": "about:blank", "title": self.title, "status": self.status, "detail": self.detail}
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
        self, items: Sequence[tuple[str | None, Any]], sounder_id: str | None, now: datetime
    ) -> list[dict[str, Any]]:
        """A receipt per (dataset, item); `sounder_id` is the credential's owner, None without a credential."""

        def receipts() -> list[dict[str, Any]]:
            max_future_at = now + timedelta(seconds=self.settings.max_future_s)
            server_time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            return [
                receipt(
                    dataset, item, sounder_id=sounder_id, server_time=server_time, max_future_at=max_future_at
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
