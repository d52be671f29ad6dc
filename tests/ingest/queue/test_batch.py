import pytest
from rq.job import validate_job_id

from ingest.queue.batch import (
    Batch,
    ack_key,
    batch_key,
    description,
    encode_batch,
    lease_key,
    new_batch_id,
    timestamp_or_none,
)

STARTED = ("SESSION_STARTED", False)
STOPPED = ("SESSION_STOPPED", False)
REPEAT = ("SESSION_STARTED", True)


def test_a_batch_is_decoded_as_it_was_encoded():
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
def test_a_description_names_the_deliveries_of_a_job(names, session_id, line):
    assert description(names, session_id) == line


def test_a_description_of_many_deliveries_is_one_short_line():
    line = description([(f"NAME_{number}", False) for number in range(500)], None)
    assert len(line) == 200
    assert line.endswith("…")


def test_rq_accepts_a_batch_id_as_the_id_of_a_job():
    validate_job_id(new_batch_id())
    assert new_batch_id() != new_batch_id()


@pytest.mark.parametrize("claimed", [None, 1e20, -1e20, float("nan"), float("inf")])
def test_a_time_that_is_out_of_range_is_none(claimed):
    assert timestamp_or_none(claimed) is None


def test_the_keys_of_a_batch_are_those_of_earlier_versions():
    assert batch_key("b") == "batch:b"
    assert ack_key("i") == "settled:i"
    assert lease_key("j") == "lease:j"
