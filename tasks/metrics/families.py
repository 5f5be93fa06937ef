"""Metric families from several places as one set: a name stands once on a page, with all of its samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ADDED_UP = ("counter", "histogram", "summary")
"""Types whose samples of an earlier process go on; those of a gauge are replaced."""


def merge(metrics: Iterable[Metric]) -> list[Metric]:
    """One family per name, in the order in which the names come first.

    Raises:
        ValueError: two families of one name have different types.
    """
    merged: dict[str, Metric] = {}
    for metric in metrics:
        family = merged.get(metric.name)
        if family is None:
            family = merged[metric.name] = Metric(metric.name, metric.documentation, metric.type)
        elif family.type != metric.type:
            raise ValueError(
                f"metric {metric.name} is a {family.type} in one place, a {metric.type} in another"
            )
        family.samples += metric.samples
    return list(merged.values())


def add(before: Iterable[Metric], now: Iterable[Metric]) -> list[Metric]:
    """What stood before with what came: counts are added sample by sample, gauges replaced family by family."""
    families = {metric.name: metric for metric in before}
    for metric in now:
        earlier = families.get(metric.name)
        if earlier is not None and earlier.type == metric.type and metric.type in ADDED_UP:
            values = {_key(sample): sample for sample in earlier.samples}
            for sample in metric.samples:
                known = values.get(_key(sample))
                value = sample.value + (known.value if known is not None else 0.0)
                values[_key(sample)] = sample._replace(value=value)
            metric.samples = list(values.values())
        families[metric.name] = metric
    return list(families.values())


def with_labels(metrics: Iterable[Metric], labels: Mapping[str, str]) -> Iterator[Metric]:
    """The same families with more labels on every sample; what a sample says of itself stays."""
    for metric in metrics:
        metric.samples = [sample._replace(labels={**labels, **sample.labels}) for sample in metric.samples]
        yield metric


def read(text: str) -> list[Metric]:
    """The families of a page.

    Raises:
        ValueError: it is none.
    """
    return list(text_string_to_metric_families(text))


def write(metrics: Iterable[Metric]) -> bytes:
    """Families as a page of Prometheus's text format."""
    return generate_latest(_Page(list(metrics)))  # type: ignore[arg-type]


class _Page:
    """What the writer takes for a registry."""

    def __init__(self, metrics: list[Metric]) -> None:
        self.metrics = metrics

    def collect(self) -> list[Metric]:
        return self.metrics


def _key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    return sample.name, frozenset(sample.labels.items())
