"""Write a new plugin with its settings, its test and its sample events, and name it in `.env`: it runs at once."""

import keyword
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from ingest.errors import SettingsError
from ingest.events import WIRE_NAMES
from ingest.simulator.scenarios import Participants, make_event

ENV_FILE = Path(".env")
SAMPLES = Path("events")
"""The folder of sample events, one JSON a file: `webhooks plugin test` replays them."""
PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
WIRE_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
SAMPLE_AT = datetime(2025, 6, 12, 11, tzinfo=UTC)
SETTING = "HANDLER_MODULES"
IN_ENV_FILE = re.compile(rf"^{SETTING}=(.*)$", re.MULTILINE)

PLUGIN = '''"""Push a text to the driver on {names}."""

from handlers import Context, PluginSettings, {marks}
from ingest.events import {imported}


class {title}Settings(PluginSettings):
    """What `.env` may set: {constant}_TITLE."""

    {name}_title: str = "{words}"


SETTINGS = {title}Settings()
{classes}

@on({events})
def {name}(event: {union}, ctx: Context) -> None:
    """Push one text per session, even if the session is over by then."""
    session = ctx.session(event.session_id)  # tried again with new events, until the driver is known
    ctx.push(
        session.user_id,
        title=SETTINGS.{name}_title,
        body=f"Your session {{event.session_id}}: {{event.name}}.",
        collapse_key=f"{name}:{{event.session_id}}",
        session_id=event.session_id,
        even_if_over=True,
    )
'''
CLASS = '''

@event("{wire_name}")
class {model}(SessionEvent):
    """What Plugsurfing calls {wire_name}; declare its further fields here, and a `sample=` of them above."""
'''
TEST = '''"""The plugin {name}, called without a worker."""

from datetime import UTC, datetime

from handlers.kit.testing import context_for
from handlers.session_records import session_of
from ingest.events import {imported}
from {name} import SETTINGS, {from_plugin}

AT = datetime(2025, 6, 12, 11, tzinfo=UTC)
STARTED = SessionStarted(session_id="S", user_id="driver", at=AT)


def test_the_driver_is_told_once_a_session() -> None:
    """Each event makes the same push, so that the phone shows one."""
    keys = set()
    for event in ({made},):
        ctx = context_for(event, sessions=[session_of(STARTED)])
        {name}(event, ctx)
        (push,) = ctx.writes.pushes
        assert (push.user_id, push.title) == ("driver", SETTINGS.{name}_title)
        keys.add(push.collapse_key)
    assert keys == {{"{name}:S"}}
'''


def write_plugin(name: str, wire_names: Sequence[str], folder: Path) -> list[Path]:
    """Write the files of a plugin that handles these events, and return them. Raise SettingsError; change nothing then.

    A name that this version does not know becomes a class of the plugin's own.
    """
    _check(name, wire_names)
    files = {folder / f"{name}.py": _plugin(name, wire_names), folder / f"test_{name}.py": _test(name, wire_names)}
    for path in files:
        if path.exists():
            raise SettingsError(f"{path} exists already.")
    env_file = folder / ENV_FILE
    env_text = with_module(env_file.read_text("utf-8") if env_file.exists() else "", name)
    for wire_name in wire_names:
        sample = folder / SAMPLES / f"{wire_name}.json"
        if not sample.exists():
            body = make_event(wire_name, Participants("S", "driver"), SAMPLE_AT).body
            files[sample] = body.decode() + "\n"
    files[env_file] = env_text  # the last: a running `dev` loads the plugin now
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(files)


def with_module(env_text: str, name: str) -> str:
    """Return the text of `.env` with the plugin among HANDLER_MODULES."""
    lines = IN_ENV_FILE.findall(env_text)
    if not lines:
        ending = "" if not env_text or env_text.endswith("\n") else "\n"
        return f"{env_text}{ending}{SETTING}={name}\n"
    known = [each.strip() for each in lines[-1].strip().strip("\"'").split(",") if each.strip()]
    if name in known:
        return env_text
    return IN_ENV_FILE.sub(f"{SETTING}={','.join([*known, name])}", env_text)


def _check(name: str, wire_names: Sequence[str]) -> None:
    if not PLUGIN_NAME.fullmatch(name) or keyword.iskeyword(name):
        raise SettingsError(f"{name!r} cannot name a plugin: use small letters, digits and _, at most 60.")
    if name in {"event", "on"} or find_spec(name) is not None:
        raise SettingsError(f"There is a module {name} already: choose another name.")
    wrong = [each for each in wire_names if not WIRE_NAME.fullmatch(each)]
    if wrong or not wire_names:
        raise SettingsError(f"{', '.join(wrong) or 'Nothing'} is no name of a session event, such as SESSION_COMPLETE.")


def _plugin(name: str, wire_names: Sequence[str]) -> str:
    models = list(dict.fromkeys(map(_model, wire_names)))
    own = [each for each in wire_names if each not in WIRE_NAMES]
    imported = {_model(each) for each in wire_names if each in WIRE_NAMES} | ({"SessionEvent"} if own else set())
    classes = "".join(CLASS.format(wire_name=each, model=_model(each)) for each in own)
    return PLUGIN.format(
        name=name,
        names=", ".join(wire_names),
        marks="event, on" if own else "on",
        imported=", ".join(sorted(imported)),
        title=_camel(name),
        constant=name.upper(),
        words=name.replace("_", " ").capitalize(),
        classes=classes,
        events=", ".join(models),
        union=" | ".join(models) if len(models) < 3 else "SessionEvent",  # noqa: PLR2004  what `@on` has overloads for
    )


def _test(name: str, wire_names: Sequence[str]) -> str:
    models = list(dict.fromkeys(map(_model, wire_names)))
    own = [_model(each) for each in wire_names if each not in WIRE_NAMES]
    imported = {*models, "SessionStarted"} - set(own)
    return TEST.format(
        name=name,
        imported=", ".join(sorted(imported)),
        from_plugin=", ".join([*own, name]),
        made=", ".join(_made(models)),
    )


def _made(models: Sequence[str]) -> Iterator[str]:
    for model in models:
        fee = ", fee_will_apply_from=AT" if model == "SessionFeeIncurring" else ""
        yield f'{model}(session_id="S", at=AT{fee})'


def _model(wire_name: str) -> str:
    known = WIRE_NAMES.get(wire_name)
    return _camel(wire_name.lower()) if known is None else known.__name__


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
