"""The console script `autonvis`: one verb per subcommand."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autonvis.environment import adopt, make_home
from tasks.settings import PREFIX, TIERS, Settings, SettingsError, load_settings, parse_leads

if TYPE_CHECKING:
    from tasks.network_question import Question

# Heavy modules (Prefect, pandas, the kernel) are imported by the verb that needs them: `--help` answers at once.

WRITING_VERBS = (
    "up",
    "deploy",
    "land",
    "nowcast",
    "backfill",
    "replay",
    "learn",
    "simulate",
    "network",
    "place",
    "report",
    "automations",
)


def show_settings(settings: Settings, _: argparse.Namespace) -> None:
    for name, field in Settings.model_fields.items():
        print(f"{PREFIX}{name.upper()}={getattr(settings, name)}\n    {field.description}")


def run_demo(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.demo import demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the broker and the gateway on the way out
    demo(data=arguments.data, days=arguments.days, stations=arguments.stations, first_date=arguments.start)


def start_system(settings: Settings, _: argparse.Namespace) -> None:
    from autonvis.system import up

    up(settings)
    print("`make down` stops it")


def deploy(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.deploy import deploy_system

    deploy_system(settings, arguments.file, is_restarted=arguments.restart)


def stop_system(settings: Settings, _: argparse.Namespace) -> None:
    from autonvis.system import down

    down(settings)


def show_status(settings: Settings, _: argparse.Namespace) -> None:
    from autonvis.system import status

    processes = status(settings)
    for process in processes:
        print(f"{process.name:16s} pid {process.pid}")
    if not processes:
        sys.exit(f"nothing of {settings.home} is running; `make up` starts it")


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


def run_report(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import prefect_server

    with prefect_server(settings):
        from flows.report import report

        finish(report(arguments.day, return_state=True))


def run_simulate(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime, timedelta

    from autonvis.simulate import Network, simulate
    from tasks.cycles import parse_time

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


def run_backup(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from services.broker_definitions import export_definitions
    from tasks.backup import make_backup
    from tasks.backup_retention import prune_backups

    definitions = None if arguments.increment else export_definitions(settings.home)
    kind: Literal["full", "increment", "whole"] = "whole" if arguments.whole else "full"
    made = make_backup(settings, "increment" if arguments.increment else kind, definitions)
    print(made.summary())
    if made.kind == "full":
        pruned = prune_backups(settings, now=datetime.now(UTC))
        print(f"{len(pruned.archives)} archives and {pruned.n_objects} stored files removed by the policy")


def run_restore(settings: Settings, arguments: argparse.Namespace) -> None:
    from autonvis.system import status
    from services.broker import running_broker
    from tasks.cycles import parse_time
    from tasks.restore import restore

    if status(settings) or running_broker(settings.home) is not None:
        raise ValueError(f"the system of {settings.home} is up: `make down` stops it; then restore")
    at = parse_time(arguments.at, "--at") if arguments.at else None
    restored = restore(settings, arguments.source, at, overwrite=arguments.overwrite)
    print(restored.summary().replace("; ", "\n"))
    print("`make up` starts it")


def run_verify_backup(settings: Settings, arguments: argparse.Namespace) -> None:
    from tasks.backup_verification import verify_backup

    verified = verify_backup(settings, arguments.source)
    print(verified.summary())
    if not verified.is_good:
        sys.exit(1)


def run_maintain(settings: Settings, _: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks.maintenance import maintain

    if not settings.home.is_dir():
        raise ValueError(f"there is nothing to maintain: {settings.home} (AUTONVIS_HOME) is no folder")
    print(maintain(settings, now=datetime.now(UTC)).summary().replace("; ", "\n"))


def apply_automations(settings: Settings, _: argparse.Namespace) -> None:
    from autonvis.system import prefect_server

    with prefect_server(settings):
        from autonvis.automations import alert_urls, apply

        names = apply(settings)
    n_urls = len(alert_urls(settings))
    told = f"{n_urls} addresses" if n_urls else "nobody, until AUTONVIS_ALERT_URLS is set"
    print(f"{len(names)} automations applied; they tell {told}")


def show_objectives(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime, timedelta

    from tasks.cycles import parse_time
    from tasks.objectives import HEADINGS, measure_objectives, objectives_rows

    until = parse_time(arguments.until, "--until") if arguments.until else datetime.now(UTC)
    since = parse_time(arguments.since, "--since") if arguments.since else until - timedelta(days=30)
    if since >= until:
        raise ValueError(f"--since {since.isoformat()} is not before --until {until.isoformat()}")
    table = measure_objectives(settings, since, until)
    rows = [HEADINGS, *objectives_rows(table)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if arguments.out:
        table.to_parquet(arguments.out, index=False)
        print(f"written to {arguments.out}")


def show_health(settings: Settings, arguments: argparse.Namespace) -> None:
    import json
    from datetime import UTC, datetime

    from tasks.health.report import examine, summary, text, worst

    findings = examine(settings, datetime.now(UTC))
    if arguments.json:
        print(json.dumps([finding.document() for finding in findings], indent=1))
    else:
        has_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(f"{text(findings, has_colour=has_colour)}\n\n{summary(findings)}")
    sys.exit(worst(findings))


def run_rebuild_catalog(settings: Settings, _: argparse.Namespace) -> None:
    from tasks.catalog_rebuild import rebuild_catalog

    rebuilt = rebuild_catalog(settings=settings)
    print(f"{rebuilt.n_batches} batches and {rebuilt.n_cycles} cycles recorded; sounders register again")


def show_mosquitto_users(settings: Settings, _: argparse.Namespace) -> None:
    from services.mosquitto_users import password_file

    print(password_file(settings), end="")


def show_credentials(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks import catalog
    from tasks.credentials import list_credentials

    engine = catalog.open_catalog(settings)
    issued = list_credentials(engine, arguments.sounder, now=datetime.now(UTC), with_ended=arguments.ended)
    print(f"{'sounder':24s} {'credential':10s} {'issued':17s} {'ends':17s} state")
    for one in issued:
        ends = f"{one.expires_at:%Y-%m-%dT%H:%MZ}" if one.expires_at else "-"
        print(f"{one.sounder_id:24s} {one.name:10s} {one.issued_at:%Y-%m-%dT%H:%MZ} {ends:17s} {one.state}")


def rotate_credential(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime, timedelta

    from tasks import catalog, credentials
    from tasks.cycles import parse_time

    now = datetime.now(UTC)
    expires_at = parse_time(arguments.expires, "--expires") if arguments.expires else None
    credential = credentials.rotate(
        catalog.open_catalog(settings),
        arguments.sounder,
        now=now,
        expires_at=expires_at,
        overlap=timedelta(hours=arguments.overlap_h),
    )
    print(credential)
    old = f"in {arguments.overlap_h:g} h" if arguments.overlap_h else "now"
    print(
        f"shown only this once, for {arguments.sounder}; "
        + (f"it expires {expires_at:%Y-%m-%dT%H:%MZ}; " if expires_at else "")
        + f"what it had ends {old}",
        file=sys.stderr,
    )


def revoke_credential(settings: Settings, arguments: argparse.Namespace) -> None:
    from datetime import UTC, datetime

    from tasks import catalog, credentials

    n_revoked = credentials.revoke(catalog.open_catalog(settings), arguments.sounder, now=datetime.now(UTC))
    print(
        f"{arguments.sounder}: {n_revoked} revoked; HTTP and TCP refuse it within 10 s, MQTT within about 30 s"
        if n_revoked
        else f"{arguments.sounder} has no valid credential: nothing to revoke"
    )
    if n_revoked and settings.mqtt_url:
        print(
            "on a RabbitMQ of your own, end its open connections: "
            f"rabbitmqctl close_all_user_connections {arguments.sounder} revoked (RabbitMQ 3.12 or newer; before, restart it)"
        )


def make_certificates(_: Settings, arguments: argparse.Namespace) -> None:
    from services.certificates import make_certificate

    made = make_certificate(arguments.directory, arguments.names, days=arguments.days)
    print(f"AUTONVIS_TLS_CERT={made.certificate.resolve()}")
    print(f"AUTONVIS_TLS_KEY={made.key.resolve()}")
    print(
        f"valid until {made.expires_at:%Y-%m-%d}; stations trust {made.authority}; keep {arguments.directory}/ca.key "
        "away from the network",
        file=sys.stderr,
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


def leads(text: str) -> tuple[float, ...]:
    try:
        return parse_leads(f"0,{text}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def finish(state: object) -> None:
    """Print how a flow run ended; a failure is a non-zero exit."""
    from prefect.client.schemas.objects import State

    assert isinstance(state, State)
    print(f"{state.name}: {state.message}" if state.message else state.name)
    if not state.is_completed():
        sys.exit(1)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="autonvis",
        description="Near-real-time nowcast of the ionosphere for NVIS radio.",
        epilog="Settings are read from AUTONVIS_* variables; `autonvis settings` lists them.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[Settings, argparse.Namespace], None], text: str, examples: str = ""
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        if examples:
            sub.formatter_class = argparse.RawDescriptionHelpFormatter
            sub.description = textwrap.fill(text, 100)
            sub.epilog = "examples:\n" + textwrap.indent(examples, "  ")
        sub.set_defaults(run=run)
        return sub

    def grid(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--region", help="`global` or `south,west,north,east` in degrees")
        sub.add_argument("--grid-step-deg", type=float, help="grid spacing in degrees")

    sub = verb("demo", run_demo, "Run the main job once, without a network, and print how good it was.")
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
    verb(
        "up", start_system, "Start the live system: broker, gateway, web service, Prefect server and worker."
    )
    sub = verb(
        "deploy",
        deploy,
        "Bring the live system to what its settings and prefect.yaml say: migrate the catalog, start what does not run, apply "
        "deployments and automations, wait until all is well. May be run at any time.",
        "autonvis deploy\nautonvis deploy production\nautonvis deploy production --restart",
    )
    sub.add_argument(
        "env", nargs="?", metavar="ENV", help="read deployments/ENV.env; default autonvis.env if it is there"
    )
    sub.add_argument(
        "--restart", action="store_true", help="stop what runs first: for new code or changed settings"
    )
    verb("down", stop_system, "Stop the live system.")
    verb("status", show_status, "List the processes of the live system.")
    verb("land", run_land, "Land what waits in the landing zones into the lake.")
    sub = verb("nowcast", run_nowcast, "Run one cycle and publish its products.")
    sub.add_argument("--valid-time", help="ISO-8601 with zone; default the newest whole cycle")
    sub.add_argument("--available-until", help="use only what was known by then; default now")
    grid(sub)
    sub = verb("backfill", run_backfill, "Run the cycles of a past span from the lake.")
    sub.add_argument("start", help="ISO-8601 with zone, e.g. 2022-10-25T00:00Z")
    sub.add_argument("end", help="ISO-8601 with zone")
    grid(sub)
    sub = verb(
        "replay",
        run_replay,
        "Judge the quarantine again after a contract change; with a span, curate what landed then again.",
    )
    sub.add_argument("--since", help="batches received from then on; ISO-8601 with zone")
    sub.add_argument("--until", help="batches received before then; ISO-8601 with zone")
    sub = verb(
        "validate", run_validate, "Say what the landing zones would reject of a file, and send nothing."
    )
    sub.add_argument(
        "file", type=Path, help="file or folder: CSV, Parquet, GIRO text, or .json and .jsonl as sent"
    )
    sub.add_argument("--dataset", choices=("ionograms", "measurements"), default="ionograms")
    sub = verb(
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
    sub = verb(
        "report",
        run_report,
        "Report on the sounders of a day: tiers and why, errors, dropouts, a page for each.",
    )
    sub.add_argument("day", type=date.fromisoformat, nargs="?", help="UTC day; default the last whole one")
    sub = verb(
        "simulate",
        run_simulate,
        "Play a network of NVIS sounders over a known ionosphere: write what they hear and the truth, and send it to a "
        "landing zone.",
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder to write to; default HOME/simulated")
    sub.add_argument(
        "--to", metavar="URL", help="landing zone to send to: http://, tcp:// or mqtt:// with host and port"
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

    def question(sub: argparse.ArgumentParser) -> None:
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

    sub = verb(
        "network",
        run_network,
        "Say what each sounder is worth to the map of a region, who is redundant, where nobody looks, and what an upgrade "
        "would gain; write it as Markdown, JSON and Parquet to --out (default HOME/network).",
    )
    question(sub)
    sub = verb(
        "place",
        run_place,
        "Find the places where new sounders would take most off the variance of foF2, one after the other, or try one place "
        "with --at; write places, the map of the gain (PNG, CSV) and GeoJSON to --out (default HOME/placement).",
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
    question(sub)
    sub = verb(
        "learn",
        run_learn,
        "Learn the values of the covariance from files of ionograms, each path one data set, and print the skill at "
        "held-out stations before and after. Nothing uses the file written until AUTONVIS_KERNEL_CONFIG names it.",
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
    sub = verb(
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
    sub = verb(
        "backup",
        run_backup,
        "Back up the root to AUTONVIS_BACKUP_TO while the system runs, and remove what the policy no longer keeps.",
        "autonvis backup\nautonvis backup --increment\nAUTONVIS_BACKUP_TO=/mnt/usb autonvis backup --whole",
    )
    kinds = sub.add_mutually_exclusive_group()
    kinds.add_argument(
        "--increment",
        action="store_true",
        help="only what is new since the last full backup: seconds, every three minutes",
    )
    kinds.add_argument(
        "--whole",
        action="store_true",
        help="one archive with everything in it, to be carried away; never removed by the policy",
    )
    sub = verb(
        "restore",
        run_restore,
        "Make a root again from a backup, as it was at the newest one or at a time. Needs the system stopped.",
        "autonvis restore /mnt/backups\n"
        "autonvis restore s3://bucket/autonvis --at 2026-11-25T10:15Z\n"
        "AUTONVIS_HOME=/srv/drill autonvis restore /mnt/backups/archives/20261125T020000Z-full.tar.zst",
    )
    sub.add_argument(
        "source",
        nargs="?",
        metavar="FROM",
        help="place of the backups, or one archive in it; default AUTONVIS_BACKUP_TO",
    )
    sub.add_argument("--at", metavar="TIME", help="with what was received until then, ISO-8601 with zone")
    sub.add_argument(
        "--overwrite", action="store_true", help="replace a root that is not empty; it is kept beside"
    )
    sub = verb(
        "verify-backup",
        run_verify_backup,
        "Restore the newest backup into a scratch root, compute its last cycle again, compare it bit for bit; exit code 1 if it "
        "differs.",
        "autonvis verify-backup\nautonvis verify-backup s3://bucket/autonvis",
    )
    sub.add_argument("source", nargs="?", metavar="FROM", help="place of the backups, or one archive in it")
    verb(
        "maintain",
        run_maintain,
        "Remove what is past its retention, compact the small files of settled days, rotate logs, vacuum Prefect's database, and "
        "say when the disk will be full; the system may run.",
        "autonvis maintain",
    )
    sub = verb(
        "health",
        show_health,
        "Look at everything at once: what is wrong, in a sentence each with the next step. Exit code 0 all is well, 1 something "
        "needs attention, 2 something is broken.",
    )
    sub.add_argument("--json", action="store_true", help="for programs: a list of findings")
    sub = verb(
        "objectives",
        show_objectives,
        "Say how the service-level objectives were kept over a span: answers, ingestion, web, cycles, freshness.",
        "autonvis objectives --since 2026-11-01T00:00Z --until 2026-12-01T00:00Z --out november.parquet",
    )
    sub.add_argument("--since", metavar="TIME", help="ISO-8601 with zone; default 30 days before --until")
    sub.add_argument("--until", metavar="TIME", help="ISO-8601 with zone; default now")
    sub.add_argument("--out", type=Path, metavar="FILE.parquet", help="write the table")
    verb(
        "automations",
        apply_automations,
        "Apply deployments/automations.yaml: whom Prefect tells when something goes wrong.",
    )
    verb("rebuild-catalog", run_rebuild_catalog, "Make a lost catalog again from what landed and the lake.")
    verb(
        "mosquitto-users",
        show_mosquitto_users,
        "Print the stations' lines for the password file of a Mosquitto of your own.",
    )
    sub = verb(
        "credentials",
        show_credentials,
        "List, replace and revoke the credentials of sounders.",
        "autonvis credentials list --ended\n"
        "autonvis credentials rotate TST01 --overlap-h 24 --expires 2027-01-01T00:00Z\n"
        "autonvis credentials revoke TST01",
    )
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "List the valid credentials: a name, never the credential itself."
    sub = actions.add_parser("list", help=text, description=text)
    sub.add_argument("sounder", nargs="?", help="only of this sounder")
    sub.add_argument("--ended", action="store_true", help="those that expired or were revoked too")
    sub.set_defaults(run=show_credentials)
    text = "Print a new credential, only this once; those that the sounder had end."
    sub = actions.add_parser("rotate", help=text, description=text)
    sub.add_argument("sounder")
    sub.add_argument(
        "--expires", metavar="TIME", help="end of the new one, ISO-8601 with zone; default never"
    )
    sub.add_argument(
        "--overlap-h", type=float, default=0.0, metavar="H",
        help="hours that the old ones go on (default 0); Mosquitto knows the new one only",
    )  # fmt: skip
    sub.set_defaults(run=rotate_credential)
    text = "End every credential of a sounder; a new one comes with `rotate`."
    sub = actions.add_parser("revoke", help=text, description=text)
    sub.add_argument("sounder")
    sub.set_defaults(run=revoke_credential)
    sub = verb(
        "certificates",
        make_certificates,
        "Make a private certificate authority, or use the one that is there, and a server certificate by it.",
        "autonvis certificates tls nvis.lan 192.168.1.10",
    )
    sub.add_argument("directory", type=Path, metavar="DIR", help="where the files are kept")
    sub.add_argument("names", nargs="+", metavar="NAME", help="host names and addresses of the server")
    sub.add_argument("--days", type=int, default=397, help="validity of the server certificate (default 397)")
    verb("settings", show_settings, "List every setting with its value and meaning.")
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
        if arguments.verb in WRITING_VERBS:
            make_home(settings)
        if arguments.verb not in (
            "demo",
            "deploy",
        ):  # a broker that this system has started is not one that it was given
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
