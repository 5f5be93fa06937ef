"""A small root as the live system leaves it: landed segments, curated batches, gridded cycles, products, a spool in use."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from tasks import catalog, cycles
from tasks.curation import curate_batches, pending_batches
from tasks.landing.spool import Record, SpoolWriter, collect
from tasks.products import publish_products
from tasks.revisions import known_at
from tasks.settings import Settings
from tasks.simulation import simulate_network

START = datetime(2026, 3, 20, tzinfo=UTC)
END = START + timedelta(hours=6)


def observations() -> list[dict[str, Any]]:
    return simulate_network(START, hours=6.0, seed=7)


def record(items: list[dict[str, Any]], received_at: datetime) -> Record:
    return Record(
        channel="http",
        dataset="ionograms",
        sounder_id=None,
        received_at=received_at,
        content_type="application/json",
        payload=json.dumps(items).encode(),
        source="simulated",
        licence=None,
    )


def spool(
    settings: Settings, items: list[dict[str, Any]], received_at: datetime, *, seal: bool = True
) -> SpoolWriter:
    """What the gateway does with one message."""
    writer = SpoolWriter(settings.spool_root / "http")
    writer.append_many([record(items, received_at)])
    if seal:
        writer.seal()
    return writer


def land(settings: Settings) -> int:
    """Collects and curates what waits; returns the rows accepted."""
    collect(settings.spool_root, settings.lake_root)
    results = curate_batches(pending_batches(settings), settings=settings)
    return sum(result.n_accepted for result in results)


def run_cycle(settings: Settings, valid_time: datetime) -> str:
    """One gridded cycle with its products, as flow `nowcast` runs it; returns its id."""
    plan = cycles.plan_cycle(settings, valid_time)
    seen, heard = cycles.read_window(settings, [plan]), cycles.read_heard(settings, [plan])
    cycle = cycles.assimilate(settings, plan, seen, heard)
    cycles.store_cycle(settings, plan, cycle)
    publish_products(settings, cycle, known_at(seen, plan.available_until))
    return str(cycle.metadata["cycle_id"])


def make_root(home: Path) -> Settings:
    settings = Settings(home=home, grid_step_deg=10.0, leads_h="1,3", backup_to=str(home.parent / "backups"))
    engine = catalog.open_catalog(settings)
    catalog.register_sounder(engine, "RO041", kind="ionosonde", name="Rome", now=START)
    items = observations()
    third = len(items) // 3
    for part in (items[:third], items[third : 2 * third]):
        spool(settings, part, datetime.now(UTC))
        land(settings)
    run_cycle(settings, END - timedelta(minutes=15))
    run_cycle(settings, END)
    (settings.log_root).mkdir(parents=True)
    (settings.log_root / "gateway.log").write_text("started\n")
    return settings


def checksums(root: Path) -> dict[str, str]:
    """sha256 of every file below a folder that is not hidden by its path, and where links lead."""
    found = {}
    for path in sorted(root.rglob("[!.]*")):
        if path.is_symlink():
            found[path.relative_to(root).as_posix()] = f"-> {path.readlink()}"
        elif path.is_file():
            found[path.relative_to(root).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def catalog_rows(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table."""
    engine = catalog.open_catalog(settings)
    with engine.connect().execution_options(is_reading=True) as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for table in catalog.Base.metadata.sorted_tables
        }
