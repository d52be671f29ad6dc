from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from workers.judges.sparing import Sparing
from workers.resilience.circuit_breaker import FAILURES, PAUSE

LATE = PolicyResult(policy="slow", failure=FallbackReason.TIMEOUT)


def spoilt(now):
    """A sparing whose policy `slow` has failed once less than too often."""
    sparing = Sparing(["quick", "slow"], lambda: now[0])
    for _ in range(FAILURES - 1):
        _, probed = sparing.begin()
        sparing.end(LATE, ["quick", "slow"], probed)
    return sparing


def test_a_policy_that_fails_time_and_again_is_spared_and_the_others_are_not():
    sparing = spoilt([0.0])
    assert sparing.begin() == (frozenset(), frozenset())
    sparing.end(LATE, ["quick", "slow"], ())
    assert sparing.begin() == (frozenset({"slow"}), frozenset())
    assert sparing.spared() == ("slow",)


def test_a_success_between_failures_forgives_them():
    sparing = spoilt([0.0])
    sparing.end(PolicyResult(), ["quick", "slow"], ())
    sparing.end(LATE, ["slow"], ())
    assert sparing.spared() == ()


def test_after_a_pause_one_question_finds_out():
    now = [0.0]
    sparing = spoilt(now)
    sparing.end(LATE, ["slow"], ())
    now[0] += PAUSE.total_seconds()
    assert sparing.begin() == (frozenset(), frozenset({"slow"}))
    assert sparing.begin() == (frozenset({"slow"}), frozenset())
    sparing.end(PolicyResult(), ["quick", "slow"], {"slow"})
    assert sparing.begin() == (frozenset(), frozenset())


def test_a_probe_that_was_not_asked_leaves_its_place_to_the_next():
    now = [0.0]
    sparing = spoilt(now)
    sparing.end(LATE, ["slow"], ())
    now[0] += PAUSE.total_seconds()
    _, probed = sparing.begin()
    sparing.end(PolicyResult(policy="quick"), ["quick"], probed)
    assert sparing.begin() == (frozenset(), frozenset({"slow"}))


def test_five_questions_that_it_knows_too_little_about_do_not_open_it_to_the_sixth():
    sparing = Sparing(["key_list"], lambda: 0.0)
    for _ in range(FAILURES):
        sparing.end(PolicyResult(policy="key_list", failure=FallbackReason.INDETERMINATE), ["key_list"], ())
    assert sparing.begin() == (frozenset(), frozenset())


def test_being_spared_is_no_failure_of_its_own():
    now = [0.0]
    sparing = spoilt(now)
    sparing.end(PolicyResult(policy="slow", failure=FallbackReason.CIRCUIT_OPEN), ["quick"], ())
    assert sparing.spared() == ()
