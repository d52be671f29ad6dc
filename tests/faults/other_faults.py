"""Other faults: a clock that jumps, handlers that misbehave, a leader that is killed, two nodes with one event."""

import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Self

import psutil
from sqlalchemy import select

from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, is_answering_http, wait_until
from tests.faults.fake_wall_clock import VARIABLE
from tests.faults.load import item, misbehaving_event
from tests.faults.redis_faults import wait_for_events
from tests.faults.trials import Group, Trial
from workers.ledger.database.engine import read_only
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import deliveries, pushes, runs

HOUR = 3600
QUARTER = timedelta(minutes=15)
#: Longer than the lease of a batch or a run, and of pushes on their way.
CUT_OFF_FOR_S = 7.0


class FakeClockCluster(Cluster):
    """A cluster whose processes use a fake wall clock."""

    def __enter__(self) -> Self:
        self.clock_file = self.folder / "clock"
        self.set_clock(0)
        return super().__enter__()

    def set_clock(self, seconds: int) -> None:
        new = self.clock_file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.clock_file)

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{VARIABLE: str(self.clock_file), **more})


def jump(cluster: FakeClockCluster, *, to: int) -> None:
    """Set the clock while a run waits for its second attempt."""
    wait_until(lambda: _has_waiting_run(cluster), "a run is to be tried again")
    known = set(cluster.load.sent)
    cluster.set_clock(to)
    wait_for_events(cluster)
    wait_until(lambda: _used_time(cluster, to, known), "serve, work and clock have used the new time")


def jump_and_back(cluster: FakeClockCluster) -> None:
    jump(cluster, to=HOUR)
    wait_until(lambda: _has_waiting_run(cluster), "a run is to be tried again")
    cluster.set_clock(0)


def _has_waiting_run(cluster: Cluster) -> bool:
    with read_only(cluster.engine) as ledger:
        return Outcome.AGAIN in set(ledger.scalars(select(runs.c.outcome).distinct()))


def _used_time(cluster: Cluster, ahead: int, known: set[str]) -> bool:
    """Return whether each process that records times has recorded the new one for a new delivery."""
    now = datetime.now(UTC) + timedelta(seconds=ahead)
    written = (deliveries.c.received_at, deliveries.c.stored_at, pushes.c.sent_at)  # recorded by serve, work and clock
    both = select(deliveries.c.id, *written).join(pushes, pushes.c.delivery_id == deliveries.c.id)
    with read_only(cluster.engine) as ledger:
        new = [times for delivery_id, *times in ledger.execute(both) if delivery_id not in known]
    return any(all(at is not None and abs(at - now) < QUARTER for at in times) for times in new)


NUMBERS = iter(range(1_000_000))


def misbehave(cluster: Cluster, *, kind: str, expected: Outcome) -> None:
    """Send two events at which a handler misbehaves, and wait until its runs have their outcome."""
    for _ in range(2):
        assert cluster.load.send(misbehaving_event(kind, next(NUMBERS)), cluster.ports[0]) == 200
    wait_for_events(cluster, 5)
    wait_until(lambda: set(_outcomes(cluster, kind)) == {expected}, f"{kind} ends {expected}", 120)


def _outcomes(cluster: Cluster, kind: str) -> list[Outcome | None]:
    with read_only(cluster.engine) as ledger:
        sent = select(deliveries.c.id).where(deliveries.c.session_id.like(f"{kind}-%"))
        ended = select(runs.c.delivery_id, runs.c.outcome).where(runs.c.handler.in_(["misbehave", "*"]))
        outcome_of = {delivery_id: outcome for delivery_id, outcome in ledger.execute(ended)}  # noqa: C416 - a row is no pair
        return [outcome_of.get(each) for each in ledger.scalars(sent)]


def send_to_both(cluster: Cluster) -> None:
    """Send the same events to both nodes at the same time."""
    with ThreadPoolExecutor(len(cluster.ports)) as pool:
        for number in range(10_000_000, 10_000_040):
            answers = list(pool.map(partial(cluster.load.send, item(number)), cluster.ports))
            assert answers == [200] * len(cluster.ports)


