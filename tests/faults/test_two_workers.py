"""Several workers collect and curate the same spool at once, and one of them is killed."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.process import BaseProcess

from tests.faults import victims
from tests.faults.conftest import Trial, kill_after
from tests.faults.test_kill_curation import spool


def test_workers_that_race_lose_and_double_nothing(
    trial: Trial, start_victim: Callable[..., BaseProcess]
) -> None:
    runs = trial.runs(1, 15)
    for _ in runs:
        items = trial.ledger.items(40)
        for begin in range(0, 40, 10):
            spool(trial, items[begin : begin + 15])  # neighbours share five
        racing = [start_victim(victims.land_once, trial.settings.home) for _ in range(2)]
        kill_after(start_victim(victims.land_for_ever, trial.settings.home), trial.chance.uniform(0.0, 1.0))
        for process in racing:
            process.join(240)
            assert process.exitcode == 0
    trial.conclude("two workers racing, a third killed", len(runs))
