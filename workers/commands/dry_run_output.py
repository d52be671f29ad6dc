"""Shows what came of trying policies on a question."""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta

import click
import structlog

from handlers.kit.policies import AuthorizeContext, Policy
from ingest.config.settings import Settings
from workers.commands import output
from workers.commands.output import Cell, human_duration, json_line, printable, printable_body
from workers.commands.stores import sqlite_file
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.transaction import LedgerUnavailable
from workers.policies.cache import PolicyCache
from workers.policies.dry_run import DryRun, PolicyOutcome
from workers.policies.evaluate import PolicyContext


def print_dry_run(trial: DryRun, settings: Settings, missing: str | None, *, as_json: bool) -> None:
    """Write what each policy says, the decision, and the answer on the wire."""
    if as_json:
        _as_json(trial)
        return
    verdict = trial.record
    if missing is not None:
        click.echo(f"{missing} Policies know no keys, balances and sessions.", err=True)
    if trial.outcomes:
        decides = True
        rows = []
        for say in trial.outcomes:
            rows.append(_cells(say, decides=decides))
            decides = decides and say.decision is None and say.error is None
        output.table(("policy", "order", "says", "why", "took"), rows, wrapping=2)
    else:
        click.echo(
            "No policy is asked: " + ("there is none." if verdict.failure is None else "the body cannot be read.")
        )
    for say in trial.outcomes:
        if say.traceback:
            click.echo(f"\n{say.policy.name}:\n{printable_body(say.traceback.encode('utf-8', 'backslashreplace'))}")
    click.echo()
    by = verdict.policy or "nobody objects"
    how = f"AUTHORIZE_ON_FAILURE, as {verdict.policy or 'the body'} fails" if verdict.failure else by
    output.key_values(
        [("decision", f"{verdict.decision.allowed} ({how})"), ("answer", f"200 {trial.response.decode()}")]
    )
    if sum((say.took for say in trial.outcomes), timedelta()) > settings.authorize_timeout:
        click.echo(
            f"This took {human_duration(verdict.latency)}, longer than AUTHORIZE_TIMEOUT: it would be a failure.",
            err=True,
        )


def one_shot_contexts(settings: Settings) -> tuple[Callable[[Policy], AuthorizeContext], str | None]:
    """Look at the ledger once, to try policies out, and make nothing that is not there.

    With the contexts comes a sentence, if the ledger cannot be used: then policies know nothing.
    """
    url, missing = settings.database_url, None
    file = sqlite_file(settings)
    if file is not None and not file.exists():
        url, missing = "sqlite://", "There is no ledger yet."
    engine = create_ledger_engine(url)
    facts = PolicyCache(engine, settings)
    if missing is None:
        try:
            facts.refresh()
        except LedgerUnavailable:
            missing = "The ledger cannot be used."
    log = structlog.get_logger()
    return (lambda policy: PolicyContext(engine, facts, settings, log.bind(policy=policy.name))), missing


def _as_json(trial: DryRun) -> None:
    for say in trial.outcomes:
        json_line(
            {
                "policy": say.policy.name,
                "order": say.policy.order,
                "file": say.policy.file,
                "says": say.decision.allowed.value if say.decision else None,
                "reason": say.decision.reason if say.decision else None,
                "information": say.decision.information if say.decision else None,
                "error": say.error,
                "notes": list(say.notes),
                "took_ms": round(say.took.total_seconds() * 1000, 3),
            }
        )
    verdict = trial.record
    json_line(
        {
            "decision": verdict.decision.allowed.value,
            "decided_by": verdict.policy,
            "failure": verdict.failure.value if verdict.failure else None,
            "answer": json.loads(trial.response),
        }
    )


def _cells(say: PolicyOutcome, *, decides: bool) -> Sequence[Cell]:
    why: str | None
    if say.error is not None:
        said, why = "fails", printable(say.error)
    elif say.decision is None:
        said, why = "passes", "; ".join(say.notes) or None
    else:
        told = f"; the driver reads: {say.decision.information}" if say.decision.information else ""
        said, why = say.decision.allowed.value, say.decision.reason + told
    asked = said if decides or said == "passes" else f"{said}, not asked"
    return say.policy.name, say.policy.order, asked, why, say.took
