"""kill -9 of the worker and of the process of the flow `land` that it started, under a Prefect server as in `make up`."""

from __future__ import annotations

import time
from contextlib import suppress

import httpx
import psutil
import pytest

from autonvis.worker import WORKER
from tasks.curation import pending_batches
from tests.faults.conftest import Trial
from tests.faults.live_flows import PATIENCE_S, LiveFlows
from tests.faults.test_kill_curation import spool

VICTIMS = ("worker and flow", "flow", "worker")


def strike(trial: Trial, live: LiveFlows, victims: str) -> bool:
    """SIGKILL for `victims` at a random point of a run; whether it came before the run's end."""
    run_id = live.schedule()
    flow = live.process_of(run_id)
    if trial.chance.random() < 0.8:  # else while it starts
        live.wait_for(run_id, "Running", "Completed")
    time.sleep(trial.chance.uniform(0.0, 3.0))
    is_early = not live.is_over(run_id)
    if "worker" in victims:
        psutil.Process(live.worker.pid).kill()
    if "flow" in victims:
        with suppress(psutil.NoSuchProcess):
            flow.kill()
    if "worker" in victims:
        live.start_worker()
    deadline_s = time.monotonic() + PATIENCE_S
    while not live.is_over(run_id):  # closed by the worker, or the flow has outlived its worker
        assert time.monotonic() < deadline_s, "the run stays open"
        time.sleep(0.05)
    return is_early


@pytest.mark.timeout(3_600)
def test_a_killed_worker_or_flow_costs_one_run_and_no_observation(trial: Trial, live: LiveFlows) -> None:
    trial.settings, trial.ledger = live.settings, live.ledger
    n_killed, wanted = 0, len(trial.runs(1, 20))
    while n_killed < wanted:
        items = trial.ledger.items(40)
        for begin in range(0, 40, 10):
            spool(trial, items[begin : begin + 15])  # neighbours share five
        n_killed += strike(trial, live, VICTIMS[n_killed % len(VICTIMS)])
        live.wait_for(live.schedule(), "Completed")
        assert pending_batches(trial.settings) == []
        verdict = trial.ledger.check(trial.settings)  # by the flow alone
        assert (verdict.lost, verdict.doubled) == (frozenset(), frozenset())
    trial.conclude("kill -9 of Prefect's worker and the flow", n_killed)


def test_another_worker_does_the_run_of_one_that_is_lost_with_its_host(trial: Trial, live: LiveFlows) -> None:
    trial.settings, trial.ledger = live.settings, live.ledger
    spool(trial, trial.ledger.items(40))
    run_id = live.schedule()
    flow = live.process_of(run_id)
    psutil.Process(live.worker.pid).kill()
    flow.kill()
    began_s = time.monotonic()
    with live.another_worker("standby") as health:
        run = live.wait_for(run_id, "Completed")
        assert httpx.get(health, timeout=20).status_code == 200
    print(f"taken over and done {time.monotonic() - began_s:.1f} s after the kill")
    assert run.labels[WORKER] == "standby"
    assert pending_batches(trial.settings) == []
    live.start_worker()
    trial.conclude("kill -9 of a worker that does not come back", 1)
