"""How many messages wait in the queue of the system's own broker, as each kind says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tasks.landing.mqtt import BrokerUnavailable, read_retained
from tasks.settings import Settings

TIMEOUT_S = 2.0
RABBITMQ_QUEUE = "rabbitmq_queue_messages"
NATS_STREAM = "$MQTT_msgs"
MOSQUITTO_STORED = "$SYS/broker/store/messages/count"
MOSQUITTO_RETAINED = "$SYS/broker/retained messages/count"
"""Of what is stored these wait for nobody: a value of each of the broker's own topics, among others."""


def broker_queue_length(settings: Settings) -> int | None:
    """Messages that wait in the broker of this home; None where there is none, or one that does not say: the embedded one.

    Raises:
        BrokerUnavailable: it does not answer.
    """
    try:
        broker = json.loads((settings.home / "run" / "broker.json").read_text())
    except FileNotFoundError:
        return None
    match broker["kind"]:
        case "rabbitmq":
            return _of_rabbitmq(_page(broker).text)
        case "nats":
            return _of_nats(_page(broker).json())
        case "mosquitto":
            topics = (MOSQUITTO_STORED, MOSQUITTO_RETAINED)
            said = read_retained(broker["consumer_url"], topics, timeout_s=TIMEOUT_S)
            return max(0, int(said[MOSQUITTO_STORED]) - int(said[MOSQUITTO_RETAINED]))
        case _:
            return None


def _page(broker: Mapping[str, Any]) -> httpx.Response:
    try:
        return httpx.get(broker["metrics_url"], timeout=TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        raise BrokerUnavailable(f"the broker does not say how many messages wait ({error})") from error


def _of_rabbitmq(page: str) -> int:
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name == RABBITMQ_QUEUE))


def _of_nats(page: Mapping[str, Any]) -> int:
    """A message of QoS 1 stays in the stream until every session that wants it has acknowledged it."""
    streams = (
        stream for account in page.get("account_details", ()) for stream in account.get("stream_detail", ())
    )
    return sum(stream["state"]["messages"] for stream in streams if stream["name"] == NATS_STREAM)
