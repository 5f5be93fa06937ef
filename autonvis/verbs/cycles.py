"""From observations to products: the main job, its parts, and the past again."""

from __future__ import annotations

import argparse
import signal
import sys
from datetime import date
from pathlib import Path

from autonvis.verbs.parser import Verbs, add_grid, finish
from tasks.settings import Settings


def add(verbs: Verbs) -> None:
    """Adds these verbs."""
    sub = verbs.add(
        "demo", run_demo, "Run the main job once, without a network, and print how good it was.", adopts=False
    )
    sub.add_argument("--data", type=Path, help="file or folder of observations; default: a simulated network")
    sub.add_argument(
        "--days", type=float, default=3.0, help="how much of the end of the data to run (default 3)"
    )
    sub.add_argument(
        "--stations", type=Path, help="CSV of ursi, lat_deg, lon_deg for files without coordinates"
    )
    sub.add_argument(
        "--start", type=date.fromisoformat, help="UTC date of the first row of files without dates"
    )
    verbs.add("land", run_land, "Land what waits in the landing zones into the lake.", writes=True)
    sub = verbs.add("nowcast", run_nowcast, "Run one cycle and publish its products.", writes=True)
    sub.add_argument("--valid-time", help="ISO-8601 with zone; default the newest whole cycle")
    sub.add_argument("--available-until", help="use only what was known by then; default now")
    add_grid(sub)
    sub = verbs.add("backfill", run_backfill, "Run the cycles of a past span from the lake.", writes=True)
    sub.add_argument("start", help="ISO-8601 with zone, e.g. 2022-10-25T00:00Z")
    sub.add_argument("end", help="ISO-8601 with zone")
    add_grid(sub)
    sub = verbs.add(
        "replay",
        run_replay,
        "Judge the quarantine again after a contract change; with a span, curate what landed then again.",
        writes=True,
    )
    sub.add_argument("--since", help="batches received from then on; ISO-8601 with zone")
    sub.add_argument("--until", help="batches received before then; ISO-8601 with zone")
    sub = verbs.add(
        "validate", run_validate, "Say what the landing zones would reject of a file, and send nothing."
    )
    sub.add_argument(
        "file", type=Path, help="file or folder: CSV, Parquet, GIRO text, or .json and .jsonl as sent"
    )
    sub.add_argument("--dataset", choices=("ionograms", "measurements"), default="ionograms")
    sub = verbs.add(
        "density",
        run_density,
        "Write the electron density of an analysis over a box of places and heights (NetCDF).",
    )
    sub.add_argument("--time", help="valid time, ISO-8601 with zone; default what products/current shows")
    sub.add_argument(
        "--analysis", type=Path, help="Parquet file of the dataset `analysis`; default the lake's"
    )
    for edge in ("south", "west", "north", "east"):
        sub.add_argument(
            f"--{edge}",
            type=float,
            required=True,
            metavar="DEG",
            help="west > east crosses the date line" if edge == "west" else None,
        )
    sub.add_argument("--step", type=float, default=1.0, metavar="DEG", help="spacing of places (default 1)")
    sub.add_argument(
        "--heights",
        default="80:600:10",
        metavar="FIRST:LAST:STEP",
        help="in km, ends included (default 80:600:10)",
    )
    sub.add_argument("--out", type=Path, required=True, metavar="FILE.nc", help="file to write")


def run_demo(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.demo import demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the broker and the gateway on the way out
    demo(data=arguments.data, days=arguments.days, stations=arguments.stations, first_date=arguments.start)


def run_land(settings: Settings, _: argparse.Namespace) -> None:
    from autonvis.system import prefect_server

    with prefect_server(settings):
        from flows.land import land

        finish(land(return_state=True))


def run_nowcast(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import prefect_server
    from tasks.cycles import parse_time, plan_cycle

    plan_cycle(
        settings, arguments.valid_time, arguments.available_until, arguments.region, arguments.grid_step_deg
    )
    times = {
        name: parse_time(getattr(arguments, name), name) if getattr(arguments, name) else None
        for name in ("valid_time", "available_until")
    }
    grid = {"region": arguments.region, "grid_step_deg": arguments.grid_step_deg}
    with prefect_server(settings):
        from flows.nowcast import nowcast

        finish(nowcast(**times, **grid, return_state=True))


def run_backfill(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import prefect_server
    from tasks.cycles import parse_time, plan_span

    plan_span(settings, arguments.start, arguments.end, None, arguments.region, arguments.grid_step_deg)
    start, end = parse_time(arguments.start, "start"), parse_time(arguments.end, "end")
    grid = {"region": arguments.region, "grid_step_deg": arguments.grid_step_deg}
    with prefect_server(settings):
        from flows.backfill import backfill

        finish(backfill(start, end, **grid, return_state=True))


def run_replay(settings: Settings, arguments: argparse.Namespace) -> None:
    from tasks.curation import replay_landing, replay_quarantine
    from tasks.cycles import parse_time

    if arguments.since or arguments.until:
        span = {
            name: parse_time(text, name) if (text := getattr(arguments, name)) else None
            for name in ("since", "until")
        }
        landed = replay_landing(settings=settings, **span)
        print(
            f"{landed.n_batches} batches: {landed.n_accepted} rows accepted, {landed.n_quarantined} quarantined"
            + (f"; {landed.n_expired} more are past their retention" if landed.n_expired else "")
        )
        if landed.faults:
            sys.exit("\n".join(landed.faults))
        return
    result = replay_quarantine(settings=settings)
    print(
        f"{result.n_published} items published, {result.n_marked} quarantined rows done, {result.n_failing} still fail"
    )


def run_validate(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks.landing.dry_run import dry_run

    result = dry_run(arguments.file, arguments.dataset, settings=settings, now=datetime.now(UTC))
    print(f"{result.n_items - result.n_rejected} of {result.n_items} observations would be accepted")
    for name, n_items in result.reasons.most_common():
        print(f"{n_items:8d} rejected by {name}, e.g. {result.examples[name]}")
    if result.n_rejected:
        sys.exit(1)


def run_density(settings: Settings, arguments: argparse.Namespace) -> None:
    from tasks.background import Background
    from tasks.cycles import parse_time
    from tasks.density import compute_density, find_analysis, parse_heights, read_analysis, write_netcdf
    from tasks.grid import Grid

    time = parse_time(arguments.time, "time") if arguments.time else None
    heights = parse_heights(arguments.heights)
    grid = Grid.box(arguments.south, arguments.west, arguments.north, arguments.east, arguments.step)
    analysis = (
        read_analysis(arguments.analysis, time) if arguments.analysis else find_analysis(settings, time)
    )
    density = compute_density(analysis, grid, heights, Background())
    write_netcdf(density, arguments.out)
    n_heights, n_latitudes, n_longitudes = density.density_m3.shape
    print(
        f"{arguments.out}: {n_heights} heights x {n_latitudes} x {n_longitudes} places, "
        f"valid {analysis.valid_time:%Y-%m-%dT%H:%MZ}, cycle {analysis.cycle_id}"
    )
