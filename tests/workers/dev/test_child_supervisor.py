"""The supervisor of `webhooks dev`: order, restarts, signals, and no child left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# The supervisor under test is a process of its own, since it is about signals and about dying.
PARENT = """
import asyncio, json, sys
from datetime import timedelta
from ingest.backoff import Backoff
from workers.dev import child_supervisor
from workers.dev.child_process import ProcessSpec
from workers.dev.child_supervisor import ChildFailedError, ChildSupervisor

plan = json.loads(sys.argv[1])
child_supervisor.BACKOFF = Backoff(timedelta(seconds=plan["pause"]), timedelta(seconds=5))
stop_timeout = timedelta(seconds=plan["stop_timeout"])
children = [
    ProcessSpec(name, (sys.executable, "-uc", code), stop_timeout, outlives_others=name in plan["outlive"])
    for name, code in plan["children"].items()
]

async def scenario():
    print("scenario: begins", flush=True)
    for line in plan["reloads"]:
        await asyncio.to_thread(sys.stdin.readline)
        await supervisor.reload(line)
    return plan["exit_code"]

async def run():
    print_line = lambda name, line: print(f"{name}: {line}", flush=True)
    global supervisor
    supervisor = ChildSupervisor(children, {}, print_line)
    return await supervisor.run(scenario)

try:
    sys.exit(asyncio.run(run()))
except ChildFailedError as error:
    print("failed:", error, flush=True)
    sys.exit(error.exit_code)
"""

POLITE = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("pid", os.getpid())
signal.sigwait([signal.SIGTERM])
print("ends")
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid())
time.sleep(60)
"""


