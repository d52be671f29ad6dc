"""Sending: at once, in time, once; whatever a provider, a session or a crash does meanwhile."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update
from starlette.responses import Response

from handlers import Device
from handlers.kit.channel import ChannelPlugin, DeviceRegistryPlugin, PushFailed
from handlers.kit.session import Session, StatusTimes
from ingest.queue.queues import connect_redis
from workers.clock import push_sender
from workers.clock.clock import Clock
from workers.clock.push_sender import ChannelSender, SenderPool, send_due
from workers.ledger import pushes, sessions
from workers.ledger.states import PushState
from workers.ledger.tables.core import pushes as push_table
from workers.plugins import Plugins
from workers.push.attempt import attempt
from workers.push.notify import notify_senders
from workers.resilience.circuit_breaker import FAILURES, CircuitBreaker

DOWN = Response(status_code=503)
SOON = timedelta(minutes=10)


def offering(function: Callable[..., object], name: str = "own", *, to_devices: bool = False) -> ChannelPlugin:
    return ChannelPlugin(name, function, to_devices, is_async=False, file="plugin.py")


def session_is(home, session_id: str, status: str) -> None:
    at = datetime.now(UTC)
    with home.equipment.engine.begin() as ledger:
        sessions.merge(
            ledger,
            {session_id: lambda old: Session(old.session_id, {status: StatusTimes(at, at, frozenset({"event"}))})},
        )


def test_pushes_are_sent_at_once_and_no_more_than_wanted(house, provider, until):
    home = house(push_concurrency=4)
    for number in range(12):
        home.push(number)
    provider.works.clear()
    sending = threading.Thread(target=send_due, args=(home.equipment,))
    sending.start()
    until(lambda: provider.at_once == 4)
    provider.works.set()
    sending.join()
    assert provider.most_at_once == 4
    assert home.states() == ["sent"] * 12


def test_a_slow_answer_holds_up_no_other_push(house, provider, until):
    slow = threading.Event()

    def send(push):
        if push.title == "slow":
            slow.wait(20)

    home = house(Plugins((), (offering(send),)), push="own", push_concurrency=2)
    home.push(0, title="slow", created_at=datetime.now(UTC) - SOON)
    for number in range(1, 20):
        home.push(number)
    sending = threading.Thread(target=send_due, args=(home.equipment,))
    sending.start()
    until(lambda: home.states().count("sent") == 19)
    slow.set()
    sending.join()
    assert home.states() == ["sent"] * 20


def test_a_channel_that_hangs_without_end_keeps_its_places_and_nothing_else(house, until):
    ends = threading.Event()
    begun = []

    def hang(push):
        begun.append(push.id)
        ends.wait(20)

    home = house(Plugins((), (offering(hang),)), push="own", push_concurrency=2, push_timeout="50ms")
    for number in range(6):
        home.push(number)
    sender = ChannelSender(home.equipment, "own", breaker=CircuitBreaker(pause=timedelta()))
    for _ in range(2):
        sender.send_due()
    assert len(begun) == 2
    assert home.states() == ["waiting"] * 6
    ends.set()
    until(lambda: sender.send_due() or "waiting" not in home.states())


def test_a_push_whose_session_is_over_is_not_sent(house, provider):
    home = house()
    for number, status in enumerate(["STARTED", "STOPPED", "COMPLETE", "START_FAILED", "STOP_FAILED"]):
        session_is(home, f"s-{status}", status)
        home.push(number, session_id=f"s-{status}")
    send_due(home.equipment)
    sent = {row.session_id for row in home.rows(state=PushState.SENT)}
    assert sent == {"s-STARTED", "s-STOP_FAILED"} == {body["session_id"] for body in provider.bodies}
    assert {row.error for row in home.rows(state=PushState.MOOT)} == {"the session is over"}


def test_a_session_that_ends_while_its_push_waits_cancels_it(house, provider, until):
    home = house(retry_first="600ms")
    provider.says(DOWN)
    home.push(session_id="s1")
    send_due(home.equipment)
    assert home.row().state is PushState.WAITING
    session_is(home, "s1", "STOPPED")
    until(lambda: send_due(home.equipment) == 0 and home.row().state is PushState.MOOT)
    assert len(provider.bodies) == 1


def test_a_push_whose_time_has_passed_is_not_sent(house, provider):
    home = house()
    home.push(expires_at=datetime.now(UTC))
    send_due(home.equipment)
    assert home.row().state is PushState.EXPIRED
    assert provider.bodies == []


def test_of_two_pushes_in_one_place_only_the_newer_is_sent(house, provider):
    home = house()
    at = datetime.now(UTC)
    home.push(1, collapse_key="fee", title="12:00", created_at=at - SOON)
    home.push(2, collapse_key="fee", title="12:15", created_at=at)
    home.push(3, collapse_key="fee", title="12:30", user_id="driver-2", created_at=at - SOON)
    send_due(home.equipment)
    assert sorted(body["title"] for body in provider.bodies) == ["12:15", "12:30"]
    assert home.states() == ["moot", "sent", "sent"]


def test_a_push_without_an_end_is_dead_after_the_last_attempt(house, provider, until):
    home = house(retry_attempts=3)
    provider.answer = lambda _body: DOWN
    home.push()
    until(lambda: send_due(home.equipment) == 0 and home.row().state is PushState.DEAD)
    assert (home.row().attempts, len(provider.bodies)) == (3, 3)


def test_a_push_with_an_end_is_tried_until_then_however_often(house, provider, until):
    home = house(retry_attempts=1)
    provider.answer = lambda _body: DOWN
    home.push(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    sender = ChannelSender(home.equipment, "http", breaker=CircuitBreaker(pause=timedelta()))
    until(lambda: sender.send_due() == 0 and home.row().state is PushState.EXPIRED)
    assert home.row().attempts > 1


def test_a_provider_that_is_down_for_a_while_loses_no_push_and_is_spared(house, provider, until):
    home = house(push_concurrency=10)
    provider.answer = lambda _body: DOWN
    for number in range(40):
        home.push(number, expires_at=datetime.now(UTC) + SOON)
    sender = ChannelSender(home.equipment, "http", breaker=CircuitBreaker(pause=timedelta(milliseconds=100)))
    end = time.monotonic() + 1
    while time.monotonic() < end:
        sender.send_due()
    asked = len(provider.bodies)
    assert FAILURES <= asked < 40
    provider.answer = lambda _body: Response(status_code=200)
    until(lambda: sender.send_due() >= 0 and home.states() == ["sent"] * 40)
    assert len(provider.bodies) - asked == 40


def test_a_plugin_that_breaks_is_tried_again_and_its_words_are_kept_out(house, caplog):
    def broken(push):
        raise KeyError(push.user_id)

    home = house(Plugins((), (offering(broken),)), push="own", retry_first="1m")
    home.push()
    send_due(home.equipment)
    row = home.row()
    assert (row.state, row.error) == (PushState.WAITING, "the channel broke: KeyError")
    assert "driver-1" not in caplog.text


def test_a_registry_that_breaks_costs_no_push(house, until):
    sent = []
    answers = iter([KeyError("driver-1"), "nonsense", [Device("token")]])

    def registry(user_id):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    channel = offering(lambda push: sent.append(push.device.token), to_devices=True)
    home = house(Plugins((), (channel,), DeviceRegistryPlugin(registry, "plugin.py")), push="own")
    home.push()
    until(lambda: send_due(home.equipment))
    assert sent == ["token"]
    assert home.row().attempts == 3


def test_a_registry_that_hangs_keeps_its_places_and_costs_no_push(house, until):
    ends = threading.Event()
    begun, sent = [], []

    def registry(user_id):
        begun.append(user_id)
        ends.wait(20)
        return [Device("token")]

    channel = offering(lambda push: sent.append(push.id), to_devices=True)
    plugins = Plugins((), (channel,), DeviceRegistryPlugin(registry, "plugin.py"))
    home = house(plugins, push="own", push_concurrency=2, push_timeout="50ms")
    for number in range(6):
        home.push(number)
    sender = ChannelSender(home.equipment, "own", breaker=CircuitBreaker(pause=timedelta()))
    for _ in range(2):
        sender.send_due()
    assert len(begun) == 2
    assert home.states() == ["waiting"] * 6
    ends.set()
    until(lambda: sender.send_due() or "waiting" not in home.states())
    assert len(sent) == 6


def test_a_device_that_hangs_does_not_keep_the_push_from_the_others(house):
    ends = threading.Event()

    def send(push):
        if push.device.token == "hangs":
            ends.wait(20)

    registry = DeviceRegistryPlugin(lambda _user: [Device("hangs"), Device("works")], "plugin.py")
    plugins = Plugins((), (offering(send, to_devices=True),), registry)
    home = house(plugins, push="own", push_timeout="1s", retry_first="1m")
    home.push()
    send_due(home.equipment)
    row = home.row()
    ends.set()
    assert (row.state, list(row.told.values())) == (PushState.WAITING, [True])
    assert row.error == "there was no answer in time"


def test_what_was_claimed_by_a_process_that_died_is_sent_again_with_the_same_key(
    house_on, provider, database_url, until
):
    home = house_on(database_url, push="http", push_http_url=provider.url, push_http_key="key")
    push_id = home.push()
    with home.equipment.engine.begin() as ledger:  # it may or may not have sent it, and never said so
        assert pushes.claim(ledger, "http", datetime.now(UTC), timedelta(seconds=0.3), limit=1)
    assert send_due(home.equipment) == 0
    until(lambda: send_due(home.equipment))
    assert [headers["idempotency-key"] for headers in provider.headers] == [push_id]


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Leave pushes to who claimed them for less than a second."""
    for name, span in {"LEASE": 0.5, "LEASE_RENEWAL": 0.05, "POLL_INTERVAL": 0.05}.items():
        monkeypatch.setattr(push_sender, name, timedelta(seconds=span))


