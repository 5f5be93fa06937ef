"""What one delivery says: from the bytes of a record to submitted items, each with its own bytes.

Bytes that cannot be read raise `DecodeError`; within a list, an item that is at fault does not touch the others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from tasks.landing.giro_text import is_giro_text, parse_giro_text

WHITESPACE = re.compile(r"[ \t\n\r]*")
SIMULATED = "simulated"
ITEMS_KEY = "items"  # {"items": [...]} is a list with room for the sender's own notes beside it


CUT_OFF = "application/vnd.autonvis.cut-off"
"""Content type of the beginning of what was too large to be kept whole."""


class DecodeError(ValueError):
    """The bytes of a record are not what they claim to be."""


@dataclass(frozen=True)
class Item:
    """One submitted item: its decoded value, or the reason it has none, and how to get its bytes as received."""

    value: Any
    raw: Callable[[], bytes]
    fault: str | None = None


class RepeatedKeys(dict[str, Any]):
    """A JSON object that names a key twice: which value was meant is not ours to guess."""


class Delivery(NamedTuple):
    """The items of one record: the decoded values, by position the reason of those that have none to be trusted, the
    bytes of the item at a position as received, and what stood beside the list of items, where there was such a place.
    """

    values: list[Any]
    faults: Mapping[int, str]
    raw: Callable[[int], bytes]
    envelope: Mapping[str, Any] | None = None


def decode(payload: bytes, content_type: str = "application/json") -> list[Item]:
    """The items of one record one by one; see `read_delivery`."""
    delivery = read_delivery(payload, content_type)
    return [
        Item(value, partial(delivery.raw, position), delivery.faults.get(position))
        for position, value in enumerate(delivery.values)
    ]


def read_delivery(payload: bytes, content_type: str = "application/json") -> Delivery:
    """Items of one record: JSON (one object, a list, or {"items": [...]}), as text GIRO's tables, or what a pull source
    answers in a content type of its own.

    NaN and Infinity are read as such, so that the contract refuses the value and not its neighbours.

    Raises:
        DecodeError: the bytes are not UTF-8, not JSON, nested too deeply, or of no known format.
    """
    is_json = content_type.partition(";")[0].strip() in ("application/json", "")
    if is_json and (delivery := _plain_delivery(payload)) is not None:
        return delivery
    if content_type == CUT_OFF:
        raise DecodeError("too large: only its beginning was kept")
    is_text = content_type.startswith("text/")
    if not is_json and not is_text:
        return _decode_by_source(payload, content_type)
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"byte {error.start} (0x{payload[error.start]:02x}) is not UTF-8") from error
    if is_text:
        return _decode_table(text)
    return _json_delivery(payload, text)


def with_provenance(
    value: Any,
    *,
    sounder_id: str | None,
    received_at: datetime,
    available_at: datetime,
    source: str | None,
    licence: str | None,
    batch_id: str | None,
) -> Any:
    """The item with what only the landing may say; a sender's own words on it are overruled.

    Two exceptions: an item may call itself simulated, by whatever channel it comes, which claims nothing; and the
    licence is the owner's to state where the source of the record has none.
    """
    if not isinstance(value, dict):
        return value
    claimed = value.get("sounder_id")
    return {
        **value,
        "sounder_id": sounder_id if claimed is None else claimed,
        "received_at": received_at,
        "available_at": available_at,
        "source": SIMULATED if value.get("source") == SIMULATED else source,
        "licence": value.get("licence") if licence is None else licence,
        "batch_id": batch_id,
    }


def _plain_delivery(payload: bytes) -> Delivery | None:
    """What `_json_delivery` gives, several times faster, of flat objects and those with flat objects inside, alone, in
    a list or in an envelope; None of all else.

    Where no quote follows a backslash, every quote begins or ends a text. So the decoded keys and texts account for all
    quotes exactly when no key was named twice, which this decoder does not report.
    """
    if b'\\"' in payload:
        return None
    try:
        document = _PLAIN.decode(payload)
    except ValueError:  # msgspec's own, or bytes that are not UTF-8
        return None
    outer: list[dict[str, Any]] = []
    envelope, key = None, None
    if isinstance(document, dict):
        values: list[Any] = [document]
        lists = [value for value in document.values() if isinstance(value, list)]
        if lists:
            if len(lists) > 1 or document.get(ITEMS_KEY) is not lists[0]:
                return None
            values, key, outer = lists[0], ITEMS_KEY, [document]
            envelope = {name: value for name, value in document.items() if name != ITEMS_KEY}
    else:
        values = document
    members = list(chain.from_iterable(map(dict.values, chain(outer, values))))
    types = list(map(type, members))
    if dict in types:
        groups = [member for member in members if type(member) is dict]
        types += map(type, chain.from_iterable(map(dict.values, groups)))
    if payload.count(b'"') != 2 * (len(types) + types.count(str)):
        return None
    raw = _whole(payload) if values is not document and envelope is None else _Spans(payload, key).raw
    return Delivery(values, _NO_FAULTS, raw, envelope)


def _whole(payload: bytes) -> Callable[[int], bytes]:
    return lambda _: payload


def _json_delivery(payload: bytes, text: str) -> Delivery:
    try:
        document = _DECODER.decode(text)
    except RecursionError as error:
        raise DecodeError("JSON is nested too deeply") from error
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from error
    if isinstance(document, dict) and isinstance(document.get(ITEMS_KEY), list):
        if isinstance(document, RepeatedKeys):
            raise DecodeError("the envelope names a key twice")
        envelope = {name: value for name, value in document.items() if name != ITEMS_KEY}
        return _judged(document[ITEMS_KEY], _Spans(payload, ITEMS_KEY).raw, envelope)
    if isinstance(document, list):
        return _judged(document, _Spans(payload, None).raw)
    return _judged([document], _whole(payload))


def _decode_table(text: str) -> Delivery:
    if not is_giro_text(text):
        raise DecodeError("text is not of a known format (GIRO tables are known)")
    parsed = parse_giro_text(text)
    n_items = len(parsed.items)
    faults = {
        position: f"decode: line {line.number}: {line.reason}"
        for position, line in enumerate(parsed.malformed, n_items)
    }

    def raw(position: int) -> bytes:
        if position < n_items:
            return json.dumps(parsed.items[position]).encode()
        return parsed.malformed[position - n_items].text.encode()

    return Delivery([*parsed.items, *[None] * len(faults)], faults, raw)


def _decode_by_source(payload: bytes, content_type: str) -> Delivery:
    from tasks.landing.sources import PARSERS  # brings an HTTP client along

    parse = PARSERS.get(content_type)
    if parse is None:
        raise DecodeError(
            f"content type {content_type[:80]!r} is unknown; known are {', '.join(sorted(PARSERS))}"
        )
    try:
        values = list(parse(payload))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DecodeError(f"not {content_type}: {error}") from error
    return _judged(values, lambda position: json.dumps(values[position]).encode())


def _judged(
    values: list[Any], raw: Callable[[int], bytes], envelope: Mapping[str, Any] | None = None
) -> Delivery:
    faults = {
        position: fault for position, value in enumerate(values) if (fault := _fault(value)) is not None
    }
    return Delivery(values, faults, raw, envelope)


def _fault(value: Any) -> str | None:
    if isinstance(value, RepeatedKeys):
        return "decode: the object names a key twice"
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, RepeatedKeys):
                return f"decode: {f'object {name}' if name else 'the object'} names a key twice"
    return None


def _object(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(found)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant={"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get,
)
_Scalar = str | int | float | bool | None
_FlatObject = dict[str, _Scalar]
_Object = dict[str, _Scalar | _FlatObject]
_PLAIN = msgspec.json.Decoder(dict[str, _Scalar | _FlatObject | list[_Object]] | list[_Object])
_NO_FAULTS: Mapping[int, str] = MappingProxyType({})


class _Spans:
    """Where each item of a list lies in the payload; looked for only once an item's own bytes are wanted."""

    def __init__(self, payload: bytes, key: str | None) -> None:
        self._payload = payload
        self._key = key
        self._found: list[bytes] | None = None

    def raw(self, position: int) -> bytes:
        """Bytes of the item at this position."""
        if self._found is None:
            text = self._payload.decode()
            self._found = [text[begin:end].encode() for begin, end in _item_spans(text, self._key)]
        return self._found[position]


def _item_spans(text: str, key: str | None) -> Iterator[tuple[int, int]]:
    """Begin and end of each entry of the top-level list, or of the list under `key` of the top-level object.

    The text has been decoded before, so it is known to be JSON and to have that list.
    """
    position = _skip(text, 0) + 1
    while key is not None:
        position = _skip(text, position)
        name, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # over the colon
        if name == key:
            position += 1
            break
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position) + 1  # over the comma
    while text[position := _skip(text, position)] != "]":
        begin = position
        _, position = _DECODER.raw_decode(text, begin)
        yield begin, position
        position = _skip(text, position)
        if text[position] == ",":
            position += 1


def _skip(text: str, position: int) -> int:
    match = WHITESPACE.match(text, position)
    assert match is not None  # it matches the empty text
    return match.end()
