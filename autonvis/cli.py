"""The console script `autonvis`: one verb per subcommand."""

from __future__ import annotations

import argparse
import sys

from autonvis.environment import adopt, make_home
from autonvis.verbs import access, cycles, live, skill, sounders, upkeep
from autonvis.verbs.parser import Verbs
from tasks.settings import SettingsError, load_settings


def build_parser() -> argparse.ArgumentParser:
    """The parser of the console script, with every verb."""
    parser = argparse.ArgumentParser(
        prog="autonvis",
        description="Near-real-time nowcast of the ionosphere for NVIS radio.",
        epilog="Settings are read from AUTONVIS_* variables; `autonvis settings` lists them.",
    )
    verbs = Verbs(parser)
    for kind in (cycles, live, sounders, skill, upkeep, access):
        kind.add(verbs)
    return parser


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script; errors that the user can mend end with one sentence and exit code 2."""
    arguments = build_parser().parse_args(argv)
    try:
        if arguments.verb == "deploy":
            from autonvis.deploy import load_environment

            arguments.file = load_environment(arguments.env)
        load_settings.cache_clear()  # what the variables say now
        settings = load_settings()
        if arguments.writes:
            make_home(settings)
        if arguments.adopts:
            adopt(settings)
            load_settings.cache_clear()
            settings = load_settings()
        arguments.run(settings, arguments)
    except KeyboardInterrupt:
        print(
            f"autonvis {arguments.verb}: interrupted; what is finished stays, run it again for the rest",
            file=sys.stderr,
        )
        sys.exit(130)
    except (SettingsError, ValueError, OSError, RuntimeError) as error:
        # The named errors of this system are built-in kinds with a sentence; others keep their traceback.
        if type(error).__module__.split(".")[0] not in {"tasks", "autonvis", "services", "builtins"}:
            raise
        print(f"autonvis {arguments.verb}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
