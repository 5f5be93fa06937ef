"""One page for Prometheus: this process, what flow runs left, and the state of the system."""

from __future__ import annotations

from itertools import chain

from prometheus_client import REGISTRY, CollectorRegistry

from tasks.metrics.families import merge, with_labels, write
from tasks.metrics.ledger import read_ledgers
from tasks.metrics.state import State
from tasks.settings import Settings


def page(settings: Settings, state: State | None = None, registry: CollectorRegistry = REGISTRY) -> bytes:
    """The metrics of this process, and with `state` those of the whole system, labelled with cluster and environment.

    One service of a system shows the state, the others themselves only: else sums would count it twice.
    """
    of_system = chain(read_ledgers(settings), state.collect()) if state is not None else ()
    labels = {"cluster": settings.cluster, "environment": settings.environment}
    return write(with_labels(merge(chain(registry.collect(), of_system)), labels))
