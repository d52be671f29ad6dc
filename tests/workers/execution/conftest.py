"""However slow the machine is, no handler is: a test in this process that is about slow ones sets its own limits."""

from datetime import timedelta

import pytest

from workers.execution import handler_durations, jobs


@pytest.fixture(autouse=True)
def _no_handler_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    handler_durations.forget()
    monkeypatch.setattr(handler_durations, "SLOW", timedelta(minutes=1))
    monkeypatch.setattr(jobs, "HANDLERS_BUDGET", timedelta(minutes=1))
