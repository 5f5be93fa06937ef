"""What flow runs have left of themselves, `HOME/run/metrics`, to ask single values of."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.metrics.ledger import read_ledgers
from tasks.metrics.names import Metric
from tasks.settings import Settings


@dataclass(frozen=True)
class Recorded:
    """Samples by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, metric: Metric, **labels: str) -> float | None:
        """The sample with exactly these labels; None when there is none."""
        return self.samples.get((metric.name, frozenset(labels.items())))

    def by(self, metric: Metric, label: str) -> dict[str, float]:
        """The samples of a metric by one of its labels."""
        return {
            dict(labels)[label]: value
            for (name, labels), value in self.samples.items()
            if name == metric.name
        }


def recorded(settings: Settings) -> Recorded:
    """Everything there is."""
    return Recorded(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in read_ledgers(settings)
            for sample in family.samples
        }
    )
