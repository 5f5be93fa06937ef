"""The template of the environment says what the settings are."""

from __future__ import annotations

import re

from tasks.settings import PREFIX, Settings
from tests.conftest import ROOT

TEMPLATE = (ROOT / "deployments/autonvis.env.example").read_text()


def test_the_template_has_every_setting_with_its_default_and_meaning() -> None:
    expected = [
        (field.description, PREFIX + name.upper(), "" if field.default is None else str(field.default))
        for name, field in Settings.model_fields.items()
    ]
    assert re.findall(r"^# (.+)\n#(\w+)=(.*)$", TEMPLATE, flags=re.MULTILINE) == expected
