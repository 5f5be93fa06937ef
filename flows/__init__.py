"""The flows: the story of the system. What the tasks log shows in the run's own log."""

import logging

from prefect.settings import get_current_settings

# Prefect sends the logs of `PREFECT_LOGGING_EXTRA_LOGGERS` to its server but leaves their level at the root's WARNING.
logging.getLogger("tasks").setLevel(get_current_settings().logging.level)
