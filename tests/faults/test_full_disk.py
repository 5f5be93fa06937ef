"""A disk that fills up under the gateway and under curation, and has room again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.catalog import CatalogError
from tests.faults.conftest import Trial
from tests.faults.gateway_process import GatewayProcess, sending
from tests.faults.ledger import land_everything

DISK = "8m"


@pytest.fixture
def small_disk(trial: Trial) -> Iterator[Path]:
    """The trial's home on a file system of its own, whose size is `DISK`."""
    home = trial.settings.home
    home.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "autonvis-faults", str(home)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


def fill(home: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = home / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


def test_a_full_disk_refuses_and_nothing_acknowledged_is_missing(
    trial: Trial, small_disk: Path, start_gateway: Callable[..., GatewayProcess]
) -> None:
    gateway = start_gateway(min_free_disk_mb=0)  # the disk itself is to refuse, not the limit above it
    runs = trial.runs(2, 20)
    with sending(trial.ledger, gateway.address) as stations:
        for _ in runs:
            stations.wait_for(202, 5)
            ballast = fill(small_disk)
            stations.wait_for(503, 5)
            stations.wait_for("tcp 503", 5)
            with pytest.raises((OSError, CatalogError)):
                land_everything(trial.settings)
            ballast.unlink()
            stations.wait_for(202, 1)
            stations.wait_for("tcp 202", 1)
            land_everything(trial.settings)
    gateway.stop()
    trial.conclude("disk full and free again", len(runs))
