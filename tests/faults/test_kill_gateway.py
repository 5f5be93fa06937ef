"""kill -9 of the gateway (HTTP and TCP), at random moments."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending


def test_what_a_killed_gateway_acknowledged_is_there_once(
    trial: Trial, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway()
    runs = trial.runs(6, 60)
    with sending(trial.ledger, gateway.address) as stations:
        for _ in runs:
            stations.wait_for(202, 1)
            stations.wait_for("tcp 202", 1)
            time.sleep(trial.chance.uniform(0.0, 0.3))
            gateway.kill()
            gateway = start_gateway(at=gateway.address)
        stations.wait_for(202, 1)
        stations.wait_for("tcp 202", 1)
    gateway.stop()
    trial.conclude("kill -9 of the gateway (HTTP and TCP)", len(runs))
