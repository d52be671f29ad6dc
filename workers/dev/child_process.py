"""One child process: its lines are passed on as they come, and it does not outlive the process that started it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from workers.resilience.process_death import set_parent_death_signal

READ_AT_ONCE = 65_536


@dataclass(frozen=True)
class ProcessSpec:
    """A program that is to be running."""

    name: str
    command: tuple[str, ...]
    #: How long it may take to end after SIGTERM before it is killed.
    stop_timeout: timedelta = timedelta(seconds=15)
    #: The children after it are started once this says so.
    is_ready: Callable[[], bool] = lambda: True
    #: Where it writes what it has to say, if that is a file.
    log: Path | None = None
    #: Open files that it shall hold for as long as it lives, such as a locked one.
    held_files: tuple[int, ...] = ()


class ChildProcess:
    """One process of a child, from its start to its end. Needs a running event loop."""

    def __init__(self, child: ProcessSpec, environment: Mapping[str, str], say: Callable[[str, str], None]) -> None:
        """Start the process; each line that it prints goes to `say`, with the child's name."""
        self._child = child
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._begun_line = b""
        self._last_line = ""
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._pipe, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  the command is ours
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=child.held_files,
                process_group=0,  # so that a Ctrl-C in the terminal reaches us alone, and we end the children in order
                preexec_fn=partial(set_parent_death_signal, os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509  two system calls, no lock
            )
        finally:
            os.close(write_end)
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._read)

    @property
    def age(self) -> timedelta:
        """Say how long ago the process was started."""
        return timedelta(seconds=time.monotonic() - self._started)

    @property
    def last_line(self) -> str:
        """Say what the process said last, nothing if it was silent."""
        if self._child.log is None or self._last_line:
            return self._last_line
        with contextlib.suppress(OSError):
            lines = self._child.log.read_text("utf-8", errors="replace").split("\n")
            return next((line for line in reversed(lines) if line.strip()), "")
        return ""

    def look(self) -> None:
        """Find out whether the process has ended; to be called on SIGCHLD."""
        if not self.ended.done() and self._process.poll() is not None:
            self._kill_group()  # what it started and left behind
            self._read()
            self.ended.set_result(self._process.returncode)

    async def end(self) -> None:
        """Ask the process to end and wait until it has; kill it when that takes too long."""
        if not self.ended.done():
            self._process.terminate()
            await asyncio.wait([self.ended], timeout=self._child.stop_timeout.total_seconds())
        if not self.ended.done():
            self._say(self._child.name, f"has not ended within {self._child.stop_timeout.total_seconds():g} s: killed")
        self.kill()
        await self.ended
        self._close()

    def kill(self) -> None:
        """Kill the process at once, with what it started."""
        if not self.ended.done():
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        while self._pipe >= 0:
            try:
                received = os.read(self._pipe, READ_AT_ONCE)
            except BlockingIOError:
                return
            *lines, self._begun_line = (self._begun_line + received).split(b"\n")
            if not received or len(self._begun_line) > READ_AT_ONCE:
                lines.append(self._begun_line)
                self._begun_line = b""
            for line in lines:
                self._pass_on(line.decode(errors="replace").rstrip())
            if not received:
                self._close()

    def _pass_on(self, line: str) -> None:
        if line:
            self._last_line = line
            self._say(self._child.name, line)

    def _close(self) -> None:
        # Not only at the end of the file: a grandchild may hold the other end for long after its parent has gone.
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
