"""How a function says that it decides at the charger: `@authorize` marks it as a policy and leaves it as it is."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import ModuleType
from typing import Protocol, TypeVar, TypeVarTuple

from sqlalchemy import Row
from sqlalchemy.sql.selectable import TypedReturnsRows
from structlog.typing import FilteringBoundLogger

from handlers.kit.markers import check_function, checked_name, file_of, markers_in
from handlers.kit.session import Session
from ingest.config.settings import Settings

Function = TypeVar("Function", bound=Callable[..., object])
Columns = TypeVarTuple("Columns")

MARK = "__plugsurfing_policy__"


@dataclass(frozen=True, slots=True)
class ChargingKeySnapshot:
    """What was known of a charging key when it was last read from the Drive API."""

    identifier: str
    enabled: bool
    valid_to: datetime | None = None
    contract_id: str | None = None
    visual_number: str | None = None
    fleet_id: str | None = None
    read_at: datetime | None = None
    """When it was read: while Drive is away, what is known grows old and still counts."""


@dataclass(frozen=True, slots=True)
class BalanceSnapshot:
    """What a user had left when it was last read from the Drive API."""

    amount: Decimal
    read_at: datetime | None = None


class AuthorizeContext(Protocol):
    """What a policy is given beside the question. It only reads: a policy changes nothing.

    Nothing waits for the Drive API: the clock has read it. `read` and `session` ask the ledger and wait for it, so an
    async policy that calls them keeps its process from other questions meanwhile; all the rest is in memory.
    """

    @property
    def settings(self) -> Settings:
        """The settings of the house. A plugin with settings of its own reads them when it is imported."""

    @property
    def log(self) -> FilteringBoundLogger:
        """A log that names the policy in every line. Keep keys and user ids out of it."""

    def now(self) -> datetime:
        """Tell the time."""

    def read(self, statement: TypedReturnsRows[*Columns]) -> list[Row[*Columns]]:
        """Run a SELECT on the ledger."""

    def session(self, session_id: str) -> Session | None:
        """Find the record of a session."""

    def charging_key(self, identifier: str) -> ChargingKeySnapshot | None:
        """Find a charging key among those of the organization; None if it is not there."""

    def keys_synced_at(self) -> datetime | None:
        """Say when the list of keys was read; None if it never was: then that a key is not there means nothing."""

    def balance(self, user_id: str) -> BalanceSnapshot | None:
        """Find what a user has left; None if it is not known."""

    def open_sessions(self, key: str | None, user_id: str | None = None) -> Collection[str]:
        """Name the sessions that run, as far as is known: those of a charging key, and those of a user."""

    def sessions_read_at(self) -> datetime | None:
        """Say when the ledger was last looked through for open sessions; None if it has not answered yet."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A function of a plugin that decides at the charger."""

    name: str
    order: int
    function: Callable[..., object]
    plugin: str
    """The module that defines it."""
    file: str
    is_async: bool
    when: Callable[[Settings], object] | None = None
    """Which settings ask for it; None: all of them."""


def authorize(
    *, order: int = 100, name: str | None = None, when: Callable[[Settings], object] | None = None
) -> Callable[[Function], Function]:
    """Mark a function `(question, ctx) -> Decision | None`, plain or async, as a policy.

    Policies are asked from the lowest `order` to the highest, those of the same order by name. The first that returns
    a decision decides; one that returns None leaves it to the next, and when none decides the answer is ALLOWED. One
    that raises, or is not done within AUTHORIZE_TIMEOUT, has AUTHORIZE_ON_FAILURE answered, and the next are not asked.
    Policies are called in several threads and processes at once, and now and then twice for one question.
    """

    def mark(function: Function) -> Function:
        check_function(function, "authorize", MARK)
        policy = Policy(
            name=checked_name(function.__name__ if name is None else name, "policy"),
            order=order,
            function=function,
            plugin=function.__module__,
            file=file_of(function),
            is_async=inspect.iscoroutinefunction(function),
            when=when,
        )
        setattr(function, MARK, policy)
        return function

    return mark


def policies_of(module: ModuleType) -> list[Policy]:
    """List the policies that a module itself defines: what it only imports belongs to another plugin."""
    return markers_in(module, MARK, Policy)
