"""A process that stands for one of the system's: that of the tests grows with them, and would be told of for its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.process_identity import started_s


@contextmanager
def idle_process(name: str) -> Iterator[dict[str, Any]]:
    """Its entry in `run/system.json`, as long as it runs."""
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    try:
        yield {"name": name, "pid": child.pid, "start_s": started_s(child.pid)}
    finally:
        child.stdin.close()
        child.wait(20)
