"""`webhooks authorize --try`: what policies decide on a request."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import click
import structlog

from handlers.kit.policies import AuthorizeContext, Policy
from ingest.config.settings import Settings
from workers.commands import output
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line
from workers.commands.stores import sqlite_file
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerUnavailable
from workers.ledger.reader import LedgerReader
from workers.lists.formatting import Cell, human_duration, printable, printable_body
from workers.lists.listing import Listing, attributes
from workers.policies.cache import PolicyCache
from workers.policies.dry_run import DryRun, PolicyOutcome
from workers.policies.evaluate import PolicyContext


class TriedPolicy(NamedTuple):
    """What a policy says, and whether it would be asked: the first one that decides is the last one asked."""

    outcome: PolicyOutcome
    is_asked: bool


def one_shot_contexts(settings: Settings) -> tuple[Callable[[Policy], AuthorizeContext], str | None]:
    """Return what makes the context of a policy, from one read of the ledger; a ledger that is missing is not made.

    With it comes a sentence if the ledger cannot be read: then policies know no keys, balances and sessions.
    """
    url, missing = settings.database_url, None
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        url, missing = "sqlite://", "There is no ledger yet."
    engine = create_ledger_engine(url)
    cache = PolicyCache(engine, settings)
    if missing is None:
        try:
            cache.refresh()
        except LedgerUnavailable:
            missing = "The ledger cannot be used."
    log = structlog.get_logger()
    return (lambda policy: PolicyContext(LedgerReader(engine), cache, settings, log.bind(policy=policy.name))), missing


def print_dry_run(dry_run: DryRun, settings: Settings, missing: str | None, *, as_json: bool) -> None:
    """Print what each policy says, the decision, and the response on the wire."""
    asked = True
    tried: list[TriedPolicy] = []
    for outcome in dry_run.outcomes:
        tried.append(TriedPolicy(outcome, asked))
        asked = asked and outcome.decision is None and outcome.error is None
    record = dry_run.record
    if as_json:
        print_rows(TRIED_POLICIES, tried, Page(as_json=True))
        json_line(
            {
                "decision": record.decision.allowed.value,
                "decided_by": record.policy,
                "failure": record.failure.value if record.failure else None,
                "answer": json.loads(dry_run.response),
            }
        )
        return
    if missing is not None:
        click.echo(f"{missing} Policies know no keys, balances and sessions.", err=True)
    if tried:
        print_rows(TRIED_POLICIES, tried, Page())
    else:
        click.echo(
            "No policy is asked: " + ("there is none." if record.failure is None else "the body cannot be read.")
        )
    for outcome in dry_run.outcomes:
        if outcome.traceback:
            traceback = outcome.traceback.encode("utf-8", "backslashreplace")
            click.echo(f"\n{outcome.policy.name}:\n{printable_body(traceback)}")
    click.echo()
    by = record.policy or "no policy objects"
    how = f"AUTHORIZE_ON_FAILURE, as {record.policy or 'the body'} fails" if record.failure else by
    output.key_values(
        [("decision", f"{record.decision.allowed} ({how})"), ("answer", f"200 {dry_run.response.decode()}")]
    )
    if sum((outcome.took for outcome in dry_run.outcomes), timedelta()) > settings.authorize_timeout:
        click.echo(
            f"This took {human_duration(record.latency)}, longer than AUTHORIZE_TIMEOUT: it would be a failure.",
            err=True,
        )


def _says(tried: TriedPolicy) -> Cell:
    outcome, is_asked = tried
    if outcome.error is not None:
        says = "fails"
    elif outcome.decision is None:
        return "passes"
    else:
        says = outcome.decision.allowed.value
    return says if is_asked else f"{says}, not asked"


def _why(tried: TriedPolicy) -> Cell:
    outcome, _ = tried
    if outcome.error is not None:
        return printable(outcome.error)
    if outcome.decision is None:
        return "; ".join(outcome.notes) or None
    information = outcome.decision.information
    return outcome.decision.reason + (f"; the driver reads: {information}" if information else "")


TRIED_POLICIES = Listing[TriedPolicy](
    fields={
        **attributes(policy="outcome.policy.name", order="outcome.policy.order", file="outcome.policy.file"),
        "says": lambda tried: tried.outcome.decision.allowed.value if tried.outcome.decision else None,
        "reason": lambda tried: tried.outcome.decision.reason if tried.outcome.decision else None,
        "information": lambda tried: tried.outcome.decision.information if tried.outcome.decision else None,
        **attributes(error="outcome.error", notes="outcome.notes"),
        "took_ms": lambda tried: round(tried.outcome.took.total_seconds() * 1000, 3),
    },
    columns={
        "policy": "policy",
        "order": "order",
        "says": _says,
        "why": _why,
        "took": lambda tried: tried.outcome.took,
    },
    wrapping=2,
)
