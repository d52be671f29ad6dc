"""What the lane and a judge tell each other over their socket: a length, then that many bytes of JSON.

JSON, as it holds whatever a body could: what the lane has read of it, however deeply nested, fits through once more.
"""

import json
import struct
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeAlias

from ingest.authorize.decision_record import FallbackReason
from ingest.authorize.evaluator import PolicyResult
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat

LENGTH = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Ready:
    """A judge has loaded everything and can be asked."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """A question is put to a judge, under a number of its own."""

    number: int
    question: AuthorizationRequest
    spared: frozenset[str]


@dataclass(frozen=True, slots=True)
class PolicyStarted:
    """A judge is about to ask a policy."""

    number: int
    policy: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A judge has done with a question."""

    number: int
    ruling: PolicyResult


Frame: TypeAlias = Ready | Evaluate | PolicyStarted | Evaluated


def encode(frame: Frame) -> bytes:
    """Write a frame."""
    content = json.dumps({"is": type(frame).__name__, **_members(frame)}).encode("ascii")
    return LENGTH.pack(len(content)) + content


def decode(content: bytes) -> Frame:
    """Read what follows the length."""
    match json.loads(content):
        case {"is": "Evaluate", "number": number, "question": question, "spared": spared}:
            return Evaluate(number, _question(question), frozenset(spared))
        case {"is": "PolicyStarted", "number": number, "policy": policy}:
            return PolicyStarted(number, policy)
        case {"is": "Evaluated", "number": number, "ruling": ruling}:
            return Evaluated(number, _ruling(ruling))
    return Ready()


def _members(part: Any) -> dict[str, Any]:
    """Name the members of a frame as JSON has them; what is in a document stays as it is."""
    return {field.name: _written(getattr(part, field.name)) for field in fields(part)}


def _written(value: Any) -> Any:
    match value:
        case AuthorizationRequest() | PolicyResult() | Decision():
            return _members(value)
        case datetime():
            return value.isoformat()
        case frozenset():
            return sorted(value)
    return value


def _question(members: dict[str, Any]) -> AuthorizationRequest:
    return AuthorizationRequest(
        **members
        | {
            "form": WireFormat(members["form"]),
            "received_at": datetime.fromisoformat(members["received_at"]),
            "evse_ids": tuple(members["evse_ids"]),
        }
    )


def _ruling(members: dict[str, Any]) -> PolicyResult:
    decision, failure = members["decision"], members["failure"]
    return PolicyResult(
        decision=decision and Decision(Allowed(decision["allowed"]), decision["information"], decision["reason"]),
        policy=members["policy"],
        failure=failure and FallbackReason(failure),
        error=members["error"],
    )
