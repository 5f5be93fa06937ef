"""kill -9 of the gateway (HTTP and TCP), at random moments; and gateways that come and go on one home folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.ledger import land_everything


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


def test_gateways_of_one_home_come_and_go_and_what_any_acknowledged_is_there_once(
    trial: Trial, start_gateway: Callable[..., GatewayProcess]
) -> None:
    """As an autoscaler does it: three, of which one ends in order and one is killed, while the third goes on and what came is landed."""
    runs = trial.runs(1, 20)
    for _ in runs:
        gateways = [start_gateway() for _ in range(3)]
        with ExitStack() as sounders:
            stations = [sounders.enter_context(sending(trial.ledger, one.address)) for one in gateways]
            for each in stations:
                each.wait_for(202, 2)
                each.wait_for("tcp 202", 2)
            gateways[0].stop()
            land_everything(trial.settings)  # while the others write
            time.sleep(trial.chance.uniform(0.0, 0.3))
            gateways[1].kill()
            land_everything(trial.settings)
            stations[2].wait_for(202, 1)
            stations[2].wait_for("tcp 202", 1)
        gateways[2].stop()
    trial.conclude("gateways that come and go on one home folder", len(runs))
