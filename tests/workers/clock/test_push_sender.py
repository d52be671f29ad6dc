"""Pushes are sent at once, in time and once, whatever a provider, a session or a crash does."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import update
from starlette.responses import Response

from handlers import Device
from handlers.kit.channel import ChannelPlugin, DeviceRegistryPlugin, PushFailed
from handlers.kit.session import Session, StatusTimes
from ingest.queue.batch import Delivery
from ingest.queue.redis_client import connect_redis
from workers.clock import push_sender
from workers.clock.clock import Clock
from workers.clock.push_sender import ChannelSender, SenderPool, send_due
from workers.ledger import deliveries, pushes, sessions
from workers.ledger.states import DeliveryState, PushState
from workers.ledger.tables.core_tables import pushes as push_table
from workers.observability import work_metrics
from workers.observability.redis_metrics import SharedCollector, SharedCounts
from workers.plugins import Plugins
from workers.push import flow_control
from workers.push.attempt import attempt
from workers.push.flow_control import FlowControl
from workers.push.notify import notify_senders
from workers.resilience.circuit_breaker import CircuitBreaker

DOWN = Response(status_code=503)
SOON = timedelta(minutes=10)


def channel_of(function: Callable[..., object], name: str = "own", *, to_devices: bool = False) -> ChannelPlugin:
    return ChannelPlugin(function, name, to_devices)


def set_status(node, session_id: str, status: str) -> None:
    at = datetime.now(UTC)
    with node.resources.engine.begin() as ledger:
        sessions.merge(
            ledger,
            {session_id: lambda old: Session(old.session_id, {status: StatusTimes(at, at, frozenset({"event"}))})},
        )


def test_how_pushes_end_and_how_long_after_their_events_they_are_sent_is_counted(push_node, monkeypatch):
    monkeypatch.setattr(work_metrics, "COUNTS", SharedCounts())

    def send(push):
        if push.title == "refused":
            raise PushFailed("never", retryable=False)

    node = push_node(Plugins((), (channel_of(send),)), push="own")
    received_at = datetime.now(UTC) - timedelta(minutes=2)
    arrived = Delivery("d1", "events", None, None, received_at, "current", None, {}, b"{}", 1, "here")
    with node.resources.engine.begin() as ledger:
        deliveries.store(ledger, [arrived], {"d1": (DeliveryState.RUNNING, None)})
    node.push(1)
    node.push(2, title="refused")
    node.push(3, expires_at=datetime.now(UTC) - SOON)
    send_due(node.resources)
    work_metrics.flush(node.resources.connection)
    found = SharedCollector(node.resources.connection, work_metrics.METRICS).collect()
    numbers = {(each.name, *each.labels.values()): each.value for family in found for each in family.samples}
    for state in ("sent", "dead", "expired"):
        assert numbers["webhooks_pushes_total", "own", state] == 1
    assert numbers["webhooks_push_sent_seconds_bucket", "own", "60.0"] == 0
    assert numbers["webhooks_push_sent_seconds_bucket", "own", "300.0"] == 1


def test_pushes_are_sent_concurrently_up_to_the_limit(push_node, provider, until, monkeypatch):
    monkeypatch.setattr(flow_control, "SLOW_AFTER", timedelta(hours=1))
    node = push_node(push_concurrency=4)
    for number in range(12):
        node.push(number)
    provider.is_working.clear()
    sending = threading.Thread(target=send_due, args=(node.resources,))
    sending.start()
    until(lambda: provider.in_flight == 4)
    provider.is_working.set()
    sending.join()
    assert provider.max_in_flight == 4
    assert node.states() == ["sent"] * 12


def test_a_slow_response_delays_no_other_push(push_node, provider, until):
    slow = threading.Event()

    def send(push):
        if push.title == "slow":
            slow.wait(20)

    node = push_node(Plugins((), (channel_of(send),)), push="own", push_concurrency=2)
    node.push(0, title="slow", created_at=datetime.now(UTC) - SOON)
    for number in range(1, 20):
        node.push(number)
    sending = threading.Thread(target=send_due, args=(node.resources,))
    sending.start()
    until(lambda: node.states().count("sent") == 19)
    slow.set()
    sending.join()
    assert node.states() == ["sent"] * 20


def run_in_background(sender):
    """Run a sender, and return what stops it."""
    stop = threading.Event()
    running = threading.Thread(target=sender.run, args=(stop,))
    running.start()

    def end():
        stop.set()
        sender.wake()
        running.join()

    return end


def test_a_channel_that_hangs_has_bounded_calls_and_loses_no_push(push_node, until, monkeypatch):
    monkeypatch.setattr(flow_control, "SLOW_FACTOR", 3)
    ends = threading.Event()
    started = []

    def hang(push):
        started.append(push.id)
        ends.wait(20)

    node = push_node(Plugins((), (channel_of(hang),)), push="own", push_concurrency=2, push_timeout="20s")
    for number in range(12):
        node.push(number)
    end = run_in_background(ChannelSender(node.resources, "own"))
    until(lambda: len(started) >= 6)
    assert node.states() == ["waiting"] * 12
    assert len(started) <= 8
    ends.set()
    until(lambda: node.states() == ["sent"] * 12)
    end()


def test_a_push_of_an_ended_session_is_not_sent(push_node, provider):
    node = push_node()
    for number, status in enumerate(["STARTED", "STOPPED", "COMPLETE", "START_FAILED", "STOP_FAILED"]):
        set_status(node, f"s-{status}", status)
        node.push(number, session_id=f"s-{status}")
    send_due(node.resources)
    sent = {row.session_id for row in node.rows(state=PushState.SENT)}
    assert sent == {"s-STARTED", "s-STOP_FAILED"} == {body["session_id"] for body in provider.bodies}
    assert {row.error for row in node.rows(state=PushState.MOOT)} == {"the session is over"}


def test_a_session_that_ends_cancels_its_waiting_push(push_node, provider, until):
    node = push_node(retry_first="600ms")
    provider.respond_with(DOWN)
    node.push(session_id="s1")
    send_due(node.resources)
    assert node.row().state is PushState.WAITING
    set_status(node, "s1", "STOPPED")
    until(lambda: send_due(node.resources) == 0 and node.row().state is PushState.MOOT)
    assert len(provider.bodies) == 1


def test_an_expired_push_is_not_sent(push_node, provider):
    node = push_node()
    node.push(expires_at=datetime.now(UTC))
    send_due(node.resources)
    assert node.row().state is PushState.EXPIRED
    assert provider.bodies == []


def test_of_two_pushes_with_one_collapse_key_only_the_newer_is_sent(push_node, provider):
    node = push_node()
    at = datetime.now(UTC)
    node.push(1, collapse_key="fee", title="12:00", created_at=at - SOON)
    node.push(2, collapse_key="fee", title="12:15", user_id="driver-1", created_at=at)
    node.push(3, collapse_key="fee", title="12:30", user_id="driver-2", created_at=at - SOON)
    send_due(node.resources)
    assert sorted(body["title"] for body in provider.bodies) == ["12:15", "12:30"]
    assert node.states() == ["moot", "sent", "sent"]


def test_a_push_without_expiry_is_dead_after_the_last_attempt(push_node, provider, until):
    node = push_node(retry_attempts=3)
    provider.answer = lambda _body: DOWN
    node.push()
    until(lambda: send_due(node.resources) == 0 and node.row().state is PushState.DEAD)
    assert (node.row().attempts, len(provider.bodies)) == (3, 3)


def test_a_push_with_expiry_is_retried_until_then(push_node, provider, until):
    node = push_node(retry_attempts=1)
    provider.answer = lambda _body: DOWN
    node.push(expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    sender = ChannelSender(node.resources, "http")
    until(lambda: sender.send_due() == 0 and node.row().state is PushState.EXPIRED)
    assert node.row().attempts > 1


def impatient_flow(pause):
    """Return flow control whose circuit breaker opens after five failures, at once."""
    return FlowControl(10, breaker=CircuitBreaker(pause=timedelta(milliseconds=pause)))


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_provider_that_refuses_everything_loses_no_push(push_node, provider, until, status):
    node = push_node(push_concurrency=10, retry_attempts=1)
    provider.answer = lambda _body: Response(status_code=status)
    for number in range(30):
        node.push(number, expires_at=datetime.now(UTC) + SOON)
    end = run_in_background(ChannelSender(node.resources, "http", flow=impatient_flow(pause=50)))
    until(lambda: {body["id"] for body in provider.bodies} == {row.id for row in node.rows()})
    until(lambda: all(row.error for row in node.rows()))
    assert node.states() == ["waiting"] * 30
    provider.answer = lambda _body: Response(status_code=200)
    until(lambda: node.states() == ["sent"] * 30)
    end()


def test_an_open_circuit_is_probed_with_the_push_that_expires_first(push_node, provider, until):
    node = push_node(push_concurrency=10, retry_first="200ms")
    provider.answer = lambda _body: DOWN
    for number in range(8):
        node.push(number, expires_at=datetime.now(UTC) + SOON * (9 - number))
    end = run_in_background(ChannelSender(node.resources, "http", flow=impatient_flow(pause=1500)))
    until(lambda: len(provider.bodies) >= 9)
    end()
    tried = [body["expires_at"] for body in provider.bodies]
    assert tried[8] == min(tried[:8])


def test_an_open_circuit_lets_new_pushes_try(push_node, provider, until):
    node = push_node(retry_first="1h", retry_longest="1h")
    provider.answer = lambda body: DOWN if body["title"] == "fails" else Response(status_code=200)
    sender = ChannelSender(node.resources, "http", flow=impatient_flow(pause=3_600_000))
    for number in range(8):
        node.push(number, title="fails")
    until(lambda: sender.send_due() == 0 and len(provider.bodies) == 8)
    node.push(9, title="works")
    assert sender.send_due() == 1


@pytest.mark.parametrize("status", [400, 401, 429, 503])
def test_recipients_that_fail_before_all_others_delay_nobody(push_node, provider, until, status):
    node = push_node(retry_first="1m")
    provider.answer = lambda body: Response(status_code=status if body["title"] == "fails" else 200)
    for number in range(60):
        node.push(number, title="fails" if number < 25 else "works", expires_at=datetime.now(UTC) + SOON)
    end = run_in_background(ChannelSender(node.resources, "http"))
    until(lambda: node.states().count("sent") == 35)
    end()


def test_recipients_that_hang_before_all_others_delay_nobody(push_node, until):
    ends = threading.Event()
    plugins = Plugins((), (channel_of(lambda push: push.title == "hangs" and ends.wait(60)),))
    node = push_node(plugins, push="own", push_concurrency=5, push_timeout="60s")
    for number in range(30):
        node.push(number, title="hangs" if number < 12 else "works", expires_at=datetime.now(UTC) + SOON)
    end = run_in_background(ChannelSender(node.resources, "own"))
    until(lambda: node.states().count("sent") == 18)
    ends.set()
    end()


def test_a_failing_recipient_is_not_called_for_each_of_its_pushes(push_node, provider, until):
    node = push_node(retry_first="10m", retry_longest="1h")
    provider.answer = lambda body: DOWN if body["user_id"] == "fleet" else Response(status_code=200)
    sender = ChannelSender(node.resources, "http")
    node.push(0, user_id="fleet")
    sender.send_due()
    for number in range(1, 20):
        node.push(number, user_id="fleet")
    node.push(20)
    until(lambda: sender.send_due() or all(row.attempts for row in node.rows()))
    assert [body["user_id"] for body in provider.bodies] == ["fleet", "driver-20"]
    assert all(row.due_at > datetime.now(UTC) + timedelta(minutes=4) for row in node.rows(person="fleet"))


def test_a_plugin_that_breaks_is_retried_and_its_text_is_not_logged(push_node, caplog):
    def broken(push):
        raise KeyError(push.user_id)

    node = push_node(Plugins((), (channel_of(broken),)), push="own", retry_first="1m")
    node.push()
    send_due(node.resources)
    row = node.row()
    assert (row.state, row.error) == (PushState.WAITING, "the channel broke: KeyError")
    assert "driver-1" not in caplog.text


def test_a_registry_that_breaks_loses_no_push(push_node, until):
    sent = []
    answers = iter([KeyError("driver-1"), "nonsense", [Device("token")]])

    def registry(user_id):
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    channel = channel_of(lambda push: sent.append(push.device.token), to_devices=True)
    node = push_node(Plugins((), (channel,), DeviceRegistryPlugin(registry)), push="own")
    node.push()
    until(lambda: send_due(node.resources))
    assert sent == ["token"]
    assert node.row().attempts == 3


def test_a_registry_that_hangs_takes_its_slots_and_loses_no_push(push_node, until):
    ends = threading.Event()
    started, sent = [], []

    def registry(user_id):
        started.append(user_id)
        ends.wait(20)
        return [Device("token")]

    channel = channel_of(lambda push: sent.append(push.id), to_devices=True)
    plugins = Plugins((), (channel,), DeviceRegistryPlugin(registry))
    node = push_node(plugins, push="own", push_concurrency=2, push_timeout="50ms")
    for number in range(6):
        node.push(number)
    end = run_in_background(ChannelSender(node.resources, "own"))
    until(lambda: len(started) >= 6)
    assert node.states() == ["waiting"] * 6
    ends.set()
    until(lambda: node.states() == ["sent"] * 6)
    end()
    assert len(sent) == 6


def test_a_device_that_hangs_does_not_delay_the_others(push_node):
    ends = threading.Event()

    def send(push):
        if push.device.token == "hangs":
            ends.wait(20)

    registry = DeviceRegistryPlugin(lambda _user: [Device("hangs"), Device("works")])
    plugins = Plugins((), (channel_of(send, to_devices=True),), registry)
    node = push_node(plugins, push="own", push_timeout="1s", retry_first="1m")
    node.push()
    send_due(node.resources)
    row = node.row()
    ends.set()
    assert (row.state, list(row.told.values())) == (PushState.WAITING, [True])
    assert row.error == "there was no answer in time"


def test_a_push_claimed_by_a_process_that_died_is_sent_again_with_the_same_key(push_node_on, provider, database_url):
    node = push_node_on(database_url, push="http", push_http_url=provider.url, push_http_key="key")
    push_id = node.push()
    with node.resources.engine.begin() as ledger:  # as a clock does that dies before it marks the push
        assert pushes.claim(ledger, "http", datetime.now(UTC), timedelta(hours=1), limit=1)
    assert send_due(node.resources) == 0
    with node.resources.engine.begin() as ledger:  # the hour is over
        ledger.execute(update(push_table).values(due_at=datetime.now(UTC)))
    assert send_due(node.resources) == 1
    assert [headers["idempotency-key"] for headers in provider.headers] == [push_id]


@pytest.fixture
def short_leases(monkeypatch):
    """Shorten the lease and its renewal to less than a second."""
    for name, span in {"LEASE": 0.5, "LEASE_RENEWAL": 0.05, "POLL_INTERVAL": 0.05}.items():
        monkeypatch.setattr(push_sender, name, timedelta(seconds=span))


def test_a_push_in_flight_for_longer_than_its_lease_is_not_sent_by_another_clock(
    push_node_on, database_url, short_leases, until
):
    started, ends = [], threading.Event()

    def send(push):
        started.append(push.id)
        ends.wait(20)

    node = push_node_on(database_url, Plugins((), (channel_of(send),)), push="own")
    node.push()
    one, other = (threading.Thread(target=send_due, args=(node.resources,)) for _ in range(2))
    one.start()
    until(lambda: started)
    claimed_until = node.row().due_at
    other.start()
    until(lambda: node.row().due_at > claimed_until + 2 * push_sender.LEASE)
    ends.set()
    for each in (one, other):
        each.join()
    assert len(started) == 1
    assert node.states() == ["sent"]


def test_a_push_in_flight_is_not_claimed_again_by_a_sender_that_could_not_renew(push_node, until, monkeypatch):
    monkeypatch.setattr(push_sender, "LEASE_RENEWAL", timedelta(hours=1))
    started, ends = [], threading.Event()

    def send(push):
        started.append(push.title)
        ends.wait(20)

    node = push_node(Plugins((), (channel_of(send),)), push="own")
    node.push(title="in flight")
    clock = threading.Thread(target=send_due, args=(node.resources,))
    clock.start()
    until(lambda: started)
    claimed_until = node.row().due_at
    until(lambda: node.row().due_at > claimed_until)
    with node.resources.engine.begin() as ledger:  # its lease runs out without a renewal
        ledger.execute(update(push_table).values(due_at=datetime.now(UTC) - SOON))
    node.push(2, title="another")
    until(lambda: "another" in started)
    ends.set()
    clock.join()
    assert started == ["in flight", "another"]
    assert [row.attempts for row in node.rows()] == [1, 1]


def test_an_attempt_that_breaks_before_its_channel_is_called_is_repeated(
    push_node, provider, short_leases, until, monkeypatch
):
    def break_once(*arguments):
        monkeypatch.setattr(push_sender, "attempt", attempt)
        raise RuntimeError("a fault of ours")

    node = push_node()
    node.push()
    monkeypatch.setattr(push_sender, "attempt", break_once)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sender = ChannelSender(node.resources, "http")
    until(lambda: sender.send_due() or node.states() == ["sent"])
    assert len(provider.bodies) == 1


def test_two_clocks_send_each_push_once(push_node_on, provider, database_url):
    node = push_node_on(database_url, push="http", push_http_url=provider.url, push_http_key="key")
    for number in range(60):
        node.push(number)
    clocks = [threading.Thread(target=send_due, args=(node.resources,)) for _ in range(3)]
    for each in clocks:
        each.start()
    for each in clocks:
        each.join()
    assert node.states() == ["sent"] * 60
    assert len(provider.bodies) == 60


def test_no_transaction_is_open_while_a_push_is_sent(push_node):
    written = []

    def send(push):
        with node.resources.engine.begin() as ledger:  # would wait, on SQLite, for any other that is open
            written.append(pushes.find(ledger)[0].attempts)

    node = push_node(Plugins((), (channel_of(send),)), push="own")
    node.push()
    assert send_due(node.resources) == 1
    assert written == [1]


def test_the_clock_sends_on_every_channel_although_one_hangs(push_node, provider, other_provider, until):
    ends = threading.Event()
    plugins = Plugins((), (channel_of(lambda _push: ends.wait(20)),))
    node = push_node(plugins, push="own,http", push_concurrency=3)
    stop = threading.Event()
    ticks = []
    clock = Clock(node.resources)
    clock.sweep = lambda: ticks.append(time.monotonic())
    running = threading.Thread(target=clock.run, args=(stop,), kwargs={"tick": timedelta(milliseconds=20)})
    running.start()
    for number in range(10):
        node.push(number)
    notify_senders(node.resources.connection, node.resources.channels)
    until(lambda: len(provider.bodies) == 10)
    before = len(ticks)
    until(lambda: len(ticks) > before + 5)
    assert [row.state for row in node.rows() if row.channel == "own"] == [PushState.WAITING] * 10
    ends.set()
    stop.set()
    running.join()


def test_a_look_for_unneeded_pushes_that_takes_long_is_not_repeated_at_once(push_node, provider, until, monkeypatch):
    """It holds the ledger's write lock: of 100,000 due pushes for a fifth of each second."""
    looks = []

    def slow(_ledger, _channel, _now):
        looks.append(time.monotonic())
        time.sleep(0.2)
        return {}

    monkeypatch.setattr("workers.ledger.pushes.expire_unneeded", slow)
    monkeypatch.setattr("workers.clock.push_sender.POLL_INTERVAL", timedelta(milliseconds=1))
    node = push_node()
    senders = SenderPool(node.resources)
    senders.start()
    for number in range(20):
        node.push(number)
        until(lambda number=number: len(provider.bodies) == number + 1)
    senders.stop()
    assert all(later - earlier > 1 for earlier, later in pairwise(looks))
    assert looks


