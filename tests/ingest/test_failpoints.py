"""Failpoints kill the process that hits them once, and only if a folder arms them."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from ingest import failpoints
from ingest.failpoints import VARIABLE, Failpoint

HIT = "from ingest.failpoints import Failpoint, hit; hit(Failpoint.KEPT); print('alive')"
INSIDE = """
import sqlite3
from ingest.failpoints import Failpoint, hit_inside
file = sqlite3.connect(":memory:")
hit_inside(Failpoint.KEEPING, file)
file.execute("create table t (a)")
file.executemany("insert into t values (?)", [(number,) for number in range(1000)])
print("alive")
"""


def run(code, folder=None):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if folder is not None:
        environment[VARIABLE] = str(folder)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("code", "step"), [(HIT, Failpoint.KEPT), (INSIDE, Failpoint.KEEPING)])
def test_an_armed_failpoint_kills_one_process(tmp_path, code, step):
    (tmp_path / step).touch()
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    assert not (tmp_path / step).exists()
    assert run(code, tmp_path).stdout == "alive\n"


@pytest.mark.parametrize("code", [HIT, INSIDE])
def test_without_the_variable_no_failpoint_kills(code):
    assert run(code).stdout == "alive\n"


def test_an_armed_failpoint_is_disarmed_before_it_kills(tmp_path, monkeypatch):
    killed = []
    monkeypatch.setattr(failpoints, "FOLDER", tmp_path)
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    (tmp_path / Failpoint.SENT).touch()
    for step in (Failpoint.SENT, Failpoint.SENT, Failpoint.RECORDED):
        failpoints._kill_if_armed(step)  # noqa: SLF001 - a process that is killed reports no coverage
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_connection_is_watched_only_while_failpoints_are_armed(monkeypatch):
    steps = []
    monkeypatch.setattr(failpoints, "hit", steps.append)
    with sqlite3.connect(":memory:") as file:
        failpoints.hit_inside(Failpoint.STORING, file)
        file.execute("create table t (a)")
        file.executemany("insert into t values (?)", [(number,) for number in range(100)])
    assert set(steps) == {Failpoint.STORING}
