"""A process that is measured, or measures: started in a folder, watched, and ended whatever happens."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ingest.errors import WebhooksError
from workers.dev.child_process import set_parent_death_signal


class BenchFailed(WebhooksError):
    """Raised when a measurement cannot be made; it says why, with the last words of the process concerned."""


class Process:
    """One child process, in a session of its own so that Ctrl-C reaches only the bench, which then ends it."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start the command in the folder; what it prints goes to a file there."""
        self.name = name
        self._output = folder / f"{name}.out"
        with self._output.open("ab") as output:
            self._child = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(set_parent_death_signal, os.getpid()) if sys.platform == "linux" else None,  # noqa: PLW1509 - as there
            )

    @property
    def pid(self) -> int:
        """Name the process to the system."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Say whether the process has not ended."""
        return self._child.poll() is None

    def check(self) -> None:
        """Raise BenchFailed if the process has ended."""
        if self._child.poll() is not None:
            last_line = self._output.read_text(errors="replace").strip().rpartition("\n")[2]
            raise BenchFailed(f"{self.name} ended with {self._child.returncode}: {last_line}")

    def finish(self, patience_s: float) -> str:
        """Wait for a process that ends by itself and return what it printed; raise BenchFailed unless it ended well."""
        try:
            status = self._child.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{self.name} did not end within {patience_s:.0f} s") from None
        if status:
            self.check()
        return self._output.read_text()

    def stop(self) -> None:
        """Ask the process to end, then make it."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._child.pid, signal.SIGKILL)
                self._child.wait()
