"""Every parser of bytes from outside, as a function that raises only where the parser is wrong.

`search.py` looks for such bytes guided by coverage; `test_parsers.py` tries the corpus and random changes of it.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from unittest.mock import patch

from tasks import submissions
from tasks.landing.giro_text import is_giro_text, parse_giro_text
from tasks.landing.sources import PARSERS
from tasks.landing.spool import SegmentError, read_segment
from tasks.observation_files import ObservationFileError, read_observations
from tasks.submissions import DecodeError, decode

CORPUS = Path(__file__).with_name("corpus")
_PREFIX = struct.Struct("<III")


def submitted(data: bytes) -> None:
    """Both ways of reading submissions say the same, and each item gives its bytes."""
    fast = _said(data)
    with patch.object(submissions, "_plain_delivery", lambda _: None):
        assert fast == _said(data)


def _said(data: bytes) -> object:
    try:
        return [(repr(item.value), item.fault, item.raw()) for item in decode(data)]
    except DecodeError as error:
        return str(error)


def giro(data: bytes) -> None:
    """No text at all makes the reader of GIRO's tables raise."""
    text = data.decode("utf-8", "replace")
    is_giro_text(text)
    parse_giro_text(text)
    with contextlib.suppress(DecodeError):
        for item in decode(data, "text/plain"):
            item.raw()


def swpc(data: bytes) -> None:
    """An answer is read or refused."""
    for content_type in PARSERS:
        with contextlib.suppress(DecodeError):
            for item in decode(data, content_type):
                item.raw()


def segment(data: bytes) -> None:
    """A segment is read up to its damage, also where the checksum of its first record holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.seg"
        for content in (data, _with_checksum(data)):
            path.write_bytes(content)
            with contextlib.suppress(SegmentError):
                list(read_segment(path))


def _with_checksum(data: bytes) -> bytes:
    if len(data) < _PREFIX.size:
        return data
    n_header, n_payload, _ = _PREFIX.unpack_from(data)
    end = _PREFIX.size + n_header + n_payload
    crc = zlib.crc32(data[_PREFIX.size : end], zlib.crc32(data[:8]))
    return data[:8] + crc.to_bytes(4, "little") + data[_PREFIX.size :]


def _file_with(name: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            with contextlib.suppress(ObservationFileError):
                read_observations(path, start=date(2022, 9, 1))

    return read


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "submissions": submitted,
    "giro": giro,
    "swpc": swpc,
    "segment": segment,
    "csv": _file_with("x.csv"),
    "giro-file": _file_with("x.txt"),
    "dat": _file_with("RO041.dat"),
    "parquet": _file_with("x.parquet"),
    "gzip": _file_with("x.csv.gz"),
}
