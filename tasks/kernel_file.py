"""Writing a kernel configuration: the file that was read, comments and order kept, with the values that were learned."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import tomlkit

from tasks.kernel_config import DEFAULT_FILE, QUANTITIES, KernelConfig

PROVENANCE = "[L]"


def render(kernel: KernelConfig, base: Path | None, data: list[str], learned_on: date) -> str:
    """The text of a configuration file with the values of `kernel`; each that differs from `base` says whence it comes.

    Raises:
        ValueError: `kernel` has other terms than the file.
    """
    document = tomlkit.parse((base or DEFAULT_FILE).read_text(encoding="utf-8"))
    terms: Any = document["terms"]
    if len(terms) != len(kernel.terms):
        raise ValueError(
            f"{base or DEFAULT_FILE} has {len(terms)} terms, the configuration {len(kernel.terms)}"
        )
    for table, term in zip(terms, kernel.terms, strict=True):
        for name in ("zonal_km", "meridional_km", "time_scale_h"):
            if name in table:
                _replace(table, name, getattr(term, name), data, learned_on)
        sd = term.sd.model_dump()
        for quantity in QUANTITIES:
            if table["sd"][quantity] != sd[quantity]:
                table["sd"][quantity] = sd[quantity]
                table["sd"].comment(_source(data, learned_on))
    for quantity in QUANTITIES:
        errors: Any = document[quantity]
        for name, value in kernel.quantity(quantity).obs_error.model_dump().items():
            _replace(errors["obs_error"], name, round(value, 4), data, learned_on)
    return tomlkit.dumps(document)


def _replace(table: Any, name: str, value: float, data: list[str], learned_on: date) -> None:
    if float(table[name]) != value:
        item = tomlkit.item(value)
        table[name] = item
        table[name].comment(_source(data, learned_on))


def _source(data: list[str], learned_on: date) -> str:
    return f"{PROVENANCE} {learned_on.isoformat()}, {', '.join(data)}"
