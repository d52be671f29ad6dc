"""The tests find bugs: a receiver with one flawed part fails the test that is about it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.flawed_receivers import FLAWS, SAMPLE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    """What the tests say to each flaw, and without one."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.flawed_receivers"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return {(line["flaw"], line["found_by"]): line for line in lines}


@pytest.mark.parametrize("name", FLAWS)
def test_a_flawed_receiver_is_found_out(found, name):
    found_by = FLAWS[name].found_by
    assert found[name, found_by]["exit_code"] == pytest.ExitCode.TESTS_FAILED, found[name, found_by]["said"]
    assert f"FAILED {found_by}" in found[name, found_by]["said"]


@pytest.mark.parametrize("name", SAMPLE)
def test_the_same_test_passes_without_the_flaw(found, name):
    found_by = FLAWS[name].found_by
    assert found[None, found_by]["exit_code"] == pytest.ExitCode.OK, found[None, found_by]["said"]