def test_a_push_on_its_way_for_longer_than_a_claim_lasts_is_left_to_who_sends_it(
    house_on, database_url, in_a_hurry, until
):
    begun, ends = [], threading.Event()

    def send(push):
        begun.append(push.id)
        ends.wait(20)

    home = house_on(database_url, Plugins((), (offering(send),)), push="own")
    home.push()
    one, other = (threading.Thread(target=send_due, args=(home.equipment,)) for _ in range(2))
    one.start()
    until(lambda: begun)
    claimed_until = home.row().due_at
    other.start()
    until(lambda: home.row().due_at > claimed_until + 2 * push_sender.LEASE)
    ends.set()
    for each in (one, other):
        each.join()
    assert len(begun) == 1
    assert home.states() == ["sent"]


def test_what_is_in_hand_is_not_begun_again_however_long_the_ledger_held_up_its_sender(house, until, monkeypatch):
    monkeypatch.setattr(push_sender, "LEASE_RENEWAL", timedelta(hours=1))
    begun, ends = [], threading.Event()

    def send(push):
        begun.append(push.title)
        ends.wait(20)

    home = house(Plugins((), (offering(send),)), push="own")
    home.push(title="on its way")
    clock = threading.Thread(target=send_due, args=(home.equipment,))
    clock.start()
    until(lambda: begun)
    claimed_until = home.row().due_at
    until(lambda: home.row().due_at > claimed_until)
    with home.equipment.engine.begin() as ledger:  # it can say no more that it has it
        ledger.execute(update(push_table).values(due_at=datetime.now(UTC) - SOON))
    home.push(2, title="another")
    until(lambda: "another" in begun)
    ends.set()
    clock.join()
    assert begun == ["on its way", "another"]
    assert [row.attempts for row in home.rows()] == [1, 1]


