"""`webhooks quarantine` and `webhooks reverify`: what failed verification, and another chance for it."""

import base64
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import click

from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.events import peek
from ingest.inbox.quarantine import Quarantine, Reverified
from ingest.inbox.quarantined_request import QuarantinedRequest
from ingest.inbox.schema import FILE_NAME
from workers.commands import options
from workers.commands.output import Cell, Json, iso, json_line, printable, table
from workers.dev.env_file import settings_with_dev_defaults


@click.command()
@options.since
@options.limit
@options.as_json
def quarantine(*, since: datetime | None, limit: int | None, as_json: bool) -> None:
    """List what failed verification on this node, newest first, and why.

    With --json its body and headers too, for `webhooks keys try`.
    """
    store = opened(settings_with_dev_defaults())
    limit = options.limit_for(limit, as_json=as_json)
    requests = store.list(since)[::-1][:limit] if store else []
    if as_json:
        for each in requests:
            json_line(
                {
                    **_facts(each),
                    "sender": each.sender,
                    "headers": list(each.headers),
                    "body_base64": _base64(each.body),
                }
            )
    else:
        table(
            ("received", "kind", "event", "session", "bytes", "sender", "reason"), [_cells(each) for each in requests]
        )
    reasons = Counter(each.reason for each in requests)
    for reason, count in reasons.most_common():
        click.echo(f"{count} × {printable(reason)}", err=True)
    dropped = store.dropped() if store else 0
    if dropped:
        click.echo(f"Dropped so far, for want of room or for their age: {dropped}.", err=True)
    options.warn_if_truncated(len(requests), limit)


@click.command()
@options.since
@options.as_json
def reverify(*, since: datetime | None, as_json: bool) -> None:
    """Verify again, with today's keys, what is in quarantine on this node, and let in what passes.

    To be used after a key was wrong or missing, or an address not in PLUGSURFING_SOURCES, also while `serve` runs.
    """
    settings = settings_with_dev_defaults()
    settings.require_signing()
    store = opened(settings)
    tally: Counter[str] = Counter()
    for each in store.reverify(Keyring(settings).keys, since) if store else ():
        tally["let in" if each.kept else printable(each.reason or "")] += 1
        tally["known before"] += bool(each.kept and each.kept.duplicate)
        if as_json:
            json_line(_outcome(each))
    if as_json:
        return
    let_in, known = tally.pop("let in", 0), tally.pop("known before", 0)
    click.echo(f"Let in: {let_in}" + (f", of which {known} had come before." if known else "."))
    for reason, count in tally.most_common():
        click.echo(f"Still refused: {count} × {reason}")


def opened(settings: Settings) -> Quarantine | None:
    """Open this node's quarantine; None if nothing ever came to this node."""
    path = settings.data_dir / FILE_NAME
    return Quarantine(path, settings) if path.exists() else None


def _facts(request: QuarantinedRequest) -> dict[str, Json]:
    seen = peek(request.kind, request.body)
    return {
        "kind": request.kind,
        "received_at": iso(request.received_at),
        "reason": request.reason,
        "event": seen.name,
        "session_id": seen.session_id,
    }


def _outcome(reverified: Reverified) -> dict[str, Json]:
    kept = reverified.kept
    return {
        **_facts(reverified.request),
        "reason": reverified.reason,
        "id": kept.id if kept else None,
        "duplicate": kept.duplicate if kept else None,
    }


def _cells(request: QuarantinedRequest) -> Sequence[Cell]:
    seen = peek(request.kind, request.body)
    return (
        request.received_at,
        request.kind,
        seen.name,
        seen.session_id,
        len(request.body),
        request.sender,
        request.reason,
    )


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode("ascii")
