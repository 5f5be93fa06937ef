"""HTTP pull: fetches what public services publish and spools it as it came.

`PacedClient` is the polite way out: at most one request per host and pace, bounded time and size, retries where they
help, conditional requests, a circuit breaker per host, and a User-Agent that says who asks. `pull_source` runs one source of `tasks.landing.sources`, series by series
(a station, a product), from where the catalog says it was left.
"""

from __future__ import annotations

import email.utils
import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import metadata

import httpx
from sqlalchemy import Engine

from tasks import catalog
from tasks.landing.breaker import Admission, Breaker, BreakerOpenError
from tasks.landing.spool import SpoolWriter
from tasks.settings import Settings

log = logging.getLogger(__name__)

ATTEMPTS = 4
BACK_OFF_S = 1.0
"""First wait after a failure; doubled after each, with jitter."""
RETRY_AFTER_S = 60.0
"""Longest wait that a server may ask for and get; beyond it the next run tries again."""
RESPONSE_BYTES = 64 * 2**20
RESPONSE_TIMEOUTS = 6
"""A whole response may take this many times the timeout of one read: a server that drips is not waited for."""
LOOKBACK = timedelta(days=2)
"""How far back a series is fetched that has never been fetched, or not for long."""


class PullError(RuntimeError):
    """A source did not give what was asked; the message names the address and what it answered."""


