"""Exponential backoff, as a table."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ingest.backoff import Backoff, restart_forever

BACKOFF = Backoff(first=timedelta(seconds=2), longest=timedelta(seconds=12))


@pytest.mark.parametrize(("failures", "seconds"), [(1, 2), (2, 4), (3, 8), (4, 12), (5, 12), (1_000_000, 12)])
def test_the_wait_doubles_up_to_the_longest(failures: int, seconds: float) -> None:
    assert BACKOFF.delay(failures, jitter=0) == timedelta(seconds=seconds)


def test_jitter_takes_up_to_half_of_the_wait_away() -> None:
    assert BACKOFF.delay(1, jitter=1) == timedelta(seconds=1)


@given(st.integers(1, 100))
def test_a_wait_is_never_zero_nor_longer_than_the_longest(failures: int) -> None:
    assert BACKOFF.first / 2 <= BACKOFF.delay(failures) <= BACKOFF.longest


@given(st.timedeltas(timedelta(), timedelta(days=365)), st.integers(0, 10_000))
def test_it_never_overflows(first: timedelta, failures: int) -> None:
    assert Backoff(first, timedelta(days=1)).delay(failures, jitter=0) <= timedelta(days=1)


def test_a_loop_that_fails_is_logged_and_begins_anew_until_it_returns() -> None:
    failures = [OSError("a text that may be anything"), RuntimeError("can't start new thread")]

    async def loop() -> None:
        if failures:
            raise failures.pop(0)

    with capture_logs() as logs:
        asyncio.run(restart_forever("keys", loop, restart=Backoff(timedelta(), timedelta())))
    assert [(line["event"], line["loop"], line["error"]) for line in logs] == [
        ("loop.failed", "keys", "OSError"),
        ("loop.failed", "keys", "RuntimeError"),
    ]
