"""Two folders or files of one file system that change names in a single step (renameat2, Linux)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(one: Path, other: Path) -> None:
    """Both must exist; whoever opens either path finds the one or the other whole, never neither.

    Raises:
        OSError: the file system cannot do it (EINVAL; ext4, xfs, btrfs and tmpfs can), or they lie on two (EXDEV).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))
