"""Which retained copies have landed: a broker hands them out again at every subscription, that is at every drain.

The file names per topic the content that landed last. Losing it costs one more landing of each copy, which curation
drops as a repetition.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

TOPICS = 100_000
"""Above this the file is begun again."""


class Retained:
    """What has landed of the broker's retained messages; `save` after what is new is durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._landed: dict[str, str] = {}
        self._is_saved = True
        try:
            self._landed = {
                str(topic): str(content) for topic, content in json.loads(path.read_bytes()).items()
            }
        except FileNotFoundError:
            pass
        except (ValueError, AttributeError) as error:
            log.warning("%s cannot be read (%s): retained messages land once more", path, error)

    def is_new(self, topic: str, payload: bytes | bytearray) -> bool:
        """Notes a retained copy; whether it has not landed yet."""
        content = hashlib.sha256(payload).hexdigest()
        if self._landed.get(topic) == content:
            return False
        if len(self._landed) >= TOPICS:
            self._landed.clear()
        self._landed[topic] = content
        self._is_saved = False
        return True

    def save(self) -> None:
        """Writes the file if something is new."""
        if self._is_saved:
            return
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps(self._landed))
        os.replace(partial, self.path)
        self._is_saved = True
