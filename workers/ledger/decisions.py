"""Keeps what was answered at the charger."""

from ingest.authorization.verdict import Recorder, Verdict
from ingest.settings import Settings


class NoRecorder:
    """Keeps nothing."""

    def record(self, verdict: Verdict) -> None:
        """Drop a verdict."""

    def start(self) -> None:
        """Begin nothing."""

    def stop(self) -> None:
        """End nothing."""


def open_recorder(_settings: Settings) -> Recorder:
    """Open a recorder."""
    return NoRecorder()
