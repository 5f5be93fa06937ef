"""Ends the MQTT connections of sounders whose credential has ended: RabbitMQ asks for the password only when they are opened.

For the private RabbitMQ the gateway does it; on one of your own `rabbitmqctl` does the same. Mosquitto ends them by itself when its password file
changes (`services/mosquitto_users.py`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from services.broker import BrokerError, rabbitmq_control, running_broker
from services.broker_auth import is_station
from tasks import catalog, credentials
from tasks.landing.door import CREDENTIAL_CACHE_S
from tasks.settings import Settings

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
BROKER_CACHE_S = 10.0
"""`auth_cache.cache_ttl` of infra/rabbitmq/stations.conf."""
CACHED = timedelta(seconds=CREDENTIAL_CACHE_S + BROKER_CACHE_S + 1)
"""Until then a connection that was closed could come back with the old credential."""
LOOK_BACK = timedelta(hours=1)
"""What ended while no gateway ran is made up for."""
CONTROL_TIMEOUT_S = 30.0
SOUNDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
"""What goes into an expression of the broker's."""
CLOSE = (
    'Reason = <<"credential ended">>, Users = [$users], '
    "case erlang:function_exported(rabbit_mqtt_collector, list, 0) of "
    "true -> [rabbit_mqtt_reader:close_connection(P, Reason) || {_, P} <- rabbit_mqtt_collector:list(), "
    "[{user, U}] <- [rabbit_mqtt_reader:info(P, [user])], lists:member(U, Users)]; "
    "false -> [rabbit_networking:close_all_user_connections(U, Reason) || U <- Users] end."
)
"""For all at once. Until 3.11 `close_all_user_connections` says that it closes MQTT connections, and does not."""


def close_connections(settings: Settings, sounder_ids: Iterable[str]) -> None:
    """Closes every connection of these sounders to the private RabbitMQ, if one runs; those with a valid credential come back.

    Raises:
        BrokerError: the broker does not.
    """
    broker = running_broker(settings.home)
    if broker is None or broker.kind != "rabbitmq":
        return
    ended = [
        sounder_id
        for sounder_id in sorted(sounder_ids)
        if is_station(sounder_id) and SOUNDER_ID.match(sounder_id)
    ]
    if ended:
        users = ", ".join(f'<<"{sounder_id}">>' for sounder_id in ended)
        rabbitmq_control(broker, "eval", CLOSE.replace("$users", users), timeout_s=CONTROL_TIMEOUT_S)
        log.info("event=connections-closed sounders=%s", ",".join(ended))


async def keep_ending(settings: Settings) -> None:
    """`close_connections` for ever, of whoever's credential ended; what hinders it is logged and tried again."""
    done_until = datetime.now(UTC) - LOOK_BACK
    while True:
        until = datetime.now(UTC) - CACHED
        try:
            await asyncio.to_thread(_close_ended, settings, done_until, until)
            done_until = until
        except (
            OSError,
            SQLAlchemyError,
            catalog.CatalogError,
            BrokerError,
            subprocess.SubprocessError,
        ) as error:
            log.warning("event=connections-not-closed reason=%r", str(error))
        await asyncio.sleep(INTERVAL_S)


def _close_ended(settings: Settings, after: datetime, until: datetime) -> None:
    broker = running_broker(settings.home)
    if broker is not None and broker.kind == "rabbitmq":
        close_connections(settings, credentials.ended_between(catalog.open_catalog(settings), after, until))
