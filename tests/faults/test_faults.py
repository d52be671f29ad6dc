"""Faults of every kind under load: no acknowledged delivery is lost, processed twice or stuck.

Several clusters with real stores run at once, as they mostly wait; their processes are forked from one that has
imported everything. `python -m tests.faults.report` starts each anew, injects all faults and prints a table.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults import (
    database_faults,
    inbox_faults,
    kills,
    network_faults,
    other_faults,
    redis_faults,
    stranger_faults,
    upgrades,
)
from tests.faults.cluster import Cluster
from tests.faults.fork_server import ForkServer
from tests.faults.trials import Group, Impossible, Trial, Verdicts, running_groups


def is_included(group: Group, trial: Trial) -> bool:
    """Return whether a trial belongs to the tests, not to the report alone."""
    if group in upgrades.GROUPS:
        return group == upgrades.GROUPS[0]
    if group in network_faults.GROUPS:
        return trial == network_faults.ESSENTIAL
    on_postgresql = {kills.KILLS[failpoint].name for failpoint in kills.ESSENTIAL}
    return group.name != kills.ON_POSTGRESQL or trial.name in on_postgresql


# The longest first, so that none runs alone at the end.
MODULES = (upgrades, kills, network_faults, other_faults, database_faults, redis_faults, inbox_faults, stranger_faults)
GROUPS = [
    replace(group, trials=[each for each in group.trials if is_included(group, each)])
    for module in MODULES
    for group in module.GROUPS
]


@pytest.fixture(scope="module")
def verdicts() -> Iterator[Verdicts]:
    with ForkServer() as processes, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "launch", staticmethod(processes.launch))
        with running_groups(GROUPS) as verdicts:
            yield verdicts


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        pytest.param(group.name, trial.name, id=f"{group.name}: {trial.name}")
        for group in GROUPS
        for trial in group.trials
    ],
)
def test_every_acknowledged_delivery_is_processed_once(group: str, fault: str, verdicts: Verdicts) -> None:
    try:
        verdict = verdicts[group, fault].result()
    except Impossible as reason:
        pytest.skip(str(reason))
    assert verdict.acknowledged
    assert (verdict.lost, verdict.doubled, verdict.stuck) == (0, 0, 0), verdict.details
