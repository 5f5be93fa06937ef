"""How large a fault is run, where it is written down, and the processes it falls on."""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from services.broker import NotInstalled, start_broker, stop_broker
from services.processes import free_port
from tasks import catalog
from tasks.landing.mqtt import create_session
from tasks.settings import Settings
from tests.faults import victims
from tests.faults.gateway_process import Address, GatewayDiedError, GatewayProcess
from tests.faults.ledger import Ledger, Verdict, land_everything
from tests.faults.live_flows import LiveFlows

ROOT = Path(__file__).resolve().parents[2]
FACTOR = 20
"""The long size against the fast one, unless a test says otherwise."""

_rows: list[tuple[str, int, Verdict]] = []


@dataclass
class Trial:
    """One fault: its runs, its ledger, and the verdict at its end."""

    settings: Settings
    is_long: bool
    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)

    def runs(self, fast: int, long: int | None = None) -> range:
        return range((fast * FACTOR if long is None else long) if self.is_long else fast)

    def conclude(self, fault: str, n_runs: int) -> Verdict:
        """Lands what is left, writes the row of the table, and fails on anything lost, doubled or phantom."""
        land_everything(self.settings)
        verdict = self.ledger.check(self.settings)
        _rows.append((fault, n_runs, verdict))
        assert verdict.n_acknowledged > 0
        assert (verdict.lost, verdict.doubled, verdict.phantoms) == (frozenset(), frozenset(), frozenset())
        return verdict


@pytest.fixture
def trial(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # shown when the test fails
    is_long = request.config.getoption("--faults-size") == "long"
    yield Trial(Settings(home=tmp_path / "var"), is_long, random.Random(seed))
    catalog._open.cache_clear()


@pytest.fixture(scope="session")
def fork_server() -> Iterator[Any]:
    """Processes that start in milliseconds with everything imported, whatever threads the tests have."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["great_expectations", "tests.faults.victims"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    warm_up = context.Process(target=int)
    warm_up.start()
    warm_up.join(120)
    yield context
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def start_victim(fork_server: Any) -> Iterator[Callable[..., BaseProcess]]:
    """Starts a function of `tests.faults.victims` in a process of its own."""
    started: list[BaseProcess] = []

    def start(function: Callable[..., None], *arguments: Any) -> BaseProcess:
        process: BaseProcess = fork_server.Process(target=function, args=arguments)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join(20)


def kill_after(process: BaseProcess, delay_s: float) -> bool:
    """SIGKILL after `delay_s`; whether it was still running."""
    time.sleep(delay_s)
    process.kill()
    process.join(20)
    return process.exitcode == -signal.SIGKILL


@pytest.fixture
def start_gateway(trial: Trial, start_victim: Callable[..., BaseProcess]) -> Callable[..., GatewayProcess]:
    """Starts the gateway, where it was or on free ports, with a fault of `tests.faults.victims` built in."""

    def start(*, at: Address | None = None, fault: str | None = None, **changes: Any) -> GatewayProcess:
        at = at or Address("127.0.0.1", free_port(), free_port())
        listening = {"gateway_host": at.host, "gateway_port": at.http_port, "tcp_port": at.tcp_port}
        settings = trial.settings.model_copy(update=listening | changes)
        while True:
            try:
                return GatewayProcess(start_victim(victims.serve, settings, fault, trial.chance.random()), at)
            except GatewayDiedError:
                # Without a disk that syncs it does not even start, rightly: its supervisor tries again.
                if fault != "fsync":
                    raise

    return start


@pytest.fixture(scope="session")
def broker_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a RabbitMQ of our own runs; `start_broker` gives it, or starts it again after a fault."""
    home = tmp_path_factory.mktemp("broker_home")
    try:
        start_broker(home, kind="rabbitmq")
    except NotInstalled as error:
        pytest.skip(str(error))
    yield home
    stop_broker(home)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFlows]:
    """Prefect's server, the deployment `land` and its worker; no longer than they are needed, they are never idle."""
    system = LiveFlows(tmp_path_factory.mktemp("live"))
    yield system
    system.stop()


@pytest.fixture
def mqtt_settings(trial: Trial, broker_home: Path) -> Settings:
    """The trial's settings with that broker and a persistent session of its own."""
    broker, name = start_broker(broker_home, kind="rabbitmq"), f"land-{secrets.token_hex(4)}"
    create_session(broker.url, name)
    return trial.settings.model_copy(update={"mqtt_url": broker.url, "mqtt_client_id": name})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    terminalreporter.section("faults")
    row = "{:<44} {:>6} {:>13} {:>6} {:>8} {:>9} {:>12}".format
    terminalreporter.write_line(
        row("fault", "runs", "acknowledged", "lost", "doubled", "phantoms", "quarantined")
    )
    for fault, n_runs, verdict in _rows:
        counts = (len(ids) for ids in (verdict.lost, verdict.doubled, verdict.phantoms))
        terminalreporter.write_line(
            row(fault, n_runs, verdict.n_acknowledged, *counts, verdict.n_quarantined)
        )
