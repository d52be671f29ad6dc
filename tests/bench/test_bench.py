"""Correctness benches for a moment each; their sums in every suite, whole runs where slow tests run."""

import pytest
from rich.progress import Progress

from tests.bench.authorize import AuthorizeScale, Scenario
from tests.bench.authorize import measure as measure_authorize
from tests.bench.cdrs import CdrMix, expected_of
from tests.bench.cdrs import measure as measure_cdrs
from tests.bench.harness import isolated_environment
from tests.bench.reconcile import ReconcileScale
from tests.bench.reconcile import measure as measure_reconcile

QUIET = Progress(disable=True)


def test_what_is_sent_is_known_beforehand_and_the_same_with_the_same_seed():
    mix = CdrMix(count=200, repeated=0.05, in_conflict=0.01, seed=4)
    expected, again, other = expected_of(mix), expected_of(mix), expected_of(CdrMix(200, 0.05, 0.01, seed=5))
    assert (len(expected.bodies), len(set(expected.bodies)), expected.repeats) == (212, 202, 10)
    assert (expected.cdrs.total(), expected.disputed.total(), len(expected.request_ids)) == (202, 4, 2)
    assert (expected.bodies, expected.sums) == (again.bodies, again.sums)
    assert expected.sums != other.sums


@pytest.mark.slow
def test_drivers_at_the_charger_get_the_expected_answer_in_time():
    with isolated_environment():
        report = measure_authorize(AuthorizeScale([Scenario.IDLE, Scenario.HANGING], 1, 0.3, 10), None, QUIET)
    assert len(report.rows) == 2
    assert all(row.samples["rate"][0] > 0 for row in report.rows)
    assert not [row.remarks for row in report.rows if row.remarks]


@pytest.mark.slow
def test_every_cdr_is_counted_once_from_the_socket_to_the_command():
    with isolated_environment():
        report = measure_cdrs(CdrMix(count=200, repeated=0.05, in_conflict=0.01), None, QUIET)
    (row,) = report.rows
    assert row.remarks == {"CDR": 202, "CDR in conflict": 4, "CDR that came again": 10}


@pytest.mark.slow
def test_records_become_true_although_events_are_dropped():
    with isolated_environment():
        report = measure_reconcile(ReconcileScale(10, 3, 0.33, 7, "", 120), None, QUIET)
    (row,) = report.rows
    assert row.samples["equal"] == row.samples["sessions"] == [10.0]
