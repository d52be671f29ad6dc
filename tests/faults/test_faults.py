"""Faults of every kind under load: nothing that was acknowledged is lost, done twice or stuck.

Each trial has processes of its own, with real stores; several are under way at once, as they mostly wait.
`python -m tests.faults.report` plays them longer and makes a table of what it saw.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.faults import databasefaults, inboxfaults, kills, otherfaults, redisfaults
from tests.faults.trials import Group, Impossible, Trial, Verdicts, under_way


def is_short(group: Group, trial: Trial) -> bool:
    """The report plays the others, too."""
    on_postgresql = {kills.STEPS[step].name for step in kills.ESSENTIAL}
    return group.name != kills.ON_POSTGRESQL or trial.name in on_postgresql


# The longest first, so that none is left alone at the end.
MODULES = (kills, otherfaults, databasefaults, redisfaults, inboxfaults)
GROUPS = [
    replace(group, trials=[each for each in group.trials if is_short(group, each)])
    for module in MODULES
    for group in module.GROUPS
]


@pytest.fixture(scope="module")
def verdicts() -> Iterator[Verdicts]:
    with under_way(GROUPS) as verdicts:
        yield verdicts


@pytest.mark.parametrize(
    ("group", "fault"),
    [
        pytest.param(group.name, trial.name, id=f"{group.name}: {trial.name}")
        for group in GROUPS
        for trial in group.trials
    ],
)
def test_what_was_acknowledged_is_done_once(group: str, fault: str, verdicts: Verdicts) -> None:
    try:
        verdict = verdicts[group, fault].result()
    except Impossible as reason:
        pytest.skip(str(reason))
    assert verdict.acknowledged
    assert (verdict.lost, verdict.doubled, verdict.stuck) == (0, 0, 0), verdict.details
