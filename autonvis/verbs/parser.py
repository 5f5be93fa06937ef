"""How a verb is added to the console script, and how one that ran a flow ends."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable

from tasks.settings import Settings


class Verbs:
    """The subcommands of a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(
        self,
        name: str,
        run: Callable[[Settings, argparse.Namespace], None],
        text: str,
        examples: str = "",
        *,
        writes: bool = False,
        adopts: bool = True,
    ) -> argparse.ArgumentParser:
        """The parser of a new verb, for its arguments.

        Args:
            writes: the root is made if it is not there.
            adopts: works with the broker and the server that a live system of this root has started.
        """
        sub = self._verbs.add_parser(name, help=text, description=text)
        if examples:
            sub.formatter_class = argparse.RawDescriptionHelpFormatter
            sub.description = textwrap.fill(text, 100)
            sub.epilog = "examples:\n" + textwrap.indent(examples, "  ")
        sub.set_defaults(run=run, writes=writes, adopts=adopts)
        return sub


def add_grid(sub: argparse.ArgumentParser) -> None:
    """The arguments of a verb that computes on a grid."""
    sub.add_argument("--region", help="`global` or `south,west,north,east` in degrees")
    sub.add_argument("--grid-step-deg", type=float, help="grid spacing in degrees")


def finish(state: object) -> None:
    """Print how a flow run ended; a failure is a non-zero exit."""
    from prefect.client.schemas.objects import State

    assert isinstance(state, State)
    print(f"{state.name}: {state.message}" if state.message else state.name)
    if not state.is_completed():
        sys.exit(1)