def test_an_attempt_that_breaks_before_its_channel_is_called_is_made_again(
    house, provider, in_a_hurry, until, monkeypatch
):
    def break_once(*arguments):
        monkeypatch.setattr(push_sender, "attempt", attempt)
        raise RuntimeError("a fault of ours")

    home = house()
    home.push()
    monkeypatch.setattr(push_sender, "attempt", break_once)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sender = ChannelSender(home.equipment, "http")
    until(lambda: sender.send_due() or home.states() == ["sent"])
    assert len(provider.bodies) == 1


def test_two_clocks_send_each_push_once(house_on, provider, database_url):
    home = house_on(database_url, push="http", push_http_url=provider.url, push_http_key="key")
    for number in range(60):
        home.push(number)
    clocks = [threading.Thread(target=send_due, args=(home.equipment,)) for _ in range(3)]
    for each in clocks:
        each.start()
    for each in clocks:
        each.join()
    assert home.states() == ["sent"] * 60
    assert len(provider.bodies) == 60


def test_no_transaction_is_open_while_a_push_is_sent(house):
    written = []

    def send(push):
        with home.equipment.engine.begin() as ledger:  # would wait, on SQLite, for any other that is open
            written.append(pushes.find(ledger)[0].attempts)

    home = house(Plugins((), (offering(send),)), push="own")
    home.push()
    assert send_due(home.equipment) == 1
    assert written == [1]


