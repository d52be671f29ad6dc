"""Plugins are loaded from the package, entry points and HANDLER_MODULES, or refused with their file."""

import sys
from itertools import count
from textwrap import dedent

import pytest

import handlers
from handlers.kit.session import Session
from ingest.config.settings import load_settings
from ingest.events import (
    ChargingRecord,
    SessionComplete,
    SessionEvent,
    SessionFeeIncurring,
    UnknownEvent,
    decode,
    use_models,
)
from ingest.wire.envelope import Kind
from workers.plugins import PluginError, load_plugins

PLUGIN = """
from handlers import on
from ingest.events import SessionStarted


@on(SessionStarted{options})
def {name}(event, ctx):
    pass
"""
BUILT_IN = ["cdr_record", "warn_the_driver", "session_record"]
COMPLETE = SessionComplete.model_validate({"sessionId": "S", "timestamp": 0}, by_alias=True)
NUMBERS = count()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one; modules imported from it are removed afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def written(folder, name, text):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(dedent(text))
    return file


def new_name():
    """Return a module's name that no test has imported: Python and the loader cache what they have loaded."""
    return f"team_plugins_{next(NUMBERS)}"


def loaded(folder, *modules):
    return load_plugins(load_settings(data_dir=folder, handler_modules=modules))


def refusal(folder, *modules):
    with pytest.raises(PluginError) as raised:
        loaded(folder, *modules)
    sentence = str(raised.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_the_files_in_handlers_are_plugins(folder):
    assert [each.name for each in loaded(folder).subscriptions] == BUILT_IN


def test_the_handlers_of_an_event_are_those_that_match_it(folder):
    plugins = loaded(folder)
    notice = SessionFeeIncurring(session_id="S", at=COMPLETE.at, fee_will_apply_from=COMPLETE.at, fee_type="BLOCKING")
    assert [each.name for each in plugins.handlers_for(notice)] == ["warn_the_driver"]
    assert [each.name for each in plugins.records_for(notice)] == ["session_record"]
    assert plugins.handlers_for(COMPLETE) == ()
    assert plugins.records_for(ChargingRecord()) == ()
    assert plugins.records_for(COMPLETE)[0].events == (SessionEvent,)


def test_a_run_is_found_by_the_name_of_its_function(folder):
    by_name = loaded(folder).by_name
    assert by_name["warn_the_driver"].queue == "urgent"
    assert by_name["session_record"].records


def test_plugins_are_loaded_once(folder):
    assert loaded(folder).subscriptions[0] is loaded(folder).subscriptions[0]


def test_a_module_in_the_current_folder_can_be_named(folder):
    name = new_name()
    file = written(folder, f"{name}.py", PLUGIN.format(name="greet", options=""))
    found = loaded(folder, name).subscriptions[-1]
    assert (found.name, found.plugin, found.file) == ("greet", name, str(file))
    assert sys.path[-1] == str(folder)


def test_a_package_stands_for_the_files_directly_in_it(folder):
    name = new_name()
    for file in ("__init__", "greet", "thank", "_draft"):
        written(folder, f"{name}/{file}.py", "" if file == "__init__" else PLUGIN.format(name=file, options=""))
    written(folder / name, "inner/__init__.py", PLUGIN.format(name="inner", options=""))
    assert [each.name for each in loaded(folder, name).subscriptions] == [*BUILT_IN, "greet", "thank"]


def test_a_module_of_a_package_can_be_named_alone(folder):
    name = new_name()
    for file in ("__init__", "greet", "thank"):
        written(folder, f"{name}/{file}.py", "" if file == "__init__" else PLUGIN.format(name=file, options=""))
    assert [each.name for each in loaded(folder, f"{name}.thank").subscriptions] == [*BUILT_IN, "thank"]


def test_a_plugin_named_twice_counts_once(folder):
    name = new_name()
    written(folder, f"{name}.py", PLUGIN.format(name="greet", options=""))
    assert len(loaded(folder, name, name, "handlers.fee_warning").subscriptions) == len(BUILT_IN) + 1


def test_an_installed_package_names_its_plugins_by_an_entry_point(folder, monkeypatch):
    name = new_name()
    written(folder, f"{name}.py", PLUGIN.format(name="greet", options=""))
    written(folder, f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    written(folder, f"{name}-1.0.dist-info/entry_points.txt", f"[plugsurfing_webhooks.handlers]\nours = {name}\n")
    monkeypatch.syspath_prepend(folder)
    # A module named besides, so that what the loader remembers is not what this test is told.
    assert [each.name for each in loaded(folder, "handlers.fee_warning").subscriptions] == [*BUILT_IN, "greet"]


def test_the_plugin_of_the_documentation_works(folder):
    name = new_name()
    lines = handlers.__doc__.splitlines()
    plugin = "\n".join(line for line in lines if not line or line.startswith("    "))
    written(folder, f"{name}.py", plugin)
    found = loaded(folder, name).subscriptions[-1]
    assert found.name == "thank_the_driver"
    assert found.matches(COMPLETE)


@pytest.mark.parametrize(
    ("text", "place", "cause"),
    [
        ("def broken(:\n", "line 1", "SyntaxError: invalid syntax"),
        ("\nimport plugsurfing_nonsense\n", "line 2", "ModuleNotFoundError: No module named 'plugsurfing_nonsense'"),
        ("from handlers import nonsense\n", "line 1", "ImportError: cannot import name 'nonsense'"),
        ("raise RuntimeError('two\\nlines.')", "line 1", "RuntimeError: two lines"),
        ("raise KeyError", "line 1", "KeyError"),
        ("import sys\nsys.exit(0)", "line 2", "SystemExit: 0"),
        ("from handlers import on\n\n@on()\ndef f(event, ctx): ...", "line 3", "TypeError: @on() names no event"),
        ("from handlers import on\n\n@on\ndef f(event, ctx): ...", "line 3", "TypeError: @on takes classes of"),
        ("raise ValueError('x' * 1000)", "line 1", "xxx…"),
        ("'\0'", "", "SyntaxError: source code"),
    ],
)
@pytest.mark.parametrize("path", ["{}.py", "{}/__init__.py"])
def test_a_broken_plugin_is_named_with_its_file_and_the_cause(folder, text, place, cause, path):
    name = new_name()
    file = written(folder, path.format(name), text)
    sentence = refusal(folder, name)
    assert sentence.startswith(f"{file}{place and ', '}{place}")
    assert "cannot be loaded: " in sentence
    assert cause in sentence
    assert len(sentence) < len(str(file)) + 400


def test_a_plugin_in_a_broken_package_names_the_file_of_the_package(folder):
    name = new_name()
    file = written(folder, f"{name}/__init__.py", "'\0'")
    written(folder, f"{name}/greet.py", "")
    assert refusal(folder, f"{name}.greet").startswith(f"{file} cannot be loaded")


@pytest.mark.parametrize("module", ["no_such_module", "no_such.module", "json.no_such_module"])
def test_a_missing_module_is_named_with_the_setting_and_the_folder(folder, module):
    assert refusal(folder, module) == (
        f"HANDLER_MODULES names {module}, which is neither installed nor a file in {folder}."
    )


def test_a_name_that_cannot_be_a_module_is_refused(folder):
    assert refusal(folder, ".relative").startswith(".relative cannot be loaded: TypeError")


def test_two_equal_names_are_named_with_both_files(folder):
    one, two = new_name(), new_name()
    files = [written(folder, f"{name}.py", PLUGIN.format(name="greet", options="")) for name in (one, two)]
    assert refusal(folder, one, two) == (
        f"{files[0]} and {files[1]} both have a handler named greet: give one of them another name."
    )


def test_a_handler_may_not_be_named_like_a_record(folder):
    name = new_name()
    written(folder, f"{name}.py", PLUGIN.format(name="session_record", options=""))
    assert "session_records.py and " in refusal(folder, name)


def test_a_handler_imported_by_another_plugin_counts_once(folder):
    one, two = new_name(), new_name()
    written(folder, f"{one}.py", PLUGIN.format(name="greet", options=""))
    written(folder, f"{two}.py", f"from {one} import greet\n")
    assert [each.plugin for each in loaded(folder, one, two).subscriptions][len(BUILT_IN) :] == [one]


def test_an_unknown_queue_is_refused(folder):
    name = new_name()
    file = written(folder, f"{name}.py", PLUGIN.format(name="greet", options=", queue='speedy'"))
    assert refusal(folder, name) == (
        f"{file}, line 6: greet wants the queue speedy; there are urgent, sessions, cdrs, other, background."
    )


def test_a_mark_below_another_decorator_is_refused_with_its_file(folder):
    name = new_name()
    file = written(
        folder,
        f"{name}.py",
        PLUGIN.format(name="greet", options="")
        + "\nimport functools\nbelow = functools.wraps(greet)(lambda *_: None)\n",
    )
    assert refusal(folder, name).startswith(f"{file} cannot be used: the mark of greet must stand above")


def test_templates_that_cannot_be_rendered_are_refused(folder):
    file = folder / "words" / "de" / "fee_warning.txt"
    file.parent.mkdir(parents=True)
    file.write_text("Achtung\n{{ price }} fällig.\n", encoding="utf-8")
    with pytest.raises(PluginError, match="'price' is undefined") as raised:
        load_plugins(load_settings(data_dir=folder, templates_dir=folder / "words"))
    assert str(file) in str(raised.value)
    only_shown = load_plugins(load_settings(data_dir=folder, templates_dir=folder / "words"), renders=False)
    assert "warn_the_driver" in only_shown.by_name


def test_a_handler_that_the_settings_turn_off_only_finishes_its_runs(folder):
    without = loaded(folder)
    assert "remind_the_driver" not in [each.name for each in without.subscriptions]
    assert "remind_the_driver" in without.by_name
    wanted = load_plugins(load_settings(data_dir=folder, remind_before="2m"))
    assert "remind_the_driver" in [each.name for each in wanted.subscriptions]


PAUSED = """
from handlers import event, on
from ingest.events import SessionEvent

{mark}
class SessionPaused(SessionEvent):
    reason: str

@on(SessionPaused)
def resume(event, ctx):
    pass
"""
PAUSED_BODY = b'{"event": "SESSION_PAUSED", "payload": {"sessionId": "S", "timestamp": 0, "reason": "GRID"}}'


@pytest.fixture
def known_again():
    """Leave the events of other tests as they were."""
    yield
    use_models({})


def test_an_event_of_a_plugins_own_is_decoded_handled_and_recorded(folder, known_again):
    name = new_name()
    mark = '@event("SESSION_PAUSED", status="PAUSED", sample={"reason": "GRID"})'
    written(folder, f"{name}.py", PAUSED.format(mark=mark))
    assert isinstance(decode(Kind.EVENTS, PAUSED_BODY), UnknownEvent)
    plugins = loaded(folder, name)
    event = decode(Kind.EVENTS, PAUSED_BODY)
    assert (type(event).__name__, event.name, event.reason) == ("SessionPaused", "SESSION_PAUSED", "GRID")
    assert [each.name for each in plugins.handlers_for(event)] == ["resume"]
    (record,) = plugins.records_for(event)
    assert record.apply(Session.empty("S"), event).status == "PAUSED"
    assert type(event)(session_id="S", at=event.at, reason="GRID").name == "SESSION_PAUSED"
    assert SessionEvent.model_fields["name"].default == ""


def test_without_its_plugin_an_event_is_unknown_again(folder, known_again):
    name = new_name()
    written(folder, f"{name}.py", PAUSED.format(mark='@event("SESSION_PAUSED", sample={"reason": ""})'))
    loaded(folder, name)
    loaded(folder)
    assert isinstance(decode(Kind.EVENTS, PAUSED_BODY), UnknownEvent)


def test_a_class_that_no_event_is_decoded_as_is_refused_with_its_handler(folder):
    name = new_name()
    file = written(folder, f"{name}.py", PAUSED.format(mark="# no mark"))
    assert refusal(folder, name) == (
        f"{file}, line 9: resume handles SessionPaused, and no event is one:"
        ' mark the class with @event("…"), the name that Plugsurfing sends.'
    )


def test_an_event_that_is_not_one_of_its_own_sample_is_refused(folder):
    name = new_name()
    file = written(folder, f"{name}.py", PAUSED.format(mark='@event("SESSION_PAUSED")'))
    assert refusal(folder, name) == (
        f"{file}, line 5, SessionPaused is no event of its own sample: reason is missing."
        ' Complete @event("SESSION_PAUSED", sample={…}).'
    )


def test_two_classes_of_one_name_are_named_with_both_files(folder):
    one, two = new_name(), new_name()
    text = PAUSED.format(mark='@event("SESSION_PAUSED", sample={"reason": ""})')
    files = [
        written(folder, f"{one}.py", text),
        written(folder, f"{two}.py", text.replace("def resume", "def again")),
    ]
    places = [f"{file}, line 5, SessionPaused" for file in files]
    assert refusal(folder, one, two) == (
        f"{places[0]} and {places[1]} are both events of the name SESSION_PAUSED: remove one of them."
    )


@pytest.mark.parametrize(
    ("mark", "cause"),
    [
        ('@event("SESSION_STARTED")', "SESSION_STARTED is known already: handle SessionStarted"),
        ('@event("")', "'' cannot name an event"),
    ],
)
def test_an_event_of_no_new_name_is_refused_with_its_line(folder, mark, cause):
    name = new_name()
    file = written(folder, f"{name}.py", PAUSED.format(mark=mark))
    assert refusal(folder, name) == f"{file}, line 5, cannot be loaded: TypeError: {cause}" + (
        ": use 1 to 200 characters." if "''" in cause else "."
    )


@pytest.mark.parametrize(
    ("signature", "called"),
    [
        ("@on(SessionComplete)\ndef f(event): ...", "f(event) cannot be called with (event, ctx), as @on does"),
        ("@on(SessionComplete)\nasync def f(): ...", "f() cannot be called with (event, ctx), as @on does"),
        ("@on(SessionComplete)\ndef f(event, ctx, log): ...", "f(event, ctx, log) cannot be called with (event, ctx)"),
        ("@on(SessionComplete)\ndef f(event, *, ctx): ...", "f(event, *, ctx) cannot be called with (event, ctx)"),
        ("@record(SessionComplete)\ndef f(event): ...", "f(event) cannot be called with (session, event)"),
        ("@authorize()\ndef f(request): ...", "f(request) cannot be called with (request, ctx), as @authorize"),
        ("@channel('sms')\ndef f(push, user): ...", "f(push, user) cannot be called with (push), as @channel"),
        ("@devices\ndef f(): ...", "f() cannot be called with (user_id), as @devices does"),
    ],
)
def test_a_function_with_other_arguments_is_refused_with_its_line(folder, signature, called):
    name = new_name()
    file = written(
        folder,
        f"{name}.py",
        f"from handlers import authorize, channel, devices, on, record\n"
        f"from ingest.events import SessionComplete\n{signature}\n",
    )
    sentence = refusal(folder, name)
    assert sentence.startswith(f"{file}, line 3, cannot be loaded: TypeError: {called}")


def test_a_function_may_have_further_arguments_that_need_no_value(folder):
    name = new_name()
    text = PLUGIN.format(name="greet", options="").replace("(event, ctx)", "(event, ctx, *, greeting='Hi')")
    written(folder, f"{name}.py", text)
    assert loaded(folder, name).subscriptions[-1].name == "greet"


@pytest.mark.parametrize("path", ["{}.py", "{}/__init__.py"])
def test_a_module_that_marks_nothing_is_refused(folder, path):
    name = new_name()
    file = written(folder, path.format(name), "def thank(event, ctx): ...\n")
    assert refusal(folder, name) == (
        f"{file}, which HANDLER_MODULES names, marks nothing: write for instance @on(SessionComplete) above a handler."
    )


def test_a_module_with_nothing_but_an_event_is_a_plugin(folder, known_again):
    name = new_name()
    text = PAUSED.format(mark='@event("SESSION_PAUSED", sample={"reason": ""})').partition("@on")[0]
    written(folder, f"{name}.py", text)
    loaded(folder, name)
    assert type(decode(Kind.EVENTS, PAUSED_BODY)).__name__ == "SessionPaused"
