"""`webhooks keys`: which key matched last, whether CURRENT can go, and which key matches a captured request."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import click
from pydantic import SecretStr

from ingest.config.settings import Settings, load_settings
from ingest.errors import NotAuthentic
from ingest.wire.envelope import WITH_AUTHORIZATION
from ingest.wire.signature import KeyEncoding, Match, SigningKeys, decode_key, verify
from workers.commands import options
from workers.commands.delivery_sources import EVERYTHING, in_inbox_only
from workers.commands.errors import Failure, UsageFailure
from workers.commands.output import iso, json_line, local, table
from workers.commands.stores import open_inbox, read_only_ledger
from workers.dev.env_file import settings_with_dev_defaults
from workers.diagnostics.key_usage import KeyUsage, RotationStatus, key_uses, rotation_status


@click.group(invoke_without_command=True)
@options.as_json
@click.pass_context
def keys(ctx: click.Context, *, as_json: bool) -> None:
    """Say which key matched last and when, and whether CURRENT can be retired."""
    if ctx.invoked_subcommand is not None:
        return
    settings = settings_with_dev_defaults()
    with open_inbox(settings) as outbox, read_only_ledger(settings) as conn:
        waiting = [] if outbox is None else in_inbox_only(conn, outbox.unsettled(limit=EVERYTHING))
        uses = key_uses(conn, waiting)
        rotation = rotation_status(conn, waiting) if settings.plugsurfing_hmac_next else None
    configured: dict[str, SecretStr | None] = {
        Match.CURRENT: settings.plugsurfing_hmac_current,
        Match.NEXT: settings.plugsurfing_hmac_next,
        WITH_AUTHORIZATION: settings.plugsurfing_authorization,
    }
    if as_json:
        _as_json(configured, uses, rotation)
        return
    rows = []
    for name, secret in configured.items():
        use = uses.get(name)
        seen = (use.count, use.first_at, use.last_at) if use else (0, None, None)
        rows.append((name, "yes" if secret else "no", *seen))
    table(("key", "configured", "deliveries", "first matched", "last matched"), rows)
    click.echo(f"\n{rotation_advice(settings, uses, rotation)}")


@keys.command(name="try")
@click.option(
    "--body", type=click.File("rb"), required=True, metavar="FILE", help="The raw body as it came; - is stdin."
)
@click.option("--signature", required=True, metavar="S", help="What X-HMAC-SHA512-Signature said.")
@options.as_json
def try_keys(*, body: BinaryIO, signature: str, as_json: bool) -> None:
    """Say which configured key, read in which encoding, made the signature of a captured request.

    Needs no store and prints no key. Exit code 1 if none matches.
    """
    # As UTF-8 every text is a key: a wrong PLUGSURFING_HMAC_ENCODING must not stop the search for the right one.
    texts = signing_texts(load_settings(plugsurfing_hmac_encoding=KeyEncoding.UTF8))
    texts = texts if any(texts.values()) else signing_texts(settings_with_dev_defaults())
    if not any(texts.values()):
        raise UsageFailure("Neither PLUGSURFING_HMAC_CURRENT nor PLUGSURFING_HMAC_NEXT is set: there is no key to try.")
    raw, given = body.read(), signature.strip()
    trials = list(try_all(texts, raw, given))
    if as_json:
        for trial in trials:
            json_line({"key": trial.key, "encoding": trial.encoding, "matches": trial.matches})
    else:
        table(("key", "encoding", "result"), [(trial.key, trial.encoding, trial.words) for trial in trials])
    if any(trial.matches for trial in trials):
        return
    if any(trial.matches for trial in try_all(texts, raw.rstrip(b"\r\n"), given)):
        raise Failure(
            "No key matches these bytes, but one does without the line end after them: an editor's, probably."
        )
    raise Failure(
        "No configured key matches in any encoding: it was another key, or these are not the bytes as signed."
    )


def signing_texts(settings: Settings) -> Mapping[Match, SecretStr | None]:
    """Give the texts of the signing keys by their names."""
    return {Match.CURRENT: settings.plugsurfing_hmac_current, Match.NEXT: settings.plugsurfing_hmac_next}


@dataclass(frozen=True)
class KeyTrial:
    """One key, read in one encoding, against one signature."""

    key: Match
    encoding: KeyEncoding
    matches: bool | None
    """None: the key is not written in this encoding."""

    @property
    def words(self) -> str:
        """Say how it ended."""
        return {True: "matches", False: "does not match", None: "is not a key in this encoding"}[self.matches]


def try_all(texts: Mapping[Match, SecretStr | None], body: bytes, signature: str) -> Iterator[KeyTrial]:
    """Try every key that there is in every encoding."""
    for name, secret in texts.items():
        if secret is None:
            continue
        for encoding in KeyEncoding:
            yield KeyTrial(name, encoding, _matches(secret.get_secret_value(), encoding, body, signature))


def rotation_advice(settings: Settings, uses: Mapping[str, KeyUsage], rotation: RotationStatus | None) -> str:
    """Say which key matched last, and whether CURRENT is still needed."""
    if not uses:
        return "No key has matched anything yet."
    last = max(uses, key=lambda name: uses[name].last_at)
    said = f"{last.upper()} matched last, at {local(uses[last].last_at)}. "
    if rotation is None:
        return said + "PLUGSURFING_HMAC_NEXT is not set, so there is nothing to retire."
    if settings.plugsurfing_hmac_current is None:
        return said + "PLUGSURFING_HMAC_CURRENT is not set any more."
    if rotation.next_since is None:
        return said + "CURRENT cannot be retired: NEXT has matched nothing since."
    since = rotation.next_since
    silent = f"since {local(rotation.current_last_at)}" if rotation.current_last_at else "at all"
    return (
        f"{said}CURRENT can be retired: it has matched nothing {silent}, while NEXT has matched {since.count} since "
        f"{local(since.first_at)}. The longer that is, the surer."
    )


def _as_json(
    configured: Mapping[str, SecretStr | None], uses: Mapping[str, KeyUsage], rotation: RotationStatus | None
) -> None:
    for name, secret in configured.items():
        use = uses.get(name)
        can_go = rotation is not None and rotation.is_done if name == Match.CURRENT and secret else None
        json_line(
            {
                "key": name,
                "configured": secret is not None,
                "deliveries": use.count if use else 0,
                "first_matched_at": iso(use.first_at) if use else None,
                "last_matched_at": iso(use.last_at) if use else None,
                "can_be_retired": can_go,
            }
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
