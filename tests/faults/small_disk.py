"""A small disk that a test can fill: a tmpfs, which only root may mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.trials import Impossible

FILLER = "filler"
PIECE = b"\0" * 4096


class SmallDisk:
    """A tmpfs in a folder. Raises Impossible where it may not be mounted."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs")
        except (OSError, subprocess.CalledProcessError) as error:
            raise Impossible("only root may mount a disk") from error

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Fill it to the last byte."""
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
        """Remount it read-only; no file may be open for writing."""
        self._mount("-o", "remount,ro")

    def make_writable(self) -> None:
        self._mount("-o", "remount,rw")

    def end(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.folder)], check=True, capture_output=True)
