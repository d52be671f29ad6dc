"""The command that replaces functions by no-ops finds what no test notices."""

import asyncio
import sys
import types

import pytest

from tests.project import mutants

MODULE = "ingest.wire.field_paths"

SAMPLE = """
import contextlib
from functools import cached_property

def plain(): return 1
async def awaited(): return 1
def items(): yield 1
@contextlib.contextmanager
def entered(): yield 1

class Some:
    @property
    def shown(self): return 1
    @cached_property
    def computed(self): return 1
    @classmethod
    def made(cls): return 1
    @staticmethod
    def free(): return 1
"""


@pytest.fixture
def sample(monkeypatch):
    module = types.ModuleType("a_sample_of_functions")
    exec(SAMPLE, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_functions_and_methods_are_listed():
    assert mutants.functions_of(MODULE) == [
        "Pointer.__post_init__",
        "Pointer.__str__",
        "Pointer.find",
        "Pointer._parsed",
        "HeaderPath.__post_init__",
        "HeaderPath.__str__",
        "HeaderPath.name",
        "first",
        "pointers",
        "find",
        "header_names",
        "parse_field_path",
    ]


def test_a_declaration_of_a_protocol_is_no_function_to_replace():
    listed = mutants.functions_of("workers.resilience.periodic")
    assert "SupervisedThreads.start" in listed
    assert "PeriodicTask.run" not in listed


def test_each_kind_of_function_is_replaced_by_its_like(sample):
    for name in ("plain", "awaited", "items", "entered", "Some.shown", "Some.computed", "Some.made", "Some.free"):
        mutants.replace_by_noop(f"{sample.__name__}:{name}")
    some = sample.Some()
    assert (sample.plain(), asyncio.run(sample.awaited()), list(sample.items())) == (None, None, [])
    with sample.entered() as entered:
        assert entered is None
    assert (some.shown, some.computed, some.made(), some.free()) == (None, None, None, None)


def test_a_function_that_nothing_calls_survives_and_one_that_is_tested_does_not():
    tests = ["tests/ingest/wire/test_field_paths.py"]
    assert mutants.passes(tests, "ingest.failpoints:hit")
    assert not mutants.passes(tests, f"{MODULE}:Pointer.find")


def test_a_function_that_does_not_exist_is_not_taken_for_noticed():
    with pytest.raises(ValueError, match="cannot be replaced"):
        mutants.passes(["tests/ingest/wire/test_timestamps.py"], "ingest.failpoints:none")


def test_the_command_says_how_it_is_used(capsys):
    assert mutants.main([]) == 2
    assert "MODULE" in capsys.readouterr().err
