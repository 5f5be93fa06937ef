"""One line of JSON per log record, for whoever collects logs: `AUTONVIS_LOG_FORMAT=json`."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from tasks.at_work import ids

TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
FIELD = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S+)")
"""`event=sealed batch=… bytes=…`, as services log."""


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """logger, message, process; batch_id, cycle and cycle_id of the work under way; the fields of an event; the traceback."""
    message = record.getMessage()
    said: dict[str, Any] = {"logger": record.name, "message": message, "process": record.process, **ids()}
    if message.startswith("event="):
        found = {name: value.strip("'\"") for name, value in FIELD.findall(message)}
        said |= {
            ("batch_id" if name == "batch" else name): value
            for name, value in found.items()
            if name not in said
        }
    for name in ("flow_run_name", "flow_run_id", "task_run_name"):  # Prefect's
        if isinstance(value := getattr(record, name, None), str):
            said[name] = value
    if record.exc_info:
        said["traceback"] = logging.Formatter().formatException(record.exc_info)
    return said


class JsonFormatter(logging.Formatter):
    """time, level, and what `fields` says."""

    def __init__(self, *_: object, **__: object) -> None:
        """Takes what a logging configuration hands to every formatter, and needs none of it."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **fields(record),
        }
        return json.dumps(said, default=str, ensure_ascii=False)


def formatter(log_format: str) -> logging.Formatter:
    """Of `AUTONVIS_LOG_FORMAT`."""
    return JsonFormatter() if log_format == "json" else logging.Formatter(TEXT)
