"""Redact fields of a body that was verified, before it is kept: mask, hash or remove what a pointer leads to."""

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ingest.wire.envelope import Kind
from ingest.wire.json_documents import json_text

MASK = "***"
REDACTED = "redacted"
"""The header of a delivery whose body was redacted."""
DIGEST_LENGTH = 32
# Numbers with a point pass through as they are written: a float would lose digits of an amount. A text of the sender
# that looks alike has to stay one, unless there is a number in it.
NUMBER = re.compile(r'"\\u0000(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity)\\u0000"')


class RedactionAction(StrEnum):
    """What is done to a field."""

    MASK = "mask"
    """Its value becomes `***`."""

    HASH = "hash"
    """Its value becomes a digest, keyed with REDACT_KEY: equal values stay equal."""

    REMOVE = "remove"
    """It is removed."""


@dataclass(frozen=True, slots=True)
class RedactionRule:
    """A field, by its JSON pointer, and what is done to it."""

    path: tuple[str, ...]
    action: RedactionAction
    name: str | None = None
    """The wire name of the events that it is for, or `cdrs`; None: all."""

    def __str__(self) -> str:
        """Return it as it is written."""
        pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in self.path)
        return f"{self.name}:{pointer}:{self.action}" if self.name else f"{pointer}:{self.action}"

    @classmethod
    def parse(cls, text: str) -> "RedactionRule":
        """Parse `/pointer:action` or `NAME:/pointer:action`. Raise ValueError."""
        place, _, action = text.strip().rpartition(":")
        name, found, pointer = place.partition("/")
        if not found or (name and not name.endswith(":")) or action not in set(RedactionAction):
            sample = "/payload/userEmail:mask or SESSION_STARTED:/payload/plate:hash"
            raise ValueError(f"must be rules by comma, as {sample}, with mask, hash or remove")
        steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/"))
        return cls(steps, RedactionAction(action), name.removesuffix(":") or None)


class Redaction:
    """Applies rules to bodies."""

    def __init__(self, rules: Sequence[RedactionRule], key: bytes) -> None:
        self._rules = rules
        self._key = key

    def apply(self, kind: Kind, body: bytes) -> bytes:
        """Return the body without what is to be redacted; the same bytes where no rule applies, or it is not JSON.

        JSON that is nested too deeply to be searched is replaced: no handler could read it, and what a rule forbids is
        not kept. Its digest, which is the id of the delivery, its time and its headers stay.
        """
        try:
            document = DECODER.decode(json_text(body))
            # Each rule is applied, and not only the first: of two for one field the later one decides.
            changed = [
                self._redact(each, rule) for each in _documents(document) for rule in self._rules_for(kind, each)
            ]
            if not any(changed):
                return body
            return NUMBER.sub(r"\1", json.dumps(document, separators=(",", ":"))).encode()
        except ValueError:
            return body
        except RecursionError:
            return json.dumps({"not_kept": "nested too deeply to be redacted", "bytes": len(body)}).encode()

    def _rules_for(self, kind: Kind, document: Any) -> list[RedactionRule]:
        # By what it is, not only by its path: the signature does not cover that, and a URL may be mixed up.
        name = document.get("event") if isinstance(document, dict) else None
        names = {kind, name if isinstance(name, str) and name else Kind.CDRS}
        return [rule for rule in self._rules if rule.name is None or rule.name in names]

    def _redact(self, document: Any, rule: RedactionRule) -> bool:
        *before, last = rule.path
        for step in before:
            document = _child(document, step)
        if isinstance(document, list) and last.isdecimal() and int(last) < len(document):
            is_removed = rule.action is RedactionAction.REMOVE  # those after it keep their places
            document[int(last)] = None if is_removed else self._replaced(rule, document[int(last)])
            return True
        if not isinstance(document, dict) or last not in document:
            return False
        if rule.action is RedactionAction.REMOVE:
            del document[last]
        else:
            document[last] = self._replaced(rule, document[last])
        return True

    def _replaced(self, rule: RedactionRule, value: Any) -> str:
        if rule.action is RedactionAction.MASK:
            return MASK
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:DIGEST_LENGTH]


def _documents(document: Any) -> Sequence[Any]:
    return document if isinstance(document, list) else [document]


def _child(document: Any, step: str) -> Any:
    if isinstance(document, list):
        return document[int(step)] if step.isdecimal() and int(step) < len(document) else None
    return document.get(step) if isinstance(document, dict) else None


def _as_text(number: str) -> str:
    return f"\0{number}\0"


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # Python refuses to convert more than 4300 digits
        return _as_text(digits)


# It reads whatever `parse_json` reads: what a plugin could read must not be kept as it came.
DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_as_text, parse_constant=_as_text, strict=False)
