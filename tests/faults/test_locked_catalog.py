"""Another program holds the catalog's lock: the gateway goes on, curation waits, or gives up and is repeated."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tasks import catalog
from tasks.curation import pending_batches
from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.ledger import land_everything


@contextmanager
def locked(trial: Trial) -> Iterator[sqlite3.Connection]:
    catalog.open_catalog(trial.settings)
    connection = sqlite3.connect(
        trial.settings.home / "catalog.db", isolation_level=None, check_same_thread=False
    )
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_a_locked_catalog_costs_nothing(
    trial: Trial, start_gateway: Callable[..., GatewayProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start_gateway()
    runs = trial.runs(1, 10)
    for _ in runs:
        with locked(trial) as holder, sending(trial.ledger, gateway.address) as stations:
            stations.wait_for(202, 3)
            release = threading.Timer(trial.chance.uniform(0.5, 2.0), holder.execute, ["ROLLBACK"])
            release.start()
            land_everything(trial.settings)  # waits its turn
            release.join()
    monkeypatch.setattr(catalog, "BUSY_TIMEOUT_MS", 200)
    with locked(trial), sending(trial.ledger, gateway.address) as stations:
        stations.wait_for(202, 3)
        gateway.stop()
        with pytest.raises(catalog.CatalogError, match="another program has kept it locked"):
            land_everything(trial.settings)
        assert pending_batches(trial.settings) != []
    trial.conclude("catalog locked by another program", len(runs) + 1)
