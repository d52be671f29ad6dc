"""A disk so small that a test can fill it: a file system in memory, which root may mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.trials import Impossible

FILLER = "filler"
PIECE = b"\0" * 4096


class SmallDisk:
    """A file system of its own in a folder. Raises Impossible where that may not be made."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs")
        except (OSError, subprocess.CalledProcessError) as error:
            raise Impossible("only root may mount a disk") from error

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Leave no space at all on it."""
        filler = self.folder / FILLER
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(PIECE):
                    pass
            except OSError:
                pass
        try:
            yield
        finally:
            filler.unlink()

    def make_read_only(self) -> None:
        """Nobody may have a file open for writing."""
        self._mount("-o", "remount,ro")

    def make_writable(self) -> None:
        self._mount("-o", "remount,rw")

    def end(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.folder)], check=True, capture_output=True)
