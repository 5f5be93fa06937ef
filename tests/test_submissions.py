"""From bytes to items: each item keeps its own bytes, a bad one spares its neighbours, bad bytes say why."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tasks import submissions
from tasks.submissions import DecodeError, decode, read_delivery

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    items=st.lists(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4), max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    shape=st.sampled_from(["list", "envelope", "late envelope"]),
    is_ascii=st.booleans(),
)
def test_every_item_comes_back_with_exactly_its_own_bytes(
    items: list[dict[str, Any]], indent: int | None, shape: str, is_ascii: bool
) -> None:
    document: Any = items
    if shape == "envelope":
        document = {"items": items, "note": [1, {"items": 2}]}
    elif shape == "late envelope":
        document = {"note": {"items": [1, "]"]}, "items": items}
    payload = f" {json.dumps(document, indent=indent, ensure_ascii=is_ascii)}\n".encode("utf-8", "replace")
    decoded = decode(payload)
    assert len(decoded) == len(items)
    for item in decoded:
        assert item.raw() in payload
        assert json.loads(item.raw()) == item.value


def test_one_object_is_one_item_with_the_whole_payload() -> None:
    (item,) = decode(b' {"a": 1} ')
    assert (item.value, item.raw(), item.fault) == ({"a": 1}, b' {"a": 1} ', None)


def test_a_repeated_key_faults_its_item_only() -> None:
    good, bad, nested = decode(b'[{"a": 1}, {"a": 1, "a": 2}, {"tx": {"b": 1, "b": 1}}]')
    assert good.fault is None
    assert bad.fault == "decode: the object names a key twice"
    assert bad.raw() == b'{"a": 1, "a": 2}'
    assert nested.fault == "decode: object tx names a key twice"


def test_not_a_number_is_left_to_the_contract() -> None:
    values = [item.value["a"] for item in decode(b'[{"a": NaN}, {"a": -Infinity}, {"a": 1e999}, {"a": 1}]')]
    assert math.isnan(values[0])
    assert values[1:] == [-math.inf, math.inf, 1]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", r"byte 0 \(0xff\) is not UTF-8"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} {"b": 2}', "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"items": [], "items": []}', "the envelope names a key twice"),
    ],
)
def test_unreadable_bytes_say_why(payload: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(payload)


def test_giro_text_gives_items_and_keeps_its_bad_lines() -> None:
    text = (
        "# Global Ionospheric Radio Observatory\n"
        "# Location: GEO 42.6N 288.5E, URSI-Code MHJ45 MILLSTONE HILL\n"
        "#Time                     CS   foF2 QD\n"
        "2019-01-01T00:00:00.000Z  50  2.250 //\n"
        "2019-01-01T00:15:00.000Z  50\n"
    )
    good, bad = decode(text.encode(), "text/plain; charset=utf-8")
    assert good.value["fof2_mhz"] == 2.25
    assert json.loads(good.raw()) == good.value
    assert bad.raw() == b"2019-01-01T00:15:00.000Z  50"
    assert bad.fault is not None
    assert bad.fault.startswith("decode: line 5: ")
    with pytest.raises(DecodeError, match="not of a known format"):
        decode(b"<html>busy</html>", "text/html")


def test_answers_of_a_source_are_read_by_its_own_parser() -> None:
    payload = b'[["time_tag", "Kp"], ["2026-11-24 00:00:00", "2.33"]]'
    (item,) = decode(payload, "application/vnd.swpc.kp+json")
    assert (item.value["index_name"], item.value["value"]) == ("kp", 2.33)
    assert json.loads(item.raw()) == item.value
    with pytest.raises(DecodeError, match=r"not application/vnd\.swpc\.kp\+json"):
        decode(b'{"busy": true}', "application/vnd.swpc.kp+json")
    with pytest.raises(DecodeError, match="content type 'image/png' is unknown"):
        decode(b"x", "image/png")


@given(payload=st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_else(payload: bytes) -> None:
    for content_type in ("application/json", "text/plain", "application/vnd.swpc.f107+json"):
        try:
            decode(payload, content_type)
        except DecodeError:
            continue


PLAIN_TEXTS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F), max_size=6)
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
    st.integers(-(2**80), 2**80).map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "1e400", "1e-400", "NaN", "Infinity", "9" * 5000, "01", "1."]),
)
ATOMS = (
    NUMBERS
    | PLAIN_TEXTS.map(json.dumps)
    | st.sampled_from(
        ["true", "false", "null", "{}", "[1]", '"\u00e9"', r'"\u00e9\\"', r'"\"a"', r'"\ud800"']
    )
    | st.sampled_from(['{"a": 1}', '{"a": "x", "b": {}}', '{"a": 1, "a": 2}', '{"a": {"a": 1, "a": 1}}'])
    | st.just(r'{"a": 1, "\u0061": "y"}')
)
NAMES = st.sampled_from(["a", "b", "fof2_mhz", "", "x:y"]).map(json.dumps) | st.text(max_size=3).map(
    json.dumps
)
OBJECTS = st.lists(st.tuples(NAMES, ATOMS), max_size=5).map(
    lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}"
)
LISTS = st.lists(OBJECTS, max_size=4).map(lambda items: f"[{' , '.join(items)}]\n")
ENVELOPES = st.tuples(
    NAMES, ATOMS, LISTS, st.sampled_from(["items", "a"]), st.sampled_from(["", ', "items": []'])
).map(lambda parts: f'{{{parts[0]}: {parts[1]}, "{parts[3]}" : {parts[2]}{parts[4]}}}')
DOCUMENTS = OBJECTS | LISTS | ENVELOPES | ATOMS


def outcome(payload: bytes) -> Any:
    try:
        delivery = read_delivery(payload)
    except DecodeError as error:
        return str(error)
    items = [
        (repr(value), delivery.faults.get(position), delivery.raw(position))
        for position, value in enumerate(delivery.values)
    ]
    return items, repr(delivery.envelope)


@hypothesis_settings(max_examples=1_000)
@given(text=DOCUMENTS, cut=st.integers(0, 3), junk=st.binary(max_size=3), at=st.integers(0, 60))
def test_the_fast_way_of_reading_flat_items_says_what_the_general_one_says(
    text: str, cut: int, junk: bytes, at: int
) -> None:
    whole = text.encode()
    for payload in (whole, whole[: len(whole) - cut], whole[:at] + junk + whole[at + cut :]):
        fast = outcome(payload)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(submissions, "_plain_delivery", lambda _: None)
            assert fast == outcome(payload)


def test_flat_items_in_plain_text_do_take_the_fast_way() -> None:
    payload = json.dumps([{"sounder_id": "RO041", "fof2_mhz": 4.1, "qualifier": None, "n": 3}] * 3).encode()
    fast = submissions._plain_delivery(payload)
    assert fast is not None
    assert fast.values == json.loads(payload)
    assert submissions._plain_delivery(b'{"a": 1, "a": 1}') is None
    nested = json.dumps(
        {"sounder_id": "RO041", "tx": {"latitude_deg": 4.1, "x": "\n\u00e9"}, "qualifier": "\u00e9"}
    )
    assert submissions._plain_delivery(nested.encode()) is not None
    assert submissions._plain_delivery(json.dumps({"q": "\u00e9"}, ensure_ascii=False).encode()) is not None
    assert submissions._plain_delivery(b'{"tx": {"a": 1, "a": 2}}') is None
    enveloped = submissions._plain_delivery(b'{"dataset": "ionograms", "items": ' + payload + b', "n": 1}')
    assert enveloped is not None
    assert (enveloped.values, enveloped.envelope) == (fast.values, {"dataset": "ionograms", "n": 1})
    assert json.loads(enveloped.raw(2)) == enveloped.values[2]
    assert submissions._plain_delivery(b'{"items": [], "items": []}') is None
    assert submissions._plain_delivery(b'[{"a": "b"}, {"a": ":", "b": 1, "a": ","}]') is None
