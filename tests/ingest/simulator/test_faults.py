"""Faults strike at their rates, and the same seed gives the same plan."""

from random import Random

import pytest

from ingest.simulator.faults import Fault, PlannedRequest, inject_faults
from ingest.simulator.scenarios import (
    build_scenario,
    conflicting_cdr,
)
from tests.ingest.simulator.samples import NOW, PARTICIPANTS, scenarios


@pytest.mark.parametrize("about", ["cdr", "CDR"])
def test_the_fault_conflict_strikes_a_cdr(about):
    (track,) = inject_faults([build_scenario(about, PARTICIPANTS, now=NOW)], [Fault.CONFLICT], Random(1))
    assert [step.event.name for step in track][-2:] == ["CDR", "CDR"]
    assert track[-1].event == conflicting_cdr(track[-2].event)


def test_without_faults_each_scenario_is_sent_in_order():
    plain = scenarios(3)
    assert inject_faults(plain, (), Random(1)) == [tuple(map(PlannedRequest, each)) for each in plain]


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_fault_strikes_however_short_the_scenario_is(fault, count):
    plain = scenarios(count)
    assert inject_faults(plain, [fault], Random(1)) != inject_faults(plain, (), Random(1))


@pytest.mark.parametrize("fault", Fault)
def test_the_same_seed_injects_the_same_faults(fault):
    assert inject_faults(scenarios(50), [fault], Random(7)) == inject_faults(scenarios(50), [fault], Random(7))


def test_several_faults_each_strike_another_event_of_the_first_scenario():
    (track,) = inject_faults(scenarios(1), [Fault.GZIP, Fault.BAD_SIG, Fault.SLOW], Random(6))
    assert [fault in step.faults for step, fault in zip(track, [Fault.GZIP, Fault.BAD_SIG, Fault.SLOW], strict=True)]


def test_a_duplicate_has_the_same_bytes_and_nothing_is_lost():
    plain = scenarios(100)
    sent = [step.event for track in inject_faults(plain, [Fault.DUP], Random(1)) for step in track]
    assert set(sent) == {event for each in plain for event in each}
    assert len(plain) * 3 < len(sent) < len(plain) * 4


def test_a_late_event_is_sent_after_all_others_of_its_session():
    plain = scenarios(20)
    for track, each in zip(inject_faults(plain, [Fault.LATE], Random(1)), plain, strict=True):
        assert {step.event for step in track} == set(each)
        assert track[-1].event is not each[-1]
    alone = inject_faults(scenarios(1, "unknown"), [Fault.LATE], Random(1))
    assert len(alone) == 1


def test_shuffled_requests_are_all_sent_and_concurrently():
    plain = scenarios(50)
    tracks = inject_faults(plain, [Fault.SHUFFLE], Random(1))
    assert {len(track) for track in tracks} == {1}
    assert {track[0].event for track in tracks} == {event for each in plain for event in each}


def test_a_dropped_request_is_not_sent():
    assert inject_faults(scenarios(1, "unknown"), [Fault.DROP], Random(1)) == []
    assert 200 < sum(map(len, inject_faults(scenarios(100), [Fault.DROP], Random(1)))) < 300
