"""The way into a simulated Drive API that no real one has: to tell it what really happens, and to ask it."""

import json
import time
from collections.abc import Sequence

import httpx

from ingest.errors import WebhooksError
from ingest.simulator.drive.state import SessionState

AT_ONCE = 1000
PATIENCE = 30.0
STARTS_WITHIN = 5.0
LOOK_EVERY = 0.1
SESSIONS = "/simulator/sessions"
FAULTS = "/simulator/faults"


class SimulatorNotRunning(WebhooksError):
    """Raised when nobody answers there as a simulated Drive API does."""


def push_sessions(url: str, truths: Sequence[SessionState]) -> None:
    """Tell what really happens in sessions; `url` is that of the Drive API."""
    for start in range(0, len(truths), AT_ONCE):
        lines = "".join(json.dumps(truth.to_document()) + "\n" for truth in truths[start : start + AT_ONCE])
        _ask(url, "PUT", lines)


def fetch_sessions(url: str) -> list[SessionState]:
    """Ask what really happened in all sessions."""
    lines = _ask(url, "GET").splitlines()
    try:
        return [SessionState.from_document(json.loads(line)) for line in lines]
    except (ValueError, KeyError, TypeError):
        raise _not_simulated(url) from None


def set_faults(url: str, faults: str) -> None:
    """Change what goes wrong: as in `500:0.1,slow`, nothing for nothing."""
    _ask(url, "PUT", faults, path=FAULTS)


def _ask(url: str, method: str, content: str | None = None, *, path: str = SESSIONS) -> str:
    place = url.rstrip("/").removesuffix("/drive") + path
    until = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            answer = httpx.request(method, place, content=content, timeout=PATIENCE)
            break
        except httpx.TransportError:
            if time.monotonic() > until:
                raise _not_simulated(url) from None
            time.sleep(LOOK_EVERY)  # `webhooks dev` may have opened its door a moment ago
    if answer.status_code != httpx.codes.OK:
        raise _not_simulated(url)
    return answer.text


def _not_simulated(url: str) -> SimulatorNotRunning:
    return SimulatorNotRunning(
        f"There is no simulated Drive API at {url}: `webhooks dev` and `webhooks drive simulate` are one."
    )
