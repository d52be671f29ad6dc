"""Verifying again what is in quarantine on this node: a preview of what would pass, and letting that in."""

from collections import Counter

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ingest.config.keyring import Keyring
from ingest.errors import SettingsError
from ingest.inbox.quarantine import Quarantine
from ingest.inbox.quarantined_request import WRONG_PATH
from ingest.inbox.schema import FILE_NAME
from ingest.wire.timestamps import utc_now
from workers.access.access_control import actor_of
from workers.console.failure_page import done
from workers.console.page_stores import Opener, opener_of
from workers.console.page_template import render
from workers.ledger import audit_log
from workers.ledger.audit_log import Actor, AuditAct, AuditEntry
from workers.ledger.database.transaction import run_in_transaction

NO_INBOX = "There is no inbox on this node, so nothing is in quarantine here. Open the console where `serve` runs."


def reverify_page(request: Request) -> Response:
    """Show how many requests would pass now, by which key, and why the others would not."""
    passing: Counter[tuple[str, str]] = Counter()
    refused: Counter[str] = Counter()
    problem = _problem(opener_of(request))
    if problem is None:
        quarantine, keyring = _open(opener_of(request))
        for each in quarantine.preview(keyring.keys):
            if each.envelope is not None:
                passing[each.envelope.signed_with, str(each.request.kind)] += 1
            else:
                refused[each.reason or ""] += 1
    context = {
        "problem": problem,
        "passing": [(*what, count) for what, count in sorted(passing.items())],
        "count": passing.total(),
        "refused": refused.most_common(),
        "wrong_path": WRONG_PATH,
    }
    return render(request, "reverify.html", context)


async def reverify(request: Request) -> Response:
    """Verify again what is in quarantine on this node, and keep what passes."""
    sentence = await run_in_threadpool(_reverify, opener_of(request), actor_of(request))
    return done("/quarantine", sentence)


def _reverify(stores: Opener, actor: Actor) -> str:
    problem = _problem(stores)
    if problem is not None:
        return problem
    quarantine, keyring = _open(stores)
    run_in_transaction(stores.engine, lambda _conn: None)  # what could not be recorded is not done
    outcomes = list(quarantine.reverify(keyring.keys))
    count = sum(each.kept is not None for each in outcomes)
    if count:
        entry = AuditEntry(AuditAct.REVERIFIED, actor, "quarantine", count)
        run_in_transaction(stores.engine, lambda conn: audit_log.record(conn, entry, utc_now()))
    return f"Let in: {count}. Still refused: {len(outcomes) - count}."


def _problem(stores: Opener) -> str | None:
    """Return why nothing can be verified here; None if it can."""
    if not (stores.settings.data_dir / FILE_NAME).exists():
        return NO_INBOX
    try:
        stores.settings.require_signing()
    except SettingsError as error:
        return str(error)
    return None


def _open(stores: Opener) -> tuple[Quarantine, Keyring]:
    settings = stores.settings
    return Quarantine(settings.data_dir / FILE_NAME, settings), Keyring(settings)
