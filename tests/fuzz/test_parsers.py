"""The corpus, and random changes of it, break no parser; `make fuzz` searches further."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.parsers import CORPUS, TARGETS

SEEDS = {name: sorted((CORPUS / name).glob("*")) for name in TARGETS}
N_CHANGES = 150


def changed(data: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced, a piece cut out, or a piece doubled."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.randint(1, 8))
        match chance.randrange(3):
            case 0:
                content[begin:end] = chance.randbytes(end - begin)
            case 1:
                del content[begin:end]
            case _:
                content[begin:begin] = content[begin:end]
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_neither_the_corpus_nor_changes_of_it_break_a_parser(name: str) -> None:
    assert SEEDS[name], f"no corpus for {name}"
    chance = random.Random(20221024)
    TARGETS[name](b"")
    for path in SEEDS[name]:
        data = path.read_bytes()
        TARGETS[name](data)
        for _ in range(N_CHANGES):
            TARGETS[name](changed(data, chance))
