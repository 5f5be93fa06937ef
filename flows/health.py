"""Flow `health`, the flight check: everything looked at once an hour; what is wrong becomes an event that automations act on."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from flows.watch import WATCHED
from tasks.health.finding import Finding, Level
from tasks.health.report import examine, markdown, summary, text, worst
from tasks.objectives import note_objectives
from tasks.settings import load_settings

note = task(name="note-objectives", cache_policy=NO_CACHE)(note_objectives)
look = task(name="examine", cache_policy=NO_CACHE)(examine)


def name_run() -> str:
    """The hour and minute in which it looked."""
    return f"health-{datetime.now(UTC):%Y-%m-%dT%H:%MZ}"


def announce(findings: list[Finding]) -> None:
    """An event `autonvis.health.<check>` for each finding that is not well; `deployments/automations.yaml` waits for them."""
    for finding in findings:
        if finding.level is not Level.OK:
            name = f"autonvis.health.{finding.check}"
            message = f"{finding.sentence}: {finding.next_step}"
            emit_event(
                name,
                resource={"prefect.resource.id": name},
                payload={**finding.document(), "message": message},
            )


@flow(name="health", flow_run_name=name_run, timeout_seconds=300, **WATCHED)
def health() -> State:
    """Look at services, endpoints, data, cycles, disk, memory, backups and errors; the run fails when there is a fault."""
    settings = load_settings()
    note(settings, datetime.now(UTC))
    findings = look(settings, datetime.now(UTC))
    announce(findings)
    create_markdown_artifact(markdown(findings), key="health", description=summary(findings))
    get_run_logger().info("%s\n%s", summary(findings), text(findings, has_colour=False))
    return (Failed if worst(findings) is Level.FAULT else Completed)(message=summary(findings))
