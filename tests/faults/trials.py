"""What a trial is: a cluster under load, a fault, and the books afterwards."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.faults.audit import Expectations, audit, is_settled, pushed_twice, wait_until_quiet
from tests.faults.cluster import Cluster, wait_until

#: Seconds after which what is not settled counts as stuck.
STUCK_AFTER = 90.0
#: Of so many faults of a kind, all is left to recover after one; the others follow each other as fast as they can.
RECOVERS_EVERY = 50
#: Events acknowledged before a fault begins, and between those that follow each other.
BEFORE, BETWEEN = 6, 2


class Impossible(Exception):
    """Raised when a fault cannot be had on this machine."""


@dataclass(frozen=True)
class Trial:
    """A fault: `act` makes it, sees that it has happened, and ends it again."""

    name: str
    act: Callable[[Cluster], None]
    times: int = 1
    spares_clock: bool = True
    """Who sends pushes lives on, so that none goes out twice."""


@dataclass(frozen=True)
class Verdict:
    """What a trial came to."""

    fault: str
    database: str
    acknowledged: int
    lost: int
    doubled: int
    stuck: int
    seconds: float
    times: int = 1
    details: tuple[str, ...] = ()


#: What trials will come to, by the names of group and trial.
Verdicts: TypeAlias = "dict[tuple[str, str], Future[Verdict]]"


@dataclass(frozen=True)
class Group:
    """Trials that share a cluster, one after the other."""

    name: str
    cluster: Callable[[], Cluster]
    trials: Sequence[Trial]


@dataclass
class TrialState:
    """What was found out on a cluster so far, so that each trial answers for its own."""

    known: set[str] = field(default_factory=set)
    """What is wrong."""
    settled: set[str] = field(default_factory=set)
    """What has been seen to be settled."""


def play(cluster: Cluster, trial: Trial, standing: TrialState, ending: threading.Event) -> Verdict:
    """Make a fault under load, wait until all is well again, and do the books."""
    load = cluster.load
    before = load.acknowledged()
    longest = 0.0
    stuck: list[str] = []
    for number in range(1, trial.times + 1):
        if ending.is_set():
            raise InterruptedError
        wanted = load.count() + (BEFORE if number % RECOVERS_EVERY == 1 else BETWEEN)
        load.start()
        wait_until(lambda wanted=wanted: load.count() >= wanted, "events are acknowledged")
        trial.act(cluster)
        if number % RECOVERS_EVERY and number != trial.times:
            continue
        ended = time.monotonic()
        promised = load.acknowledged()
        try:
            left = promised - standing.settled
            wait_until(lambda left=left: is_settled(cluster, left), "all is settled", STUCK_AFTER)
            standing.settled |= promised
        except AssertionError as late:
            stuck.append(str(late))
        longest = max(longest, time.monotonic() - ended)
    load.pause()
    took = wait_until_quiet(cluster, STUCK_AFTER)
    found = audit(cluster, load.acknowledged(), set(load.sent))
    found.lost += [f"{each} was told of another delivery" for each in load.mistaken]
    again = [f"push {push_id} went out again" for push_id in pushed_twice(cluster)]
    found.doubled += again if trial.spares_clock else []
    books = Expectations(
        *([each for each in side if each not in standing.known] for side in (found.lost, found.doubled, found.stuck))
    )
    standing.known |= {*found.lost, *found.doubled, *found.stuck, *again}
    books.stuck += stuck
    if took is None:
        books.stuck.append("it did not come to rest")
    return Verdict(
        trial.name,
        cluster.database,
        len(load.acknowledged() - before),
        len(books.lost),
        len(books.doubled),
        len(books.stuck),
        longest,
        trial.times,
        tuple(detail for side in (books.lost, books.doubled, books.stuck) for detail in side[:5]),
    )


@contextmanager
def under_way(groups: Sequence[Group], *, at_once: int = 3) -> Iterator[Verdicts]:
    """Play groups, some at once as they mostly wait; yield what each trial will come to."""
    verdicts: dict[tuple[str, str], Future[Verdict]] = {
        (group.name, trial.name): Future() for group in groups for trial in group.trials
    }
    ending = threading.Event()
    with ThreadPoolExecutor(at_once) as pool:
        for group in groups:
            pool.submit(_play_group, group, verdicts, ending)
        try:
            yield verdicts
        finally:
            ending.set()


def _play_group(group: Group, verdicts: Verdicts, ending: threading.Event) -> None:
    left = [(trial, verdicts[group.name, trial.name]) for trial in group.trials]
    try:
        with group.cluster() as cluster:
            standing = TrialState()
            while left and not ending.is_set():
                trial, verdict = left.pop(0)
                try:
                    verdict.set_result(play(cluster, trial, standing, ending))
                except BaseException as failure:  # noqa: BLE001 - the test that waits for it raises it
                    failure.add_note(cluster.logs())
                    verdict.set_exception(failure)
                    cluster.load.pause()
    except BaseException as failure:  # noqa: BLE001 - the tests that wait for it raise it
        for _, verdict in left:
            verdict.set_exception(failure)
