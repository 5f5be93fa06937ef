"""Real brokers, one of each kind installed and each with a gateway that knows its stations, shared by this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.broker import Broker, BrokerError, Kind, start_broker
from tests.landing.door_server import Server


@pytest.fixture(scope="session")
def broker_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Broker]]:
    """Gives the broker of a kind, started on first use; skips when that kind is not installed."""
    started: dict[Kind, Broker] = {}
    gateways: list[Server] = []

    def get(kind: Kind) -> Broker:
        if kind not in started:
            home: Path = tmp_path_factory.mktemp(kind)
            gateways.append(Server(home))
            try:
                started[kind] = start_broker(home, kind=kind, gateway=gateways[-1].url)
            except BrokerError as error:
                if "not installed" in str(error):
                    pytest.skip(str(error))
                raise
        return started[kind]

    yield get
    for broker in started.values():
        broker.stop()
    for gateway in gateways:
        gateway.stop()
