"""The flows: the story of the system. What the tasks log shows in the run's own log."""

import logging
import os

from prefect.settings import get_current_settings

from tasks.at_work import is_traced

# Prefect sends the logs of `PREFECT_LOGGING_EXTRA_LOGGERS` to its server but leaves their level at the root's WARNING.
logging.getLogger("tasks").setLevel(get_current_settings().logging.level)

OURS = {"tasks", "services"}


def drop_traceback_of_named_errors(record: logging.LogRecord) -> bool:
    """Our own errors say in a sentence what was wrong and what to do; a traceback would only bury it."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if type(error).__module__.split(".")[0] in OURS:
        record.exc_info = record.exc_text = None
        record.msg, record.args = f"failed: {error}", ()
    return True


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(drop_traceback_of_named_errors)

if is_traced():
    import prefect.main  # noqa: F401 - it sets up logging, and would take away the handler that ships logs

    from tasks import tracing

    labels = {"cluster": "AUTONVIS_CLUSTER", "deployment.environment": "AUTONVIS_ENVIRONMENT"}
    tracing.start("flows", {name: os.environ[key] for name, key in labels.items() if key in os.environ})
