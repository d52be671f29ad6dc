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
from workers.dev import supervisor
from workers.dev.child_process import ProcessSpec
from workers.dev.supervisor import ChildFailedError, Supervisor

plan = json.loads(sys.argv[1])
supervisor.BACKOFF = Backoff(timedelta(seconds=plan["pause"]), timedelta(seconds=5))
patience = timedelta(seconds=plan["patience"])
children = [ProcessSpec(name, (sys.executable, "-uc", code), patience) for name, code in plan["children"].items()]

async def scenario():
    print("scenario: begins", flush=True)
    return plan["exit_code"]

async def run():
    say = lambda name, line: print(f"{name}: {line}", flush=True)
    return await Supervisor(children, {}, say).run(scenario)

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
    """A supervisor with children, and what it has printed so far."""

    def __init__(self, children, *, patience=10.0, pause=0.2, exit_code=None, under_nohup=False):
        plan = {"children": children, "patience": patience, "pause": pause, "exit_code": exit_code}
        self.process = subprocess.Popen(
            [*(["nohup"] if under_nohup else []), sys.executable, "-c", PARENT, json.dumps(plan)],
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
        """Wait until as many children have said who they are."""
        while len(said := [line for line in self.lines if ": pid " in line]) < count:
            self.reads("")
        return [int(line.rpartition(" ")[2]) for line in said]

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


def lives(pid: int) -> bool:
    """Say whether a process is there and has not ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 10
    while any(lives(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_children_are_started_in_order_and_ended_in_reverse(parent):
    family = parent({"store": POLITE, "shop": POLITE, "door": POLITE})
    pids = family.pids(3)
    family.process.send_signal(signal.SIGTERM)
    assert family.ends() == 0
    assert [line for line in family.lines if line.endswith("ends")] == ["door: ends", "shop: ends", "store: ends"]
    assert gone(*pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_for_the_end_is_a_good_end(parent, number):
    family = parent({"door": POLITE})
    pid = family.pid("door")
    family.process.send_signal(number)
    assert family.ends() == 0
    assert family.lines[-1] == "door: ends"
    assert gone(pid)


def test_a_closed_terminal_means_nothing_to_who_was_started_with_nohup(parent):
    family = parent({"door": POLITE}, under_nohup=True)
    pid = family.pid("door")
    family.process.send_signal(signal.SIGHUP)
    os.kill(pid, signal.SIGKILL)
    assert family.pid("door") != pid
    family.process.send_signal(signal.SIGTERM)
    assert family.ends() == 0


def test_a_child_that_dies_is_started_again(parent):
    family = parent({"shop": POLITE})
    first = family.pid("shop")
    os.kill(first, signal.SIGKILL)
    assert family.reads("shop: was ended by SIGKILL").startswith("; started again in 0.2 s")
    second = family.pid("shop")
    os.kill(second, signal.SIGKILL)
    assert family.reads("shop: was ended by SIGKILL").startswith("; started again in 0.4 s")
    third = family.pid("shop")
    family.process.send_signal(signal.SIGINT)
    assert family.ends() == 0
    assert gone(first, second, third)


def test_killing_a_child_often_does_not_end_the_others(parent):
    family = parent({"shop": POLITE, "door": POLITE}, pause=0.01)
    for _ in range(6):
        os.kill(family.pid("shop"), signal.SIGKILL)
    family.process.send_signal(signal.SIGINT)
    assert family.ends() == 0


def test_wrong_settings_of_a_child_end_all_with_its_sentence_and_exit_code(parent):
    family = parent({"store": POLITE, "door": "import sys; sys.exit(print('DATA_DIR is a file.') or 2)"})
    assert family.ends() == 2
    assert "failed: door does not start: DATA_DIR is a file." in family.lines
    assert family.lines.count("door: DATA_DIR is a file.") == 1


def test_a_child_that_fails_at_each_start_ends_all(parent):
    family = parent({"door": "import sys; sys.exit(print('The port is taken.') or 3)"}, pause=0.01)
    assert family.ends() == 1
    assert "failed: door does not start: The port is taken." in family.lines
    assert family.lines.count("door: The port is taken.") == 5


def test_a_child_that_ends_well_at_each_start_has_failed_too(parent):
    family = parent({"door": "pass"}, pause=0.01)
    assert family.ends() == 1
    assert "failed: door does not start: ended with exit code 0" in family.lines


def test_a_child_that_does_not_listen_is_killed(parent):
    family = parent({"store": POLITE, "shop": STUBBORN}, patience=0.3)
    pid = family.pid("shop")
    family.process.send_signal(signal.SIGINT)
    assert family.ends() == 0
    assert "shop: has not ended within 0.3 s: killed" in family.lines
    assert gone(pid)


def test_a_second_interrupt_ends_all_at_once(parent):
    family = parent({"store": STUBBORN, "shop": STUBBORN}, patience=600)
    pids = family.pids(2)
    family.process.send_signal(signal.SIGINT)
    family.reads("dev: ending all")
    family.process.send_signal(signal.SIGINT)
    assert family.ends() == 0
    assert gone(*pids)


def test_what_a_child_started_does_not_outlive_it(parent):
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {STUBBORN!r}]).wait()"
    family = parent({"shop": code})
    first = family.pid("shop")
    os.kill(os.getpgid(first), signal.SIGKILL)  # its parent, who leads the group
    second = family.pid("shop")
    assert gone(first)
    family.process.send_signal(signal.SIGTERM)
    assert family.ends() == 0
    assert gone(second)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_children_do_not_outlive_a_parent_that_is_killed(parent):
    family = parent({"store": POLITE, "shop": POLITE})
    pids = family.pids(2)
    family.process.kill()
    assert gone(*pids)


def test_the_story_ends_all_with_its_exit_code(parent):
    family = parent({"store": POLITE}, exit_code=7)
    assert family.ends() == 7


def test_lines_come_whole_however_they_were_written(parent):
    code = (
        "import sys, time; write = sys.stdout.buffer.write\n"
        "write(b'one '); sys.stdout.flush(); time.sleep(0.05)\n"
        "write(b'line\\n\\n\\xff\\n' + b'x' * 300_000 + b'\\nlast'); sys.stdout.flush(); time.sleep(60)\n"
    )
    family = parent({"shop": code})
    assert family.reads("shop: one") == "line"
    assert family.reads("shop: ") == "\ufffd"
    length = 0
    while length < 300_000:
        length += len(family.reads("shop: "))
    assert length == 300_000
    family.process.send_signal(signal.SIGTERM)
    assert family.ends() == 0
