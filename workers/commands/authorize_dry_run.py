"""`webhooks authorize --try`: what policies decide on a request."""

import json
from collections.abc import Callable
from datetime import timedelta

import click

from handlers.kit.policies import AuthorizeContext, Policy
from ingest.config.settings import Settings
from workers.commands import output
from workers.commands.listing import Page, print_rows
from workers.commands.output import json_line
from workers.ledger.database.engine import create_ledger_engine, database_file
from workers.lists.formatting import human_duration, printable_body
from workers.lists.policy_list import TRIED_POLICIES, how_decided, tried_policies
from workers.policies.dry_run import DryRun, policy_contexts


def one_shot_contexts(settings: Settings) -> tuple[Callable[[Policy], AuthorizeContext], str | None]:
    """Return what makes the context of a policy, from one read of the ledger; a ledger that is missing is not made.

    With it comes a sentence if the ledger cannot be read: then policies know no keys, balances and sessions.
    """
    file = database_file(settings.database_url)
    if file is not None and not file.exists():
        return policy_contexts(create_ledger_engine("sqlite://"), settings)[0], "There is no ledger yet."
    contexts, is_read = policy_contexts(create_ledger_engine(settings.database_url), settings)
    return contexts, None if is_read else "The ledger cannot be used."


def print_dry_run(dry_run: DryRun, settings: Settings, missing: str | None, *, as_json: bool) -> None:
    """Print what each policy says, the decision, and the response on the wire."""
    tried = list(tried_policies(dry_run))
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
    decision = f"{record.decision.allowed} ({how_decided(dry_run)})"
    output.key_values([("decision", decision), ("answer", f"200 {dry_run.response.decode()}")])
    if sum((outcome.took for outcome in dry_run.outcomes), timedelta()) > settings.authorize_timeout:
        click.echo(
            f"This took {human_duration(record.latency)}, longer than AUTHORIZE_TIMEOUT: it would be a failure.",
            err=True,
        )
