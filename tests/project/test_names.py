"""How files are named and opened, and what no file contains."""

import ast
import re
from pathlib import Path

import pytest

from tests.project.conftest import MEANING_NOTHING

PACKAGES = ("ingest", "handlers", "workers")
ROOT = Path(__file__).resolve().parents[2]
ROOMS = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = [
    path
    for path in sorted(ROOT.iterdir())
    if path.is_file() and path.suffix in {"", ".md", ".toml", ".yaml", ".example"} and path.name != ".coverage"
]
FORBIDDEN = {*MEANING_NOTHING, *(f"{word}s" for word in MEANING_NOTHING)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_no_fourth_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(PACKAGES)


@pytest.mark.parametrize("path", ROOMS + TESTS, ids=name_of)
def test_no_file_has_a_name_that_says_nothing(path):
    assert not FORBIDDEN & set(path.stem.split("_"))


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_a_room_opens_with_one_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if path.parts[-2] == "versions" and docstring:
        docstring = docstring.split("\n\n")[0]
    assert docstring, "no docstring"
    first = docstring.split("\n\n")[0].replace("\n", " ")
    assert first.endswith((".", ":")), first
    assert not re.search(r"[a-z)`]\. [A-Z]", first), f"more than one sentence: {first}"


@pytest.mark.parametrize("path", ROOMS, ids=name_of)
def test_no_room_imports_only_for_types(path):
    assert "TYPE_CHECKING" not in path.read_text("utf-8")


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", ROOMS + TESTS + TEXTS, ids=name_of)
def test_nothing_knows_the_machine_it_was_written_on(path):
    text = path.read_text("utf-8")
    assert not [folder for folder in (ROOT, Path.home()) if f"{folder}/" in text]
