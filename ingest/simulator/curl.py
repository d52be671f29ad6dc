"""A request as a line for a POSIX shell."""

import shlex
from base64 import b64encode
from collections.abc import Mapping
from typing import Protocol


class HttpRequest(Protocol):
    """A request as it is sent, to whatever address."""

    @property
    def path(self) -> str:
        """Where to."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What goes with it."""

    @property
    def body(self) -> bytes:
        """What it says."""


def curl(url: str, request: HttpRequest, *options: str) -> str:
    """Write the request as curl sends it, with more options of curl's."""
    words = ["curl", "--silent", "--show-error", f"{url}{request.path}"]
    for name, value in request.headers.items():
        words += ["--header", f"{name}: {value}"]
    words += options
    try:
        return shlex.join([*words, "--data-binary", request.body.decode()])
    except UnicodeDecodeError:  # no argument of a shell: compressed
        encoded = b64encode(request.body).decode()
        return f"printf %s {encoded} | base64 -d | {shlex.join([*words, '--data-binary', '@-'])}"
