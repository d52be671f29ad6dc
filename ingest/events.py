"""The events of the wire: a kept body, parsed, at which the inbox only peeked to choose its queue.

request -> envelope -> inbox -> relay -> jobs -> [events] -> handler -> ledger
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from ingest.errors import Unreadable
from ingest.wire.envelope import Kind
from ingest.wire.json_documents import parse_json
from ingest.wire.timestamps import parse_timestamp

LONGEST_TEXT = 200
LONGEST_USER_ID = 500
MOST_CDRS = 10_000
"""CDRs in one body; a CDR is some hundred bytes, so that MAX_BODY_BYTES holds fewer."""
CHARGING_RECORD = "CDR"
UNKNOWN_FEE = "UNKNOWN"
"""Our word for the type of a fee that is missing, null, blank or not text: the start alone is worth a warning."""
MISSING = "is missing"
SENTENCES = {
    "missing": MISSING,
    "string_type": "is not text",
    "string_too_short": "is empty",
    "string_too_long": "is too long",
}


def sanitize_text(text: str) -> str:
    r"""Escape what not every database stores: NUL and lone surrogates become `\u0000`, `\ud800`."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\0", "\\u0000")


def _sanitize(value: Any) -> Any:
    return sanitize_text(value) if isinstance(value, str) else value


def _or_none(value: Any) -> Any:
    return None if value == "" else _sanitize(value)  # an empty user id names nobody


def _fee_type(value: Any) -> str:
    text = sanitize_text(str(value))[:LONGEST_TEXT] if isinstance(value, str | int | float) else ""
    return UNKNOWN_FEE if isinstance(value, bool) or not text.strip() else text


Name = Annotated[str, Field(alias="event")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT), BeforeValidator(_sanitize)]
UserId = Annotated[Annotated[str, StringConstraints(max_length=LONGEST_USER_ID)] | None, BeforeValidator(_or_none)]
Instant = Annotated[datetime, PlainValidator(parse_timestamp)]


class Event(BaseModel):
    """A fact from Plugsurfing. Unknown fields are kept under their own names."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        alias_generator=to_camel,
        populate_by_name=True,
        coerce_numbers_to_str=True,
        hide_input_in_errors=True,
    )
    wire_name: ClassVar[str] = ""

    name: Name
    """The name as it was sent."""
    session_id: Text | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Return no personal data: an event may end up in a traceback."""
        return [("name", self.name), ("session_id", self.session_id)]


class SessionEvent(Event):
    """Something happened to a charging session."""

    name: Name = ""
    """The name as it was sent; each class of a name has that name as its default."""
    session_status: ClassVar[str | None] = None
    """The status that an event of a plugin's own class reports; for the others see `handlers.kit.statuses`."""

    session_id: Text
    user_id: UserId = None
    at: Instant = Field(validation_alias="timestamp", serialization_alias="timestamp")


class SessionStarted(SessionEvent):
    """A session is charging."""

    wire_name: ClassVar[str] = "SESSION_STARTED"
    name: Name = wire_name


class SessionStopped(SessionEvent):
    """A session has ended, by a call or at the plug."""

    wire_name: ClassVar[str] = "SESSION_STOPPED"
    name: Name = wire_name


class SessionComplete(SessionEvent):
    """A session has ended and is priced."""

    wire_name: ClassVar[str] = "SESSION_COMPLETE"
    name: Name = wire_name


class SessionStartFailed(SessionEvent):
    """A session did not start; it still may."""

    wire_name: ClassVar[str] = "SESSION_START_FAILED"
    name: Name = wire_name


class SessionStopFailed(SessionEvent):
    """A session did not stop when it was requested."""

    wire_name: ClassVar[str] = "SESSION_STOP_FAILED"
    name: Name = wire_name


