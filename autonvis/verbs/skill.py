"""How good the nowcast is, and the values that make it better."""

from __future__ import annotations

import argparse
from pathlib import Path

from autonvis.verbs.parser import Verbs, finish
from tasks.settings import Settings, parse_leads


def add(verbs: Verbs) -> None:
    """Adds these verbs."""
    sub = verbs.add(
        "verify",
        run_verify,
        "Run a whole series of cycles over files of ionograms with each station held out in turn, from the analysis and "
        "from the effective index, and score what is said of it now and ahead. Writes verification.parquet, summary.md "
        "and plots; the last lines printed are JSON, one per quantity and lead, the nowcast last.",
    )
    sub.add_argument(
        "file",
        type=Path,
        nargs="+",
        help="files or folders: CSV, Parquet with the contract's columns, GIRO text",
    )
    sub.add_argument("--out", type=Path, help="folder to write to; default HOME/verify")
    sub.add_argument(
        "--every", type=int, default=15, metavar="MIN", help="minutes between cycles (default 15)"
    )
    sub.add_argument("--start", help="first cycle, ISO-8601 with zone; default the first observation")
    sub.add_argument("--end", help="last cycle, ISO-8601 with zone; default the last observation")
    sub.add_argument(
        "--leads", type=leads, default=(0.0, 1.0, 3.0, 6.0, 12.0, 24.0), metavar="H,H",
        help="hours ahead (default 0,1,3,6,12,24); 0, the nowcast, is always scored",
    )  # fmt: skip
    sub.add_argument("--config", type=Path, help="kernel configuration TOML; default the one of the settings")
    sub.add_argument(
        "--f107", type=float, metavar="SFU",
        help="solar flux of the span, for cycles with fewer than the minimum of stations and as a reference; default unknown",
    )  # fmt: skip
    sub.add_argument(
        "--gross-errors", type=float, default=0.0, metavar="SHARE",
        help="spoil this share of foF2 by factors up to 2 and score the rest (default 0)",
    )  # fmt: skip
    sub.add_argument(
        "--kp", type=Path, metavar="FILE",
        help="Kp of the span, for scores by disturbance: CSV or Parquet of indices, or IRI's apf107; default unknown",
    )  # fmt: skip
    sub.add_argument(
        "--without-control", action="store_true", help="no quality control beside the physical limits"
    )
    sub.add_argument(
        "--stations", type=Path, help="CSV of ursi, lat_deg, lon_deg for files without coordinates"
    )
    sub.add_argument("--jobs", type=int, metavar="N", help="processes; default one per core")
    sub = verbs.add(
        "learn",
        run_learn,
        "Learn the values of the covariance from files of ionograms, each path one data set, and print the skill at "
        "held-out stations before and after. Nothing uses the file written until AUTONVIS_KERNEL_CONFIG names it.",
        writes=True,
    )
    sub.add_argument("data", type=Path, nargs="+", help="files or folders of ionograms, at least a day each")
    sub.add_argument("--out", type=Path, help="file to write; default HOME/kernel.toml")
    sub.add_argument(
        "--config", type=Path, help="configuration to start from; default the one of the settings"
    )
    sub.add_argument("--cycles", type=int, default=150, help="cycles of each data set (default 150)")
    sub.add_argument(
        "--evaluations", type=int, default=120, help="configurations to try at most (default 120)"
    )
    sub.add_argument("--f107", type=float, metavar="SFU", help="solar flux of the time; default unknown")


def run_verify(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.verify import verify
    from tasks.cycles import parse_time

    verify(
        arguments.file,
        out=arguments.out or settings.home / "verify",
        every_minutes=arguments.every,
        start=parse_time(arguments.start, "--start") if arguments.start else None,
        end=parse_time(arguments.end, "--end") if arguments.end else None,
        leads_h=arguments.leads,
        config=arguments.config or settings.kernel_config,
        f107_sfu=arguments.f107,
        gross_errors=arguments.gross_errors,
        is_controlled=not arguments.without_control,
        stations=arguments.stations,
        kp=arguments.kp,
        jobs=arguments.jobs,
    )


def run_learn(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import prefect_server

    with prefect_server(settings):
        from flows.learn import learn

        finish(
            learn(
                arguments.data,
                arguments.out or settings.home / "kernel.toml",
                config=arguments.config,
                cycles=arguments.cycles,
                evaluations=arguments.evaluations,
                f107_sfu=arguments.f107,
                return_state=True,
            )
        )


def leads(text: str) -> tuple[float, ...]:
    try:
        return parse_leads(f"0,{text}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
