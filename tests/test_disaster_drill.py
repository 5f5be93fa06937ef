"""The demo's whole root is backed up, destroyed and restored, as it is and compacted. Prints RTO and RPO."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks import catalog, lake
from tasks.backup import make_backup
from tasks.backup_verification import verify_backup
from tasks.compaction import compact_lake
from tasks.restore import restore
from tasks.settings import Settings
from tests.small_root import catalog_rows, checksums


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_comes_back_to_the_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AUTONVIS_")}
    environment |= {"AUTONVIS_HOME": str(tmp_path / "var"), "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-m", "autonvis", "demo"], env=environment, check=True, timeout=900)
    settings = Settings(home=tmp_path / "var" / "demo", backup_to=str(tmp_path / "backups"))

    def drill(kind: str) -> None:
        before, rows = checksums(settings.lake_root), catalog_rows(settings)
        products, database = checksums(settings.products_root), settings.home / "prefect" / "prefect.db"
        assert len(before) > 10
        assert database.stat().st_size > 0
        made = make_backup(settings)
        died_at = datetime.now(UTC)
        catalog._open.cache_clear()
        shutil.rmtree(settings.home)
        restored = restore(settings)
        assert checksums(settings.lake_root) == before
        assert checksums(settings.products_root) == products
        assert catalog_rows(settings) == rows
        assert database.stat().st_size > 0
        rpo_s = (died_at - restored.state_at).total_seconds()
        verified = verify_backup(settings)
        assert verified.is_good, verified.problems
        assert verified.n_compared > 0
        with capsys.disabled():
            print(
                f"\n{kind}: {restored.n_files} files, {restored.n_bytes / 1e6:.0f} MB, backup {made.duration_s:.1f} s, "
                f"RTO {restored.duration_s:.1f} s, RPO {rpo_s:.1f} s"
            )
        assert restored.duration_s < 900

    drill("demo")
    rows = lake.read_table("feedback", settings=settings)
    done = compact_lake(settings, now=datetime.now(UTC) + timedelta(days=2))
    assert done.n_files_after < done.n_files_before
    assert lake.read_table("feedback", settings=settings).equals(rows)
    drill("demo, compacted")
