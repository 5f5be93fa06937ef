"""The clock jumps, at times by years: what it makes look like the future waits in quarantine, and is replayed."""

from __future__ import annotations

from collections.abc import Callable

from tasks.curation import replay_quarantine
from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.ledger import land_everything


def test_steps_of_the_clock_lose_and_double_nothing(
    trial: Trial, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway(fault="clock")
    with sending(trial.ledger, gateway.address) as stations:
        stations.wait_for(202, len(trial.runs(60, 2000)), 300)
    gateway.stop()
    land_everything(trial.settings)
    replay_quarantine(settings=trial.settings)
    trial.conclude("clock steps", stations.answers[202])
