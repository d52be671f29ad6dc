"""What the Drive API says, merged like events: never later than it was, never against what is over."""

import json
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import permutations
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from handlers.kit.merge import merge, with_clock_skew
from handlers.kit.session import Session
from handlers.session_records import session_of
from ingest.events import (
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    SessionStarted,
    SessionStartFailed,
    SessionStopFailed,
    SessionStopped,
)
from workers.drive.models import DriveSession
from workers.drive.session_facts import UNKNOWN_TIME, to_session

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
STOP, END, LATER = (START + timedelta(minutes=number) for number in (42, 43, 600))


def said(status: str, **parts: object) -> DriveSession:
    return DriveSession.model_validate({"session_id": "S", "user_id": "user-1", "status": status, **parts})


def event(kind: type[SessionEvent], at: datetime) -> Session:
    return session_of(kind(session_id="S", user_id="user-1", at=at))


STARTED, STOPPED, COMPLETE = event(SessionStarted, START), event(SessionStopped, STOP), event(SessionComplete, END)
WHOLE = reduce(merge, (STARTED, STOPPED, COMPLETE))
ALL_TIMES = {"started_at": START, "ended_at": STOP, "completed_at": END}
RUNNING = (
    said("WAITING_TO_START"),
    said("WAITING_TO_START", started_at=START),
    said("STARTED", started_at=START),
    said("STARTED"),
    said("STOP_FAILED", started_at=START),
    said("SOMETHING_NEW", started_at=START),
)
ENDED = (
    said("COMPLETE", **ALL_TIMES),
    said("COMPLETE", started_at=START, ended_at=STOP),
    said("COMPLETE", started_at=START),
    said("COMPLETE"),
)
FIELDS = ("status", "user_id", "started_at", "stopped_at", "completed_at", "anomalies")

events_told = st.lists(st.sampled_from((STARTED, STOPPED, COMPLETE)), max_size=4)
reads = st.lists(st.tuples(st.sampled_from((*RUNNING, *ENDED)), st.integers(0, 3)), max_size=4)


def record(*parts: Session) -> Session:
    return reduce(merge, parts, Session.empty("S"))


def fields(session: Session) -> dict[str, object]:
    return {name: getattr(session, name) for name in FIELDS}


def test_a_session_that_no_event_told_of_is_the_same_as_one_that_events_told_of() -> None:
    assert fields(to_session(said("COMPLETE", **ALL_TIMES), LATER)) == fields(WHOLE)


@given(st.lists(st.sampled_from((STARTED, STOPPED, COMPLETE)), max_size=3))
def test_whatever_was_dropped_is_healed_and_nothing_else_changes(told: list[Session]) -> None:
    healed = record(*told, to_session(said("COMPLETE", **ALL_TIMES), LATER))
    assert fields(healed) == fields(WHOLE)


@given(events_told, reads, st.randoms())
def test_a_record_depends_on_no_order_and_no_repetition(
    told: list[Session], read: list[tuple[DriveSession, int]], random: Random
) -> None:
    parts = [*told, *(to_session(drive, LATER + timedelta(minutes=minute)) for drive, minute in read)]
    shuffled = [*parts, *parts]
    random.shuffle(shuffled)
    assert record(*shuffled) == record(*parts)


@given(st.sampled_from(RUNNING), st.permutations([STARTED, STOPPED, COMPLETE]))
def test_a_late_look_at_an_answer_that_is_behind_opens_nothing_and_is_no_anomaly(
    drive: DriveSession, told: list[Session]
) -> None:
    for place in range(4):
        parts = [*told[:place], to_session(drive, LATER), *told[place:]]
        assert fields(record(*parts)) == fields(WHOLE)


@given(st.sampled_from((*RUNNING, *ENDED[:2])), st.integers(0, 10**6))
def test_when_it_was_read_is_no_part_of_what_has_a_time(drive: DriveSession, seconds: int) -> None:
    assert to_session(drive, START + timedelta(seconds=seconds)) == to_session(drive, LATER)


