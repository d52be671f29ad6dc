"""Write a new plugin with its settings, its test and its sample events, and name it in `.env`: it runs at once."""

import keyword
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from handlers.kit.plugin_tables import NAME as NAME_WITH_TABLES
from ingest.errors import SettingsError
from ingest.events import CHARGING_RECORD, WIRE_NAMES
from ingest.simulator.scenarios import Participants, make_event
from workers.dev.plugin_reload import MIGRATIONS_SUFFIX

ENV_FILE = Path(".env")
SAMPLES = Path("events")
"""The folder of sample events, one JSON a file: `webhooks plugin test` replays them."""
PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
USED_NAMES = {
    "context_for",
    "ctx",
    "event",
    "insert",
    "keys",
    "on",
    "push",
    "row",
    "session",
    "session_of",
    "timedelta",
}
"""What a plugin and its test call something else."""
WIRE_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
SAMPLE_AT = datetime(2025, 6, 12, 11, tzinfo=UTC)
HANDLER_MODULES = "HANDLER_MODULES"
MOST_TYPED = 6
"""Events of one handler whose types `@on` tells a type checker."""
IN_ENV_FILE = re.compile(rf"^{HANDLER_MODULES}=(.*)$", re.MULTILINE)

PLUGIN = '''"""Push a text to the driver on {names}."""

{imports}


class {title}Settings(PluginSettings):
    """What `.env` may set: {constant}_TITLE."""

    {name}_title: str = "{words}"


SETTINGS = {title}Settings()
{tables}{classes}

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
{write}'''
IMPORTS = """from handlers import Context, PluginSettings, {marks}
from ingest.events import {imported}"""
IMPORTS_WITH_TABLE = """from datetime import timedelta
from pathlib import Path

from handlers import Context, PluginSettings, PluginTables, {marks}
from handlers.kit.column_types import BinaryCollatedText, UtcDateTime
from ingest.events import {imported}
from sqlalchemy import Column, Index
from sqlalchemy.dialects.postgresql import insert"""
TABLE = """
# Change it together with a new migration beside the first; `webhooks plugin test` compares them.
TABLES = PluginTables("{name}", migrations=Path(__file__).with_name("{name}_migrations"))
TOLD = TABLES.table(
    "{table}",
    Column("session_id", BinaryCollatedText, primary_key=True),
    Column("user_id", BinaryCollatedText, nullable=False),
    Column("told_at", UtcDateTime, nullable=False),
    Index("{table}_at", "told_at"),
    session="session_id",
    user="user_id",
    at="told_at",
    keep_for=timedelta(days=90),
)
RECORD = insert(TOLD).on_conflict_do_nothing()  # PostgreSQL's syntax is also SQLite's
"""
WRITE = """    ctx.write(RECORD, {{"session_id": event.session_id, "user_id": session.user_id, "told_at": ctx.now()}})
"""
MIGRATION = '''"""Create the table of the plugin {name}. The next one is 0002, with `down_revision = "0001"`."""

from alembic import op
from handlers.kit.column_types import BinaryCollatedText, UtcDateTime
from sqlalchemy import Column

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table and its index."""
    op.create_table(
        "{table}",
        Column("session_id", BinaryCollatedText, primary_key=True),
        Column("user_id", BinaryCollatedText, nullable=False),
        Column("told_at", UtcDateTime, nullable=False),
    )
    op.create_index("{table}_at", "{table}", ["told_at"])
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
    for event in ({made}):
        ctx = context_for(event, sessions=[session_of(STARTED)])
        {name}(event, ctx)
        (push,) = ctx.writes.pushes
        assert (push.user_id, push.title) == ("driver", SETTINGS.{name}_title)
        keys.add(push.collapse_key)
{written}    assert keys == {{"{name}:S"}}
'''
WRITTEN = """        (row,) = ctx.writes.written
        assert row.values == {{"session_id": "S", "user_id": "driver", "told_at": AT}}
"""