def test_a_push_is_sent_as_soon_as_a_worker_notifies(push_node, provider, until, monkeypatch):
    monkeypatch.setattr("workers.clock.push_sender.POLL_INTERVAL", timedelta(hours=1))
    node = push_node()
    senders = SenderPool(node.resources)
    senders.start()
    for number in range(3):
        node.push(number)
        notify_senders(node.resources.connection, node.resources.channels)
        until(lambda number=number: len(provider.bodies) == number + 1)
    senders.stop()


def test_without_redis_pushes_are_sent_by_polling(push_node_on, provider, tmp_path, until):
    node = push_node_on(
        f"sqlite:///{tmp_path / 'ledger.db'}", push="http", push_http_url=provider.url, push_http_key="key"
    )
    away = connect_redis("redis://127.0.0.1:1", timeout=0.1)
    senders = SenderPool(type(node.resources)(**{**vars(node.resources), "connection": away}))
    senders.start()
    notify_senders(away, ["http"])
    node.push()
    until(lambda: node.states() == ["sent"])
    senders.stop()


def test_a_clock_that_ends_waits_for_pushes_in_flight(push_node, provider, until):
    node = push_node()
    provider.is_working.clear()
    senders = SenderPool(node.resources)
    senders.start()
    node.push()
    until(lambda: provider.in_flight)
    stopping = threading.Thread(target=senders.stop)
    stopping.start()
    provider.is_working.set()
    stopping.join()
    assert node.states() == ["sent"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_clock_ends_when_a_sender_thread_dies(push_node, monkeypatch):
    def broken(_sender):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(ChannelSender, "_claim", broken)
    with pytest.raises(RuntimeError, match="pushes-http"):
        Clock(push_node().resources).run(threading.Event(), tick=timedelta(milliseconds=50))


def test_a_retryable_failure_can_name_its_delay(push_node):
    def busy(_push):
        raise PushFailed("come back later", after=timedelta(minutes=5))

    node = push_node(Plugins((), (channel_of(busy),)), push="own")
    node.push()
    send_due(node.resources)
    assert node.row().due_at > datetime.now(UTC) + timedelta(minutes=4)


def test_the_user_is_not_logged(push_node, caplog):
    node = push_node(push="log")
    node.push(user_id="somebody-we-know")
    assert send_due(node.resources) == 1
    assert "somebody-we-know" not in caplog.text
