"""Sessions of which events were dropped: read again at a real HTTP server, until the ledger tells the truth."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random

import pytest
import redis
import stamina
import uvicorn
from sqlalchemy import select, update
from structlog.testing import capture_logs

from handlers.kit.channel import Device
from handlers.kit.merge import merge
from handlers.session_records import session_of
from ingest.events import SessionEvent, decode
from ingest.inbox.downtime import KEY, Downtime
from ingest.simulator.drive.app import DRIVE_KEY, create_drive
from ingest.simulator.drive.faults import DriveFaults, RequestCounter, read_rates
from ingest.simulator.drive.state import DriveState, SessionState, state_from_scenario
from ingest.simulator.scenarios import Participants, SimulatedEvent, build_scenario
from workers.dev.simulator_diff import Comparison, compare
from workers.drive.client import DriveClient
from workers.drive.errors import DriveError, DriveUnavailable, NotFound, Throttled, Unauthorized
from workers.drive.models import DriveSession
from workers.ledger import devices, downtimes, runs, session_keys, session_polls, sessions
from workers.ledger.poll_schedule import PollSchedule
from workers.ledger.runs import NewRun
from workers.ledger.states import Outcome
from workers.ledger.tables.core import runs as run_table
from workers.ledger.tables.core import sessions as session_table
from workers.ledger.tables.reconciliation import PollOutcome
from workers.ledger.tables.reconciliation import session_polls as reread_table
from workers.reconciliation.backfill import BackfillHistories, ImportDowntimes
from workers.reconciliation.poll_sessions import PollSilentSessions
from workers.resilience.token_bucket import TokenBucket

NOW = datetime.now(UTC).replace(microsecond=0)
SECOND = timedelta(seconds=1)


class Played:
    """A simulated Drive API at a real port."""

    def __init__(self) -> None:
        self.world, self.faults, self.meter = DriveState(seed=7), DriveFaults(seed=7), RequestCounter(per_minute=10**9)
        app = create_drive(self.world, self.faults, meter=self.meter)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/drive"

    @property
    def calls(self) -> int:
        return max(self.meter.counted.values(), default=0)


@pytest.fixture
def played(until: Callable[..., None]) -> Iterator[Played]:
    one = Played()
    one.thread.start()
    until(lambda: one.server.started)
    yield one
    one.server.should_exit = True
    one.thread.join()


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


class LeapingClock:
    """Time that passes only where somebody waits for it: a minute after a 429 takes nothing."""

    def __init__(self) -> None:
        self.slept = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += timedelta(seconds=seconds)

    def client(self, settings: object) -> DriveClient:
        return DriveClient(
            settings,
            None,
            now=self.now,
            monotonic=lambda: self.now().timestamp(),
            sleep=self.sleep,
        )


class Clock:
    """The duties of a clock that has a ledger and a Drive API, taken turn by turn."""

    def __init__(self, house, *, per_minute: int = 10**6, lease: timedelta = timedelta()) -> None:
        self.equipment = house.equipment
        drive, allowance = LeapingClock().client(house.equipment.settings), TokenBucket(per_minute)
        self.notice = ImportDowntimes(house.equipment)
        self.started_anew = partial(PollSilentSessions, house.equipment, drive, allowance, lease=lease)
        self.reconcile = self.started_anew()
        self.cover = BackfillHistories(house.equipment, drive, allowance)

    def turn(self) -> None:
        for duty in (self.notice, self.reconcile, self.cover):
            with suppress(DriveError):  # as the clock does: another turn comes
                duty.run()

    def learn(self, tellings: list[SimulatedEvent]) -> None:
        """Merge what events tell, as a worker does."""
        with self.equipment.engine.begin() as ledger:
            for telling in tellings:
                event = decode(telling.kind, telling.body)
                assert isinstance(event, SessionEvent)
                sessions.merge(ledger, {event.session_id: partial(merge, session_of(event))})

    def compared(self, world: DriveState) -> Comparison:
        with self.equipment.engine.begin() as ledger:
            known = {each.session_id: each for each in sessions.latest(ledger, 10**6)}
        return compare(world.sessions.values(), known)

    def look(self, session_id: str) -> session_polls.PollState:
        with self.equipment.engine.begin() as ledger:
            return session_polls.looks(ledger, [session_id])[session_id]

    def shift(self, by: timedelta) -> None:
        """Let time pass: everything that the ledger has noted is so much older."""
        self.reconcile = self.started_anew()
        with self.equipment.engine.begin() as ledger:
            for row in ledger.execute(select(reread_table)).all():
                times = ("enrolled_at", "next_at", "read_at", "status_at")
                older = {name: getattr(row, name) - by for name in times if getattr(row, name) is not None}
                where = reread_table.c.session_id == row.session_id
                ledger.execute(update(reread_table).where(where).values(**older))
            for row in ledger.execute(select(session_table.c.session_id, session_table.c.updated_at)).all():
                where = session_table.c.session_id == row.session_id
                ledger.execute(update(session_table).where(where).values(updated_at=row.updated_at - by))


@pytest.fixture
def clock_on(house_on, played: Played) -> Callable[..., Clock]:
    def build(database_url: str, *, per_minute: int = 10**6, lease: timedelta = timedelta(), **overrides) -> Clock:
        usual = {"drive_api_url": played.url, "drive_api_key": DRIVE_KEY, "reconcile_after": "1ms"}
        house = house_on(database_url, **{**usual, **overrides})
        return Clock(house, per_minute=per_minute, lease=lease)

    return build


@pytest.fixture
def clock(clock_on, tmp_path) -> Clock:
    return clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", reconcile_after="30m", history_every="1000d")


def told(
    session_id: str, user_id: str, about: str = "session", begins_at: datetime | None = None
) -> list[SimulatedEvent]:
    return list(build_scenario(about, Participants(session_id, user_id), begins_at=begins_at, now=NOW))


def test_after_a_third_of_the_events_was_dropped_every_record_equals_the_truth(
    clock_on, database_url: str, played: Played
) -> None:
    clock = clock_on(database_url, history_every="1ms", history_span="1d", reconcile_longest="1ms")
    random = Random(7)
    stories = [
        told(f"S{number}", f"driver-{number % 10}", random.choice(["session", "stop-failed", "cdr"]))
        for number in range(80)
    ]
    played.world.apply(filter(None, map(state_from_scenario, stories)))
    arrived = [[each for each in told if each.kind == "events" and random.random() > 1 / 3] for told in stories]
    assert [] in arrived
    for tellings in arrived:
        clock.learn(tellings)
    before = clock.compared(played.world)
    assert before.unknown
    assert before.equal < 50
    played.faults.rates = read_rates("500:0.1,429:0.05,nonsense:0.05,lost:0.1")
    for _ in range(60):
        clock.turn()
        if clock.compared(played.world).equal == 80:
            break
    after = clock.compared(played.world)
    assert after.differences == ()
    assert after.healed > 20


def test_a_session_is_left_alone_while_it_has_news(clock: Clock, played: Played) -> None:
    clock.learn(told("S1", "user-1")[:1])
    clock.reconcile.run()
    assert played.calls == 0
    clock.shift(timedelta(minutes=31))
    played.world.apply([SessionState("S1", "user-1", "STARTED", NOW)])
    clock.reconcile.run()
    assert played.calls == 1


def test_looks_grow_rarer_and_a_new_clock_does_not_begin_anew(clock: Clock, clock_on, played: Played) -> None:
    played.world.apply([SessionState("S1", "user-1", "STARTED", NOW)])
    clock.learn(told("S1", "user-1", begins_at=NOW)[:1])
    clock.shift(timedelta(minutes=31))
    waits = []
    for _ in range(6):
        clock.reconcile.run()
        look = clock.look("S1")
        waits.append(round((look.next_at - look.read_at) / timedelta(minutes=1)))
        Clock(clock).reconcile.run()  # a clock that was started anew
        clock.shift(look.next_at - datetime.now(UTC) + SECOND)
    assert waits == [30, 60, 120, 240, 240, 240]
    assert played.calls == 6


def test_a_session_that_waits_for_its_start_is_looked_at_sooner(clock: Clock, played: Played) -> None:
    played.world.apply([SessionState("S1", "user-1", "START_FAILED")])
    clock.learn(told("S1", "user-1", "SESSION_START_FAILED"))
    clock.shift(timedelta(minutes=31))
    clock.reconcile.run()
    look = clock.look("S1")
    assert (look.outcome, look.status) == (PollOutcome.OPEN, "WAITING_TO_START")
    assert look.next_at - look.read_at == timedelta(minutes=2)


def test_a_session_that_drive_does_not_know_is_noted_and_asked_for_ever_more_rarely(clock: Clock) -> None:
    clock.learn(told("S1", "user-1")[:1])
    clock.shift(timedelta(minutes=31))
    clock.reconcile.run()
    assert clock.look("S1").outcome is PollOutcome.MISSING
    clock.shift(timedelta(hours=1, minutes=1))
    clock.reconcile.run()
    assert clock.look("S1").attempts == 2


def test_after_a_week_a_session_is_given_up_until_there_is_news(clock: Clock, played: Played) -> None:
    played.world.apply([SessionState("S1", "user-1", "STOP_FAILED", NOW)])
    clock.learn(told("S1", "user-1", begins_at=NOW)[:1])
    clock.shift(timedelta(minutes=31))
    clock.reconcile.run()
    clock.shift(timedelta(days=6, hours=23))
    clock.reconcile.run()
    clock.shift(timedelta(hours=5))
    for _ in range(3):
        Clock(clock).reconcile.run()
    assert (clock.look("S1").outcome, played.calls) == (PollOutcome.GIVEN_UP, 2)
    clock.learn(told("S1", "user-1", "SESSION_STOPPED", begins_at=NOW + SECOND))
    clock.shift(timedelta(minutes=31))
    Clock(clock).reconcile.run()
    assert (clock.look("S1").outcome, played.calls) == (PollOutcome.OPEN, 3)


def test_a_session_that_its_events_have_completed_meanwhile_is_not_read(clock: Clock, played: Played) -> None:
    clock.learn(told("S1", "user-1")[:1])
    clock.shift(timedelta(minutes=31))
    with clock.equipment.engine.begin() as ledger:
        assert session_polls.schedule(ledger, NOW - timedelta(days=1), NOW, datetime.now(UTC)) == 1
    clock.learn(told("S1", "user-1"))
    clock.reconcile.run()
    assert (clock.look("S1").outcome, played.calls) == (PollOutcome.NOT_NEEDED, 0)


def test_several_clocks_read_each_session_once(clock_on, database_url: str, played: Played) -> None:
    one = clock_on(database_url, history_every="1000d", lease=timedelta(minutes=2))
    for number in range(30):
        one.learn(told(f"S{number}", "user-1")[:1])
        played.world.apply(filter(None, [state_from_scenario(told(f"S{number}", "user-1"))]))
    clocks = [Clock(one, lease=timedelta(minutes=2)) for _ in range(3)]
    threads = [threading.Thread(target=each.reconcile.run) for each in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in clocks:
        each.reconcile.run()
    assert one.compared(played.world).equal == 30
    assert played.calls == 30


class SlowDrive:
    """A Drive API that takes long for each answer, while another clock has its turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer_takes: timedelta) -> None:
        self.time, self.answer_takes = datetime.now(UTC) + timedelta(hours=1), answer_takes
        self.read: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        for module in ("reconcile", "healing"):
            monkeypatch.setattr(f"workers.{module}.now", lambda: self.time)

    def session(self, _user_id: str, session_id: str) -> DriveSession:
        self.read.append(session_id)
        self.time += self.answer_takes
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        raise NotFound("The Drive API does not know it.")


