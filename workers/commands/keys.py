"""`webhooks keys`: which key matched last, whether CURRENT can be retired, and which key matches a captured request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import click
from pydantic import SecretStr

from ingest.config.settings import Settings, load_settings
from ingest.errors import NotAuthentic
from ingest.wire.signature import KeyEncoding, Match, SigningKeys, decode_key, verify
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.listing import Page, print_rows
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.diagnostics.key_usage import KeyUsage, RotationStatus, key_uses, rotation_status
from workers.lists.delivery_sources import in_inbox_only
from workers.lists.formatting import local
from workers.lists.key_list import KEYS, key_reports, signing_texts
from workers.lists.listing import Listing, attributes


@dataclass(frozen=True)
class KeyTrial:
    """One key, read in one encoding, against one signature."""

    key: Match
    encoding: KeyEncoding
    matches: bool | None
    """None: the key is not written in this encoding."""


@click.group(invoke_without_command=True)
@options.as_json
@options.as_csv
@click.pass_context
def keys(ctx: click.Context, *, as_json: bool, as_csv: bool) -> None:
    """List which key matched when, and whether CURRENT can be retired."""
    if ctx.invoked_subcommand is not None:
        return
    settings = settings_with_dev_defaults()
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        waiting = in_inbox_only(outbox, conn)
        uses = key_uses(conn, waiting)
        rotation = rotation_status(conn, waiting) if settings.plugsurfing_hmac_next else None
    page = Page(as_json=as_json, as_csv=as_csv)
    print_rows(KEYS, key_reports(settings, uses, rotation), page)
    if page.is_for_people:
        click.echo(f"\n{_rotation_advice(settings, uses, rotation)}")


@keys.command(name="try")
@click.option(
    "--body", type=click.File("rb"), required=True, metavar="FILE", help="The raw body as it came; - is stdin."
)
@click.option("--signature", required=True, metavar="S", help="The value of X-HMAC-SHA512-Signature.")
@options.as_json
def try_keys(*, body: BinaryIO, signature: str, as_json: bool) -> None:
    """Find the configured key, and its encoding, that made the signature of a captured request.

    Needs no store and prints no key. Exit code 1 if none matches.
    """
    # As UTF-8 every text is a key: a wrong PLUGSURFING_HMAC_ENCODING must not stop the search for the right one.
    texts = signing_texts(load_settings(plugsurfing_hmac_encoding=KeyEncoding.UTF8))
    texts = texts if any(texts.values()) else signing_texts(settings_with_dev_defaults())
    if not any(texts.values()):
        raise UsageFailure("Neither PLUGSURFING_HMAC_CURRENT nor PLUGSURFING_HMAC_NEXT is set: there is no key to try.")
    raw, given = body.read(), signature.strip()
    trials = list(_try_all(texts, raw, given))
    print_rows(TRIALS, trials, Page(as_json=as_json))
    if any(trial.matches for trial in trials):
        return
    if any(trial.matches for trial in _try_all(texts, raw.rstrip(b"\r\n"), given)):
        raise Failure(
            "No key matches these bytes, but one does without the line end after them, which an editor may have added."
        )
    raise Failure("No configured key matches in any encoding: it was another key, or these are not the signed bytes.")


def _try_all(texts: Mapping[Match, SecretStr | None], body: bytes, signature: str) -> Iterator[KeyTrial]:
    for name, secret in texts.items():
        if secret is None:
            continue
        for encoding in KeyEncoding:
            yield KeyTrial(name, encoding, _matches(secret.get_secret_value(), encoding, body, signature))


def _rotation_advice(settings: Settings, uses: Mapping[str, KeyUsage], rotation: RotationStatus | None) -> str:
    """Return which key matched last, and whether CURRENT is still needed."""
    if not uses:
        return "No key has matched anything yet."
    last = max(uses, key=lambda name: uses[name].last_at)
    matched = f"{last.upper()} matched last, at {local(uses[last].last_at)}. "
    if rotation is None:
        return matched + "PLUGSURFING_HMAC_NEXT is not set, so there is nothing to retire."
    if settings.plugsurfing_hmac_current is None:
        return matched + "PLUGSURFING_HMAC_CURRENT is not set any more."
    if rotation.next_since is None:
        return matched + "CURRENT cannot be retired: NEXT has matched nothing since."
    since = rotation.next_since
    silent = f"since {local(rotation.current_last_at)}" if rotation.current_last_at else "at all"
    return (
        f"{matched}CURRENT can be retired: it has matched nothing {silent}, while NEXT has matched {since.count} since "
        f"{local(since.first_at)}. The longer that is, the safer."
    )


def _matches(text: str, encoding: KeyEncoding, body: bytes, signature: str) -> bool | None:
    try:
        key = decode_key(text, encoding)
    except ValueError:
        return None
    try:
        verify(body, signature, SigningKeys(current=key))
    except NotAuthentic:
        return False
    return True


TRIALS = Listing[KeyTrial](
    fields=attributes("key", "encoding", "matches"),
    columns={
        "key": "key",
        "encoding": "encoding",
        "result": lambda trial: {True: "matches", False: "does not match", None: "is not a key in this encoding"}[
            trial.matches
        ],
    },
)