# Few times and names, so that ties and repetitions come up often; and all that there may be.
TIMES = st.integers(-2, 3).map(lambda minutes: START + timedelta(minutes=minutes)) | st.datetimes(
    timezones=st.just(UTC)
)
PEOPLE = st.sampled_from([None, "user-1", "user-2"]) | st.text(st.characters(exclude_categories=()), max_size=5)
STATUSES = st.sampled_from(["WAITING_TO_START", "STARTED", "STOPPED", "STOP_FAILED", "COMPLETE", "START_FAILED"])
KINDS = st.sampled_from([SessionStarted, SessionStopped, SessionComplete, SessionStartFailed, SessionStopFailed])
WHATEVER_DRIVE_SAYS = st.builds(
    lambda seen_at, **parts: to_session(said(**parts), seen_at),
    TIMES,
    status=STATUSES | st.text(st.characters(exclude_categories=()), max_size=5),
    user_id=PEOPLE,
    started_at=st.none() | TIMES,
    ended_at=st.none() | TIMES,
    completed_at=st.none() | TIMES,
)
WHATEVER_AN_EVENT_SAYS = st.builds(
    lambda event, came_at: with_clock_skew(session_of(event), event.at, came_at, timedelta(minutes=5)),
    st.builds(lambda kind, at, user: kind(session_id="S", at=at, user_id=user), KINDS, TIMES, PEOPLE)
    | st.builds(
        lambda at, begins_at, fee: SessionFeeIncurring(
            session_id="S", at=at, fee_will_apply_from=begins_at, fee_type=fee
        ),
        TIMES,
        TIMES,
        st.sampled_from(["BLOCKING", "CONGESTION"]),
    ),
    TIMES,
)


def written(session: Session) -> str:
    return json.dumps(session.to_document())


@given(st.lists(WHATEVER_AN_EVENT_SAYS | WHATEVER_DRIVE_SAYS, max_size=12), st.data())
def test_workers_that_share_what_both_say_in_any_way_write_one_record(
    parts: list[Session], data: st.DataObject
) -> None:
    expected = record(*parts)
    records = [Session.empty("S")] * 3
    again = data.draw(st.lists(st.sampled_from(parts), max_size=4)) if parts else []
    for part in data.draw(st.permutations([*parts, *again])):
        worker = data.draw(st.integers(0, 2))
        stored = json.loads(written(records[worker]))
        records[worker] = merge(Session.from_document("S", stored), part)
    together = record(*data.draw(st.permutations(records)))
    assert written(together) == written(expected)
    assert fields(together) == fields(expected)
    if any(part.status == "COMPLETE" and part.sources == {"drive"} for part in parts):
        assert together.status == "COMPLETE"


def test_a_completion_is_placed_where_it_is_told_else_at_the_end_else_when_it_was_seen() -> None:
    assert [to_session(drive, LATER).completed_at for drive in ENDED] == [END, STOP, LATER, LATER]
    assert to_session(said("COMPLETE", started_at=LATER), START).completed_at == LATER


def test_what_the_drive_api_calls_complete_is_over_even_if_another_clock_was_ahead() -> None:
    ahead = event(SessionStopFailed, END + timedelta(minutes=5))
    for parts in permutations([STARTED, ahead, to_session(said("COMPLETE", **ALL_TIMES), LATER)]):
        assert record(*parts).status == "COMPLETE"
    assert record(STARTED, ahead, COMPLETE).status == "STOP_FAILED"


def test_a_stop_that_failed_is_known_from_the_drive_api_alone() -> None:
    assert record(STARTED, to_session(said("STOP_FAILED", started_at=START), LATER)).status == "STOP_FAILED"


def test_a_start_after_a_failed_one_is_known_from_the_drive_api_alone() -> None:
    failed = event(SessionStartFailed, START - timedelta(minutes=1))
    assert record(failed, to_session(said("STARTED", started_at=START), LATER)).status == "STARTED"


def test_what_has_no_time_is_before_everything_else() -> None:
    waiting = to_session(said("WAITING_TO_START"), LATER)
    assert (waiting.status, waiting.user_id, waiting.started_at) == ("WAITING_TO_START", "user-1", None)
    assert waiting.statuses["WAITING_TO_START"].first_at == UNKNOWN_TIME


def test_a_status_that_nobody_knows_is_over_once_an_end_is_told() -> None:
    gone = to_session(said("EXPIRED", started_at=START, ended_at=STOP), LATER)
    assert (gone.is_over, gone.stopped_at, gone.started_at) == (True, STOP, None)
    assert not to_session(said("EXPIRED", started_at=START), LATER).is_over


def test_ids_and_statuses_are_such_that_every_database_takes_them() -> None:
    odd = to_session(said("A\0" + "B" * 1000, user_id="u\0"), LATER)
    assert odd.user_id == "u\\u0000"
    assert len(odd.status or "") <= 200
