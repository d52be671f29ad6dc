"""Settings of authorization: how requests are read and answered, and what the built-in policies require."""

from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings

from ingest.config.durations import Duration, PositiveDuration
from ingest.config.types import Names, Pointers, Port, PositiveInt, TemplateSetting, pointer_setting, setting
from ingest.wire.authorization.request import Allowed
from ingest.wire.authorization.response_templates import ResponseTemplate
from ingest.wire.field_paths import Pointer

ANSWER = ResponseTemplate('{"allowed": "@allowed", "info": "@information"}')
OCPI_ANSWER = ResponseTemplate(
    '{"allowed": "@allowed", "token": {"uid": "@key", "type": "@token_type", "valid": "@valid", "whitelist": "NEVER", '
    '"last_updated": "@now"}, "location": "@location", "authorization_reference": "@id", "info": "@info"}'
)


class ByteOrder(StrEnum):
    """The byte order of a key in an authorization request, compared with that of the Drive API."""

    EITHER = "either"
    """Unknown: as the Drive API writes it, and if there is no such key, reversed."""
    LITTLE = "little"
    """Little-endian, as the Drive API writes it."""
    BIG = "big"
    """Big-endian, as readers and the backs of cards often write it."""


class OnIndeterminate(StrEnum):
    """The result of a policy that has no data from the Drive API, or only stale data."""

    PASS = "pass"  # noqa: S105 - no password
    """It makes no decision; the next policy is evaluated."""
    FAIL = "fail"
    """It fails, and the response is AUTHORIZE_ON_FAILURE."""


def _key_owner(text: str) -> str:
    if text not in {"contract", "key", "reference"}:
        if not text.startswith("/"):
            raise ValueError("must be contract, key, reference, or a JSON pointer into the request such as /userId")
        Pointer(text)
    return text


KeyOwner = Annotated[str, AfterValidator(_key_owner)]


class AuthorizationSettings(BaseSettings):
    """`authorize`: requests and responses; where their fields are is an assumption."""

    authorize_credentials: SecretStr | None = setting(None, "values accepted in `Authorization`, one a line")
    authorize_port: Port = setting(8001, "port of `authorize`")
    authorize_timeout: PositiveDuration = setting(
        timedelta(seconds=2.5), "deadline of a response, from the first byte of the request"
    )
    authorize_on_failure: Allowed = setting(Allowed.ALLOWED, "the response when policies fail or take too long")
    authorize_repeats: Duration = setting(timedelta(minutes=1), "how long equal requests get one response; 0: never")
    authorize_processes: PositiveInt = setting(2, "processes that evaluate policies")
    authorize_concurrency: PositiveInt = setting(32, "plain policies at the same time, in each of them")
    authorize_key: Pointers = pointer_setting(
        "the charging key in a request",
        "/keyIdentifier,/chargingKey/keyIdentifier,/chargingKeyIdentifier,/chargingKey,/tokenUid",
    )
    authorize_country: Pointers = pointer_setting("its country", "/countryCode,/country")
    authorize_reference: Pointers = pointer_setting("its reference", "/referenceId")
    authorize_location: Pointers = pointer_setting("its location", "/locationId,/location/id")
    authorize_evse: Pointers = pointer_setting("its charging points", "/evseId,/evseIds,/location/evseId")
    authorize_session: Pointers = pointer_setting("its session", "/sessionId")
    authorize_answer: TemplateSetting = setting(ANSWER, "response, as JSON with `@allowed`, `@information`, …")
    authorize_ocpi_answer: TemplateSetting = setting(OCPI_ANSWER, "`data` of the response in OCPI's format, likewise")


class PolicySettings(BaseSettings):
    """`authorize`: the built-in policies, each off unless its setting is set."""

    authorize_key_list: bool = setting(
        default=False, description="allow only the charging keys that the Drive API lists"
    )
    authorize_fleets: Names = setting((), "fleets whose keys are listed, by comma; unset: all keys of the organization")
    authorize_key_bytes: ByteOrder = setting(ByteOrder.EITHER, "byte order in requests: `little`, `big` or `either`")
    authorize_keys_every: PositiveDuration = setting(timedelta(minutes=5), "how often the charging keys are read")
    authorize_keys_stale: PositiveDuration = setting(timedelta(days=1), "how long they are valid without the Drive API")
    authorize_least_balance: Decimal | None = Field(
        None, allow_inf_nan=False, description="least prepaid balance that a driver must have"
    )
    authorize_holder: KeyOwner = Field(
        "contract",
        description="owner of a key: `contract`, the user with the id of its contract; `key`, the user with its own "
        "id; `reference`, the user with the number on its card; or a JSON pointer to the user's id in the request",
    )
    authorize_balances_every: PositiveDuration = Field(
        timedelta(minutes=5),
        description="how often a balance is read that was requested within a day; others twice in "
        "`AUTHORIZE_BALANCES_STALE`",
    )
    authorize_balances_stale: PositiveDuration = setting(
        timedelta(days=1), "how long a balance is valid while the Drive API is unavailable"
    )
    authorize_balances_a_minute: PositiveInt = setting(300, "most balances that are read in a minute")
    authorize_one_session: bool = setting(default=False, description="refuse a key that charges elsewhere already")
    authorize_session_longest: PositiveDuration = setting(
        timedelta(days=1), "time without an event after which a session blocks no key"
    )
    authorize_without_facts: OnIndeterminate = setting(
        OnIndeterminate.PASS, "result of a policy without data: `pass` (next policy) or `fail` (`AUTHORIZE_ON_FAILURE`)"
    )