def write_plugin(name: str, wire_names: Sequence[str], folder: Path, *, has_table: bool = False) -> list[Path]:
    """Write the files of a plugin that handles these events, and return them. Raise SettingsError; change nothing then.

    A name that this version does not know becomes a class of the plugin's own. With a table come its first migration,
    and a row for each session.
    """
    _check(name, wire_names, has_table=has_table)
    files = {
        folder / f"{name}.py": _plugin(name, wire_names, has_table=has_table),
        folder / f"test_{name}.py": _test(name, wire_names, has_table=has_table),
    }
    if has_table:
        migration = MIGRATION.format(name=name, table=_table(name))
        files[folder / f"{name}{MIGRATIONS_SUFFIX}" / "v0001_first_table.py"] = migration
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
        return f"{env_text}{ending}{HANDLER_MODULES}={name}\n"
    known = [each.strip() for each in lines[-1].strip().strip("\"'").split(",") if each.strip()]
    if name in known:
        return env_text
    return IN_ENV_FILE.sub(f"{HANDLER_MODULES}={','.join([*known, name])}", env_text)


def _check(name: str, wire_names: Sequence[str], *, has_table: bool) -> None:
    if not PLUGIN_NAME.fullmatch(name) or keyword.iskeyword(name):
        raise SettingsError(f"{name!r} cannot name a plugin: use small letters, digits and _, at most 60.")
    if name in USED_NAMES or name.startswith("test_") or name == "conftest":
        raise SettingsError(f"{name!r} cannot name a plugin: its code or pytest means something else by it.")
    if has_table and not NAME_WITH_TABLES.fullmatch(name):
        raise SettingsError(f"{name!r} is too long for a plugin with a table: use at most 30 characters.")
    if find_spec(name) is not None:
        raise SettingsError(f"There is a module {name} already: choose another name.")
    if CHARGING_RECORD in wire_names:
        raise SettingsError(f"{CHARGING_RECORD} is no session event: write a handler of ChargingRecord by hand.")
    wrong = [each for each in wire_names if not WIRE_NAME.fullmatch(each)]
    if wrong or not wire_names:
        raise SettingsError(f"{', '.join(wrong) or 'Nothing'} is no name of a session event, such as SESSION_COMPLETE.")


def _plugin(name: str, wire_names: Sequence[str], *, has_table: bool) -> str:
    models = list(dict.fromkeys(map(_model, wire_names)))
    own = [each for each in wire_names if each not in WIRE_NAMES]
    imported = {_model(each) for each in wire_names if each in WIRE_NAMES}
    imported |= {"SessionEvent"} if own or len(models) > MOST_TYPED else set()
    classes = "".join(CLASS.format(wire_name=each, model=_model(each)) for each in own)
    marks = "event, on" if own else "on"
    imports = IMPORTS_WITH_TABLE if has_table else IMPORTS
    return PLUGIN.format(
        name=name,
        names=", ".join(wire_names),
        imports=imports.format(marks=marks, imported=", ".join(sorted(imported))),
        tables=TABLE.format(name=name, table=_table(name)) if has_table else "",
        write=WRITE.format() if has_table else "",
        title=_camel(name),
        constant=name.upper(),
        words=name.replace("_", " ").capitalize(),
        classes=classes,
        events=", ".join(models),
        union=" | ".join(models) if len(models) <= MOST_TYPED else "SessionEvent",
    )


def _test(name: str, wire_names: Sequence[str], *, has_table: bool) -> str:
    models = list(dict.fromkeys(map(_model, wire_names)))
    own = [_model(each) for each in wire_names if each not in WIRE_NAMES]
    imported = {*models, "SessionStarted"} - set(own)
    return TEST.format(
        name=name,
        imported=", ".join(sorted(imported)),
        from_plugin=", ".join([*own, name]),
        written=WRITTEN.format() if has_table else "",
        made=_tuple(list(_made(models))),
    )


def _made(models: Sequence[str]) -> Iterator[str]:
    for model in models:
        fee = ", fee_will_apply_from=AT" if model == "SessionFeeIncurring" else ""
        yield f'{model}(session_id="S", at=AT{fee})'


def _tuple(values: Sequence[str]) -> str:
    if len(values) == 1:
        return f"{values[0]},"
    return "\n" + "".join(f"        {each},\n" for each in values) + "    "


def _model(wire_name: str) -> str:
    known = WIRE_NAMES.get(wire_name)
    return _camel(wire_name.lower()) if known is None else known.__name__


def _table(name: str) -> str:
    return f"plugin_{name}_told"


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
