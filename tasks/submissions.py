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
from typing import Any

from tasks.landing.giro_text import is_giro_text, parse_giro_text

WHITESPACE = re.compile(r"[ \t\n\r]*")
SIMULATED = "simulated"
ITEMS_KEY = "items"  # {"items": [...]} is a list with room for the sender's own notes beside it


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


def decode(payload: bytes, content_type: str = "application/json") -> list[Item]:
    """Items of one record: JSON (one object, a list, or {"items": [...]}), as text GIRO's tables, or what a pull source
    answers in a content type of its own.

    NaN and Infinity are read as such, so that the contract refuses the value and not its neighbours.

    Raises:
        DecodeError: the bytes are not UTF-8, not JSON, nested too deeply, or of no known format.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"byte {error.start} (0x{payload[error.start]:02x}) is not UTF-8") from error
    if content_type.startswith("text/"):
        return _decode_table(text)
    if content_type.partition(";")[0].strip() not in ("application/json", ""):
        return _decode_by_source(payload, content_type)
    try:
        document = _DECODER.decode(text)
    except RecursionError as error:
        raise DecodeError("JSON is nested too deeply") from error
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from error
    if isinstance(document, dict) and isinstance(document.get(ITEMS_KEY), list):
        if isinstance(document, RepeatedKeys):
            raise DecodeError("the envelope names a key twice")
        spans = _Spans(text, ITEMS_KEY)
        return [_item(value, spans.raw(index)) for index, value in enumerate(document[ITEMS_KEY])]
    if isinstance(document, list):
        spans = _Spans(text, None)
        return [_item(value, spans.raw(index)) for index, value in enumerate(document)]
    return [_item(document, lambda: payload)]


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


def _decode_table(text: str) -> list[Item]:
    if not is_giro_text(text):
        raise DecodeError("text is not of a known format (GIRO tables are known)")
    parsed = parse_giro_text(text)
    items = [_item(value, lambda value=value: json.dumps(value).encode()) for value in parsed.items]  # type: ignore[misc]
    for line in parsed.malformed:
        reason = f"decode: line {line.number}: {line.reason}"
        items.append(Item(None, lambda line=line: line.text.encode(), reason))  # type: ignore[misc]
    return items


def _decode_by_source(payload: bytes, content_type: str) -> list[Item]:
    from tasks.landing.sources import PARSERS  # brings an HTTP client along

    parse = PARSERS.get(content_type)
    if parse is None:
        raise DecodeError(
            f"content type {content_type[:80]!r} is unknown; known are {', '.join(sorted(PARSERS))}"
        )
    try:
        values = parse(payload)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DecodeError(f"not {content_type}: {error}") from error
    return [_item(value, lambda value=value: json.dumps(value).encode()) for value in values]  # type: ignore[misc]


def _item(value: Any, raw: Callable[[], bytes]) -> Item:
    if isinstance(value, dict):
        objects = [("", value), *value.items()]
        for name, inner in objects:
            if isinstance(inner, RepeatedKeys):
                return Item(
                    value, raw, f"decode: {f'object {name}' if name else 'the object'} names a key twice"
                )
    return Item(value, raw)


def _object(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedKeys(found)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant={"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get,
)


class _Spans:
    """Where each item of a list lies in the text; looked for only once an item's own bytes are wanted."""

    def __init__(self, text: str, key: str | None) -> None:
        self._text = text
        self._key = key
        self._found: list[tuple[int, int]] | None = None

    def raw(self, index: int) -> Callable[[], bytes]:
        def item_bytes() -> bytes:
            if self._found is None:
                self._found = list(_item_spans(self._text, self._key))
            begin, end = self._found[index]
            return self._text[begin:end].encode()

        return item_bytes


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
