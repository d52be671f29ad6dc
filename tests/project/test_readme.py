"""What the READMEs say is what the code does: their tables, their commands, their plugins."""

import ast
import inspect
import re
import shlex
from enum import StrEnum
from importlib import import_module

import pytest
from click.testing import CliRunner

from handlers.cdr_records import FIELDS
from handlers.kit.statuses import STATUSES, Anomaly
from ingest.config.settings import load_settings
from ingest.errors import Refusal
from ingest.wire.authorization.request import Allowed
from ingest.wire.authorization.response_templates import PLACEHOLDERS as TEMPLATE_NAMES
from tests.project.conftest import MEANING_NOTHING
from workers.alerts.alerts import AlertKind
from workers.cli import COMMANDS, main
from workers.ledger.states import DeliveryState, Outcome, PushState

RUN = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/webhooks dev --demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"


def sentences_of(enum: type[StrEnum]) -> list[tuple[str, str]]:
    """The members of an enum, each with the sentence below it."""
    tree = ast.parse(inspect.getsource(enum)).body[0]
    found, value = [], ""
    for node in tree.body:
        match node:
            case ast.Assign(value=ast.Constant(value=str(value))):
                pass
            case ast.Expr(value=ast.Constant(value=str(sentence))) if value:
                found.append((f"`{value}`", sentence.replace("\n", " ")))
                value = ""
    assert [name for name, _ in found] == [f"`{member.value}`" for member in enum], "a member without its sentence"
    return found


@pytest.mark.parametrize("command", [RUN, TEST])
def test_the_two_commands_stand_there_as_they_are_run(readme, command):
    assert f"```sh\n{command}\n```" in readme.text


def test_the_table_of_settings_is_that_of_the_code(readme):
    rows = [(name.strip("`"), default.strip("`"), meaning) for name, default, meaning in readme.table("Settings")]
    assert rows == [(one.name, one.default.strip("`"), one.description) for one in load_settings().describe_all()]


def test_the_table_of_commands_is_that_of_the_code(readme):
    assert readme.table("Commands") == [(f"`{name}`", entry.sentence) for name, entry in COMMANDS.items()]


@pytest.mark.parametrize(
    ("heading", "enum"),
    [
        ("States of a delivery", DeliveryState),
        ("Outcomes of a run", Outcome),
        ("States of a push", PushState),
        ("Anomalies of a session", Anomaly),
        ("Kinds of alerts", AlertKind),
    ],
)
def test_a_table_of_words_has_the_sentences_of_the_code(readme, heading, enum):
    assert readme.table(heading) == sentences_of(enum)


def test_the_table_of_statuses_is_in_the_order_of_the_code(readme):
    rows = [
        (
            f"`{name}`",
            ", ".join([*(f"`{event}`" for event in status.events), *["Drive API"] * status.in_drive]),
            "yes" if status.is_over else "no",
            status.meaning,
        )
        for name, status in STATUSES.items()
    ]
    assert readme.table("Statuses of a session") == rows


def test_the_table_of_answers_has_every_refusal(readme):
    import_module("ingest.http.app")  # so that every kind of refusal is known
    told = {int(status) for cell, _ in readme.table("Answers") for status in cell.split(",")}
    assert {int(kind.status) for kind in Refusal.__subclasses__()} <= told
    assert told == {200, 400, 403, 404, 405, 408, 413, 415, 503}


def test_the_table_of_cdr_fields_is_that_of_the_plugin(readme):
    rows = [(column, setting) for column, setting, _ in readme.table("CDRs")]
    assert rows == [(f"`{column}`", f"`{setting.upper()}`") for column, (setting, _) in FIELDS.items()]


@pytest.mark.parametrize("heading", ["Write a plugin", "Answer at the charger"])
def test_the_plugin_and_its_test_run_as_they_stand(readme, heading):
    names: dict = {"__name__": "a_plugin"}
    for block in readme.code(heading, "python"):
        exec(compile(block, heading, "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()


def test_the_names_in_an_answers_template_are_all_told(readme):
    told = set(re.findall(r"`(@\w+)`", readme.section("Answer at the charger")))
    assert told == set(TEMPLATE_NAMES)


def test_the_glossary_has_no_word_that_means_nothing(readme):
    words = [word for word, _ in readme.table("Glossary")]
    assert len(words) == len(set(words))
    assert not set(words) & set(MEANING_NOTHING)


def test_the_map_names_rooms_that_exist(readme, root):
    rooms = [room.strip("`") for *_, room in readme.table("Map of the house")]
    assert all((root / room).is_file() for room in rooms)


def anchors_of(path):
    """The places in a page that a link may name."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(readme, root):
    for page, text in readme.pages.items():
        links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text)
        assert links, page
        for link, anchor in links:
            target = (root / page).parent / link if link else root / page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors_of(target), f"{page}: {link}#{anchor}"


def test_every_command_that_is_named_exists(readme):
    for page, text in readme.pages.items():
        named = set(re.findall(r"(?:^|`)webhooks ([a-z]+)", text, re.MULTILINE))
        assert named, page
        assert named <= set(COMMANDS), page


def test_every_line_to_be_typed_has_options_that_there_are(readme):
    for page, text in readme.pages.items():
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        lines = "".join(blocks).splitlines()
        typed = [words for words in (shlex.split(line, comments=True) for line in lines) if "webhooks" in words]
        for words in typed:
            ran = CliRunner().invoke(main, [*words[words.index("webhooks") + 1 :], "--help"])
            assert ran.exit_code == 0, f"{page}: {' '.join(words)}: {ran.output}"


def test_every_setting_that_is_named_exists(readme):
    of_the_wire = {
        *STATUSES,
        *Allowed,
        "ALLOWED_OFFLINE",
        *(event for one in STATUSES.values() for event in one.events),
    }
    settings = {one.name for one in load_settings().describe_all()} | {"NAME_FILE", "SESSION_FEE_INCURRING"}
    for page, text in readme.pages.items():
        named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)[`=]", text)) - of_the_wire
        assert named, page
        assert named <= settings, page


def test_the_first_screen_has_the_problem_and_both_commands_come_before_the_manual(readme):
    places = [readme.text.index(what) for what in ("**once**", "## What it promises", RUN, TEST, "## Write a plugin")]
    assert places == sorted(places)


def test_the_figures_name_the_command_that_measures_them(readme):
    commands = re.findall(r"webhooks bench (\w+)", readme.section("How fast it is"))
    assert {"accept", "work", "through"} <= set(commands)


def test_the_changelog_keeps_to_its_form(root):
    text = (root / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\]( - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert all(date for _, date in headings[1:])
    assert "0.1.0" in [name for name, _ in headings]
    sections = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
