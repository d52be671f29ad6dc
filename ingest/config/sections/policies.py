"""What the built-in policies ask before a charger is released, each off unless its setting is given."""

from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from ingest.config.durations import PositiveDuration
from ingest.config.types import Names, PositiveInt
from ingest.wire.json_pointers import Pointer


class ByteOrder(StrEnum):
    """In which order the bytes of a key stand in a question, if that is not the order of the Drive API."""

    EITHER = "either"
    """Nobody knows: as the Drive API writes it, and if there is no such key the other way round."""
    LITTLE = "little"
    """Little-endian, as the Drive API writes it."""
    BIG = "big"
    """Big-endian, as readers and the backs of cards often write it."""


class OnIndeterminate(StrEnum):
    """What a policy does that cannot know: nothing was read from the Drive API yet, or too long ago."""

    PASS = "pass"  # noqa: S105 - no password
    """It has no say; the next policy is asked."""
    FAIL = "fail"
    """It fails, and AUTHORIZE_ON_FAILURE is the answer."""


def _holder(text: str) -> str:
    if text not in {"contract", "key"}:
        if not text.startswith("/"):
            raise ValueError("must be contract, key, or a JSON pointer into the question such as /userId")
        Pointer(text)
    return text


KeyOwner = Annotated[str, AfterValidator(_holder)]


class PolicySettings(BaseSettings):
    """What the built-in policies ask."""

    authorize_key_list: bool = Field(
        default=False, description="release chargers only for the charging keys that the Drive API lists"
    )
    authorize_fleets: Names = Field(
        (), description="fleets whose keys are listed, by comma; none: all keys of the organization"
    )
    authorize_key_bytes: ByteOrder = Field(
        ByteOrder.EITHER, description="order of a key's bytes in a question: `little`, `big` or `either`"
    )
    authorize_keys_every: PositiveDuration = Field(
        timedelta(minutes=5), description="how often the charging keys are read"
    )
    authorize_keys_stale: PositiveDuration = Field(
        timedelta(days=1), description="how long they are good for while the Drive API is away"
    )
    authorize_least_balance: Decimal | None = Field(
        None, allow_inf_nan=False, description="least prepaid balance that a driver must have"
    )
    authorize_holder: KeyOwner = Field(
        "contract",
        description="whose key it is: `contract`, the user with the id of its contract; `key`, the user with its own "
        "id; or a JSON pointer to the user's id in the question",
    )
    authorize_balances_every: PositiveDuration = Field(
        timedelta(minutes=5),
        description="how often a balance is read that was asked for within a day; others twice in "
        "AUTHORIZE_BALANCES_STALE",
    )
    authorize_balances_stale: PositiveDuration = Field(
        timedelta(days=1), description="how long a balance is good for while the Drive API is away"
    )
    authorize_balances_a_minute: PositiveInt = Field(300, description="most balances that are read in a minute")
    authorize_one_session: bool = Field(
        default=False, description="release no charger for a key that has an open session already"
    )
    authorize_session_longest: PositiveDuration = Field(
        timedelta(days=1), description="a session that has been silent for longer holds up no key"
    )
    authorize_without_facts: OnIndeterminate = Field(
        OnIndeterminate.PASS,
        description="what a policy does that knows too little: `pass`, or `fail`, which is AUTHORIZE_ON_FAILURE",
    )
