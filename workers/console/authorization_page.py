"""Trying a charging key: what the policies in force would answer, without a request that is recorded."""

from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ingest.simulator.authorization_requests import plugsurfing_request
from ingest.wire.authorization.request import WireFormat
from workers.access.csrf import read_form
from workers.console.page_stores import Opener, opener_of
from workers.console.page_template import render
from workers.lists.policy_list import TRIED_POLICIES, how_decided, tried_policies
from workers.plugins import load_plugins
from workers.policies.dry_run import DryRun, dry_run, policy_contexts
from workers.resilience.guarded_call import CallTimedOut, TimedCall, deadline_in

PARTS = ("key", "location", "country", "session")
LONGEST = 200
PATIENCE = 2
"""A try may take so many times AUTHORIZE_TIMEOUT."""


async def try_key(request: Request) -> Response:
    """Evaluate the policies for a charging key, and show what each says, the answer, and how long it took."""
    form = await read_form(request)
    parts = {name: text[:LONGEST] for name in PARTS if (text := form.get(name, "").strip())}
    if "key" not in parts:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "Type the id of a charging key, as it is on the card.")
    tried, is_read = await run_in_threadpool(_try, opener_of(request), parts)
    timeout = opener_of(request).settings.authorize_timeout
    policies = list(tried_policies(tried))
    context = {
        "parts": parts,
        "tried": tried,
        "how": how_decided(tried),
        "is_read": is_read,
        "is_late": tried.record.latency > timeout,
        "timeout": timeout,
        "headings": list(TRIED_POLICIES.columns),
        "policies": [TRIED_POLICIES.cells(each) for each in policies],
        "response": tried.response.decode(),
    }
    return render(request, "try_key.html", context)


def _try(stores: Opener, parts: dict[str, str]) -> tuple[DryRun, bool]:
    settings = stores.settings
    policies = load_plugins(settings, renders=False).policies
    contexts, is_read = policy_contexts(stores.engine, settings)
    body = plugsurfing_request(settings, parts, "").body
    call = TimedCall(
        dry_run, WireFormat.PLUGSURFING, None, body, settings=settings, policies=policies, contexts=contexts
    )
    tried, raised = call.result(deadline_in(settings.authorize_timeout * PATIENCE))
    if isinstance(raised, CallTimedOut):
        sentence = "A policy does not answer. A driver would get the answer of AUTHORIZE_ON_FAILURE."
        raise HTTPException(HTTPStatus.GATEWAY_TIMEOUT, sentence)
    if raised is not None or tried is None:
        raise raised or CallTimedOut
    return tried, is_read
