"""`@authorize` marks a function as an authorization policy; and what policies are given and may use."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Protocol, TypeVar, TypeVarTuple

from sqlalchemy import Row
from sqlalchemy.sql.selectable import TypedReturnsRows
from structlog.typing import FilteringBoundLogger

from handlers.kit.key_identifiers import is_hexadecimal
from handlers.kit.markers import Marker, check_function, checked_name, markers_in
from handlers.kit.session import Session
from ingest.config.sections.authorization import OnIndeterminate
from ingest.config.settings import Settings
from ingest.events import LONGEST_USER_ID, sanitize_text
from ingest.wire.authorization.request import AuthorizationRequest, Decision
from ingest.wire.field_paths import Pointer

Function = TypeVar("Function", bound=Callable[..., object])
Columns = TypeVarTuple("Columns")

MARK = "__plugsurfing_policy__"


class Indeterminate(Exception):
    """Raised by a policy that cannot decide, where AUTHORIZE_WITHOUT_FACTS makes that a failure."""


@dataclass(frozen=True, slots=True)
class ChargingKeySnapshot:
    """A charging key as last read from the Drive API."""

    identifier: str
    enabled: bool
    valid_to: datetime | None = None
    contract_id: str | None = None
    visual_number: str | None = None
    """The number printed on the card, which a request has as its `reference_id`; a virtual key has none."""
    fleet_id: str | None = None
    read_at: datetime | None = None
    """When it was read: while Drive is unavailable, the snapshot grows old and still counts."""


@dataclass(frozen=True, slots=True)
class BalanceSnapshot:
    """A user's balance as last read from the Drive API."""

    amount: Decimal
    read_at: datetime | None = None


class AuthorizeContext(Protocol):
    """What a policy is given beside the request. It only reads: a policy changes nothing.

    Nothing waits for the Drive API: the clock has read it. `read` and `session` query the ledger and block, so an async
    policy that calls them blocks its process meanwhile; all the rest is in memory.
    """

    @property
    def settings(self) -> Settings:
        """The settings of the process. A plugin with settings of its own reads them when it is imported."""

    @property
    def log(self) -> FilteringBoundLogger:
        """A log that has the policy's name in every line. Do not log keys and user ids."""

    def now(self) -> datetime:
        """Return the current time."""

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT on the ledger."""

    def session(self, session_id: str) -> Session | None:
        """Return the record of a session."""

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Return a charging key of the organization; None if it is not listed."""

    def charging_key_by_number(self, visual_number: str) -> ChargingKeySnapshot | None:
        """Return the charging key with this number on its card, an enabled one first; None if none is listed."""

    def keys_synced_at(self) -> datetime | None:
        """Return when the list of keys was read; None if never: then a key that is not listed may still exist."""

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Return a user's balance; None if it is not known."""

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Return the ids of the sessions that surely charge, by their status, of a charging key and of a user."""

    def sessions_read_at(self) -> datetime | None:
        """Return when the open sessions were read from the ledger; None if they have not been yet."""


@dataclass(frozen=True, slots=True)
class Policy(Marker):
    """A function of a plugin that decides on authorization requests."""

    name: str
    order: int
    when: Callable[[Settings], object] | None = None
    """Whether it is enabled by the settings; None: always."""


def authorize(
    *, order: int = 100, name: str | None = None, when: Callable[[Settings], object] | None = None
) -> Callable[[Function], Function]:
    """Mark a function `(request, ctx) -> Decision | None`, plain or async, as a policy.

    Policies are called from the lowest `order` to the highest, those of the same order by name. The first that returns
    a decision decides; one that returns None leaves it to the next, and when none decides the answer is ALLOWED. If one
    raises, or does not return within AUTHORIZE_TIMEOUT, the answer is AUTHORIZE_ON_FAILURE and the next are not called.
    Policies are called in several threads and processes concurrently, and sometimes twice for one request.
    """

    def mark(function: Function) -> Function:
        check_function(function, "authorize", MARK, ("request", "ctx"))
        checked = checked_name(function.__name__ if name is None else name, "policy")
        setattr(function, MARK, Policy(function, checked, order, when))
        return function

    return mark


def policies_of(module: ModuleType) -> list[Policy]:
    """Return the policies that a module itself defines."""
    return markers_in(module, MARK, Policy)


def key_owner(request: AuthorizationRequest, ctx: AuthorizeContext) -> str | None:
    """Return the user who owns the key, from the place that AUTHORIZE_HOLDER names; None if nothing is there.

    That a contract's id is also a user's id is an assumption: both are the customer's own choice.
    """
    place = ctx.settings.authorize_holder
    found: object
    if place.startswith("/"):
        found = Pointer(place).find(request.document)
    else:
        key = listed_key(request, ctx)
        match place:
            case "contract":
                found = key and key.contract_id
            case "reference":
                found = request.reference_id or (key and key.visual_number)
            case _:
                # An identifier in the ledger has no case, but the id of a user has.
                found = key.identifier if key and is_hexadecimal(key.identifier) else request.key
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    user_id = sanitize_text(str(found))
    return user_id if user_id and len(user_id) <= LONGEST_USER_ID else None


def listed_key(request: AuthorizationRequest, ctx: AuthorizeContext) -> ChargingKeySnapshot | None:
    """Return the charging key of a request by its identifier, else by the number on its card; None if not listed."""
    key = ctx.charging_key(request.key) if request.key else None
    return key or (ctx.charging_key_by_number(request.reference_id) if request.reference_id else None)


def is_stale(read_at: datetime | None, good_for: timedelta, ctx: AuthorizeContext) -> bool:
    """Return whether something was read too long ago to count, or never."""
    return read_at is None or ctx.now() - read_at > good_for


def indeterminate(reason: str, ctx: AuthorizeContext) -> Decision | None:
    """Leave the decision to the next policy, or raise Indeterminate, by AUTHORIZE_WITHOUT_FACTS."""
    if ctx.settings.authorize_without_facts == OnIndeterminate.FAIL:
        raise Indeterminate(reason)
    ctx.log.info("policy.abstained", reason=reason)
    return None
