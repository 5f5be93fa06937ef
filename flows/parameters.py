"""Types of the parameters that several flows have: the forms of the Prefect UI and its API refuse the rest before there is a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.grid import WIDEST_STEP_DEG

GridStep = Annotated[float, Field(gt=0, le=WIDEST_STEP_DEG)]
"""Grid spacing in degrees."""