class SessionFeeIncurring(SessionEvent):
    """A session will cost an additional fee unless it is stopped in time."""

    wire_name: ClassVar[str] = "SESSION_FEE_INCURRING"
    name: Name = wire_name
    fee_will_apply_from: Instant
    fee_type: Annotated[str, BeforeValidator(_fee_type)] = UNKNOWN_FEE
    """`BLOCKING` and whatever else there may be: an open set, cut after 200 characters."""


class UnknownEvent(Event):
    """An event of an unknown name."""

    payload: Any = None


class ChargingRecord(Event):
    """Charging detail records, as they came: their schema is not public. Numbers with a fraction are decimals."""

    wire_name: ClassVar[str] = CHARGING_RECORD
    name: Name = wire_name
    documents: tuple[Any, ...] = ()
    """What the body holds: one CDR, or the elements of an array, of which at least one `is_cdr`."""

    @property
    def document(self) -> dict[str, Any]:
        """Return the first CDR."""
        return next(filter(is_cdr, self.documents), {})


WIRE_NAMES: Mapping[str, type[SessionEvent]] = MappingProxyType(
    {
        "SESSION_STARTED": SessionStarted,
        "SESSION_STOPPED": SessionStopped,
        "SESSION_COMPLETE": SessionComplete,
        "SESSION_COMPLETED": SessionComplete,  # as Plugsurfing's guide spells it once
        "SESSION_START_FAILED": SessionStartFailed,
        "SESSION_FAILED": SessionStartFailed,  # the older name
        "SESSION_STOP_FAILED": SessionStopFailed,
        "SESSION_FEE_INCURRING": SessionFeeIncurring,
    }
)


_MODELS: dict[str, type[SessionEvent]] = dict(WIRE_NAMES)


def use_models(further: Mapping[str, type[SessionEvent]]) -> None:
    """Decode events of further names from now on, of which the plugins of this process have the classes."""
    _MODELS.update({**WIRE_NAMES, **further})
    for name in _MODELS.keys() - WIRE_NAMES.keys() - further.keys():
        del _MODELS[name]


def models() -> Mapping[str, type[SessionEvent]]:
    """Return the classes of events by wire name: those of this version, and of the loaded plugins."""
    return MappingProxyType(_MODELS)


class EventSummary(NamedTuple):
    """The name and session of a body: enough to choose a queue and to describe it."""

    name: str | None
    session_id: str | None