def test_the_clock_sends_on_every_channel_though_one_hangs(house, provider, other_provider, until):
    ends = threading.Event()
    plugins = Plugins((), (offering(lambda _push: ends.wait(20)),))
    home = house(plugins, push="own,http", push_concurrency=3)
    stop = threading.Event()
    ticks = []
    clock = Clock(home.equipment)
    clock.sweep = lambda: ticks.append(time.monotonic())
    running = threading.Thread(target=clock.run, args=(stop,), kwargs={"tick": timedelta(milliseconds=20)})
    running.start()
    for number in range(10):
        home.push(number)
    notify_senders(home.equipment.connection, home.equipment.channels)
    until(lambda: len(provider.bodies) == 10)
    before = len(ticks)
    until(lambda: len(ticks) > before + 5)
    assert [row.state for row in home.rows() if row.channel == "own"] == [PushState.WAITING] * 10
    ends.set()
    stop.set()
    running.join()


def test_a_push_goes_as_soon_as_a_worker_says_so(house, provider, until, monkeypatch):
    monkeypatch.setattr("workers.clock.push_sender.POLL_INTERVAL", timedelta(hours=1))
    home = house()
    senders = SenderPool(home.equipment)
    senders.start()
    for number in range(3):
        home.push(number)
        notify_senders(home.equipment.connection, home.equipment.channels)
        until(lambda number=number: len(provider.bodies) == number + 1)
    senders.stop()


def test_without_redis_pushes_go_all_the_same(house_on, provider, tmp_path, until):
    home = house_on(f"sqlite:///{tmp_path / 'ledger.db'}", push="http", push_http_url=provider.url, push_http_key="key")
    away = connect_redis("redis://127.0.0.1:1", timeout=0.1)
    senders = SenderPool(type(home.equipment)(**{**vars(home.equipment), "connection": away}))
    senders.start()
    notify_senders(away, ["http"])
    home.push()
    until(lambda: home.states() == ["sent"])
    senders.stop()


def test_a_clock_that_ends_waits_for_the_answers(house, provider, until):
    home = house()
    provider.works.clear()
    senders = SenderPool(home.equipment)
    senders.start()
    home.push()
    until(lambda: provider.at_once)
    stopping = threading.Thread(target=senders.stop)
    stopping.start()
    provider.works.set()
    stopping.join()
    assert home.states() == ["sent"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_clock_does_not_outlive_a_sender(house, monkeypatch):
    def broken(_sender):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(ChannelSender, "_claim", broken)
    with pytest.raises(RuntimeError, match="pushes-http"):
        Clock(house().equipment).run(threading.Event(), tick=timedelta(milliseconds=50))


def test_a_refusal_for_a_while_can_say_for_how_long(house):
    def busy(_push):
        raise PushFailed("come back later", after=timedelta(minutes=5))

    home = house(Plugins((), (offering(busy),)), push="own")
    home.push()
    send_due(home.equipment)
    assert home.row().due_at > datetime.now(UTC) + timedelta(minutes=4)


def test_the_user_is_in_no_log(house, caplog):
    home = house(push="log")
    home.push(user_id="somebody-we-know")
    assert send_due(home.equipment) == 1
    assert "somebody-we-know" not in caplog.text
