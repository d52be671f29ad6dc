"""The README and the manuals agree with the code: their tables, commands, plugins and links."""

import re
import shlex
import sys
from importlib import import_module
from types import ModuleType

import pytest
from click.testing import CliRunner

from handlers.cdr_records import FIELDS
from handlers.kit.statuses import STATUSES
from ingest.config.settings import load_settings
from ingest.errors import Refusal
from ingest.wire.authorization.request import Allowed
from ingest.wire.authorization.response_templates import PLACEHOLDERS
from tests.project import reference
from tests.project.conftest import MEANING_NOTHING
from workers.cli import COMMANDS, main

RUN = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/webhooks dev --demo"
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"


@pytest.mark.parametrize("command", [RUN, TEST])
def test_the_two_commands_stand_there_as_they_are_run(readme, command):
    assert f"```sh\n{command}\n```" in readme.text


def test_the_reference_is_generated_from_the_code(root):
    stale = "run `python -m tests.project.reference`"
    assert (root / "workers" / "REFERENCE.md").read_text("utf-8") == reference.reference(), stale
    assert (root / ".env.example").read_text("utf-8") == reference.env_example(), stale


def test_the_reference_has_every_setting_and_every_command(readme):
    page = readme.pages["workers/REFERENCE.md"]
    for name in [*(row.name for row in load_settings().describe_all()), *COMMANDS]:
        assert f"| `{name}` |" in page


def test_the_settings_to_know_first_are_twelve(readme):
    assert [name.strip("`") for name, *_ in readme.table("The twelve to know first")] == list(reference.FIRST)
    assert len(set(reference.FIRST)) == 12


@pytest.mark.parametrize(("heading", "enum"), reference.STATES.items())
def test_every_state_has_a_sentence(heading, enum, readme):
    assert [name for name, _ in readme.table(heading)] == [f"`{member.value}`" for member in enum]


def test_the_table_of_responses_has_every_refusal(readme):
    import_module("ingest.http.app")  # so that every kind of refusal is known
    listed = {int(status) for cell, _ in readme.table("Responses") for status in cell.split(",")}
    assert {int(kind.status) for kind in Refusal.__subclasses__()} <= listed
    assert listed == {200, 400, 403, 404, 405, 408, 413, 415, 503}


def test_the_table_of_cdr_fields_is_that_of_the_plugin(readme):
    rows = [(column, setting) for column, setting, _ in readme.table("Fields of a CDR")]
    assert rows == [(f"`{column}`", f"`{setting.upper()}`") for column, (setting, _) in FIELDS.items()]


@pytest.mark.parametrize("headings", [("Write a plugin", "Test a plugin"), ("Write a policy",)])
def test_the_plugin_and_its_test_run_as_they_stand(readme, headings, monkeypatch):
    # The test imports what it needs: of the README's plugin by the name under which that is to be saved.
    plugin = ModuleType("thanks")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    names = vars(plugin)
    for block in (block for heading in headings for block in readme.code(heading, "python")):
        exec(compile(block, headings[0], "exec"), names)
    (test,) = (value for name, value in names.items() if name.startswith("test_"))
    test()


def test_every_placeholder_of_a_response_template_is_documented(readme):
    page = readme.pages["handlers/AUTHORIZATION.md"]
    assert set(re.findall(r"`(@\w+)`", page.partition("## Fields")[2])) == set(PLACEHOLDERS)


def test_the_glossary_has_no_word_without_meaning(readme):
    words = [word for word, _ in readme.table("Glossary")]
    assert len(words) == len(set(words))
    assert not set(words) & set(MEANING_NOTHING)


def test_the_reading_list_is_the_path_in_an_evening(readme, root):
    modules = [re.sub(r"\[`(.+)`\].*", r"\1", cell) for cell, _ in readme.table("Read the code in this order")]
    assert 8 <= len(modules) <= 12
    lines = sum(len((root / module).read_text("utf-8").splitlines()) for module in modules)
    assert lines <= 3500
    assert [module.split("/")[0] for module in modules][:1] == ["ingest"]


def test_the_front_page_is_short(readme):
    assert len(readme.text.splitlines()) <= 200


def anchors_of(path):
    """Return the anchors of a page."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_has_a_target(readme, root):
    for page, text in readme.pages.items():
        links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text)
        assert links, page
        for link, anchor in links:
            target = (root / page).parent / link if link else root / page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors_of(target), f"{page}: {link}#{anchor}"


def test_every_command_in_a_manual_exists(readme):
    for page, text in readme.pages.items():
        named = set(re.findall(r"(?:^|`)webhooks ([a-z]+)", text, re.MULTILINE))
        assert named <= set(COMMANDS), page


def test_every_line_to_be_typed_has_options_that_exist(readme):
    for page, text in readme.pages.items():
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        lines = "".join(blocks).splitlines()
        typed = [words for words in (shlex.split(line, comments=True) for line in lines) if "webhooks" in words]
        for words in typed:
            ran = CliRunner().invoke(main, [*words[words.index("webhooks") + 1 :], "--help"])
            assert ran.exit_code == 0, f"{page}: {' '.join(words)}: {ran.output}"


def test_every_setting_in_a_manual_exists(readme):
    of_the_wire = {
        *STATUSES,
        *Allowed,
        "ALLOWED_OFFLINE",
        *(event for one in STATUSES.values() for event in one.events),
    }
    settings = {one.name for one in load_settings().describe_all()} | {"NAME_FILE", "SESSION_FEE_INCURRING"}
    for page, text in readme.pages.items():
        named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)[`=]", text)) - of_the_wire
        assert named <= settings, page


def test_the_first_screen_has_the_problem_and_both_commands(readme):
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
