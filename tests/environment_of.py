"""The environment and Prefect's profile of this process, changed for a while."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tasks.settings import load_settings


@contextmanager
def changed_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables, with what Prefect and our settings make of them, and puts everything back."""
    from prefect.context import refresh_global_settings_context

    before = dict(os.environ)
    os.environ.update(variables)
    load_settings.cache_clear()
    refresh_global_settings_context()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        load_settings.cache_clear()
        with warnings.catch_warnings():
            # A command that a test ran in this process may have named a home that nobody made.
            warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
            refresh_global_settings_context()
