"""Failures, one row for each cause; and running them again, or sending pushes again, after a preview."""

from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ingest.errors import SettingsError
from ingest.wire.timestamps import utc_now
from workers.access.access_control import actor_of
from workers.access.csrf import read_form
from workers.access.roles import principal_of
from workers.console.page_stores import Opener, opener_of
from workers.console.page_template import DONE_COOKIE, handler_name, render
from workers.console.replay_status_page import Progress, count_pushes, count_runs, progress_log_of
from workers.execution.dead_letters import withdraw
from workers.execution.replay import ReplayPlan, apply, plan_replays
from workers.installation import open_queues
from workers.ledger import audit_log, push_queries
from workers.ledger.alert_queries import MAX_COUNTED, failing_runs
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry
from workers.ledger.database.engine import chunks
from workers.ledger.database.transaction import run_in_transaction
from workers.ledger.dead_runs import FailureGroup, frames_of, group_dead_pushes, group_dead_runs, traceback_of
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.moot_runs import MAX_READ, group_moot_runs
from workers.ledger.pushes import PushRow
from workers.ledger.states import WHOLE_DELIVERY, Outcome, PushState
from workers.plugins import load_plugins

CHUNK = 200
"""Deliveries in one transaction, which workers wait for."""
SHOWN = 50
REDIS_TIMEOUT = 2
GIVE_UP = "GiveUp"

log = structlog.get_logger()


def failures_page(request: Request) -> Response:
    """Show the causes of dead runs and of dead pushes; those that a handler gave up by itself apart.

    What fails and is tried again is beside them: it may be hours until that is dead. So are the runs that became moot.
    """
    now = utc_now()
    with opener_of(request).open() as stores:
        groups = group_dead_runs(stores.ledger, now)
        pushes = group_dead_pushes(stores.ledger, now)
        failing = failing_runs(stores.ledger)
        moot = group_moot_runs(stores.ledger, now)
    context = {
        "failing": [
            (each.handler, each.error, each.delivery_id, each.count, each.count == MAX_COUNTED, each.since)
            for each in failing
        ],
        "failed": [group for group in groups if group.cause.error != GIVE_UP],
        "given_up": [group for group in groups if group.cause.error == GIVE_UP],
        "moot": [(each.handler, each.reason, each.delivery_id, each.count, each.is_cut, each.last_at) for each in moot],
        "most_read": MAX_READ,
        "pushes": pushes,
    }
    return render(request, "failures.html", context)


def failure_page(request: Request) -> Response:
    """Show one cause: a traceback, the deliveries, and what would run."""
    stores = opener_of(request)
    with stores.open() as opened:
        group = _find(group_dead_runs(opened.ledger, utc_now()), request)
        traceback = traceback_of(opened.ledger, group.ids[0], group.cause.name)
        problem, plans = None, list[ReplayPlan]()
        try:
            plans = _plan(opened.ledger, stores, group, group.ids[:CHUNK])
        except SettingsError as error:  # a plugin cannot be loaded; whoever puts it right needs the traceback
            problem = str(error)
    reveals = principal_of(request).reveals
    sample = sum(bool(each.handlers) for each in plans)
    context = {
        "group": group,
        "traceback": traceback and (traceback if reveals else frames_of(traceback)),
        "problem": problem,
        "runnable": len(group.ids) if plans and sample == len(plans) else sample,
        "unreadable": sum(not each.is_understood for each in plans),
        "unloaded": sum(bool(each.unloaded) for each in plans),
        "plans": plans[:SHOWN],
    }
    return render(request, "failure.html", context)


async def run_again(request: Request) -> Response:
    """Run the dead runs of one cause again."""
    stores, actor, key = opener_of(request), actor_of(request), request.path_params["key"]
    group, plans = await run_in_threadpool(_find_runnable, stores, key)
    name = group.cause.name
    progress = Progress(
        f"Run again: {handler_name(name)}",
        count_runs(plans, name, utc_now()),
        "Find out why among the failures, correct it, and run them again.",
    )
    # They are made due after the answer, in parts, while the page shows how far it is.
    work = BackgroundTask(run_in_threadpool, _run_again, stores, group, actor)
    return RedirectResponse(progress_log_of(request).add(progress), HTTPStatus.SEE_OTHER, background=work)


def push_failure_page(request: Request) -> Response:
    """Show one cause of dead pushes, and what would be sent."""
    with opener_of(request).open() as stores:
        group = _find(group_dead_pushes(stores.ledger, utc_now()), request)
        found = push_queries.find_given_up(stores.ledger, ids=group.ids)
    in_time = _in_time(found, utc_now())
    context = {"group": group, "in_time": len(in_time), "late": len(found) - len(in_time), "pushes": found[:SHOWN]}
    return render(request, "push_failure.html", context)


