"""`webhooks keys`: which key matched last, whether CURRENT can be retired, and which key matches a captured request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

import click
from pydantic import SecretStr

from ingest.config.settings import load_settings
from ingest.errors import NotAuthentic
from ingest.wire.signature import KeyEncoding, Match, SigningKeys, decode_key, verify
from workers.commands import options
from workers.commands.errors import Failure, UsageFailure
from workers.commands.listing import Page, paged, print_rows
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.lists.formatting import cell_text
from workers.lists.key_list import (
    CHARGING_KEY_QUERY,
    CHARGING_KEYS,
    KEYS,
    key_reports,
    read_usage,
    rotation_advice,
    signing_texts,
)
from workers.lists.list_query import Selection, Stores
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
        usage = read_usage(Stores(settings, conn, outbox))
    page = Page(as_json=as_json, as_csv=as_csv)
    print_rows(KEYS, key_reports(settings, usage), page)
    if page.is_for_people:
        click.echo(f"\n{cell_text(rotation_advice(settings, usage)).plain}")


@keys.command()
@click.option("--key", metavar="KEY", help="Only this charging key, in any of its spellings.")
@options.since_option(help="Last used then or later: 10m, 2h or 3d ago, today, yesterday, 18:00, ISO 8601.")
@options.until
@paged
def charging(*, key: str | None, since: datetime | None, until: datetime | None, page: Page) -> None:
    """List the charging keys that were asked for, the one used last first, with what was decided."""
    settings = settings_with_dev_defaults()
    selection = Selection(filters={"key": key, "since": since, "until": until}, limit=page.limit)
    with read_only_ledger(settings) as conn:
        print_rows(CHARGING_KEYS, CHARGING_KEY_QUERY.find(Stores(settings, conn, None), selection), page)


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
