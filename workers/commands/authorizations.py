"""`webhooks authorizations`: what was answered when Plugsurfing asked whether a key may charge."""

from collections.abc import Sequence
from datetime import datetime

import click

from handlers.kit.key_identifiers import search_spellings
from ingest.wire.authorization.request import Allowed
from workers.commands import options
from workers.commands.output import Cell, Json, iso, json_line, table
from workers.commands.stores import read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger import authorizations as ledger_authorizations
from workers.ledger.authorizations import DecisionFilter, DecisionRow


@click.command()
@click.option("--decision", type=click.Choice([each.value for each in Allowed]), help="What was answered.")
@click.option("--policy", metavar="NAME", help="Which policy decided, or was to and failed.")
@click.option("--key", metavar="KEY", help="The charging key, however it is spelt.")
@click.option("--session", "session_id", metavar="ID", help="The charging session that it was about.")
@options.since
@options.until
@options.limit
@options.as_json
def authorizations(  # noqa: PLR0913  the options are the interface
    *,
    decision: str | None,
    policy: str | None,
    key: str | None,
    session_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List what was decided at the charger, and why; newest first."""
    settings = settings_with_dev_defaults()
    keys = None if key is None else search_spellings(key, settings.authorize_key_bytes)
    wanted = DecisionFilter(since, until, decision, policy, keys, session_id)
    limit = options.limit_for(limit, as_json=as_json)
    with read_only_ledger(settings) as conn:
        found = ledger_authorizations.find(conn, wanted, limit)
    if as_json:
        for row in found:
            json_line(decision_json(row))
        return
    table(("asked", "key", "session", "decision", "policy", "took", "notes"), [_cells(row) for row in found])
    options.warn_if_truncated(len(found), limit)


def decision_json(row: DecisionRow) -> dict[str, Json]:
    """Write a decision as `authorizations --json` does."""
    return {
        "id": row.id,
        "at": iso(row.at),
        "form": row.form,
        "decision": row.decision,
        "policy": row.policy,
        "reason": row.reason,
        "latency_ms": row.latency_us / 1000,
        "session_id": row.session_id,
        "reference_id": row.reference_id,
        "location_id": row.location_id,
        "country_code": row.country_code,
        "key": row.key,
        "repeated": row.repeated,
        "failure": row.failure,
    }


def _cells(row: DecisionRow) -> Sequence[Cell]:
    notes = [row.reason] if row.reason else []
    notes += [f"failure: {row.failure}"] if row.failure else []
    notes += ["asked again"] if row.repeated else []
    return row.at, row.key, row.session_id, row.decision, row.policy, row.latency, ", ".join(notes)
