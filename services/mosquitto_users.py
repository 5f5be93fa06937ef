"""The users of stations for Mosquitto, which cannot ask: a password file made from the catalog's credentials.

For the private Mosquitto the gateway keeps it in step; for another, `autonvis mosquitto-users` prints it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError

from services.broker import running_broker, write_private
from services.broker_auth import is_station
from tasks import catalog
from tasks.settings import Settings

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""A new credential is admitted, and one that ended shut out with its open connections, within this time."""


def password_file(settings: Settings) -> str:
    """A line per station with a credential.

    Raises:
        tasks.catalog.CatalogError: there is none to be read.
    """
    hashes = catalog.mosquitto_hashes(catalog.open_catalog(settings), now=datetime.now(UTC))
    return "".join(f"{sounder_id}:{text}\n" for sounder_id, text in sorted(hashes) if is_station(sounder_id))


def update(settings: Settings) -> bool:
    """Gives the private Mosquitto, if one runs, the stations of now; whether that was a change."""
    broker = running_broker(settings.home)
    if broker is None or broker.kind != "mosquitto":
        return False
    path = broker.home / "broker" / "mosquitto" / "stations"
    wanted = password_file(settings)
    if path.read_text() == wanted:
        return False
    write_private(path, wanted)
    os.kill(broker.pid, signal.SIGHUP)  # read it again
    return True


async def keep_in_step(settings: Settings) -> None:
    """`update` for ever; what hinders it is logged and tried again."""
    while True:
        try:
            await asyncio.to_thread(update, settings)
        except (OSError, SQLAlchemyError, catalog.CatalogError) as error:
            log.warning("event=mosquitto-users-failed reason=%r", str(error))
        await asyncio.sleep(INTERVAL_S)
