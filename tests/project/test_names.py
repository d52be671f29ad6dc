"""How files are named and opened, and what no file contains."""

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ingest.config.settings import Settings
from tests.project.conftest import MEANING_NOTHING, Readme
from workers.cli import COMMANDS

PACKAGES = ("ingest", "handlers", "workers")
ROOT = Path(__file__).resolve().parents[2]
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for path in sorted(ROOT.iterdir())
    if path.is_file() and path.suffix in {"", ".md", ".toml", ".yaml", ".example"} and path.name != ".coverage"
]
#: Terms of the field, of the libraries we use and of Python, beside those of the glossary, that modules are named by.
FIELD_TERMS = frozenset(
    """
    access activation adaptive address allowlist api app backfill backoff basics boundary bucket bulk cache call chart
    checkpoint child cli client coalescing column command commit compression condition connection consistency console
    context control cookie copy core corruption csrf deadline decision decoded demo describe destination detail diff
    document dry duration endpoint engine enqueue env environment error evaluate evaluator export extraction failure
    fault field flow formatting graceful guarded handle hard header health heartbeat identifier identity insert
    invariant json keyring late limit listing localtime lock logging login lookup loop main manifest marker memory merge
    metric model monitor net notification notifier notify now option order output overview page pagination parsing patch
    periodic poll pool preload privacy probe processing protocol publisher quarantined query queue rate reader recipient
    recorder recovery redis registry reload render report resource response result role rollback router row rq rule
    runner scaffold scenario schedule schema search secret security sender sentry server service setting shutdown signal
    signature socket state status step store stuck subscription supervisor sync table task telemetry testing timed
    timeline timestamp tracing transaction type up usage vacuum valkey warm webhook write writer
    """.split()  # noqa: SIM905 - a list of 140 lines otherwise
)
RIDDLE = re.compile(r"(Say|Tell|Give|Note|Have|Let|Ask|Put|Keep|Hold)\b")
METAPHORS = re.compile(
    r"\b(?:doors?|lanes?|judges?|panels?|seats?|lookouts?|households?|houses?|nursery|knocks?|bury|buried)\b",
    re.IGNORECASE,
)
#: Migrations are named by their number, and `__init__` by its package.
NAMED = [path for path in MODULES if path.stem != "__init__" and path.parent.name != "versions"]
FORBIDDEN = {*MEANING_NOTHING, *(f"{word}s" for word in MEANING_NOTHING)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_no_fourth_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES + TESTS, ids=name_of)
def test_no_file_has_a_name_that_says_nothing(path):
    assert not FORBIDDEN & set(path.stem.split("_"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_opens_with_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if path.parts[-2] == "versions" and docstring:
        docstring = docstring.split("\n\n")[0]
    assert docstring, "no docstring"
    first = docstring.split("\n\n")[0].replace("\n", " ")
    assert first.endswith((".", ":")), first
    assert not re.search(r"[a-z)`]\. [A-Z]", first), f"more than one sentence: {first}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_imports_only_for_types(path):
    assert "TYPE_CHECKING" not in path.read_text("utf-8")


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", MODULES + TESTS + TEXTS, ids=name_of)
def test_nothing_knows_the_machine_it_was_written_on(path):
    text = path.read_text("utf-8")
    assert not [folder for folder in (ROOT, Path.home()) if f"{folder}/" in text]


def words_of(text: str) -> set[str]:
    """The words of a text, each in the singular and the plural."""
    words = set(re.findall(r"[a-z]+", text.lower()))
    plurals = {re.sub(r"(?<=[^aeiou])y$", "ie", word) + ("es" if word.endswith("s") else "s") for word in words}
    return words | plurals | {word.removesuffix("s") for word in words}


def test_every_module_is_named_in_words_that_a_stranger_knows(readme: Readme) -> None:
    glossary = " ".join(term for term, _ in readme.table("Glossary"))
    known = words_of(" ".join([glossary, *COMMANDS, *Settings.model_fields, *FIELD_TERMS]))
    unknown = {name_of(path): rest for path in NAMED if (rest := set(path.stem.split("_")) - known)}
    assert not unknown, "no term of the glossary, no command, no setting and no term of the field"


def test_the_list_of_the_fields_terms_holds_no_word_that_is_not_needed(readme: Readme) -> None:
    used = {word for path in NAMED for word in path.stem.split("_")}
    assert not {term for term in FIELD_TERMS if not words_of(term) & used}


def test_no_two_modules_share_a_name() -> None:
    """In a traceback, a log line or a search box there is no folder beside it; a command's file is named after it."""
    assert not repeated({path: path.stem for path in NAMED if "commands" not in path.parts})


def test_no_two_public_classes_share_a_name() -> None:
    classes = {
        (path, node.name): node.name
        for path in MODULES
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    assert not repeated(classes)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_docstrings_of_functions_begin_with_the_verbs_of_the_trade(path: Path) -> None:
    """PEP 257: Return, Raise, Yield, Parse, Format, List, Record."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [node.name for node in functions if RIDDLE.match(ast.get_docstring(node) or "")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_house_and_its_parts_are_gone(path: Path) -> None:
    assert not METAPHORS.findall(path.read_text("utf-8"))


def repeated(names: dict[Any, str]) -> dict[str, list[Any]]:
    """The names that several have, with those that have them."""
    counts = Counter(names.values())
    return {name: [each for each, own in names.items() if own == name] for name in counts if counts[name] > 1}
