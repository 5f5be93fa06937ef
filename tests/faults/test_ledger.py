"""The judge itself: it sees what is lost, doubled and stored by nobody's leave."""

from __future__ import annotations

import pandas as pd

from tasks import lake
from tests.faults.conftest import Trial
from tests.faults.ledger import BAD_SHARE, Ledger, land_everything
from tests.faults.test_kill_curation import spool


def test_lost_doubled_and_phantom_are_seen(trial: Trial) -> None:
    settings, ledger = trial.settings, trial.ledger
    first, second, *_, bad = ledger.items(BAD_SHARE)
    stray = Ledger()
    spool(trial, [first, second, *stray.items(1)])
    land_everything(settings)
    never_landed = ledger.items(1)
    ledger.acknowledge([bad, *never_landed])
    rows = lake.read("ionograms", settings=settings)
    again: pd.DataFrame = rows[rows["observation_id"] == second["observation_id"]]
    lake.publish("ionograms", again, "again", settings=settings)
    verdict = ledger.check(settings)
    assert verdict.lost == {bad["observation_id"], never_landed[0]["observation_id"]}
    assert verdict.doubled == {second["observation_id"]}
    assert verdict.phantoms == stray.sent.keys()
