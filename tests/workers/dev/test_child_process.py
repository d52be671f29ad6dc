"""A child process: its output line by line, its end, and what is left of it."""

import asyncio
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from workers.dev.child_process import ChildProcess, ProcessSpec

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
time.sleep(60)
"""


def spec(code: str, **parts: object) -> ProcessSpec:
    return ProcessSpec("work", (sys.executable, "-uc", code), **parts)


def play(one: ProcessSpec, scenario: Callable[[ChildProcess, list[str]], object] | None = None) -> list[str]:
    """Run a program to its end, and return its lines; the scenario is called for each line."""
    lines: list[str] = []

    async def run() -> None:
        child = ChildProcess(one, {}, lambda _name, line: lines.append(line))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, child.poll)
        child.poll()  # it may have ended before
        seen = 0
        try:
            while not child.ended.done():
                while scenario is not None and seen < len(lines):
                    seen += 1
                    stopping = scenario(child, lines)
                    if stopping is not None:
                        await stopping
                await asyncio.wait([child.ended], timeout=0.01)
            lines.append(f"exit code {child.ended.result()}, last {child.last_line!r}")
        finally:
            loop.remove_signal_handler(signal.SIGCHLD)

    asyncio.run(run())
    return lines


def test_its_lines_and_its_exit_code_are_known() -> None:
    assert play(spec("print('one'); print(); print('two'); exit(3)")) == ["one", "two", "exit code 3, last 'two'"]


def test_lines_are_passed_on_whole() -> None:
    code = (
        "import sys, time; write = sys.stdout.buffer.write\n"
        "write(b'one '); sys.stdout.flush(); time.sleep(0.05)\n"
        "write(b'line\\n\\n\\xff\\n' + b'x' * 300_000 + b'\\nlast'); sys.stdout.flush()\n"
    )
    first, second, *parts, last, _end = play(spec(code))
    assert (first, second, last) == ("one line", "\ufffd", "last")
    assert "".join(parts) == "x" * 300_000


def test_a_child_that_ends_in_time_is_not_killed() -> None:
    code = "import time; print('ready'); time.sleep(60)"
    assert play(spec(code), lambda child, _lines: child.stop()) == ["ready", "exit code -15, last 'ready'"]


def test_a_child_that_ignores_sigterm_is_killed_after_its_timeout() -> None:
    lines = play(spec(STUBBORN, stop_timeout=timedelta(milliseconds=200)), lambda child, _lines: child.stop())
    assert lines == ["ready", "has not ended within 0.2 s: killed", "exit code -9, last 'ready'"]


def test_what_it_started_is_killed_with_it() -> None:
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-uc', {STUBBORN!r}]).wait()"
    assert play(spec(code), lambda child, _lines: child.kill()) == ["ready", "exit code -9, last 'ready'"]


def test_the_last_line_of_a_silent_child_is_that_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("starting\nno disk left\n\n")
    assert play(spec("exit(1)", log=log)) == ["exit code 1, last 'no disk left'"]
    log.unlink()
    assert play(spec("exit(1)", log=log)) == ["exit code 1, last ''"]
