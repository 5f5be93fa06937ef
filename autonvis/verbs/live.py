"""The live system: started, deployed, stopped, and how it is."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from autonvis.verbs.parser import Verbs
from tasks.settings import PREFIX, Settings


def add(verbs: Verbs) -> None:
    """Adds these verbs."""
    verbs.add(
        "up",
        start_system,
        "Start the live system: broker, gateway, web service, Prefect server and worker.",
        writes=True,
    )
    sub = verbs.add(
        "deploy",
        deploy,
        "Bring the live system to what its settings and prefect.yaml say: migrate the catalog, start what does not run, apply "
        "deployments and automations, wait until all is well. May be run at any time.",
        "autonvis deploy\nautonvis deploy production\nautonvis deploy production --restart",
        writes=True,
        adopts=False,
    )
    sub.add_argument(
        "env", nargs="?", metavar="ENV", help="read deployments/ENV.env; default autonvis.env if it is there"
    )
    sub.add_argument(
        "--restart", action="store_true", help="stop what runs first: for new code or changed settings"
    )
    verbs.add("down", stop_system, "Stop the live system.")
    verbs.add("status", show_status, "List the processes of the live system.")
    sub = verbs.add(
        "health",
        show_health,
        "Look at everything at once: what is wrong, in a sentence each with the next step. Exit code 0 all is well, 1 something "
        "needs attention, 2 something is broken.",
    )
    sub.add_argument("--json", action="store_true", help="for programs: a list of findings")
    sub = verbs.add(
        "objectives",
        show_objectives,
        "Say how the service-level objectives were kept over a span: answers, ingestion, web, cycles, freshness.",
        "autonvis objectives --since 2026-11-01T00:00Z --until 2026-12-01T00:00Z --out november.parquet",
    )
    sub.add_argument("--since", metavar="TIME", help="ISO-8601 with zone; default 30 days before --until")
    sub.add_argument("--until", metavar="TIME", help="ISO-8601 with zone; default now")
    sub.add_argument("--out", type=Path, metavar="FILE.parquet", help="write the table")
    verbs.add(
        "automations",
        apply_automations,
        "Apply deployments/automations.yaml: whom Prefect tells when something goes wrong.",
        writes=True,
    )
    verbs.add("settings", show_settings, "List every setting with its value and meaning.")


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


def apply_automations(settings: Settings, _: argparse.Namespace) -> None:
    from autonvis.system import prefect_server

    with prefect_server(settings):
        from autonvis.automations import alert_urls, apply

        names = apply(settings)
    n_urls = len(alert_urls(settings))
    told = f"{n_urls} addresses" if n_urls else "nobody, until AUTONVIS_ALERT_URLS is set"
    print(f"{len(names)} automations applied; they tell {told}")


def show_settings(settings: Settings, _: argparse.Namespace) -> None:
    for name, field in Settings.model_fields.items():
        print(f"{PREFIX}{name.upper()}={getattr(settings, name)}\n    {field.description}")