async def send_again(request: Request) -> Response:
    """Send the dead pushes of one cause again, those whose time has passed only if that is wanted."""
    even_if_late = (await read_form(request)).get("even_if_late") == "yes"
    stores, key, actor = opener_of(request), request.path_params["key"], actor_of(request)

    def send(conn: Connection) -> tuple[FailureGroup, list[str]]:
        now = utc_now()
        group = _find_key(group_dead_pushes(conn, now), key)
        found = push_queries.find_given_up(conn, ids=group.ids)
        chosen = [push.id for push in (found if even_if_late else _in_time(found, now))]
        count = push_queries.retry(conn, chosen, (PushState.DEAD,), now)
        audit_log.record(conn, AuditEntry(AuditAct.RESENT, actor, _subject(group), count), now)
        return group, chosen

    group, chosen = await run_in_threadpool(run_in_transaction, stores.engine, send)
    if not chosen:
        return done(f"/failures/pushes/{key}", "Nothing was sent: the time of each of them has passed.")
    failed_text = "Find out why among the failures, correct it, and send them again."
    progress = Progress(f"Send again: {group.cause.name}", count_pushes(chosen), failed_text)
    return RedirectResponse(progress_log_of(request).add(progress), HTTPStatus.SEE_OTHER)


def _find_runnable(stores: Opener, key: str) -> tuple[FailureGroup, list[str]]:
    """Return the failures of a cause, and the deliveries of those that can run."""
    with stores.open() as opened:
        group = _find_key(group_dead_runs(opened.ledger, utc_now()), key)
        plans = [plan for some in chunks(group.ids, CHUNK) for plan in _plan(opened.ledger, stores, group, some)]
    return group, [plan.row.id for plan in plans if plan.handlers]


def _run_again(stores: Opener, group: FailureGroup, actor: Actor) -> None:
    entry = AuditEntry(AuditAct.REPLAYED, actor, _subject(group), 0)
    count, job_ids = 0, list[str]()
    for some in chunks(group.ids, CHUNK):
        so_far = count

        def replay(conn: Connection, some: Sequence[str] = some, so_far: int = so_far) -> list[ReplayPlan]:
            plans, now = _plan(conn, stores, group, some), utc_now()
            apply(conn, plans, now)
            audit_log.record(conn, entry.counting(so_far + sum(bool(each.handlers) for each in plans)), now)
            return plans

        plans = run_in_transaction(stores.engine, replay)
        count += sum(bool(each.handlers) for each in plans)
        job_ids += [job_id for each in plans for job_id in each.job_ids]
    _withdraw(stores, job_ids)


def _plan(conn: Connection, stores: Opener, group: FailureGroup, ids: Sequence[str]) -> list[ReplayPlan]:
    handler = None if group.cause.name == WHOLE_DELIVERY else group.cause.name
    filters = DeliveryFilters(outcome=Outcome.DEAD, handler=group.cause.name)
    return plan_replays(conn, ids, load_plugins(stores.settings, renders=False), handler, filters)


def _withdraw(stores: Opener, job_ids: Sequence[str]) -> None:
    """Remove the failed jobs of what runs again from rq-dashboard; a failure here does not undo anything."""
    if stores.settings.redis_url is None or not job_ids:
        return
    try:
        with open_queues(stores.settings, stores.engine, timeout=REDIS_TIMEOUT) as connection:
            withdraw(connection, job_ids)
    except (RedisError, OSError, SettingsError, SQLAlchemyError) as error:
        log.warning("dead_letters.not_withdrawn", reason=type(error).__name__)


def _find(groups: Sequence[FailureGroup], request: Request) -> FailureGroup:
    return _find_key(groups, request.path_params["key"])


def _find_key(groups: Sequence[FailureGroup], key: str) -> FailureGroup:
    for group in groups:
        if group.cause.key == key:
            return group
    raise HTTPException(HTTPStatus.NOT_FOUND, "Nothing has failed for this cause any more.")


def _in_time(found: Sequence[PushRow], now: datetime) -> list[PushRow]:
    return [push for push in found if push.expires_at is None or push.expires_at > now]


def _subject(group: FailureGroup) -> str:
    return " ".join(filter(None, (group.cause.name, group.cause.error, group.cause.place)))


def done(page: str, sentence: str) -> Response:
    """Return to a page, which shows one sentence of what was done."""
    response = RedirectResponse(page, HTTPStatus.SEE_OTHER)
    response.set_cookie(DONE_COOKIE, sentence.encode().hex(), max_age=10, path="/", httponly=True, samesite="strict")
    return response