class HostFailedError(PullError):
    """A request came to nothing after all its retries: the host is down, overloaded or out of reach."""

    def __init__(self, message: str, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


class HostPausedError(PullError):
    """The host failed so often that it is left alone for a while; the message says until when."""


@dataclass(frozen=True)
class PullResult:
    """What a pull landed; `n_records` counts answers with data, `n_items` the observations in them."""

    source: str
    n_records: int
    n_items: int


def user_agent() -> str:
    """`AutoNVIS/<version>` and where to read about it, so that an operator can see who asks and complain."""
    about = metadata("autonvis")
    pages = [page.partition(",")[2].strip() for page in about.get_all("Project-URL") or []]
    page = f" (+{pages[0]})" if pages else " (ionospheric nowcast)"
    return f"AutoNVIS/{about['Version']}{page}"


class PacedClient:
    """A synchronous HTTP client for services that ask to be treated gently; use as a context manager."""

    def __init__(
        self,
        *,
        timeout_s: float,
        pace_s: float,
        attempts: int = ATTEMPTS,
        back_off_s: float = BACK_OFF_S,
        sleep: Callable[[float], None] = time.sleep,
        breaker: Breaker | None = None,
        remembered: Callable[[str], catalog.PulledResource | None] = lambda _: None,
    ) -> None:
        """Without a `breaker` every request goes out; `remembered` gives what is known of an address."""
        self.timeout_s = timeout_s
        self.pace_s = pace_s
        self.attempts = attempts
        self.back_off_s = back_off_s
        self._sleep = sleep
        self._breaker = breaker
        self.remembered = remembered
        self._fresh: list[catalog.PulledResource] = []
        self._next_s: dict[str, float] = {}
        self._http = httpx.Client(
            timeout=timeout_s, headers={"User-Agent": user_agent()}, follow_redirects=True, max_redirects=3
        )

    def __enter__(self) -> PacedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, url: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a 200 answer.

        Waits out 429 and 503 as the server asks (`Retry-After`, within bounds), repeats after other 5xx and broken
        connections, and gives up at once on what will not change.

        Raises:
            PullError: no 200 answer, or one that is too long or too slow; `HostPausedError` when the host was not asked.
        """
        return self._get(self._http.build_request("GET", url, params=params))[2]

    def get_changed(self, url: str) -> bytes | None:
        """As `get`, or None when the document is what it was when it last landed: the server says so (304, by ETag
        or Last-Modified), or its bytes do. `take_fresh` then has what to remember of it.
        """
        request = self._http.build_request("GET", url)
        address = str(request.url)
        known = self.remembered(address)
        if known is not None and known.etag is not None:
            request.headers["If-None-Match"] = known.etag
        if known is not None and known.last_modified is not None:
            request.headers["If-Modified-Since"] = known.last_modified
        status, headers, body = self._get(request)
        if status == 304:
            return None
        seen = catalog.PulledResource(
            address=address,
            etag=headers.get("etag"),
            last_modified=headers.get("last-modified"),
            sha256=hashlib.sha256(body).hexdigest(),
            is_landed=True,
            seen_at=datetime.now(UTC),
        )
        self._fresh.append(seen)
        return None if known is not None and known.is_landed and known.sha256 == seen.sha256 else body

    def note_seen(self, resource: catalog.PulledResource) -> None:
        """Adds to what `take_fresh` gives: what a source has seen by other means."""
        self._fresh.append(resource)

    def take_fresh(self) -> list[catalog.PulledResource]:
        """What was seen since the last call; to be remembered only once the bytes are on disk."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _get(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        host = request.url.netloc.decode()
        attempts = self.attempts
        if self._breaker is not None:
            try:
                attempts = 1 if self._breaker.admit(host) is Admission.PROBE else attempts
            except BreakerOpenError as error:
                raise HostPausedError(str(error)) from error
        try:
            answer = self._try(request, attempts)
        except HostFailedError as error:
            if self._breaker is not None:
                self._breaker.failed(host, error.problem)
            raise
        except PullError:  # it answers, though not what was wanted
            if self._breaker is not None:
                self._breaker.succeeded(host)
            raise
        if self._breaker is not None:
            self._breaker.succeeded(host)
        return answer

    def _try(self, request: httpx.Request, attempts: int) -> tuple[int, httpx.Headers, bytes]:
        problem = ""
        for attempt in range(attempts):
            self._pace(request.url.host)
            wait_s = self.back_off_s * 2**attempt * random.uniform(1.0, 1.5)
            try:
                status, headers, body = self._exchange(request)
            except httpx.TimeoutException:
                problem = f"no answer within {self.timeout_s:g} s"
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                is_conditional = not {"if-none-match", "if-modified-since"}.isdisjoint(request.headers)
                if status == 200 or (status == 304 and is_conditional):
                    return status, headers, body
                problem = f"HTTP status {status}"
                if status != 429 and status < 500:
                    raise PullError(f"{request.url} answered {problem}")
                asked_s = _retry_after_s(headers.get("retry-after"))
                if asked_s is not None and asked_s > RETRY_AFTER_S:
                    message = f"{request.url} answered {problem} and asks to wait {asked_s:.0f} s"
                    raise HostFailedError(message, problem)
                wait_s = max(wait_s, asked_s or 0.0)
            if attempt + 1 < attempts:
                log.info("%s: %s; trying again in %.1f s", request.url, problem, wait_s)
                self._sleep(wait_s)
        times = "once" if attempts == 1 else f"{attempts} times, last"
        raise HostFailedError(f"{request.url} failed {times} with {problem}", problem)

    def _pace(self, host: str) -> None:
        wait_s = self._next_s.get(host, 0.0) - time.monotonic()
        if wait_s > 0:
            self._sleep(wait_s)
        self._next_s[host] = time.monotonic() + self.pace_s

    def _exchange(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        deadline_s = time.monotonic() + RESPONSE_TIMEOUTS * self.timeout_s
        body = bytearray()
        response = self._http.send(request, stream=True)
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > RESPONSE_BYTES:
                    raise PullError(f"{request.url} answered more than {RESPONSE_BYTES} bytes")
                if time.monotonic() > deadline_s:
                    problem = f"took more than {RESPONSE_TIMEOUTS * self.timeout_s:g} s to answer"
                    raise HostFailedError(f"{request.url} {problem}", problem)
        finally:
            response.close()
        return response.status_code, response.headers, bytes(body)


def pull_source(settings: Settings, name: str, *, now: datetime | None = None) -> PullResult:
    """Fetches every series of the source `name` since it was last fetched, into `spool/pull`.

    The catalog's cursor of a series moves to its newest observation once that is on disk. A series that fails does
    not keep the others from landing.

    Raises:
        ValueError: the source is unknown or not configured.
        PullError: a series failed; the message names all that did. What the others gave has landed.
    """
    from tasks.landing.sources import open_source  # the sources need this module

    source = open_source(name, settings)
    engine = catalog.open_catalog(settings)
    until = now or datetime.now(UTC)
    n_records = n_items = 0
    problems = []
    client = PacedClient(
        timeout_s=settings.http_timeout_s,
        pace_s=settings.http_pace_s,
        breaker=Breaker(engine),
        remembered=lambda address: catalog.get_resource(engine, address),
    )
    with client, SpoolWriter(settings.spool_root / "pull") as writer:
        for series in source.series:
            cursor = catalog.get_cursor(engine, name, series)
            since = until - LOOKBACK if cursor is None else max(cursor - source.overlap, until - LOOKBACK)
            newest = cursor
            try:
                for record in source.fetch(client, series, since, until):
                    writer.append_many([record])
                    _remember(engine, client)
                    items = source.parse(record)
                    times = [_time_of(item) for item in items if "observed_at" in item]
                    newest = max([*times, newest] if newest is not None else times, default=None)
                    n_records += 1
                    n_items += len(items)
                _remember(engine, client)
            except PullError as error:
                _remember(engine, client, except_landed=True)  # what did not land is asked for again
                problems.append(f"{series}: {error}")
                if isinstance(error, HostPausedError):
                    break
            if newest is not None and newest != cursor:
                catalog.put_cursor(engine, name, series, newest)
    log.info("%s: %d answers with %d observations", name, n_records, n_items)
    if problems:
        raise PullError(f"source {name}: " + "; ".join(problems))
    return PullResult(name, n_records, n_items)


def _remember(engine: Engine, client: PacedClient, *, except_landed: bool = False) -> None:
    for resource in client.take_fresh():
        if not (except_landed and resource.is_landed):
            catalog.put_resource(engine, resource)


def _time_of(item: Mapping[str, object]) -> datetime:
    return datetime.fromisoformat(str(item["observed_at"]))


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None when it is neither."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
