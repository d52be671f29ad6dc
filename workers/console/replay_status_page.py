"""Shows the progress of runs and pushes started again: how many ended well, how many failed, how many are left."""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import TypeAlias

from sqlalchemy import Connection, exists, func, select
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from workers.console.page_stores import opener_of
from workers.console.page_template import live_event, live_patience, render
from workers.ledger.database.conditions import Unindexed, in_list
from workers.ledger.database.engine import chunks
from workers.ledger.states import WHOLE_DELIVERY, DeliveryState, Outcome, PushState
from workers.ledger.tables.core_tables import deliveries, pushes, runs

MOST = 20
"""The latest are remembered, by this process only."""
LIVE_EVERY = 1000
"""Milliseconds after which a page that is open asks again."""

ENDED_WELL = (Outcome.DONE, Outcome.MOOT, Outcome.IGNORED)


@dataclass(frozen=True)
class ProgressCounts:
    """How many of `total` have ended, and how; the others are left."""

    total: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    """Pushes whose time passed, or whose session was over."""
    retrying: int = 0
    """Of those left: they have failed, and are tried again."""

    @property
    def ended(self) -> int:
        """Return how many have ended in any way."""
        return self.done + self.failed + self.skipped

    @property
    def left(self) -> int:
        """Return how many have not."""
        return self.total - self.ended


ReadCounts: TypeAlias = Callable[[Connection], ProgressCounts]


@dataclass(frozen=True)
class Progress:
    """An act that goes on: what it is, and what reads how far it is."""

    title: str
    read: ReadCounts
    failed_text: str
    """What to do about those that failed again."""


class ProgressLog:
    """The latest acts, by a random id."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}

    def add(self, progress: Progress) -> str:
        """Remember an act, and return the address of its page."""
        while len(self._latest) >= MOST:
            del self._latest[next(iter(self._latest))]
        id_ = secrets.token_hex(8)
        self._latest[id_] = progress
        return f"/progress/{id_}"

    def get(self, id_: str) -> Progress | None:
        """Return an act."""
        return self._latest.get(id_)


def progress_log_of(request: Request) -> ProgressLog:
    """Return the log of the application that handles the request."""
    found: ProgressLog = request.app.state.progress
    return found


def progress_page(request: Request) -> Response:
    """Show how far an act is; without scripts the browser loads the page again."""
    progress, counts = _read(request)
    context = {"progress": progress, "counts": counts, "id": request.path_params["id"]}
    return render(request, "progress.html", {**context, "patience": live_patience(LIVE_EVERY)})


def progress_live(request: Request) -> Response:
    """Send how far an act is as one server-sent event; the browser asks again by itself."""
    progress, counts = _read(request)
    return live_event(request, "progress_live.html", {"progress": progress, "counts": counts}, LIVE_EVERY)


def count_runs(ids: Sequence[str], handler: str, since: datetime) -> ReadCounts:
    """Return what reads the outcomes of runs that are run again since then, by delivery."""

    def read(conn: Connection) -> ProgressCounts:
        if handler == WHOLE_DELIVERY:
            return _count_deliveries(conn, ids, since)
        found: Counter[Outcome] = Counter()
        for some in chunks(ids):
            # One that is not yet made due again is dead since before.
            is_new = runs.c.finished_at > since
            query = select(runs.c.outcome, is_new, func.count()).where(
                in_list(runs.c.delivery_id, some), runs.c.handler == handler
            )
            for outcome, ended_since, count in conn.execute(query.group_by(runs.c.outcome, is_new)):
                if ended_since or outcome is not Outcome.DEAD:
                    found[outcome] += count
        done = sum(found[outcome] for outcome in ENDED_WELL)
        return ProgressCounts(len(ids), done, found[Outcome.DEAD], retrying=found[Outcome.AGAIN])

    return read


def count_pushes(ids: Sequence[str]) -> ReadCounts:
    """Return what reads the states of pushes that are sent again."""

    def read(conn: Connection) -> ProgressCounts:
        found: Counter[PushState] = Counter()
        for some in chunks(ids):
            query = select(pushes.c.state, func.count()).where(in_list(pushes.c.id, some)).group_by(pushes.c.state)
            for state, count in conn.execute(query):
                found[state] += count
        skipped = found.total() - found[PushState.SENT] - found[PushState.DEAD] - found[PushState.WAITING]
        return ProgressCounts(len(ids), found[PushState.SENT], found[PushState.DEAD], skipped)

    return read


def _count_deliveries(conn: Connection, ids: Sequence[str], since: datetime) -> ProgressCounts:
    done = failed = 0
    # One that is not yet made due again is dead since before. By the index of dead runs each would look at all of them.
    is_dead = Unindexed(runs.c.outcome) == Outcome.DEAD
    is_new = exists().where(runs.c.delivery_id == deliveries.c.id, is_dead, runs.c.finished_at > since)
    for some in chunks(ids):
        counted = select(func.count()).where(in_list(deliveries.c.id, some))
        done += conn.scalar(counted.where(deliveries.c.state == DeliveryState.SETTLED)) or 0
        failed += conn.scalar(counted.where(deliveries.c.state == DeliveryState.DEAD, is_new)) or 0
    return ProgressCounts(len(ids), done, failed)


def _read(request: Request) -> tuple[Progress, ProgressCounts]:
    progress = progress_log_of(request).get(request.path_params["id"])
    if progress is None:
        sentence = "The console does not remember this any more. What has failed again is among the failures."
        raise HTTPException(HTTPStatus.NOT_FOUND, sentence)
    with opener_of(request).open() as stores:
        return progress, progress.read(stores.ledger)
