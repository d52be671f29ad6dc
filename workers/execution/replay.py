"""Plan and apply a replay: a person's decision to run handlers again on deliveries of the past."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from ingest.errors import Unreadable
from ingest.events import decode, peek
from ingest.queue.queues import BACKGROUND
from ingest.wire.envelope import Kind
from workers.ledger import deliveries, finished_runs
from workers.ledger.deliveries import DeliveryFilters, DeliveryRow
from workers.ledger.runs import RunRecord
from workers.ledger.states import FINAL_OUTCOMES, WHOLE_DELIVERY, DeliveryState, Outcome
from workers.plugins import Plugins


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay does with one delivery."""

    row: DeliveryRow
    is_understood: bool
    """Whether it has a body that can be decoded."""
    again: tuple[str, ...] = ()
    """Handlers whose final runs are run once more."""
    were_dead: bool = False
    """Whether these are the dead runs; else they are final in any way."""
    first: tuple[str, ...] = ()
    """Handlers that have no run of it yet."""
    unloaded: tuple[str, ...] = ()
    """Handlers of dead runs that no plugin defines any more: they cannot run."""
    is_ignored: bool = False
    """It is understood, and no handler takes it."""
    withdraws: bool = False
    """Whether the outcome of the whole delivery (ignored, or dead as poison) is deleted."""

    @property
    def handlers(self) -> tuple[str, ...]:
        """All handlers that will run."""
        return *self.again, *self.first

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The jobs of the runs that are run again or deleted: dead letters, where the runs were dead."""
        over = {*self.again, *((WHOLE_DELIVERY,) if self.withdraws else ())}
        return tuple(run.job_id for run in self.row.runs if run.handler in over and run.job_id is not None)


def plan_replay(row: DeliveryRow, plugins: Plugins, handler: str | None = None) -> ReplayPlan:
    """Plan what to run on a delivery, given with its body; pure.

    Where runs are dead, only these. Any other delivery is handled as if it came today: every handler that takes its
    event runs, whether it ran before or not. Open runs are left alone. `handler` narrows the plan to one.
    """
    kind, body = Kind(row.kind), row.body or b""
    if row.body_deleted_at is not None:  # nothing can run on it, and what has become of it stays
        return ReplayPlan(row, is_understood=False)
    try:
        event = decode(kind, body)
    except Unreadable:
        return ReplayPlan(row, is_understood=False)
    known = {run.handler: run.outcome for run in row.runs if handler in {None, run.handler}}
    dead = [name for name, outcome in known.items() if outcome is Outcome.DEAD and name != WHOLE_DELIVERY]
    if dead:
        loaded = {each.name for each in plugins.subscriptions}
        again = tuple(name for name in dead if name in loaded)
        unloaded = tuple(name for name in dead if name not in loaded)
        return ReplayPlan(row, is_understood=True, again=again, were_dead=True, unloaded=unloaded)
    takers = [
        each.name
        for each in plugins.subscriptions
        if each.matches(event) and handler in {None, each.name} and (each.healed or not row.is_healed)
    ]
    first = tuple(name for name in takers if name not in known)
    whole = next((run.outcome for run in row.runs if run.handler == WHOLE_DELIVERY), None)
    is_ignored = not takers and handler is None and whole is not Outcome.IGNORED
    return ReplayPlan(
        row,
        is_understood=True,
        again=tuple(name for name in takers if name in known and known[name].is_final),
        first=first,
        is_ignored=is_ignored,
        # A delivery that killed its workers stays dead for the other handlers when only one is wanted.
        withdraws=whole is not None and (bool(first) or is_ignored) and (handler is None or whole is not Outcome.DEAD),
    )


def plan_replays(
    conn: Connection,
    ids: Collection[str],
    plugins: Plugins,
    handler: str | None = None,
    filters: DeliveryFilters | None = None,
) -> list[ReplayPlan]:
    """Plan the replay of deliveries of the ledger, oldest first.

    With filters, only of those that still match: others may have been replayed since they were chosen.
    """
    if filters is not None:
        ids = deliveries.filter_matching(conn, ids, filters)
    rows = deliveries.get_many(conn, ids, bodies=True)
    return [plan_replay(row, plugins, handler) for row in sorted(rows, key=lambda row: (row.received_at, row.id))]


def apply(conn: Connection, plans: Sequence[ReplayPlan], due_at: datetime) -> None:
    """Make the runs due in the background; the clock enqueues them. Call it in the transaction that planned."""
    finished_runs.delete_finished(conn, [each.row.id for each in plans if each.withdraws], WHOLE_DELIVERY)
    for each in plans:
        if each.is_understood and each.row.state is DeliveryState.UNREADABLE:
            seen = peek(Kind(each.row.kind), each.row.body or b"")
            deliveries.mark_decoded(conn, each.row.id, seen.name, seen.session_id)
    by_handler: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for each in plans:
        for name in each.again:
            by_handler[name, each.were_dead].append(each.row.id)
    for (name, were_dead), ids in sorted(by_handler.items()):
        # A dead run that was replayed since it was read here is not dead any more, and not run a second time.
        finished_runs.reopen(conn, ids, name, due_at, (Outcome.DEAD,) if were_dead else FINAL_OUTCOMES)
    finished_runs.insert_missing(conn, [run for each in plans for run in _new_runs(each, due_at)])


def _new_runs(plan: ReplayPlan, due_at: datetime) -> list[RunRecord]:
    delivery_id = plan.row.id
    if plan.is_ignored:
        ignored = RunRecord(
            delivery_id=delivery_id,
            handler=WHOLE_DELIVERY,
            queue=BACKGROUND,
            outcome=Outcome.IGNORED,
            reason="no handler takes it",
            finished_at=due_at,
        )
        return [ignored]
    return [
        RunRecord(delivery_id=delivery_id, handler=name, queue=BACKGROUND, outcome=Outcome.WAITING, due_at=due_at)
        for name in plan.first
    ]
