from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from workers.policies.pool import PolicyBreakers
from workers.resilience.circuit_breaker import FAILURES, PAUSE

LATE = PolicyResult(policy="slow", failure=FallbackReason.TIMEOUT)


def spoilt(now):
    """A sparing whose policy `slow` has failed once less than too often."""
    sparing = PolicyBreakers(["quick", "slow"], lambda: now[0])
    for _ in range(FAILURES - 1):
        _, probed = sparing.acquire()
        sparing.record(LATE, ["quick", "slow"], probed)
    return sparing


def test_a_policy_that_fails_time_and_again_is_spared_and_the_others_are_not():
    sparing = spoilt([0.0])
    assert sparing.acquire() == (frozenset(), frozenset())
    sparing.record(LATE, ["quick", "slow"], ())
    assert sparing.acquire() == (frozenset({"slow"}), frozenset())
    assert sparing.open_policies() == ("slow",)


def test_a_success_between_failures_forgives_them():
    sparing = spoilt([0.0])
    sparing.record(PolicyResult(), ["quick", "slow"], ())
    sparing.record(LATE, ["slow"], ())
    assert sparing.open_policies() == ()


def test_after_a_pause_one_question_finds_out():
    now = [0.0]
    sparing = spoilt(now)
    sparing.record(LATE, ["slow"], ())
    now[0] += PAUSE.total_seconds()
    assert sparing.acquire() == (frozenset(), frozenset({"slow"}))
    assert sparing.acquire() == (frozenset({"slow"}), frozenset())
    sparing.record(PolicyResult(), ["quick", "slow"], {"slow"})
    assert sparing.acquire() == (frozenset(), frozenset())


def test_a_probe_that_was_not_asked_leaves_its_place_to_the_next():
    now = [0.0]
    sparing = spoilt(now)
    sparing.record(LATE, ["slow"], ())
    now[0] += PAUSE.total_seconds()
    _, probed = sparing.acquire()
    sparing.record(PolicyResult(policy="quick"), ["quick"], probed)
    assert sparing.acquire() == (frozenset(), frozenset({"slow"}))


def test_five_questions_that_it_knows_too_little_about_do_not_open_it_to_the_sixth():
    sparing = PolicyBreakers(["key_list"], lambda: 0.0)
    for _ in range(FAILURES):
        sparing.record(PolicyResult(policy="key_list", failure=FallbackReason.INDETERMINATE), ["key_list"], ())
    assert sparing.acquire() == (frozenset(), frozenset())


def test_being_spared_is_no_failure_of_its_own():
    now = [0.0]
    sparing = spoilt(now)
    sparing.record(PolicyResult(policy="slow", failure=FallbackReason.CIRCUIT_OPEN), ["quick"], ())
    assert sparing.open_policies() == ()
