"""The time of these tests, and what Prometheus reads."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


@pytest.fixture
def noon() -> datetime:
    return datetime(2025, 6, 12, 12, tzinfo=UTC)


def parse(text: str) -> dict[tuple[str, ...], float]:
    """Return the value of each sample by its name and the values of its labels."""
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def collect(collector: Collector) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    return parse(generate_latest(registry).decode())


@pytest.fixture
def samples() -> Callable[[Collector], dict[tuple[str, ...], float]]:
    """Return the samples of a collector as Prometheus parses them."""
    return collect


@pytest.fixture
def parsed() -> Callable[[str], dict[tuple[str, ...], float]]:
    return parse
