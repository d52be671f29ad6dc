"""A person's decision to run handlers again on deliveries that came before."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from ingest.errors import Unreadable
from ingest.events import decode, peek, queue_for
from ingest.wire.envelope import Kind
from workers.ledger import deliveries, finished_runs
from workers.ledger.deliveries import DeliveryRow, Filters
from workers.ledger.runs import NewRun
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome
from workers.plugins import Plugins

ENDED = tuple(outcome for outcome in Outcome if outcome.is_final)


@dataclass(frozen=True)
class Plan:
    """What a replay does with one delivery."""

    row: DeliveryRow
    is_understood: bool
    again: tuple[str, ...] = ()
    """Handlers whose runs have ended and are made once more."""
    were_dead: bool = False
    """Those are the dead runs; else they are runs that have ended in any way."""
    first: tuple[tuple[str, str], ...] = ()
    """Handlers that never ran on it, each with its queue."""
    unloaded: tuple[str, ...] = ()
    """Dead runs of handlers that no plugin defines any more: nothing can make them."""
    is_ignored: bool = False
    """It is understood, and nobody takes it."""
    withdraws: bool = False
    """What stands for the whole delivery, that it was ignored or buried, is not true any more."""

    @property
    def handlers(self) -> tuple[str, ...]:
        """Everything that will run."""
        return *self.again, *(name for name, _ in self.first)

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The jobs of the runs that are made once more or taken back: failed jobs, where these runs were dead."""
        over = {*self.again, *((WHOLE_DELIVERY,) if self.withdraws else ())}
        return tuple(run.job_id for run in self.row.runs if run.handler in over and run.job_id is not None)


def plan_replay(row: DeliveryRow, plugins: Plugins, handler: str | None = None) -> Plan:
    """Decide what to run on a delivery, which was read with its body; pure.

    Where handlers are dead, only these. Any other delivery is handled as if it came today: what takes its event now
    runs, whether it ran before or not. What is still open is left alone. `handler` narrows it to one.
    """
    kind, body = Kind(row.kind), row.body or b""
    try:
        event = decode(kind, body)
    except Unreadable:
        return Plan(row, is_understood=False)
    known = {run.handler: run.outcome for run in row.runs if handler in {None, run.handler}}
    dead = [name for name, outcome in known.items() if outcome is Outcome.DEAD and name != WHOLE_DELIVERY]
    if dead:
        loaded = {each.name for each in plugins.subscriptions}
        again = tuple(name for name in dead if name in loaded)
        unloaded = tuple(name for name in dead if name not in loaded)
        return Plan(row, is_understood=True, again=again, were_dead=True, unloaded=unloaded)
    takers = {each.name: each for each in plugins.subscriptions if each.matches(event) and handler in {None, each.name}}
    queue = queue_for(kind, peek(kind, body))
    first = tuple((name, each.queue or queue) for name, each in takers.items() if name not in known)
    whole = next((run.outcome for run in row.runs if run.handler == WHOLE_DELIVERY), None)
    is_ignored = not takers and handler is None and whole is not Outcome.IGNORED
    return Plan(
        row,
        is_understood=True,
        again=tuple(name for name in takers if name in known and known[name].is_final),
        first=first,
        is_ignored=is_ignored,
        # Of a delivery that killed its workers the rest stays buried when only one handler is wanted.
        withdraws=whole is not None and (bool(first) or is_ignored) and (handler is None or whole is not Outcome.DEAD),
    )


def plans(
    conn: Connection,
    ids: Collection[str],
    plugins: Plugins,
    handler: str | None = None,
    filters: Filters | None = None,
) -> list[Plan]:
    """Decide about deliveries that the ledger knows, oldest first.

    With filters, only about those that they fit now: since they were chosen, somebody else may have replayed them.
    """
    if filters is not None:
        ids = deliveries.filter_matching(conn, ids, filters)
    rows = deliveries.lookup(conn, ids, bodies=True)
    return [plan_replay(row, plugins, handler) for row in sorted(rows, key=lambda row: (row.received_at, row.id))]


def apply(conn: Connection, decided: Sequence[Plan], due_at: datetime) -> None:
    """Make the runs due then; the clock puts them on their queues. To be called in the transaction that decided."""
    finished_runs.delete_finished(conn, [each.row.id for each in decided if each.withdraws], WHOLE_DELIVERY)
    for each in decided:
        if each.is_understood and each.row.state is DeliveryState.UNREADABLE:
            seen = peek(Kind(each.row.kind), each.row.body or b"")
            deliveries.mark_decoded(conn, each.row.id, seen.name, seen.session_id)
    by_handler: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for each in decided:
        for name in each.again:
            by_handler[name, each.were_dead].append(each.row.id)
    for (name, were_dead), ids in sorted(by_handler.items()):
        # A dead run that somebody else has had made since it was read here is not made a second time.
        finished_runs.reopen(conn, ids, name, due_at, (Outcome.DEAD,) if were_dead else ENDED)
    finished_runs.add_missing(conn, [run for each in decided for run in _new_runs(each, due_at)])


def _new_runs(decided: Plan, due_at: datetime) -> list[NewRun]:
    delivery_id = decided.row.id
    if decided.is_ignored:
        queue = queue_for(Kind(decided.row.kind), peek(Kind(decided.row.kind), decided.row.body or b""))
        ignored = NewRun(
            delivery_id=delivery_id,
            handler=WHOLE_DELIVERY,
            queue=queue,
            outcome=Outcome.IGNORED,
            reason="no handler takes it",
            finished_at=due_at,
        )
        return [ignored]
    return [
        NewRun(delivery_id=delivery_id, handler=name, queue=queue, outcome=Outcome.WAITING, due_at=due_at)
        for name, queue in decided.first
    ]