def decode(kind: Kind, body: bytes) -> Event:
    """Parse a body. Raise Unreadable, and nothing else, if that is not possible."""
    if kind is Kind.CDRS:
        return _charging_record(body)
    document = _texts_only(body) or _document(body, exact=False)
    if not isinstance(document, dict):
        raise Unreadable("The body is JSON, but not an object.")
    name, payload = document.get("event"), document.get("payload")
    if not isinstance(name, str) or not name:
        raise Unreadable("The body has no event name.")
    model = _MODELS.get(name)
    if model is None:
        return UnknownEvent(name=name[:LONGEST_TEXT], session_id=_session_of(payload), payload=payload)
    if not isinstance(payload, dict):
        raise Unreadable(f"{name}: payload {MISSING if payload is None else 'is not an object'}.")
    try:
        return model.model_validate({**payload, "event": name}, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Unreadable(f"{name}: {validation_text(error)}.") from None  # its own message quotes the payload


def validation_text(error: ValidationError) -> str:
    """Format which fields are wrong and why, without their values."""
    wrong = error.errors(include_url=False, include_input=False)
    return ", ".join(
        f"{'.'.join(map(str, one['loc']))} {SENTENCES.get(one['type'], one['msg'].removeprefix('Value error, '))}"
        for one in wrong
    )


def is_cdr(document: Any) -> bool:
    """Return whether an element of a body may be a CDR: it is an object, and no session event."""
    # The signature does not cover the path, so a session event may arrive where CDRs do.
    return isinstance(document, dict) and _name_of(document) not in _MODELS


def peek(kind: Kind, body: bytes) -> EventSummary:
    """Return the name and session of a body without validating it; an array of CDRs has none. Never raises."""
    return (_peek_quickly(body) if kind is Kind.EVENTS else None) or _peek_thoroughly(kind, body)


def _peek_quickly(body: bytes) -> EventSummary | None:
    """Return the same as `_peek_thoroughly`, in a fourth of the time, for what nearly all events look like, else None.

    orjson is stricter than `parse_json`, and reads numbers otherwise; what it reads as text, both read alike.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    payload = document.get("payload") if isinstance(document, dict) else None
    if not isinstance(payload, dict) or not isinstance(payload.get("sessionId"), str):
        return None
    return _summary(document)


def _peek_thoroughly(kind: Kind, body: bytes) -> EventSummary:
    try:
        document = parse_json(body, exact=kind is Kind.CDRS)  # as `decode` does, so that both find the same
    except Unreadable:
        return EventSummary(None, None)
    if not isinstance(document, dict):
        return EventSummary(None, None)
    if kind is Kind.CDRS:
        return EventSummary(None, _session_of_record(document))
    return _summary(document)


def _summary(document: dict[str, Any]) -> EventSummary:
    name = document.get("event")
    return EventSummary(
        sanitize_text(name)[:LONGEST_TEXT] if isinstance(name, str) and name else None,
        _session_of(document.get("payload")),
    )


def queue_for(kind: Kind, seen: EventSummary) -> str:
    """Return the name of the queue for a body."""
    if kind is Kind.CDRS:
        return "cdrs"
    if seen.name == SessionFeeIncurring.wire_name:
        return "urgent"
    return "sessions" if seen.name in WIRE_NAMES else "other"


def _charging_record(body: bytes) -> ChargingRecord:
    document = _document(body, exact=True)
    documents = document if isinstance(document, list) else [document]
    if len(documents) > MOST_CDRS:
        raise Unreadable(f"The body has more than {MOST_CDRS:,} CDRs.")
    if not any(map(is_cdr, documents)):
        if any(isinstance(each, dict) for each in documents):
            raise Unreadable("The body is a session event, not a CDR.")
        raise Unreadable("The body is JSON, but neither an object nor an array of objects.")
    session_id = _session_of_record(document) if isinstance(document, dict) else None
    return ChargingRecord(session_id=session_id, documents=tuple(documents))


def _document(body: bytes, *, exact: bool) -> Any:
    document = parse_json(body, exact=exact)
    if body.isascii() and b"\\u" not in body and b"\0" not in body:
        return document  # none of its texts can need escaping
    try:
        return _sanitize_all(document)
    except RecursionError:
        raise Unreadable("The body is nested too deeply.") from None


def _texts_only(body: bytes) -> dict[str, Any] | None:
    """Return the same as `_document`, sooner, if the payload has nothing but texts, as most have, else None.

    No text needs escaping. orjson reads numbers otherwise, so there is none.
    """
    if not body.isascii() or b"\\u" in body:
        return None
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    payload = document.get("payload") if isinstance(document, dict) else None
    is_plain = isinstance(payload, dict) and all(type(value) is str for value in payload.values())
    return document if is_plain else None


def _sanitize_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {sanitize_text(key): _sanitize_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sanitize_all(item) for item in value]
    return _sanitize(value)


def _name_of(document: dict[str, Any]) -> str | None:
    name = document.get("event")
    return name if isinstance(name, str) else None


def _session_of(payload: Any, name: str = "sessionId") -> str | None:
    found = payload.get(name) if isinstance(payload, dict) else None
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)  # as `coerce_numbers_to_str` does
    return sanitize_text(found)[:LONGEST_TEXT] if isinstance(found, str) and found else None


def _session_of_record(document: dict[str, Any]) -> str | None:
    session = document.get("session")
    inner = session.get("id") if isinstance(session, dict) else None
    places = (document, document.get("payload"), session, {"sessionId": inner})
    return next((found for place in places if (found := _session_of(place))), _session_of(document, "session_id"))
