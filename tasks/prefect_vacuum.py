"""Space that Prefect's pruning has freed, given back to the disk.

The rows go by Prefect's own service, in the server that `autonvis up` starts (`autonvis/environment.py`): runs with their
tasks, logs and artifacts after `run_retention_d`, events after `event_retention_d`. SQLite keeps the pages.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from tasks.backup_members import prefect_address
from tasks.settings import Settings

log = logging.getLogger(__name__)

FREE_SHARE = 0.2
"""Of the pages: below it a vacuum is not worth the seconds for which it keeps writers waiting."""
WAIT_S = 30.0


def vacuum_prefect(settings: Settings) -> int:
    """Vacuums Prefect's SQLite file where much of it is free; returns the bytes given back.

    PostgreSQL does so by itself. A server that keeps its database locked is left in peace until the next time.
    """
    address = prefect_address(settings)
    if address is None or make_url(address).get_backend_name() != "sqlite":
        return 0
    path = Path(str(make_url(address).database))
    before = path.stat().st_size
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as database:
            (n_pages,) = database.execute("PRAGMA page_count").fetchone()
            (n_free,) = database.execute("PRAGMA freelist_count").fetchone()
            if n_free > FREE_SHARE * n_pages:
                database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        log.warning("%s is not vacuumed this time: %s", path, error)
        return 0
    freed = before - path.stat().st_size
    log.info(
        "Prefect's database has %.1f MB, %.1f MB less than before", path.stat().st_size / 1e6, freed / 1e6
    )
    return max(freed, 0)