def slow_clocks(clock: Clock, drive: SlowDrive, count: int = 2) -> list[PollSilentSessions]:
    with clock.equipment.engine.begin() as ledger:
        session_polls.schedule_now(ledger, NOW - timedelta(days=1), NOW + timedelta(days=1), drive.time)
    return [PollSilentSessions(clock.equipment, drive, TokenBucket(10**6)) for _ in range(count)]


def test_no_session_is_read_twice_because_the_drive_api_is_slow(
    clock_on, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clock_on(database_url, reconcile_after="30m")
    drive = SlowDrive(monkeypatch, timedelta(seconds=80))
    ids = [f"S{number}" for number in range(6)]
    for session_id in ids:
        clock.learn(told(session_id, "user-1")[:1])
    one, other = slow_clocks(clock, drive)
    drive.meanwhile = lambda: setattr(drive, "meanwhile", other.run)  # once the first answer's lease is renewed
    one.run()
    assert sorted(drive.read) == ids


def test_what_another_clock_reads_meanwhile_is_not_given_back(
    clock_on, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clock_on(database_url, reconcile_after="30m")
    drive = SlowDrive(monkeypatch, timedelta(minutes=3))
    for number in range(3):
        clock.learn(told(f"S{number}", "user-1")[:1])
    (one,) = slow_clocks(clock, drive, 1)
    theirs: list[session_polls.DuePoll] = []

    def claim_and_break() -> None:
        with clock.equipment.engine.begin() as ledger:
            rhythm = PollSchedule.of(clock.equipment.settings)
            theirs.extend(session_polls.claim(ledger, drive.time, timedelta(minutes=2), 50, rhythm))
        raise Throttled("too many calls")

    drive.meanwhile = claim_and_break
    with pytest.raises(Throttled):
        one.run()
    assert [due.session_id for due in theirs] == ["S0", "S1", "S2"]
    assert {clock.look(due.session_id).next_at for due in theirs} == {drive.time + timedelta(minutes=2)}


def test_a_refused_key_stops_the_turn_and_loses_nothing(clock: Clock, clock_on, played: Played, tmp_path) -> None:
    clock.learn(told("S1", "user-1")[:1])
    clock.shift(timedelta(minutes=31))
    other = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", drive_api_key="wrong", lease=timedelta(hours=1))
    with pytest.raises(Unauthorized, match="DRIVE_API_KEY"):
        other.reconcile.run()
    played.world.apply(filter(None, [state_from_scenario(told("S1", "user-1"))]))
    clock.reconcile.run()
    assert clock.compared(played.world).equal == 1


def test_while_the_drive_api_fails_a_turn_ends_at_the_second_session(clock: Clock, played: Played) -> None:
    for number in range(10):
        clock.learn(told(f"S{number}", "user-1")[:1])
    clock.shift(timedelta(minutes=31))
    played.faults.rates = read_rates("500:1")
    with pytest.raises(DriveUnavailable):
        clock.reconcile.run()
    assert played.calls == 2 * 4  # two sessions, four attempts each


@pytest.mark.parametrize("failure", [DriveUnavailable, Unauthorized])
def test_a_session_that_alone_gets_no_answer_is_asked_for_ever_more_rarely(
    clock: Clock, played: Played, monkeypatch: pytest.MonkeyPatch, failure: type[DriveError]
) -> None:
    for number in range(3):
        clock.learn(told(f"S{number}", "user-1")[:1])
    clock.shift(timedelta(minutes=31))
    fail_for(monkeypatch, "session", "S1", failure=failure)
    with capture_logs() as logs:
        clock.reconcile.run()
    assert [(line["session"], line["reason"]) for line in logs if line["event"] == "session.not_read"] == [
        ("S1", "it always fails")
    ]
    look = clock.look("S1")
    assert (look.outcome, look.attempts, look.reason) == (PollOutcome.FAILED, 1, "it always fails")
    assert look.next_at - look.read_at == timedelta(hours=1)


def test_a_clock_that_was_set_back_finds_what_becomes_silent_from_then_on(
    clock: Clock, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = timedelta(hours=1)
    monkeypatch.setattr("workers.reconciliation.poll_sessions.now", lambda: datetime.now(UTC) + ahead)
    clock.reconcile.run()
    ahead = timedelta()
    clock.reconcile.run()
    clock.learn(told("S1", "user-1")[:1])
    ahead = timedelta(minutes=31)
    clock.reconcile.run()
    assert clock.look("S1").outcome is PollOutcome.MISSING


def test_the_driver_is_who_was_asked_about_whatever_id_the_answer_has(clock: Clock, played: Played) -> None:
    clock.learn(told("S1", "user-1", begins_at=NOW)[:1])
    clock.shift(timedelta(minutes=31))
    played.world.apply([SessionState("S1", "user-1", "STARTED", NOW)])
    document_of = played.world.document_of
    played.world.document_of = lambda truth: {**document_of(truth), "userId": "zz-internal-4711"}
    clock.reconcile.run()
    with clock.equipment.engine.begin() as ledger:
        session = sessions.get(ledger, "S1")
    assert (session.user_id, session.anomalies) == ("user-1", ())
    assert clock.look("S1").outcome is PollOutcome.OPEN


def test_calls_are_spread_over_the_minute(clock_on, tmp_path, played: Played) -> None:
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", per_minute=60, history_every="1000d")
    for number in range(40):
        clock.learn(told(f"S{number}", "user-1")[:1])
    clock.reconcile.run()
    clock.reconcile.run()
    assert 10 <= played.calls <= 15


def test_a_closed_door_is_covered_by_the_histories_of_known_users(
    clock_on, database_url: str, played: Played, valkey: redis.Redis
) -> None:
    clock = clock_on(database_url, history_every="1000d", reconcile_after="30m")
    closed_at, opened_at = NOW - timedelta(hours=3), NOW - timedelta(hours=1)
    within, before = closed_at + timedelta(minutes=10), closed_at - timedelta(minutes=10)
    clock.learn(told("earlier", "user-1", begins_at=NOW - timedelta(days=2)))
    clock.learn(told("open", "user-1", begins_at=before)[:1])
    with clock.equipment.engine.begin() as ledger:
        devices.put(ledger, "user-2", Device("token"), NOW)
    for session_id, user_id, at in (("open", "user-1", before), ("new", "user-1", within), ("app", "user-2", within)):
        played.world.apply(filter(None, [state_from_scenario(told(session_id, user_id, begins_at=at))]))
    clock.shift(timedelta(hours=2))
    gap = Downtime(closed_at, opened_at, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    for _ in range(2):
        clock.turn()
    assert clock.compared(played.world).differences == ()
    with clock.equipment.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.closed_at, row.opened_at, row.sessions_read) == (closed_at, opened_at, 3)
    assert row.covered_at is not None
    calls = played.calls
    clock.turn()
    assert played.calls == calls


def test_covering_goes_on_where_a_clock_ended(clock_on, tmp_path, played: Played, valkey: redis.Redis) -> None:
    url, parts = f"sqlite:///{tmp_path / 'ledger.db'}", {"history_every": "1000d", "reconcile_after": "30m"}
    first = clock_on(url, per_minute=6 * 10, **parts)
    for number in range(25):
        first.learn(told(f"S{number}", f"user-{number:02}"))
    gap = Downtime(NOW - timedelta(hours=3), NOW, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    first.notice.run()
    first.cover.run()
    assert 10 <= played.calls <= 14
    Clock(first).cover.run()
    with first.equipment.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert row.covered_at is not None
    assert played.calls == 25


def test_users_are_not_listed_anew_in_every_turn(
    clock_on, tmp_path, played: Played, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"history_every": "1000d", "reconcile_after": "30m"}
    clock = clock_on(f"sqlite:///{tmp_path / 'ledger.db'}", per_minute=6, **parts)
    for number in range(5):
        clock.learn(told(f"S{number}", f"user-{number}"))
    gap = Downtime(NOW - timedelta(hours=3), NOW, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.notice.run()
    listed, users_after = [], downtimes.users_after
    monkeypatch.setattr(downtimes, "users_after", lambda *asked: listed.append(asked[1]) or users_after(*asked))
    for _ in range(5):  # a turn for each user
        monkeypatch.setattr(clock.cover, "_allowance", TokenBucket(6))
        clock.cover.run()
    with clock.equipment.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.covered_at is not None, played.calls) == (True, 5)
    assert listed == [None, "user-4"]


def test_what_nobody_can_read_in_redis_is_passed_over(clock: Clock, valkey: redis.Redis) -> None:
    gap = Downtime(NOW - timedelta(hours=3), NOW, "inbox-1")
    valkey.hset(KEY, mapping={"a": "{}", "b": "[]", "c": "x", gap.field: gap.to_json()})
    clock.notice.run()
    clock.notice.run()
    with clock.equipment.engine.begin() as ledger:
        assert len(downtimes.find(ledger)) == 1


def test_a_user_whose_history_cannot_be_read_keeps_nobody_waiting(
    clock: Clock, played: Played, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        clock.learn(told(f"S{number}", f"user-{number}"))
    fail_for(monkeypatch, "history", "user-1")
    gap = Downtime(NOW - timedelta(hours=3), NOW, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.notice.run()
    clock.cover.run()
    with clock.equipment.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at is not None) == (1, True)


@pytest.mark.parametrize("failure", [DriveUnavailable, Unauthorized])
@pytest.mark.parametrize("failing", [("user-3",), ("user-2", "user-3"), ("user-1", "user-2")])
def test_nor_do_several_of_them_nor_the_last_one(
    clock: Clock,
    valkey: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    failing: tuple[str, ...],
    failure: type[DriveError],
) -> None:
    for number in range(4):
        clock.learn(told(f"S{number}", f"user-{number}"))
    fail_for(monkeypatch, "history", *failing, failure=failure)
    gap = Downtime(NOW - timedelta(hours=3), NOW, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.notice.run()
    clock.cover.run()
    with clock.equipment.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at is not None) == (len(failing), True)


def test_while_the_drive_api_fails_no_user_is_passed_over(clock: Clock, played: Played, valkey: redis.Redis) -> None:
    for number in range(4):
        clock.learn(told(f"S{number}", f"user-{number}"))
    gap = Downtime(NOW - timedelta(hours=3), NOW, "inbox-1")
    valkey.hset(KEY, gap.field, gap.to_json())
    clock.notice.run()
    played.faults.rates = read_rates("500:1")
    with pytest.raises(DriveUnavailable):
        clock.cover.run()
    with clock.equipment.engine.begin() as ledger:
        (row,) = downtimes.find(ledger)
    assert (row.users_failed, row.covered_at) == (0, None)


def fail_for(
    monkeypatch: pytest.MonkeyPatch, what: str, *ids: str, failure: type[DriveError] = DriveUnavailable
) -> None:
    """Have one method of the client get no answer about some."""
    read = getattr(DriveClient, what)

    def reading(self, *asked, **more):
        if asked[-1] in ids:
            raise failure("it always fails")
        return read(self, *asked, **more)

    monkeypatch.setattr(DriveClient, what, reading)


def test_a_warning_that_waits_for_its_driver_is_tried_again_once_a_history_names_them(
    clock_on, database_url: str, played: Played
) -> None:
    clock = clock_on(database_url, history_every="1ms", history_span="1d")
    clock.learn(told("S1", "user-1"))
    clock.learn(told("S2", "user-1", "SESSION_FEE_INCURRING"))  # names no driver
    due_at = datetime.now(UTC) + timedelta(hours=1)
    with clock.equipment.engine.begin() as ledger:
        runs.insert_runs(ledger, [waiting_run(due_at)])
    played.world.apply(filter(None, [state_from_scenario(told("S2", "user-1", "fee-warning"))]))
    clock.cover.run()
    with clock.equipment.engine.begin() as ledger:
        assert ledger.scalars(select(run_table.c.due_at)).one() < due_at
        assert sessions.get(ledger, "S2").user_id == "user-1"


def waiting_run(due_at: datetime) -> NewRun:
    at = datetime.now(UTC)
    return NewRun(
        delivery_id="d1",
        handler="warn",
        queue="urgent",
        outcome=Outcome.AGAIN,
        attempts=1,
        due_at=due_at,
        waits_for="S2",
        started_at=at,
        finished_at=at,
    )


def test_the_key_that_drive_names_for_an_open_session_is_kept(clock: Clock, played: Played) -> None:
    played.world.apply([SessionState("S1", "user-1", "STARTED", NOW)])
    clock.learn(told("S1", "user-1", begins_at=NOW)[:1])
    clock.shift(timedelta(minutes=31))
    clock.reconcile.run()
    with clock.equipment.engine.begin() as ledger:
        ((session_id, key),) = session_keys.keys_of(ledger, ["S1"])
    assert (session_id, bool(key)) == ("S1", True)


def test_whatever_a_history_has_in_it_the_rest_is_kept(clock_on, database_url: str, played: Played) -> None:
    clock = clock_on(database_url, history_every="1ms", history_span="1d")
    clock.learn(told("S1", "user-1"))
    begun_at = NOW - timedelta(hours=1)
    odd = ("N\0UL", "x" * 1000, "good")
    played.world.apply([SessionState(session_id, "user-1", "STARTED", begun_at) for session_id in odd])
    clock.cover.run()
    with clock.equipment.engine.begin() as ledger:
        assert {each.session_id for each in sessions.latest(ledger, 100)} == {"S1", "good"}


def test_doors_that_were_closed_together_are_covered_together(
    clock_on, database_url: str, played: Played, valkey: redis.Redis
) -> None:
    clock = clock_on(database_url, per_minute=60, history_every="1000d", reconcile_after="30m")
    closed_at = NOW - timedelta(hours=30)
    for number in range(15):
        clock.learn(told(f"S{number}", f"user-{number:02}"))
    played.world.apply(
        filter(None, [state_from_scenario(told("late", "user-00", begins_at=closed_at + timedelta(hours=5)))])
    )
    for inbox, hours in (("inbox-1", 0), ("inbox-2", 0), ("inbox-1", 6), ("inbox-2", 29)):
        gap = Downtime(closed_at + timedelta(hours=hours), closed_at + timedelta(hours=hours, minutes=30), inbox)
        valkey.hset(KEY, gap.field, gap.to_json())
    clock.notice.run()
    clock.cover.run()
    other = Clock(clock)
    other.cover.run()
    with clock.equipment.engine.begin() as ledger:
        assert [row.covered_at is not None for row in downtimes.find(ledger)] == [False, True, True, True]
        assert sessions.get(ledger, "late") is not None
    assert played.calls == 15
    other.cover.run()
    with clock.equipment.engine.begin() as ledger:
        assert all(row.covered_at for row in downtimes.find(ledger))
    assert played.calls == 30
