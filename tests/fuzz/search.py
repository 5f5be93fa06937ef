"""`python -m tests.fuzz.search TARGET [libFuzzer options and folders]`: search, guided by coverage, for bytes that break
a parser, until a limit is reached or one is found, which is written to a file and ends the process with an error.
"""

from __future__ import annotations

import logging
import sys

import atheris

with atheris.instrument_imports(include=["tasks", "json", "csv"]):
    from tests.fuzz.parsers import TARGETS


def main() -> None:
    """Run the target named first on the command line."""
    logging.disable(logging.CRITICAL)
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"give a target of {', '.join(TARGETS)}")
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
