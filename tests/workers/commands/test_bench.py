"""`webhooks bench` finds the benches of the clone, passes its arguments on, and ends as they do."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from workers.commands import bench


def webhooks(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", "bench", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["accept", "work", "through", "warn"])
def test_the_help_lists_every_bench(name):
    shown = webhooks("--help")
    assert shown.returncode == 0, shown.stderr
    assert f"  {name} " in shown.stdout


def test_wrong_usage_is_that_of_the_bench():
    ended = webhooks("accept", "--runs", "none")
    assert (ended.returncode, "--runs" in ended.stderr) == (2, True)


def test_without_a_clone_it_says_where_the_benches_are(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "BENCHES", tmp_path / "none")
    ended = CliRunner().invoke(bench.bench, ["accept"])
    assert ended.exit_code == 1
    assert "pip install -e ." in ended.output
