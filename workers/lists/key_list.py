"""The lists of signing keys and of charging keys, and their use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from handlers.kit.key_identifiers import search_spellings
from ingest.config.settings import Settings
from ingest.wire.envelope import WITH_AUTHORIZATION
from ingest.wire.signature import Match
from workers.diagnostics.key_usage import RotationStatus, key_uses, rotation_status
from workers.ledger import charging_key_usage
from workers.ledger.charging_key_usage import ChargingKeyUse
from workers.ledger.signature_key_usage import MAX_COUNTED, KeyUsage
from workers.lists.delivery_sources import in_inbox_only
from workers.lists.formatting import Cell, Sentence
from workers.lists.list_query import SINCE, UNTIL, Filter, ListQuery, Selection, Stores
from workers.lists.listing import Listing, attributes


@dataclass(frozen=True)
class KeyReport:
    """A key, whether it is configured, and what it has matched."""

    key: str
    configured: bool
    use: KeyUsage | None
    can_be_retired: bool | None
    """None: only CURRENT is ever retired."""


def signing_texts(settings: Settings) -> Mapping[Match, SecretStr | None]:
    """Return the signing keys as they are configured."""
    return {Match.CURRENT: settings.plugsurfing_hmac_current, Match.NEXT: settings.plugsurfing_hmac_next}


@dataclass(frozen=True)
class SigningKeyUsage:
    """What each signing key has matched, and how far a rotation has come; None if NEXT is not set."""

    uses: Mapping[str, KeyUsage]
    rotation: RotationStatus | None


def read_usage(stores: Stores) -> SigningKeyUsage:
    """Read the use of the signing keys from the ledger, and from the inbox of this node if there is one."""
    waiting = () if stores.outbox is None else in_inbox_only(stores.outbox, stores.ledger)
    uses = key_uses(stores.ledger, waiting)
    is_rotating = stores.settings.plugsurfing_hmac_next is not None
    return SigningKeyUsage(uses, rotation_status(stores.ledger, uses, waiting) if is_rotating else None)


def key_reports(settings: Settings, usage: SigningKeyUsage) -> Iterator[KeyReport]:
    """Yield each key with its use; the keys themselves are not in it."""
    authorization = (WITH_AUTHORIZATION, settings.plugsurfing_authorization)
    configured: list[tuple[str, SecretStr | None]] = [*signing_texts(settings).items(), authorization]
    rotation = usage.rotation
    for name, secret in configured:
        can_go = rotation is not None and rotation.is_done if name == Match.CURRENT and secret else None
        yield KeyReport(name, secret is not None, usage.uses.get(name), can_go)


def rotation_advice(settings: Settings, usage: SigningKeyUsage) -> Sentence:
    """Return which key matched last, and whether CURRENT is still needed."""
    uses, rotation = usage.uses, usage.rotation
    if not uses:
        return Sentence.of("No key has matched anything yet.")
    last = max(uses, key=lambda name: uses[name].last_at)
    matched = (f"{last.upper()} matched last, at ", uses[last].last_at)
    if rotation is None:
        return Sentence.of(*matched, ". PLUGSURFING_HMAC_NEXT is not set, so there is nothing to retire.")
    if settings.plugsurfing_hmac_current is None:
        return Sentence.of(*matched, ". PLUGSURFING_HMAC_CURRENT is not set any more.")
    if rotation.next_since is None:
        return Sentence.of(*matched, ". CURRENT cannot be retired: NEXT has matched nothing since.")
    since = rotation.next_since
    count = f"at least {since.count:,}" if since.count >= MAX_COUNTED else f"{since.count:,}"
    silent: tuple[Cell, ...] = ("since ", rotation.current_last_at) if rotation.current_last_at else ("at all",)
    return Sentence.of(
        *(*matched, ". CURRENT can be retired: it has matched nothing ", *silent),
        *(f", while NEXT has matched {count} since ", since.first_at, ". The longer that is, the safer."),
    )


KEYS = Listing[KeyReport](
    fields={
        **attributes("key", "configured"),
        "deliveries": lambda report: report.use.count if report.use else 0,
        "first_matched_at": lambda report: report.use.first_at if report.use else None,
        "last_matched_at": lambda report: report.use.last_at if report.use else None,
        "can_be_retired": lambda report: report.can_be_retired,
    },
    columns={
        "key": "key",
        "configured": "configured",
        "deliveries": "deliveries",
        "first matched": "first_matched_at",
        "last matched": "last_matched_at",
    },
)


def _asked(use: ChargingKeyUse) -> str:
    return ", ".join(f"{decision} {count:,}" for decision, count in use.decisions.items())


def _listed(use: ChargingKeyUse) -> str:
    return "not listed" if use.is_enabled is None else "enabled" if use.is_enabled else "disabled"


CHARGING_KEYS = Listing[ChargingKeyUse](
    fields={
        **attributes("key", "asked", "decisions", "first_at", "last_at", "session_id", "user_id"),
        **attributes(enabled="is_enabled"),
    },
    columns={
        "last asked": "last_at",
        "key": "key",
        "asked": "asked",
        "answers": _asked,
        "session": "session_id",
        "driver": "user_id",
        "at the Drive API": _listed,
        "first asked": "first_at",
    },
)


def _find_keys(stores: Stores, _wanted: Selection) -> Iterator[KeyReport]:
    return key_reports(stores.settings, read_usage(stores))


def _find_charging_keys(stores: Stores, wanted: Selection) -> list[ChargingKeyUse]:
    key = wanted.get("key")
    return charging_key_usage.find(
        stores.ledger,
        keys=None if key is None else search_spellings(key, stores.settings.authorize_key_bytes),
        since=wanted.get("since"),
        until=wanted.get("until"),
        before=wanted.before,
        limit=wanted.limit,
    )


KEY_QUERY = ListQuery[KeyReport](
    name="keys",
    title="Signing keys",
    hint="Which of the keys that Plugsurfing signs with matched when, since it was first used.",
    listing=KEYS,
    find=_find_keys,
)
CHARGING_KEY_QUERY = ListQuery[ChargingKeyUse](
    name="charging-keys",
    title="Charging keys",
    hint="The keys that were held to a charger, the one used last first, with the session and the driver of its last "
    "use. Counts are since the first use.",
    listing=CHARGING_KEYS,
    find=_find_charging_keys,
    position=lambda use: (use.last_at, use.key),
    filters=(Filter("key", "charging key, in any spelling"), SINCE, UNTIL),
)
