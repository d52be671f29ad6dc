import functools
from types import ModuleType

import pytest

from handlers import on, record
from handlers.kit.session import Session
from handlers.kit.subscriptions import subscriptions_of
from ingest.events import Event, SessionComplete, SessionEvent, SessionStarted, UnknownEvent

STARTED = SessionStarted.model_validate({"sessionId": "S", "timestamp": "2025-06-12T10:56:51Z"}, by_alias=True)


def plugin(**functions):
    """A module that holds these functions and defines those made for it by `handler`."""
    module = ModuleType("plugin")
    vars(module).update(functions)
    return module


def handler(name="handle"):
    def function(event, ctx):
        pass

    function.__name__, function.__module__ = name, "plugin"
    return function


def test_a_marked_function_stays_unchanged():
    function = handler()
    assert on(SessionStarted)(function) is function


def test_an_option_that_there_is_not_is_refused_and_not_ignored():
    with pytest.raises(TypeError, match="@on has no option heald; there are queue, name, when, follows_driver, hea"):
        on(SessionComplete, heald=True)


def test_a_subscription_has_all_that_the_worker_needs():
    function = on(SessionStarted, UnknownEvent, queue="urgent")(handler())
    (found,) = subscriptions_of(plugin(function=function))
    assert (found.name, found.plugin, found.queue, found.file) == ("handle", "plugin", "urgent", __file__)
    assert found.events == (SessionStarted, UnknownEvent)
    assert found.function is function
    assert not found.is_async
    assert not found.records


def test_a_handler_may_have_another_name_than_its_function():
    (found,) = subscriptions_of(plugin(function=on(Event, name="thank-you")(handler())))
    assert found.name == "thank-you"


def test_async_handlers_are_marked_as_async():
    async def handle(event, ctx):
        pass

    handle.__module__ = "plugin"
    (found,) = subscriptions_of(plugin(handle=on(Event)(handle)))
    assert found.is_async


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [(SessionStarted, True), (SessionEvent, True), (Event, True), (SessionComplete, False), (UnknownEvent, False)],
)
def test_a_class_includes_its_subclasses(wanted, takes):
    (found,) = subscriptions_of(plugin(function=on(wanted)(handler())))
    assert found.matches(STARTED) is takes


def test_subscriptions_come_in_the_order_of_the_file_and_once():
    one, two = on(Event)(handler("one")), on(Event)(handler("two"))
    found = subscriptions_of(plugin(two=two, one=one, alias=two, unmarked=handler(), word="one"))
    assert [each.name for each in found] == ["two", "one"]


def test_imported_handlers_belong_to_another_plugin():
    imported = on(Event)(handler())
    assert subscriptions_of(plugin(imported=imported)) != []
    assert subscriptions_of(ModuleType("another")) == []
    other = ModuleType("another")
    other.imported = imported
    assert subscriptions_of(other) == []


def test_a_record_is_applied_to_its_session():
    def keep(session, event):
        return Session(session.session_id, users={"a": event.at})

    keep.__module__ = "plugin"
    (found,) = subscriptions_of(plugin(keep=record(SessionEvent)(keep)))
    assert found.records
    assert found.apply(Session.empty("S"), STARTED).users == {"a": STARTED.at}


def test_a_record_that_returns_something_else_is_an_error():
    function = record(SessionEvent)(handler("forgetful"))
    (found,) = subscriptions_of(plugin(function=function))
    with pytest.raises(TypeError, match="@record forgetful must return a Session, not NoneType"):
        found.apply(Session.empty("S"), STARTED)


def test_a_record_that_returns_another_session_is_an_error():
    def stray(_session, _event):
        return Session.empty("another")

    stray.__module__ = "plugin"
    (found,) = subscriptions_of(plugin(stray=record(SessionEvent)(stray)))
    with pytest.raises(TypeError, match="@record stray must return the session that it was given"):
        found.apply(Session.empty("S"), STARTED)


def yielding(_event, _ctx):
    yield


async def yielding_later(_event, _ctx):
    yield


async def waiting(session, _event):
    return session


@pytest.mark.parametrize(
    ("mark", "sentence"),
    [
        (on, "names no event"),
        (record, "names no event"),
        (lambda: on(handler()), r"takes classes of ingest\.events"),
        (lambda: on("SESSION_STARTED"), r"takes classes of ingest\.events"),
        (lambda: on(int), r"takes classes of ingest\.events"),
        (lambda: record(UnknownEvent), r"takes classes of ingest\.events \(SessionEvent\)"),
        (lambda: on(Event)(Session), "marks functions"),
        (lambda: on(Event)(functools.partial(handler())), "marks functions"),
        (lambda: on(Event)(on(Event)(handler())), "handle is marked twice"),
        (lambda: on(Event)(yielding), "yielding yields"),
        (lambda: on(Event)(yielding_later), "yielding_later yields"),
        (lambda: record(SessionEvent)(waiting), "must be a plain function"),
        (lambda: on(Event, name="")(handler()), "cannot name a handler"),
        (lambda: on(Event, name="two words")(handler()), "cannot name a handler"),
        (lambda: on(Event)(lambda _event, _ctx: None), "cannot name a handler"),
    ],
)
def test_an_invalid_marker_is_refused_where_it_is_made(mark, sentence):
    with pytest.raises(TypeError, match=sentence):
        mark()


def test_a_marker_below_another_decorator_is_refused():
    marked = on(Event)(handler())

    @functools.wraps(marked)
    def wrapper(event, ctx):
        return marked(event, ctx)

    with pytest.raises(TypeError, match="handle must stand above its other decorators"):
        subscriptions_of(plugin(handle=wrapper))