class Parent:
    """A supervisor with children, and its output so far."""

    def __init__(self, children, *, under_nohup=False, **options):
        usual = {"stop_timeout": 10.0, "pause": 0.2, "exit_code": None, "reloads": [], "outlive": []}
        plan = {"children": children, **usual, **options}
        self.process = subprocess.Popen(
            [*(["nohup"] if under_nohup else []), sys.executable, "-c", PARENT, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.lines: list[str] = []

    def reads(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(start):
                return line[len(start) :].strip()
        pytest.fail(f"{start!r} is not in {self.lines}")

    def pid(self, name: str) -> int:
        return int(self.reads(f"{name}: pid "))

    def pids(self, count: int) -> list[int]:
        """Wait until as many children have printed their pid."""
        while len(printed := [line for line in self.lines if ": pid " in line]) < count:
            self.reads("")
        return [int(line.rpartition(" ")[2]) for line in printed]

    def pids_of(self, *names: str) -> list[int]:
        """Wait until each of these children has printed its pid, in whichever order."""
        self.pids(len(names))
        return [int(line.rpartition(" ")[2]) for name in names for line in self.lines if f"{name}: pid" in line]

    def reload(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ends(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(timeout=10)


@pytest.fixture
def parent() -> Iterator[Callable[..., Parent]]:
    parents: list[Parent] = []

    def start(children: dict[str, str], **options) -> Parent:
        parents.append(Parent(children, **options))
        return parents[-1]

    yield start
    for one in parents:
        one.process.kill()
        one.process.communicate()


def is_alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_children_are_stopped_together_and_the_one_that_they_use_after_them(parent, tmp_path):
    told = tmp_path / "told"
    told.mkdir()
    # Each ends only when the other has been told to end as well.
    wait = f"""
import pathlib, time
pathlib.Path({str(told)!r}, str(os.getpid())).touch()
while len(list(pathlib.Path({str(told)!r}).iterdir())) < 2: time.sleep(0.01)
print("ended too")
"""
    running = parent({"valkey": POLITE, "work": POLITE + wait, "serve": POLITE + wait}, outlive=["valkey"])
    pids = running.pids(3)
    running.process.send_signal(signal.SIGTERM)
    assert running.ends() == 0
    assert not [line for line in running.lines if "killed" in line and not line.startswith("dev:")]
    assert running.lines[-1] == "valkey: ends"
    assert len([line for line in running.lines if line.endswith("ended too")]) == 2
    assert gone(*pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_to_end_exits_with_0(parent, number):
    running = parent({"serve": POLITE})
    pid = running.pid("serve")
    running.process.send_signal(number)
    assert running.ends() == 0
    assert running.lines[-1] == "serve: ends"
    assert gone(pid)


def test_a_closed_terminal_is_ignored_under_nohup(parent):
    running = parent({"serve": POLITE}, under_nohup=True)
    pid = running.pid("serve")
    running.process.send_signal(signal.SIGHUP)
    os.kill(pid, signal.SIGKILL)
    assert running.pid("serve") != pid
    running.process.send_signal(signal.SIGTERM)
    assert running.ends() == 0


def test_a_child_that_dies_is_restarted_with_backoff(parent):
    running = parent({"work": POLITE})
    first = running.pid("work")
    os.kill(first, signal.SIGKILL)
    assert running.reads("work: was ended by SIGKILL").startswith("; started again in 0.2 s")
    second = running.pid("work")
    os.kill(second, signal.SIGKILL)
    assert running.reads("work: was ended by SIGKILL").startswith("; started again in 0.4 s")
    third = running.pid("work")
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 0
    assert gone(first, second, third)


def test_killing_a_child_often_does_not_end_the_others(parent):
    running = parent({"work": POLITE, "serve": POLITE}, pause=0.01)
    for _ in range(6):
        os.kill(running.pid("work"), signal.SIGKILL)
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 0


def test_wrong_settings_of_a_child_end_all_with_its_last_line_and_exit_code(parent):
    running = parent({"valkey": POLITE, "serve": "import sys; sys.exit(print('webhooks: DATA_DIR is a file.') or 2)"})
    assert running.ends() == 2
    assert "failed: serve does not start: DATA_DIR is a file." in running.lines
    assert running.lines.count("serve: webhooks: DATA_DIR is a file.") == 1


def test_a_child_that_fails_at_each_start_ends_all(parent):
    running = parent({"serve": "import sys; sys.exit(print('The port is taken.') or 3)"}, pause=0.01)
    assert running.ends() == 1
    assert "failed: serve does not start: The port is taken." in running.lines
    assert running.lines.count("serve: The port is taken.") == 5


def test_a_child_that_exits_with_0_at_each_start_has_failed_too(parent):
    running = parent({"serve": "pass"}, pause=0.01)
    assert running.ends() == 1
    assert "failed: serve does not start: ended with exit code 0" in running.lines


def test_a_child_that_ignores_sigterm_is_killed(parent):
    running = parent({"valkey": POLITE, "work": STUBBORN}, stop_timeout=0.3)
    pid = running.pid("work")
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 0
    assert "work: has not ended within 0.3 s: killed" in running.lines
    assert gone(pid)


def test_a_second_interrupt_kills_all(parent):
    running = parent({"valkey": STUBBORN, "work": STUBBORN}, stop_timeout=600)
    pids = running.pids(2)
    running.process.send_signal(signal.SIGINT)
    running.reads("dev: stopping all")
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 0
    assert gone(*pids)


def test_a_grandchild_does_not_outlive_its_parent(parent):
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {STUBBORN!r}]).wait()"
    running = parent({"work": code})
    first = running.pid("work")
    os.kill(os.getpgid(first), signal.SIGKILL)  # its parent, which leads the group
    second = running.pid("work")
    assert gone(first)
    running.process.send_signal(signal.SIGTERM)
    assert running.ends() == 0
    assert gone(second)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the death of a parent")
def test_children_do_not_outlive_a_parent_that_is_killed(parent):
    running = parent({"valkey": POLITE, "work": POLITE})
    pids = running.pids(2)
    running.process.kill()
    assert gone(*pids)


def test_the_scenario_ends_all_with_its_exit_code(parent):
    running = parent({"valkey": POLITE}, exit_code=7)
    assert running.ends() == 7


def test_a_reload_starts_the_named_processes_again_and_no_other(parent):
    running = parent({"work": POLITE, "serve": POLITE}, reloads=[["work"]])
    first, other = running.pids_of("work", "serve")
    running.reload()
    again = running.pid("work")
    assert again != first
    assert gone(first)
    assert is_alive(other)
    assert not [line for line in running.lines if "started again in" in line]


def test_what_fails_to_load_after_a_reload_waits_for_the_next_and_ends_nothing(parent, tmp_path):
    broken = tmp_path / "broken"
    loading = f"import pathlib, sys\nif pathlib.Path({str(broken)!r}).exists(): sys.exit(2)\n"
    running = parent({"work": loading + POLITE, "serve": POLITE}, reloads=[["work"], ["work"]])
    _, other = running.pids_of("work", "serve")
    broken.touch()
    running.reload()
    running.reads("work: waits for the next change")
    assert is_alive(other)
    broken.unlink()
    running.reload()
    assert is_alive(running.pid("work"))
