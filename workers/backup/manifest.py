"""The manifest of a backup: what is in it, of which version, and the digests by which it is verified."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from ingest.errors import WebhooksError

NAME = "manifest.json"
FORMAT = 1
BLOCK = 1_048_576


class BackupUnreadable(WebhooksError):
    """Raised when a folder is no backup, is of a newer version, or is not as it was written."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A file of a backup."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "BackupFile":
        """Read a file once."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        return cls(path.stat().st_size, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself."""

    at: datetime
    """When the first copy began: what was accepted before is in the backup."""
    version: str
    """Of the program."""
    files: Mapping[str, BackupFile]
    inbox: str | None = None
    """The id of the inbox; None if the node had none."""
    ledger: str | None = None
    """The id of the ledger; None if it could not be asked."""
    database: str = "sqlite"
    """`sqlite`: the ledger is in the backup if there was one. `postgresql`: it is backed up with its own tools."""
    schema: str | None = None
    """The last migration of the ledger."""
    rows: Mapping[str, Mapping[str, int]] | None = None
    """Rows by file and table."""

    def write(self, folder: Path) -> None:
        """Write it into the folder of its backup."""
        text = json.dumps({"backup": FORMAT, **asdict(self), "at": self.at.isoformat()}, indent=1)
        path = folder / NAME
        path.touch(0o600)
        path.write_text(f"{text}\n")

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read it. Raise BackupUnreadable."""
        try:
            fields = json.loads((folder / NAME).read_bytes())
            found = fields.pop("backup")
        except FileNotFoundError:
            raise BackupUnreadable(f"There is no backup in {folder}: it has no {NAME}.") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BackupUnreadable(f"{folder / NAME} is no manifest of a backup.") from None
        if found != FORMAT:
            raise BackupUnreadable(f"A newer version wrote this backup ({fields.get('version')}): install that.")
        try:
            files = {name: BackupFile(**each) for name, each in fields.pop("files").items()}
            manifest = cls(files=files, at=datetime.fromisoformat(fields.pop("at")), **fields)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BackupUnreadable(f"{folder / NAME} is damaged.") from None
        if any(Path(name).name != name for name in files):
            raise BackupUnreadable(f"{folder / NAME} names files outside of its folder.")
        return manifest

    def verify(self, folder: Path) -> None:
        """Compare all files with their digests. Raise BackupUnreadable."""
        for name, expected in self.files.items():
            try:
                found = BackupFile.of(folder / name)
            except FileNotFoundError:
                raise BackupUnreadable(f"The backup is incomplete: {name} is not there.") from None
            if found != expected:
                raise BackupUnreadable(f"The backup was changed: {name} is not as it was written.")
