"""A network of its own, joined to this one by a virtual cable on which packets vanish without a word to either end."""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
from typing import Literal

Cut = Literal["cable pulled", "requests vanish", "answers vanish"]
CUTS: tuple[Cut, ...] = ("cable pulled", "requests vanish", "answers vanish")

_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:00:01"
"""Frames sent to this address arrive at the other end of the cable and are dropped there."""


class NoNamespace(RuntimeError):  # noqa: N818 - a state of the machine
    """This process may not make network namespaces, or the machine has no `ip`."""


class Namespace:
    """Threads that `enter` reach this machine at `host`, and nothing else. Needs root.

    Raises:
        NoNamespace: see the message.
    """

    def __init__(self) -> None:
        token = secrets.token_hex(4)
        self._name, self._near, self._far = f"faults-{token}", f"fa{token}", f"fb{token}"
        # 198.18.0.0/15 is set aside for measurements between networks (RFC 2544).
        net = f"198.18.{secrets.randbelow(256)}"
        offset = 4 * secrets.randbelow(64)
        self.host, self._station = f"{net}.{offset + 1}", f"{net}.{offset + 2}"
        try:
            _ip("netns", "add", self._name)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise NoNamespace(getattr(error, "stderr", None) or str(error)) from error
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._name)
            _ip("address", "add", f"{self.host}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            self._inside("address", "add", f"{self._station}/30", "dev", self._far)
            self._inside("link", "set", self._far, "up")
            self._inside("link", "set", "lo", "up")  # paho speaks to itself
        except BaseException as error:
            self.close()
            if isinstance(error, subprocess.CalledProcessError):
                raise NoNamespace(error.stderr) from error
            raise

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self._name, *arguments)

    def enter(self) -> None:
        """From now on the calling thread's new sockets belong to this network."""
        with open(f"/run/netns/{self._name}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    def cut(self, how: Cut) -> None:
        """Cuts; both ends believe that their connections are open."""
        if how == "cable pulled":
            self._inside("link", "set", self._far, "down")
        elif how == "requests vanish":
            self._inside(
                "neigh", "replace", self.host, "lladdr", _NOBODY, "nud", "permanent", "dev", self._far
            )
        else:
            _ip("neigh", "replace", self._station, "lladdr", _NOBODY, "nud", "permanent", "dev", self._near)

    def mend(self) -> None:
        """Undoes every cut."""
        self._inside("link", "set", self._far, "up")
        self._inside("neigh", "flush", "dev", self._far, "nud", "permanent")
        _ip("neigh", "flush", "dev", self._near, "nud", "permanent")

    def close(self) -> None:
        """Removes the network; its cable goes with it."""
        _ip("netns", "delete", self._name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)
