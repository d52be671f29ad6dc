"""Each flawed receiver fails the test of its part."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.flawed_receivers import FLAWS, SAMPLE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results():
    """Return the test results by flaw and test."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.flawed_receivers"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    return {(line["flaw"], line["found_by"]): line for line in lines}


@pytest.mark.parametrize("name", FLAWS)
def test_a_flawed_receiver_fails_its_test(results, name):
    found_by = FLAWS[name].found_by
    assert results[name, found_by]["exit_code"] == pytest.ExitCode.TESTS_FAILED, results[name, found_by]["output"]
    assert f"FAILED {found_by}" in results[name, found_by]["output"]


@pytest.mark.parametrize("name", SAMPLE)
def test_the_same_test_passes_without_the_flaw(results, name):
    found_by = FLAWS[name].found_by
    assert results[None, found_by]["exit_code"] == pytest.ExitCode.OK, results[None, found_by]["output"]
