"""`webhooks quarantine` and `webhooks reverify`: the requests that were refused, and another chance for them."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import click

from ingest.config.keyring import Keyring
from ingest.config.settings import Settings
from ingest.inbox.quarantine import Quarantine, Verification
from ingest.inbox.quarantined_request import WRONG_PATH
from ingest.inbox.schema import FILE_NAME
from ingest.wire.envelope import Kind
from workers.commands import options
from workers.commands.audit import audit_entry, record_aside, subject_of
from workers.commands.errors import Failure
from workers.commands.listing import Page, paged, print_rows
from workers.commands.output import json_line
from workers.dev.env_file import settings_with_dev_defaults
from workers.ledger.audit_log import AuditAct
from workers.lists.formatting import iso, printable
from workers.lists.quarantine_list import QUARANTINED, REVERIFIED, VERIFIED


@click.command()
@options.since
@options.until
@paged
def quarantine(*, since: datetime | None, until: datetime | None, page: Page) -> None:
    """List what failed verification on this node or came to a wrong path, newest first, and why.

    With --json or --csv also its headers and its body, for `webhooks keys try`.
    """
    settings = settings_with_dev_defaults()
    store = open_quarantine(settings)
    found = store.list(since)[::-1]
    requests = [request for request in found if until is None or request.received_at < until][: page.limit]
    if not page.is_for_people and requests:  # the bodies are in it
        record_aside(settings, audit_entry(AuditAct.BODY_VIEWED, "quarantine", len(requests)))
    print_rows(QUARANTINED, requests, page)
    for reason, count in Counter(request.reason for request in requests).most_common():
        click.echo(f"{count} × {printable(reason)}", err=True)
    dropped = store.dropped()
    if dropped:
        click.echo(f"Dropped so far, because the quarantine was full or they were too old: {dropped}.", err=True)


@click.command()
@options.since
@click.option(
    "--as",
    "kind",
    type=click.Choice([kind.value for kind in Kind]),
    help="Let in, as this kind, what came to a wrong path and is authentic, too.",
)
@click.option("--dry-run", is_flag=True, help="Count what would pass, by key, and let nothing in.")
@options.as_json
def reverify(*, since: datetime | None, kind: str | None, dry_run: bool, as_json: bool) -> None:
    """Verify again, with today's keys, what is in quarantine on this node, and keep what passes.

    Use it after a key was wrong or missing, or an address was not in PLUGSURFING_SOURCES; `serve` may run meanwhile.
    """
    settings = settings_with_dev_defaults()
    settings.require_signing()
    store = open_quarantine(settings)
    if dry_run:
        _preview(store.preview(Keyring(settings).keys, since, kind=Kind(kind) if kind else None), as_json=as_json)
        return
    tally: Counter[str] = Counter()
    for each in store.reverify(Keyring(settings).keys, since, kind=Kind(kind) if kind else None):
        tally["kept" if each.kept else printable(each.reason or "")] += 1
        tally["duplicates"] += bool(each.kept and each.kept.duplicate)
        if as_json:
            json_line(REVERIFIED.json(each))
    if tally["kept"]:
        record_aside(settings, audit_entry(AuditAct.REVERIFIED, subject_of((), {"since": iso(since)}), tally["kept"]))
    if as_json:
        return
    kept, duplicates = tally.pop("kept", 0), tally.pop("duplicates", 0)
    click.echo(f"Let in: {kept}" + (f", of which {duplicates} had come before." if duplicates else "."))
    for reason, count in tally.most_common():
        click.echo(f"Still refused: {count} × {reason}")
    if WRONG_PATH in tally:
        click.echo("Correct the URL at Plugsurfing; `webhooks reverify --as events`, or `--as cdrs`, lets them in.")


def _preview(verified: Iterable[Verification], *, as_json: bool) -> None:
    passing: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for each in verified:
        if each.envelope is None:
            refused[printable(each.reason or "")] += 1
        else:
            passing[each.envelope.signed_with] += 1
        if as_json:
            json_line(VERIFIED.json(each))
    if as_json:
        return
    click.echo(f"Would be let in: {passing.total()}")
    for key, count in passing.most_common():
        click.echo(f"By the key {key}: {count}")
    for reason, count in refused.most_common():
        click.echo(f"Would still be refused: {count} × {reason}")


def open_quarantine(settings: Settings) -> Quarantine:
    """Open this node's quarantine. Raise Failure if there is no inbox, which an empty list would hide."""
    path = settings.data_dir / FILE_NAME
    if not path.exists():
        raise Failure(
            f"There is no inbox in {settings.data_dir}, so it is not known what is in quarantine:"
            " run this where `serve` runs, with its DATA_DIR."
        )
    return Quarantine(path, settings)
