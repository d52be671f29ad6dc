"""Where a field of a request is, as settings spell it: a JSON pointer into the body, or the name of a header."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ingest.wire.json_pointers import Pointer
from ingest.wire.signature import SIGNATURE_HEADER

TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", SIGNATURE_HEADER})


@dataclass(frozen=True)
class HeaderPath:
    """The name of a header, in any case. Raises ValueError unless it is one, or if that header may hold a secret."""

    text: str

    def __post_init__(self) -> None:
        """Check the name."""
        if not TOKEN.fullmatch(self.text):
            raise ValueError("must be JSON pointers, as in /requestId, and names of headers, by comma")
        if self.name in CREDENTIAL_HEADERS:
            raise ValueError("must not name a header of credentials, which would be kept")

    def __str__(self) -> str:
        """Return the text of the setting."""
        return self.text

    @property
    def name(self) -> str:
        """Return its ASGI name."""
        return self.text.lower()


FieldPath = Pointer | HeaderPath


def find(path: FieldPath, document: Any, headers: Mapping[str, str]) -> Any:
    """Return the value at a path; None if there is none."""
    return headers.get(path.name) if isinstance(path, HeaderPath) else path.find(document)


def header_names(paths: Iterable[FieldPath]) -> frozenset[str]:
    """Return the ASGI names of the headers among the paths."""
    return frozenset(path.name for path in paths if isinstance(path, HeaderPath))


def field_paths(*texts: str) -> tuple[FieldPath, ...]:
    """Parse several paths, such as a setting's default."""
    return tuple(map(parse_field_path, texts))


def parse_field_path(text: str) -> FieldPath:
    """Parse a JSON pointer, which begins with a slash, or the name of a header. Raise ValueError."""
    return Pointer(text) if text.startswith("/") else HeaderPath(text)