def upgrade_each(cluster: Cluster) -> None:
    """End each process and start it anew, as an upgrade does: node by node, then the clock."""
    for name, port in (("serve-0-0", 0), ("work-0", None), ("serve-1-0", 1), ("work-1", None), ("clock", None)):
        member = cluster.members[name]
        member.stop(signal.SIGTERM)
        wait_for_events(cluster, 3)
        member.start()
        if port is not None:
            wait_until(lambda port=port: is_answering_http(cluster.ports[port]), f"{name} answers again")


def cut_off(cluster: Cluster) -> None:
    """Suspend all processes of a node until others have taken over its jobs, then let it go on where it was."""
    members = [psutil.Process(cluster.members[name].pid) for name in ("serve-1-0", "work-1")]
    for member in members:
        member.suspend()  # first, so that it starts no more
    processes = [*members, *(child for member in members for child in member.children(recursive=True))]
    for process in processes:
        process.suspend()
    try:
        time.sleep(CUT_OFF_FOR_S)
        wait_for_events(cluster)
    finally:
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def kill_the_leader(cluster: Cluster) -> None:
    """Kill the process whose relay is the leader; the other one takes over."""
    became_leader = '"relay.became_leader"'
    leaders = [name for name in ("serve-0-0", "serve-0-1") if became_leader in cluster.log_of(name)]
    assert len(leaders) == 1, f"the leaders are {leaders}"
    with cluster.expect_log(became_leader):
        cluster.members[leaders[0]].stop()
        wait_for_events(cluster, 20)
    cluster.members[leaders[0]].start()


OUTCOMES = {
    "segfault": Outcome.DEAD,
    "exit": Outcome.DEAD,
    "leak": Outcome.DONE,
    "fork": Outcome.DONE,
    "hang": Outcome.DEAD,
    "signals": Outcome.DEAD,
    "interpreter": Outcome.DEAD,
}
NAMES = {
    "segfault": "segfaults",
    "exit": "ends its process",
    "leak": "leaks 256 MiB",
    "fork": "forks",
    "hang": "hangs for ever",
    "signals": "blocks all signals and hangs",
    "interpreter": "holds the interpreter for ever",
}
FEW_ATTEMPTS = {"RETRY_ATTEMPTS": "2", "RETRY_FIRST": "500ms", "POISON_DEATHS": "2"}
# Of those that hang only: on a slow machine it may take a second to allocate what leaks.
SHORT_TIMEOUT = {**FEW_ATTEMPTS, "HANDLER_TIMEOUT": "1s"}
ENDING, HANGING = ("segfault", "exit", "leak", "fork"), ("hang", "signals", "interpreter")


def _trial(kind: str) -> Trial:
    return Trial(f"handler: {NAMES[kind]}", partial(misbehave, kind=kind, expected=OUTCOMES[kind]))


GROUPS = [
    Group(
        "clock",
        lambda: FakeClockCluster(SQLITE, launcher=("-m", "tests.faults.fake_wall_clock")),
        [
            Trial("clock: an hour forward", partial(jump, to=HOUR)),
            Trial("clock: an hour back", partial(jump, to=0)),
            Trial("clock: an hour back again", partial(jump, to=-HOUR)),
            Trial("clock: forward and back at once", jump_and_back),
        ],
    ),
    *(
        Group(name, partial(Cluster, SQLITE, settings=settings), [_trial(kind) for kind in kinds])
        for name, kinds, settings in (
            ("handlers that end", ENDING, FEW_ATTEMPTS),
            ("handlers that hang", HANGING, SHORT_TIMEOUT),
        )
    ),
    Group("two processes", lambda: Cluster(SQLITE, serves=2), [Trial("serve: one of two is killed", kill_the_leader)]),
    Group(
        "two nodes",
        lambda: Cluster(POSTGRESQL, nodes=2, workers=2),
        [
            Trial("nodes: both get the same", send_to_both),
            Trial("nodes: upgraded one after the other", upgrade_each),
            Trial("nodes: one is cut off, and returns", cut_off),
        ],
    ),
]
