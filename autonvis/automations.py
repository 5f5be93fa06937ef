"""Prefect's automations from `deployments/automations.yaml`, applied as often as one likes.

Each sends a notification to every address of `AUTONVIS_ALERT_URLS`; without one it does nothing but show in the
Prefect UI that it was triggered.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import AutomationCore, DoNothing, EventTrigger, Posture, SendNotification
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import Automation
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from tasks.settings import Settings, SettingsError

FILE = Path(__file__).resolve().parents[1] / "deployments" / "automations.yaml"
PREFIX = "autonvis-"
RUNBOOK = "docs/operations/runbook.md"
FAILURES = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}
SUCCESS = "prefect.flow-run.Completed"


class Late(BaseModel):
    """A flow that should have succeeded within so many minutes."""

    model_config = ConfigDict(extra="forbid")
    flow: str
    minutes: float = Field(gt=0)


class Rule(BaseModel):
    """One automation as the file has it."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^[a-z][a-z-]*$")
    message: str
    runbook: str
    fails: str | None = None
    late: Late | None = None
    events: list[str] | None = None

    @model_validator(mode="after")
    def _has_one_trigger(self) -> Rule:
        if sum(one is not None for one in (self.fails, self.late, self.events)) != 1:
            raise ValueError("give one of fails, late and events")
        return self

    def trigger(self) -> EventTrigger:
        if self.events is not None:
            return EventTrigger(expect=set(self.events), posture=Posture.Reactive, threshold=1)
        flow = self.fails if self.late is None else self.late.flow
        of_flow: dict[str, Any] = {
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": flow},
        }
        if self.late is None:
            return EventTrigger(expect=FAILURES, posture=Posture.Reactive, threshold=1, **of_flow)
        within = timedelta(minutes=self.late.minutes)
        return EventTrigger(
            expect={SUCCESS}, posture=Posture.Proactive, threshold=1, within=within, **of_flow
        )

    def body(self) -> str:
        """Prefect fills in the braces: the run's name, or what a check found and what to do."""
        said = "{{ event.payload.message }}" if self.events is not None else "{{ event.resource.name }}"
        of_event = f"{{% if event %}}{said}\n{{% endif %}}"
        return f"{self.message}\n{of_event}Runbook: {RUNBOOK}#{self.runbook}"


def read_rules(path: Path = FILE) -> list[Rule]:
    """The rules of the file.

    Raises:
        SettingsError: it is not such a file; the message names the rule.
    """
    rules = []
    for number, entry in enumerate(yaml.safe_load(path.read_text())["automations"]):
        try:
            rules.append(Rule.model_validate(entry))
        except ValidationError as error:
            name = (
                entry.get("name", f"number {number + 1}")
                if isinstance(entry, dict)
                else f"number {number + 1}"
            )
            raise SettingsError(f"{path}: automation {name}: {error.errors()[0]['msg']}") from error
    return rules


def apply(settings: Settings, path: Path = FILE) -> list[str]:
    """Makes the server's automations those of the file; returns their names.

    One that an operator has switched off stays off.

    Raises:
        SettingsError: the file or an address is malformed.
    """
    rules = read_rules(path)
    blocks = [_block(number, url) for number, url in enumerate(alert_urls(settings))]
    with get_client(sync_client=True) as client:
        ids = [block.save(f"{PREFIX}alerts-{number}", overwrite=True) for number, block in enumerate(blocks)]
        present = {one.name: one for one in client.read_automations() if one.name.startswith(PREFIX)}
        for rule in rules:
            _apply_rule(client, rule, ids, present.pop(PREFIX + rule.name, None))
        for gone in present.values():
            assert gone.id is not None
            client.delete_automation(gone.id)
    return [rule.name for rule in rules]


def alert_urls(settings: Settings) -> list[str]:
    """The addresses, which are separated by spaces."""
    return settings.alert_urls.get_secret_value().split()


def _apply_rule(client: SyncPrefectClient, rule: Rule, ids: list[Any], present: Automation | None) -> None:
    actions = [
        SendNotification(block_document_id=one, subject=f"AutoNVIS: {rule.name}", body=rule.body())
        for one in ids
    ]
    automation = AutomationCore(
        name=PREFIX + rule.name,
        description=rule.message,
        enabled=present is None or present.enabled,
        trigger=rule.trigger(),
        actions=list(actions) if actions else [DoNothing()],
    )
    if present is None:
        client.create_automation(automation)
    elif _differs(present, automation):  # an update begins a late trigger's time anew
        assert present.id is not None
        client.update_automation(present.id, automation)


def _differs(present: Automation, wanted: AutomationCore) -> bool:
    def content(automation: AutomationCore) -> dict[str, Any]:
        dumped = automation.model_dump(mode="json", include={"name", "description", "trigger", "actions"})
        for name in ("expect", "after", "for_each"):
            dumped["trigger"][name] = sorted(dumped["trigger"][name])
        dumped["trigger"].pop("id", None)
        return dumped

    return content(present) != content(wanted)


def _block(number: int, url: str) -> CustomWebhookNotificationBlock | SlackWebhook:
    """What sends to an address: JSON by POST to http and https, anything else by Apprise, as mailtos:// for e-mail."""
    if url.startswith(("http://", "https://")):
        content = {"subject": "{{subject}}", "text": "{{body}}"}
        return CustomWebhookNotificationBlock(
            name=f"alerts-{number}", url=url, json_data=content, headers=None, cookies=None
        )
    from apprise import Apprise

    if not Apprise().add(url):
        scheme = url.partition(":")[0]
        raise SettingsError(
            f"AUTONVIS_ALERT_URLS: the address number {number + 1} ({scheme}:…) is neither http(s)://… nor an address of Apprise "
            "such as mailtos://user:password@host?to=operator@example.org"
        )
    return SlackWebhook(url=SecretStr(url))  # the block's name is narrow, it takes every address of Apprise
