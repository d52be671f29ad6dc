from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq.job import validate_job_id

from ingest.batch import Batch, Delivery, moment, new_batch_id

AT = datetime(2025, 6, 12, 10, 56, 51, 123456, tzinfo=UTC)


def delivery(event: str | None = "SESSION_STARTED", session_id: str | None = "L60XMxWy0oP", body: bytes | None = b"{}"):
    return Delivery("d1", "events", event, session_id, AT, "current", None, {"content-type": "x"}, body, 1, "here")


def batch(*deliveries: Delivery) -> Batch:
    return Batch("b1", "here", "sessions", deliveries)


texts = st.text(max_size=20)
moments = st.integers(0, 4_000_000_000_000_000).map(lambda number: datetime.fromtimestamp(number / 1e6, UTC))
deliveries = st.builds(
    Delivery,
    id=texts,
    kind=texts,
    event=st.none() | texts,
    session_id=st.none() | texts,
    received_at=moments,
    signed_with=texts,
    signed_at=st.none() | moments,
    headers=st.dictionaries(texts, texts, max_size=3),
    body=st.none() | st.binary(max_size=50),
    receipts=st.integers(1, 10),
    inbox=st.just("here"),
)


@given(st.builds(Batch, texts, st.just("here"), texts, st.lists(deliveries).map(tuple), st.booleans(), st.booleans()))
def test_a_batch_comes_out_of_redis_as_it_went_in(original):
    assert Batch.from_json(original.to_json()) == original


def test_a_body_is_kept_to_the_byte():
    original = batch(delivery(body=bytes(range(256))))
    assert Batch.from_json(original.to_json()).deliveries[0].body == bytes(range(256))


def test_a_batch_is_neither_alone_nor_poison_unless_said():
    assert (batch().solo, batch().poison) == (False, False)


@pytest.mark.parametrize(
    ("deliveries", "line"),
    [
        ([delivery()], "SESSION_STARTED L60XMxWy0oP"),
        ([delivery(session_id=None)], "SESSION_STARTED"),
        ([delivery(event=None, session_id=None)], "events"),
        ([delivery(body=None)], "repeat of SESSION_STARTED L60XMxWy0oP"),
        (
            [delivery()] * 30 + [delivery("SESSION_STOPPED")] * 7,
            "37 deliveries: 30 SESSION_STARTED, 7 SESSION_STOPPED",
        ),
        ([delivery(body=None), delivery(body=None), delivery()], "3 deliveries: 2 repeat, 1 SESSION_STARTED"),
        ([delivery("a\nb\x1b[31m", "x" * 100)], "a?b?[31m " + "x" * 63 + "…"),
    ],
)
def test_the_description_says_what_a_job_is_about(deliveries, line):
    assert batch(*deliveries).description() == line


def test_the_description_of_many_names_stays_one_short_line():
    line = batch(*(delivery(f"NAME_{number}") for number in range(500))).description()
    assert len(line) == 200
    assert line.endswith("…")


def test_rq_takes_a_new_batch_id_for_a_job():
    validate_job_id(new_batch_id())
    assert new_batch_id() != new_batch_id()


@pytest.mark.parametrize("claimed", [None, 1e20, -1e20, float("nan"), float("inf")])
def test_a_moment_that_no_calendar_has_is_none(claimed):
    assert moment(claimed) is None
