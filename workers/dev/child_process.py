"""A child process: its output is passed on line by line, and it does not outlive its parent."""

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

READ_SIZE = 65_536


@dataclass(frozen=True)
class ProcessSpec:
    """A program to run."""

    name: str
    command: tuple[str, ...]
    #: How long it may take to end after SIGTERM before it is killed.
    stop_timeout: timedelta = timedelta(seconds=15)
    #: The programs after it are started once this returns true.
    is_ready: Callable[[], bool] = lambda: True
    #: The others use it until they have ended: it is stopped after all of them.
    outlives_others: bool = False
    #: The file that it logs to, if it does not print.
    log: Path | None = None
    #: Open files that it inherits for as long as it lives, such as a locked one.
    held_files: tuple[int, ...] = ()


class ChildProcess:
    """One run of a program, from its start to its end. Needs a running event loop."""

    def __init__(
        self, spec: ProcessSpec, environment: Mapping[str, str] | None, print_line: Callable[[str, str], None]
    ) -> None:
        """Start the process, by default in our environment; `print_line(name, line)` is called for each line."""
        self._spec = spec
        self._print_line = print_line
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._partial_line = b""
        self._last_line = ""
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._pipe, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603  the command is ours
                spec.command,
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=spec.held_files,
                process_group=0,  # so that a Ctrl-C in the terminal reaches us alone, and we stop the children in order
                preexec_fn=partial(set_parent_death_signal, os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509  two system calls, no lock
            )
        finally:
            os.close(write_end)
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._read)

    @property
    def age(self) -> timedelta:
        """The time since its start."""
        return timedelta(seconds=time.monotonic() - self._started)

    @property
    def last_line(self) -> str:
        """The last line of its output or its log; empty if there is none."""
        if self._spec.log is None or self._last_line:
            return self._last_line
        with contextlib.suppress(OSError):
            lines = self._spec.log.read_text("utf-8", errors="replace").split("\n")
            return next((line for line in reversed(lines) if line.strip()), "")
        return ""

    def poll(self) -> None:
        """Check whether the process has ended; to be called on SIGCHLD."""
        if not self.ended.done() and self._process.poll() is not None:
            self._kill_group()  # what it started and left behind
            self._read()
            self.ended.set_result(self._process.returncode)

    async def stop(self) -> None:
        """Terminate the process and wait for its end; kill it after its stop timeout."""
        if not self.ended.done():
            self._process.terminate()
            await asyncio.wait([self.ended], timeout=self._spec.stop_timeout.total_seconds())
        if not self.ended.done():
            seconds = self._spec.stop_timeout.total_seconds()
            self._print_line(self._spec.name, f"has not ended within {seconds:g} s: killed")
        self.kill()
        await self.ended
        self._close()

    def kill(self) -> None:
        """Kill the process and what it started."""
        if not self.ended.done():
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> None:
        while self._pipe >= 0:
            try:
                received = os.read(self._pipe, READ_SIZE)
            except BlockingIOError:
                return
            *lines, self._partial_line = (self._partial_line + received).split(b"\n")
            if not received or len(self._partial_line) > READ_SIZE:
                lines.append(self._partial_line)
                self._partial_line = b""
            for line in lines:
                self._pass_on(line.decode(errors="replace").rstrip())
            if not received:
                self._close()

    def _pass_on(self, line: str) -> None:
        if line:
            self._last_line = line
            self._print_line(self._spec.name, line)

    def _close(self) -> None:
        # Not only at the end of the file: a grandchild may hold the other end long after its parent has ended.
        if self._pipe >= 0:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
