"""A child process dies with its parent."""

import signal
import subprocess
import sys

import pytest

PARENT = """
import os, sys, time
from workers.resilience.process_death import set_parent_death_signal
child = os.fork()
if child == 0:
    set_parent_death_signal(os.getppid())
    print(os.getpid(), flush=True)
    time.sleep(60)
os.waitpid(child, 0)
"""

ORPHAN = """
import os
from workers.resilience.process_death import set_parent_death_signal
set_parent_death_signal(os.getppid() + 1)
print("lived on")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        parent.send_signal(signal.SIGKILL)
        assert parent.stdout.read() == b""  # the end of the file: nobody holds the pipe any more


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_a_child_whose_parent_died_before_ends_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")
