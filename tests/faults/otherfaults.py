"""A clock that jumps, handlers that misbehave, and the same event at two nodes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Self

from sqlalchemy import select

from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, wait_until
from tests.faults.fake_wall_clock import VARIABLE
from tests.faults.load import item, misbehaviour
from tests.faults.redisfaults import meanwhile
from tests.faults.trials import Group, Trial
from workers.ledger.database.engine import read_only
from workers.ledger.states import Outcome
from workers.ledger.tables.core_tables import deliveries, pushes, runs

HOUR = 3600
QUARTER = timedelta(minutes=15)


class WithFakeWallClock(Cluster):
    """A cluster whose processes go by a clock of ours."""

    def __enter__(self) -> Self:
        self.clock_file = self.folder / "clock"
        self.turn(0)
        return super().__enter__()

    def turn(self, seconds: int) -> None:
        new = self.clock_file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self.clock_file)

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{VARIABLE: str(self.clock_file), **more})


def jump(cluster: WithFakeWallClock, *, to: int) -> None:
    """Set the clock, while a run waits for its second attempt."""
    wait_until(lambda: _is_waiting(cluster), "a run is to be tried again")
    known = set(cluster.load.sent)
    cluster.turn(to)
    meanwhile(cluster)
    wait_until(lambda: _went_by(cluster, to, known), "endpoint, worker and clock have gone by the other time")


def jump_and_back(cluster: WithFakeWallClock) -> None:
    jump(cluster, to=HOUR)
    wait_until(lambda: _is_waiting(cluster), "a run is to be tried again")
    cluster.turn(0)


def _is_waiting(cluster: Cluster) -> bool:
    with read_only(cluster.engine) as ledger:
        return Outcome.AGAIN in set(ledger.scalars(select(runs.c.outcome).distinct()))


def _went_by(cluster: Cluster, ahead: int, known: set[str]) -> bool:
    """Say whether each process that writes times has written that one of a new delivery."""
    now = datetime.now(UTC) + timedelta(seconds=ahead)
    written = (deliveries.c.received_at, deliveries.c.stored_at, pushes.c.sent_at)  # by serve, work and clock
    both = select(deliveries.c.id, *written).join(pushes, pushes.c.delivery_id == deliveries.c.id)
    with read_only(cluster.engine) as ledger:
        new = [times for delivery_id, *times in ledger.execute(both) if delivery_id not in known]
    return any(all(at is not None and abs(at - now) < QUARTER for at in times) for times in new)


NUMBERS = iter(range(1_000_000))


def misbehave(cluster: Cluster, *, deed: str, expected: Outcome) -> None:
    """Send two events at which a handler does a deed, and wait until that has an end."""
    for _ in range(2):
        assert cluster.load.send(misbehaviour(deed, next(NUMBERS)), cluster.ports[0]) == 200
    meanwhile(cluster, 5)
    wait_until(lambda: set(_outcomes(cluster, deed)) == {expected}, f"{deed} ends {expected}", 120)


def _outcomes(cluster: Cluster, deed: str) -> list[Outcome | None]:
    with read_only(cluster.engine) as ledger:
        sent = select(deliveries.c.id).where(deliveries.c.session_id.like(f"{deed}-%"))
        ended = select(runs.c.delivery_id, runs.c.outcome).where(runs.c.handler.in_(["misbehave", "*"]))
        outcome_of = {delivery_id: outcome for delivery_id, outcome in ledger.execute(ended)}  # noqa: C416 - rows are no pairs
        return [outcome_of.get(each) for each in ledger.scalars(sent)]


def tell_both(cluster: Cluster) -> None:
    """Send the same events to both nodes at the same time."""
    with ThreadPoolExecutor(len(cluster.ports)) as pool:
        for number in range(10_000_000, 10_000_040):
            answers = list(pool.map(partial(cluster.load.send, item(number)), cluster.ports))
            assert answers == [200] * len(cluster.ports)


def kill_one_of_two(cluster: Cluster) -> None:
    """Kill the process that carries; the other one takes over."""
    lead = '"relay.became_leader"'
    carrying = [name for name in ("serve-0-0", "serve-0-1") if lead in cluster.log_of(name)]
    assert len(carrying) == 1, f"they carry: {carrying}"
    with cluster.waits_for_log(lead):
        cluster.members[carrying[0]].stop()
        meanwhile(cluster, 20)
    cluster.members[carrying[0]].start()


ENDS = {
    "segfault": Outcome.DEAD,
    "leave": Outcome.DEAD,
    "leak": Outcome.DONE,
    "fork": Outcome.DONE,
    "hang": Outcome.DEAD,
    "signals": Outcome.DEAD,
    "interpreter": Outcome.DEAD,
}
NAMES = {
    "segfault": "segfaults",
    "leave": "ends its process",
    "leak": "leaks 256 MiB",
    "fork": "forks",
    "hang": "hangs for ever",
    "signals": "blocks all signals and hangs",
    "interpreter": "holds the interpreter for ever",
}
SHORT_OF_PATIENCE = {"HANDLER_TIMEOUT": "1s", "RETRY_ATTEMPTS": "2", "RETRY_FIRST": "500ms", "POISON_DEATHS": "2"}
ENDING, STAYING = ("segfault", "leave", "leak", "fork"), ("hang", "signals", "interpreter")


def _trial(deed: str) -> Trial:
    return Trial(f"handler: {NAMES[deed]}", partial(misbehave, deed=deed, expected=ENDS[deed]))


GROUPS = [
    Group(
        "clock",
        lambda: WithFakeWallClock(SQLITE, launcher=("-m", "tests.faults.fake_wall_clock")),
        [
            Trial("clock: an hour forward", partial(jump, to=HOUR)),
            Trial("clock: an hour back", partial(jump, to=0)),
            Trial("clock: an hour back again", partial(jump, to=-HOUR)),
            Trial("clock: forward and back at once", jump_and_back),
        ],
    ),
    *(
        Group(name, lambda: Cluster(SQLITE, settings=SHORT_OF_PATIENCE), [_trial(deed) for deed in deeds])
        for name, deeds in (("handlers that end", ENDING), ("handlers that stay", STAYING))
    ),
    Group("two processes", lambda: Cluster(SQLITE, serves=2), [Trial("serve: one of two is killed", kill_one_of_two)]),
    Group("two nodes", lambda: Cluster(POSTGRESQL, nodes=2, workers=2), [Trial("nodes: both get the same", tell_both)]),
]
