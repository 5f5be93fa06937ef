"""The template of the environment says what the settings are."""

from __future__ import annotations

from tasks.settings import Settings, environment_template
from tests.conftest import ROOT

TEMPLATE = ROOT / "deployments/autonvis.env.example"


def test_the_template_is_renewed() -> None:
    assert TEMPLATE.read_text() == environment_template(), "run `make contracts`"


def test_every_setting_has_a_meaning() -> None:
    assert all(field.description for field in Settings.model_fields.values())
