"""The network of sounders: simulated, reported on, judged, and made larger."""

from __future__ import annotations

import argparse
import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from autonvis.verbs.parser import Verbs, finish
from tasks.settings import TIERS, Settings

if TYPE_CHECKING:
    from tasks.network_question import Question


def add(verbs: Verbs) -> None:
    """Adds these verbs."""
    sub = verbs.add(
        "simulate",
        run_simulate,
        "Play a network of NVIS sounders over a known ionosphere: write what they hear and the truth, and send it to a "
        "landing zone.",
        writes=True,
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default HOME/simulated")
    sub.add_argument(
        "--to",
        metavar="URL",
        help="landing zone to send to: http(s)://, tcp:// or tls://, mqtt(s):// with host and port",
    )
    sub.add_argument(
        "--ca", type=Path, metavar="FILE", help="authority to trust where it is a private one (PEM)"
    )
    sub.add_argument("--start", help="first observation, ISO-8601 with zone; default --hours before now")
    sub.add_argument("--hours", type=float, default=24.0, help="length of the span (default 24)")
    sub.add_argument("--seed", type=int, default=1, help="another seed is another network and ionosphere")
    sub.add_argument(
        "--region", type=box, default=(44.0, 2.0, 54.0, 20.0), metavar="S,W,N,E",
        help="box of the sounders in degrees (default 44,2,54,20); write --region=-10,... for a southern one",
    )  # fmt: skip
    for tier, n_sounders in (("platinum", 2), ("gold", 5), ("silver", 10), ("bronze", 20)):
        sub.add_argument(
            f"--{tier}", type=int, default=n_sounders, metavar="N",
            help=f"sounders of tier {tier.upper()} (default {n_sounders})",
        )  # fmt: skip
    sub.add_argument(
        "--storm", type=float, metavar="H", help="a storm begins this many hours after the start"
    )
    sub.add_argument("--withheld", type=int, default=50, metavar="N", help="places to score by (default 50)")
    sub.add_argument(
        "--pace", type=float, metavar="X", help="send X times faster than the clock; default at once"
    )
    sub = verbs.add(
        "report",
        run_report,
        "Report on the sounders of a day: tiers and why, errors, dropouts, a page for each.",
        writes=True,
    )
    sub.add_argument("day", type=date.fromisoformat, nargs="?", help="UTC day; default the last whole one")
    sub = verbs.add(
        "network",
        run_network,
        "Say what each sounder is worth to the map of a region, who is redundant, where nobody looks, and what an upgrade "
        "would gain; write it as Markdown, JSON and Parquet to --out (default HOME/network).",
        writes=True,
    )
    _add_question(sub)
    sub = verbs.add(
        "place",
        run_place,
        "Find the places where new sounders would take most off the variance of foF2, one after the other, or try one place "
        "with --at; write places, the map of the gain (PNG, CSV) and GeoJSON to --out (default HOME/placement).",
        writes=True,
    )
    sub.add_argument("n", type=int, nargs="?", metavar="N", help="number of new sounders")
    sub.add_argument(
        "--at", type=place, metavar="LAT,LON",
        help="try one sounder there; write --at=-33.9,18.4 for a southern place",
    )  # fmt: skip
    sub.add_argument(
        "--tier",
        type=str.upper,
        choices=TIERS,
        default="GOLD",
        help="assumed of the new sounders (default GOLD)",
    )
    sub.add_argument(
        "--per-h", type=float, metavar="N",
        help="observations of foF2 per hour that their echoes give; default what the tier is known for",
    )  # fmt: skip
    sub.add_argument(
        "--mask", type=Path, metavar="FILE.geojson", help="polygons in which they may stand; default anywhere"
    )
    sub.add_argument("--at-sea", action="store_true", help="they may stand at sea and on lakes too")
    _add_question(sub)


def _add_question(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--time", help="valid time, ISO-8601 with zone; default the newest whole cycle")
    sub.add_argument("--available-until", help="use only what was known by then; default now")
    sub.add_argument(
        "--region", help="`global` or `south,west,north,east` in degrees; default from the settings"
    )
    sub.add_argument(
        "--demand", type=Path, metavar="FILE.csv",
        help="places that count, with latitude_deg, longitude_deg and weight; default every part of the region alike",
    )  # fmt: skip
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder to write to")


def run_simulate(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime, timedelta

    from autonvis.simulate import Network, simulate
    from tasks.cycles import parse_time

    if arguments.ca is not None:
        if not arguments.ca.is_file():
            raise ValueError(f"--ca {arguments.ca} is no file")
        os.environ["SSL_CERT_FILE"] = str(arguments.ca)  # HTTP, TCP and MQTT all go by it
    now = datetime.now(UTC)
    start = (
        parse_time(arguments.start, "--start") if arguments.start else now - timedelta(hours=arguments.hours)
    )
    network = Network(
        start=start,
        hours=arguments.hours,
        seed=arguments.seed,
        region=arguments.region,
        n_by_tier={tier: getattr(arguments, tier.lower()) for tier in TIERS},
        storm_onset_h=arguments.storm,
        n_withheld=arguments.withheld,
    )
    out = arguments.out or settings.home / "simulated"
    simulate(network, out, to=arguments.to, pace=arguments.pace, say=lambda text: print(text, flush=True))


def run_report(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import prefect_server

    with prefect_server(settings):
        from flows.report import report

        finish(report(arguments.day, return_state=True))


def run_network(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.network import show_network

    show_network(_network_question(settings, arguments), arguments.out or settings.home / "network")


def run_place(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.network import place_sounders, show_what_if

    if (arguments.n is None) == (arguments.at is None):
        raise ValueError("give either the number of new sounders, or the place of one with --at LAT,LON")
    question = _network_question(settings, arguments)
    out = arguments.out or settings.home / "placement"
    if arguments.at is not None:
        latitude_deg, longitude_deg = arguments.at
        show_what_if(question, latitude_deg, longitude_deg, arguments.tier, per_h=arguments.per_h, out=out)
    else:
        place_sounders(
            question,
            arguments.n,
            arguments.tier,
            arguments.mask,
            per_h=arguments.per_h,
            at_sea=arguments.at_sea,
            out=out,
        )


def box(text: str) -> tuple[float, float, float, float]:
    try:
        south, west, north, east = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not south,west,north,east in degrees") from error
    return south, west, north, east


def place(text: str) -> tuple[float, float]:
    try:
        latitude, longitude = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not latitude,longitude in degrees") from error
    return latitude, longitude


def _network_question(settings: Settings, arguments: argparse.Namespace) -> Question:
    from tasks.cycles import parse_time, plan_cycle
    from tasks.network_question import Known, Question
    from tasks.target_area import read_demand

    time, until = (
        parse_time(text, name) if (text := getattr(arguments, name)) else None
        for name in ("time", "available_until")
    )
    known = Known(settings, plan_cycle(settings, time, until, arguments.region))
    return Question(known, None if arguments.demand is None else read_demand(arguments.demand))
