"""A drop: a folder, or an HTTP directory listing, into which others put CSV or Parquet files of the contracts.

Each new file lands once, raw, with its name and hash; curation reads it, and one that cannot be read goes to quarantine
whole. What a file holds is said by its folder or the beginning of its name (`measurements/…`, `indices-2026.csv`),
ionograms if neither does.

A file is taken when it ends in the final suffix, which its writer gives it by a rename, or when two looks a minute or
more apart found it the same. Hidden files, those beginning with `_`, symbolic links and other suffixes are left alone.
A file in a folder that changes later lands again; over HTTP a name that has landed is not asked for any more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from tasks import catalog
from tasks.contracts import SUBMITTED_DATASETS
from tasks.landing.pull import HostPausedError, PacedClient, PullError
from tasks.landing.spool import Record
from tasks.settings import Settings

log = logging.getLogger(__name__)

SETTLE = timedelta(minutes=1)
FILE_BYTES = 32 * 2**20
"""A batch that curation holds in memory with ease."""
FILES_PER_PULL = 100
KINDS = ("csv", "parquet")
DEFAULT_DATASET = "ionograms"


def content_type(dataset: str, kind: str) -> str:
    """How a dropped file is labelled in the spool, so that curation knows how to read it."""
    return f"application/vnd.autonvis.{dataset}+{kind}"


def _parse(dataset: str, kind: str, payload: bytes) -> list[dict[str, Any]]:
    from tasks.observation_files import read_payload  # brings pandas along

    return read_payload(payload, kind=kind, dataset=dataset)


PARSERS: Mapping[str, Callable[[bytes], list[dict[str, Any]]]] = {
    content_type(dataset, kind): partial(_parse, dataset, kind)
    for dataset in SUBMITTED_DATASETS
    for kind in KINDS
}


@dataclass(frozen=True)
class Drop:
    """The drop at `location`, a folder or the URL of a directory listing."""

    location: str
    final_suffix: str
    series: tuple[str, ...] = ("files",)
    name: str = "drop"
    licence: str | None = None  # the files' own to state
    overlap: timedelta = timedelta(0)

    def fetch(self, client: PacedClient, series: str, since: datetime, until: datetime) -> Iterator[Record]:
        """The new files that are whole, each as one record.

        Raises:
            PullError: the drop cannot be listed, or some of its files cannot be had; the others were yielded before.
        """
        is_remote = _is_remote(self.location)
        files = self._listed(client) if is_remote else self._found()
        problems = []
        n_looked = 0
        for name, address in files.items():
            if n_looked == FILES_PER_PULL:
                log.info("%s: %d files were read, the next pull takes the others", self.location, n_looked)
                break
            try:
                look = _look_at_url if is_remote else _look_at_file
                payload, seen = look(client, address, self._is_final(name), until)
            except HostPausedError:
                raise
            except (PullError, OSError) as error:
                problems.append(f"{name}: {error}")
                continue
            if seen is None:
                continue
            client.note_seen(seen)
            n_looked += is_remote or payload is not None
            if payload is None:
                continue
            # The same bytes under another name, or touched, are not new. Held apart from the looks at a name.
            content = f"{self.location}#sha256:{seen.sha256}"
            if client.remembered(content) is not None:
                continue
            client.note_seen(_seen(content, None, payload, True, until))
            yield Record(
                "pull",
                _dataset(name),
                None,
                datetime.now(UTC),
                content_type(_dataset(name), str(self._kind(name))),
                payload,
                self.name,
                self.licence,
                origin=f"{name} sha256:{seen.sha256}",
            )
        if problems:
            raise PullError("; ".join(problems))

    def parse(self, record: Record) -> list[dict[str, Any]]:
        """The rows of a file as submission items; of one that cannot be read none, which is curation's to say."""
        try:
            return PARSERS[record.content_type](record.payload)
        except ValueError:
            return []

    def _is_final(self, name: str) -> bool:
        return bool(self.final_suffix) and name.endswith(self.final_suffix)

    def _kind(self, name: str) -> str | None:
        bare = name.removesuffix(self.final_suffix) if self._is_final(name) else name
        for candidate in (bare, name):
            for kind in KINDS:
                if candidate.lower().endswith(f".{kind}"):
                    return kind
        return None

    def _found(self) -> dict[str, str]:
        root = Path(self.location)
        if not root.is_dir():
            raise PullError(f"{root} is no folder: create it, or set AUTONVIS_DROP to the one that is meant")
        found = {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if self._kind(name) is None or _is_private(name) or path.is_symlink() or not path.is_file():
                continue
            if not name.isprintable():
                log.warning("%r is left alone: its name is not printable text in UTF-8", str(path))
                continue
            found[name] = str(path)
        return found

    def _listed(self, client: PacedClient) -> dict[str, str]:
        root = self.location
        found: dict[str, str] = {}
        folders = [root]
        for folder in folders:
            links = _Links()
            links.feed(client.get(folder).decode("utf-8", errors="replace"))
            for link in links.found:
                address = urljoin(folder, link)
                name = unquote(address.removeprefix(root))
                if not address.startswith(folder) or urlsplit(address).query or _is_private(name):
                    continue
                if folder == root and name.rstrip("/") in SUBMITTED_DATASETS and name.endswith("/"):
                    folders.append(address)
                elif (
                    "/" not in unquote(address.removeprefix(folder))
                    and self._kind(name)
                    and name.isprintable()
                ):
                    found[name] = address
        return dict(sorted(found.items()))


def open_drop(settings: Settings) -> Drop:
    """The drop of the settings.

    Raises:
        ValueError: none is configured.
    """
    if not settings.drop:
        raise ValueError("source drop needs AUTONVIS_DROP: a folder, or the URL of a directory listing")
    is_remote = _is_remote(settings.drop)
    location = settings.drop.rstrip("/") + "/" if is_remote else str(Path(settings.drop).resolve())
    return Drop(location, settings.drop_final_suffix)


def _is_remote(location: str) -> bool:
    return urlsplit(location).scheme in ("http", "https")


Look = tuple[bytes | None, catalog.PulledResource | None]
"""The bytes when the file is whole and new, and what to remember of this look; None when nothing has changed."""


def _look_at_file(client: PacedClient, address: str, is_final: bool, now: datetime) -> Look:
    path = Path(address)
    version = _version(path)
    known = client.remembered(address)
    is_same = known is not None and known.etag == version
    if is_same and known is not None and (known.is_landed or (known.seen_at > now - SETTLE and not is_final)):
        return None, None
    n_bytes = path.stat().st_size
    if n_bytes > FILE_BYTES:
        raise PullError(f"has {n_bytes} bytes, more than {FILE_BYTES}: split it")
    if not is_final and not is_same:
        return None, _seen(address, version, b"", False, now)
    payload = path.read_bytes()
    if _version(path) != version:  # it is being written after all
        return None, _seen(address, _version(path), b"", False, now)
    return payload, _seen(address, version, payload, True, now)


def _look_at_url(client: PacedClient, address: str, is_final: bool, now: datetime) -> Look:
    known = client.remembered(address)
    if known is not None and (known.is_landed or (known.seen_at > now - SETTLE and not is_final)):
        return None, None
    payload = client.get(address)
    if len(payload) > FILE_BYTES:
        raise PullError(f"has {len(payload)} bytes, more than {FILE_BYTES}: split it")
    digest = hashlib.sha256(payload).hexdigest()
    is_whole = is_final or (known is not None and known.sha256 == digest)
    return payload if is_whole else None, _seen(address, None, payload, is_whole, now)


def _seen(
    address: str, version: str | None, payload: bytes, is_landed: bool, now: datetime
) -> catalog.PulledResource:
    return catalog.PulledResource(
        address=address,
        etag=version,
        last_modified=None,
        sha256=hashlib.sha256(payload).hexdigest(),
        is_landed=is_landed,
        seen_at=now,
    )


def _version(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ino}"


def _is_private(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _dataset(name: str) -> str:
    folder, _, file = name.rpartition("/")
    for dataset in SUBMITTED_DATASETS:
        if dataset in folder.split("/") or file.startswith(dataset):
            return dataset
    return DEFAULT_DATASET


class _Links(HTMLParser):
    """The targets of a page's links, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
