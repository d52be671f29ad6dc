"""A trial: a fault is injected into a cluster under load, which then recovers and is audited."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.faults.audit import Discrepancies, audit, is_settled, pushed_more_than_once, wait_until_quiet
from tests.faults.cluster import Cluster, wait_until

#: Seconds after which an unsettled delivery counts as stuck.
STUCK_AFTER_S = 90.0
#: After so many faults of a kind the cluster may recover; the faults in between follow each other at once.
RECOVERS_EVERY = 50
#: Events that are acknowledged before the first fault, and between those that follow each other.
BEFORE, BETWEEN = 6, 2


class Impossible(Exception):
    """Raised when a fault cannot be injected on this machine."""


@dataclass(frozen=True)
class Trial:
    """A fault: `inject` causes it, checks that it has happened, and ends it."""

    name: str
    inject: Callable[[Cluster], None]
    times: int = 1
    clock_survives: bool = True
    """Whether the process that sends pushes lives on, so that none may be sent twice."""


@dataclass(frozen=True)
class Verdict:
    """The result of a trial."""

    fault: str
    database: str
    acknowledged: int
    lost: int
    doubled: int
    stuck: int
    seconds: float
    times: int = 1
    details: tuple[str, ...] = ()


#: The future results of trials by the names of group and trial.
Verdicts: TypeAlias = "dict[tuple[str, str], Future[Verdict]]"


@dataclass(frozen=True)
class Group:
    """Trials that run on one cluster, one after the other."""

    name: str
    cluster: Callable[[], Cluster]
    trials: Sequence[Trial]


@dataclass
class TrialState:
    """What earlier trials on a cluster have found, so that each trial reports its own discrepancies only."""

    known: set[str] = field(default_factory=set)
    """The discrepancies that are reported already."""
    settled: set[str] = field(default_factory=set)
    """The deliveries that were seen settled."""


def run_trial(cluster: Cluster, trial: Trial, state: TrialState, is_closing: threading.Event) -> Verdict:
    """Inject a fault under load, wait until the cluster has recovered, and audit it."""
    load = cluster.load
    before = load.acknowledged()
    longest = 0.0
    stuck: list[str] = []
    for number in range(1, trial.times + 1):
        if is_closing.is_set():
            raise InterruptedError
        wanted = load.count() + (BEFORE if number % RECOVERS_EVERY == 1 else BETWEEN)
        load.start()
        wait_until(lambda wanted=wanted: load.count() >= wanted, "events are acknowledged")
        trial.inject(cluster)
        if number % RECOVERS_EVERY and number != trial.times:
            continue
        ended = time.monotonic()
        promised = load.acknowledged()
        try:
            left = promised - state.settled
            wait_until(lambda left=left: is_settled(cluster, left), "all is settled", STUCK_AFTER_S)
            state.settled |= promised
        except AssertionError as late:
            stuck.append(str(late))
        longest = max(longest, time.monotonic() - ended)
    load.pause()
    took = wait_until_quiet(cluster, STUCK_AFTER_S)
    found = audit(cluster, load.acknowledged(), set(load.sent))
    found.lost += [f"{each} was answered with the id of another delivery" for each in load.wrong_ids]
    again = [f"push {push_id} was sent again" for push_id in pushed_more_than_once(cluster)]
    found.doubled += again if trial.clock_survives else []
    new = Discrepancies(
        *([each for each in side if each not in state.known] for side in (found.lost, found.doubled, found.stuck))
    )
    state.known |= {*found.lost, *found.doubled, *found.stuck, *again}
    new.stuck += stuck
    if took is None:
        new.stuck.append("something was left under way")
    return Verdict(
        trial.name,
        cluster.database,
        len(load.acknowledged() - before),
        len(new.lost),
        len(new.doubled),
        len(new.stuck),
        longest,
        trial.times,
        tuple(detail for side in (new.lost, new.doubled, new.stuck) for detail in side[:5]),
    )


@contextmanager
def running_groups(groups: Sequence[Group], *, at_once: int = 3) -> Iterator[Verdicts]:
    """Run groups, some at once as they mostly wait; yield the future verdict of each trial."""
    verdicts: dict[tuple[str, str], Future[Verdict]] = {
        (group.name, trial.name): Future() for group in groups for trial in group.trials
    }
    is_closing = threading.Event()
    with ThreadPoolExecutor(at_once) as pool:
        for group in groups:
            pool.submit(_run_group, group, verdicts, is_closing)
        try:
            yield verdicts
        finally:
            is_closing.set()


def _run_group(group: Group, verdicts: Verdicts, is_closing: threading.Event) -> None:
    left = [(trial, verdicts[group.name, trial.name]) for trial in group.trials]
    try:
        with group.cluster() as cluster:
            state = TrialState()
            while left and not is_closing.is_set():
                trial, verdict = left.pop(0)
                try:
                    verdict.set_result(run_trial(cluster, trial, state, is_closing))
                except BaseException as failure:  # noqa: BLE001 - the test that waits for it raises it
                    failure.add_note(cluster.logs())
                    verdict.set_exception(failure)
                    cluster.load.pause()
    except BaseException as failure:  # noqa: BLE001 - the tests that wait for it raise it
        for _, verdict in left:
            verdict.set_exception(failure)
