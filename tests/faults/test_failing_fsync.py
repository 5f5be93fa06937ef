"""fsync fails now and then, and takes what was not yet durable with it: it is answered 503 and sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from tasks.curation import pending_batches
from tests.faults import victims
from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.test_kill_curation import spool


def test_a_gateway_on_a_failing_disk_acknowledges_only_what_is_there(
    trial: Trial, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway(fault="fsync")
    n_failures = len(trial.runs(5, 200))
    with sending(trial.ledger, gateway.address) as stations:
        stations.wait_for(503, n_failures, 600)
        stations.wait_for("tcp 503", n_failures, 600)
        stations.wait_for(202, 1)
        stations.wait_for("tcp 202", 1)
    assert set(stations.answers) == {202, 503, "tcp 202", "tcp 503"}, json.dumps(dict(stations.answers))
    gateway.kill()
    trial.conclude("fsync fails under the gateway", stations.answers[503] + stations.answers["tcp 503"])


def test_a_curation_on_a_failing_disk_is_repeated_until_it_is_whole(
    trial: Trial, start_victim: Callable[..., BaseProcess]
) -> None:
    n_failed = 0
    runs = trial.runs(3, 30)
    for _ in runs:
        spool(trial, trial.ledger.items(20))
        process = start_victim(victims.land_with_failing_syncs, trial.settings.home, trial.chance.random())
        process.join(60)
        n_failed += process.exitcode != 0
    assert n_failed > 0 or not trial.is_long
    trial.conclude("fsync fails under the curating process", len(runs))
    assert pending_batches(trial.settings) == []
