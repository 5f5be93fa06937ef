"""Bytes that no honest station sends, by HTTP and MQTT, among good ones: kept, never in the lake, never in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tasks import lake
from tasks.curation import pending_batches
from tasks.landing.mqtt import drain, publish_many
from tasks.settings import Settings
from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess
from tests.faults.ledger import Ledger, land_everything


def poison(item: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """What becomes of a good item's bytes."""
    good = json.dumps(item).encode()
    number = json.dumps(item["fof2_mhz"]).encode()

    def with_number(raw: bytes) -> bytes:
        return good.replace(b'"fof2_mhz": ' + number, b'"fof2_mhz": ' + raw)

    yield "empty", b""
    yield "no JSON", good[:-1]
    yield "two documents", good + good
    yield "zero bytes", bytes(1000)
    yield "not UTF-8", good.replace(b'"sounder_id"', b'"\xe9"')
    yield "UTF-8 of a surrogate", good.replace(b'"sounder_id"', b'"\xed\xa0\x80"')
    yield "UTF-16", good.decode().encode("utf-16")
    yield "lone surrogate", good.replace(item["sounder_id"].encode(), b"\\ud800")
    yield "NUL in a name", good.replace(item["sounder_id"].encode(), b"a\\u0000b")
    yield "NaN", with_number(b"NaN")
    yield "Infinity", with_number(b"-Infinity")
    yield "1e400", with_number(b"1e400")
    yield "10^400", with_number(b"1" + b"0" * 400)
    yield "10^5000", with_number(b"1" + b"0" * 5000)
    yield "duplicate key", with_number(number + b', "fof2_mhz": 9.9')
    yield "nested in a field", with_number(b"[" * 300 + b"]" * 300)
    yield "nested too deeply", with_number(b"[" * 50_000 + b"]" * 50_000)
    yield "nested objects", with_number(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    yield "long text", good.replace(item["sounder_id"].encode(), b"x" * 2_000_000)
    yield "year 0", good.replace(b"2022-", b"0000-")
    yield "year 9999", good.replace(b"2022-", b"9999-")
    yield "true as a number", with_number(b"true")
    yield "bare number", b"7"
    yield "mixed list", b'[null, 5, "x", [], {}, [[1]]]'


def test_poison_by_http_is_refused_or_kept_and_good_ones_pass(
    trial: Trial, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway()
    n_poison = 0
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        for _ in trial.runs(1, 3):
            (model,) = trial.ledger.items(1)
            for name, body in poison(model):
                answer = client.post("/ionogram", content=body)
                assert answer.status_code in (202, 400), (name, answer.text)
                (good,) = trial.ledger.items(1)
                assert client.post("/ionogram", content=json.dumps(good)).status_code == 202, name
                trial.ledger.acknowledge([good])
                n_poison += 1
            oversized = json.dumps([*[model] * 50_000]).encode()
            assert client.post("/ionogram", content=oversized).status_code == 413
    gateway.stop()
    verdict = trial.conclude("poison by HTTP", n_poison)
    assert verdict.n_acknowledged == n_poison


def test_poison_by_mqtt_is_quarantined_once_and_good_ones_pass(trial: Trial, mqtt_settings: Settings) -> None:
    topic = f"nvis/ionograms/{trial.ledger.sounder_id}"
    (model,) = Ledger().items(1)
    del model["observation_id"]  # so that whatever of it reached the lake would be a phantom
    bad = [message for _, message in poison(model)]
    items = trial.ledger.items(len(bad))
    large = json.dumps(items[:1] * 5_000).encode()  # a megabyte of one observation
    stream = [
        message
        for pair in zip(bad, items, strict=True)
        for message in (pair[0], json.dumps(pair[1]).encode())
    ]
    publish_many(str(mqtt_settings.mqtt_url), ((topic, message) for message in [*stream, large]))
    trial.ledger.acknowledge(items)
    while drain(mqtt_settings).n_messages:
        pass
    land_everything(trial.settings)
    kept = lake.read("quarantine", settings=trial.settings, columns=["raw", "record_index"])
    for message in bad[:-1]:  # of the last, a list, each item is kept by itself
        assert (kept["raw"] == message).sum() == 1, message[:80]
    assert pending_batches(trial.settings) == []
    assert drain(mqtt_settings).n_messages == 0
    trial.conclude("poison by MQTT", len(bad))


@pytest.mark.parametrize("topic", ["nvis/ionograms/", "nvis/ionograms/ä\u0007", "nvis/measurements/a b"])
def test_a_topic_that_names_no_sounder_is_kept(trial: Trial, mqtt_settings: Settings, topic: str) -> None:
    publish_many(str(mqtt_settings.mqtt_url), [(topic, b'{"fof2_mhz": 5}')])
    assert drain(mqtt_settings).n_messages == 1
    land_everything(trial.settings)
    assert len(lake.read("quarantine", settings=trial.settings)) == 1
