import pytest
from rq.job import validate_job_id

from ingest.queue.batch import Batch, description, encode_batch, new_batch_id, timestamp_or_none

STARTED = ("SESSION_STARTED", False)
STOPPED = ("SESSION_STOPPED", False)
REPEAT = ("SESSION_STARTED", True)


def test_a_batch_comes_out_of_redis_as_it_went_in():
    text = encode_batch("b1", inbox="here", queue="sessions", deliveries=b"[]", isolated=True, poison=False)
    assert Batch.from_json(text) == Batch("b1", "here", "sessions", (), isolated=True, poison=False)


@pytest.mark.parametrize(
    ("names", "session_id", "line"),
    [
        ([STARTED], "L60XMxWy0oP", "SESSION_STARTED L60XMxWy0oP"),
        ([STARTED], None, "SESSION_STARTED"),
        ([REPEAT], "L60XMxWy0oP", "repeat of SESSION_STARTED L60XMxWy0oP"),
        ([STARTED] * 30 + [STOPPED] * 7, "L60XMxWy0oP", "37 deliveries: 30 SESSION_STARTED, 7 SESSION_STOPPED"),
        ([REPEAT, REPEAT, STARTED], None, "3 deliveries: 2 repeat, 1 SESSION_STARTED"),
        ([("a\nb\x1b[31m", False)], "x" * 100, "a?b?[31m " + "x" * 63 + "…"),
    ],
)
def test_the_description_says_what_a_job_is_about(names, session_id, line):
    assert description(names, session_id) == line


def test_the_description_of_many_names_stays_one_short_line():
    line = description([(f"NAME_{number}", False) for number in range(500)], None)
    assert len(line) == 200
    assert line.endswith("…")


def test_rq_takes_a_new_batch_id_for_a_job():
    validate_job_id(new_batch_id())
    assert new_batch_id() != new_batch_id()


@pytest.mark.parametrize("claimed", [None, 1e20, -1e20, float("nan"), float("inf")])
def test_a_moment_that_no_calendar_has_is_none(claimed):
    assert timestamp_or_none(claimed) is None
