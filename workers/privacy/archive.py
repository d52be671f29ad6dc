"""Archives: deliveries in a compressed file, one JSON object a line, whose last line has a digest of all before."""

import base64
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, Engine, or_, select, update

from ingest.errors import WebhooksError
from ingest.queue.batch import Delivery
from workers.ledger import deliveries as ledger_deliveries
from workers.ledger.database.conditions import Position, in_list
from workers.ledger.database.engine import read_only
from workers.ledger.deliveries import ARRIVED
from workers.ledger.session_erasure import of_erased_sessions
from workers.ledger.states import BodyDeletion, DeliveryState
from workers.ledger.tables.core_tables import deliveries

PAGE = 500
VERSION = 1
TIMES = ("received_at", "signed_at")


class ArchiveUnreadable(WebhooksError):
    """Raised when a file is no archive, or is not as it was written."""


def write_archive(engine: Engine, path: Path, before: datetime) -> int:
    """Write the settled deliveries that were received before then and still have their bodies; return how many.

    The file must not exist yet. It takes its name when it is complete.
    """
    if path.exists():
        raise FileExistsError(17, "exists already", str(path))
    return write_lines(path, _lines_of(engine, before), {"before": before.isoformat()})


def write_lines(path: Path, lines: Iterable[bytes], facts: Mapping[str, Any]) -> int:
    """Write an archive of these lines, with facts and a digest in the last one; return how many there were.

    Only its owner may read it, unless it replaces one that others may read.
    """
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a command that was killed
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            count = _write(written, lines, facts)
            written.flush()
            os.fsync(written.fileno())  # it may replace the one archive that there is
        partial.chmod(mode)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return count


def _write(written: BinaryIO, lines: Iterable[bytes], facts: Mapping[str, Any]) -> int:
    digest, count = hashlib.sha256(), 0
    with gzip.open(written, "wb") as file:
        for line in lines:
            digest.update(line)
            file.write(line)
            count += 1
        end = {**facts, "archive": VERSION, "count": count, "sha256": digest.hexdigest()}
        file.write(json.dumps(end).encode() + b"\n")
    return count


def verify_archive(path: Path) -> Mapping[str, Any]:
    """Return the last line of an archive. Raise ArchiveUnreadable unless it is as it was written."""
    digest, count = hashlib.sha256(), 0
    end: dict[str, Any] | None = None
    for line in _lines(path):
        fields = _parse(line)
        if "archive" in fields:
            end = fields
            continue
        if end is not None:
            raise ArchiveUnreadable("The archive goes on after its end.")
        digest.update(line)
        count += 1
    if end is None or (end.get("count"), end.get("sha256")) != (count, digest.hexdigest()):
        raise ArchiveUnreadable("The archive is incomplete, or was changed.")
    if end["archive"] != VERSION:
        raise ArchiveUnreadable("A newer version wrote this archive: install that.")
    return end


def read_archive(path: Path) -> Iterator[Delivery]:
    """Yield the deliveries of an archive that was verified."""
    return (delivery for _, delivery in read_lines(path))


def read_lines(path: Path) -> Iterator[tuple[bytes, Delivery]]:
    """Yield the lines of an archive that was verified, as they are, and their deliveries."""
    for line in _lines(path):
        fields = _parse(line)
        if "archive" not in fields:
            times = {
                name: fields[name] and datetime.fromisoformat(fields[name]) for name in ("received_at", "signed_at")
            }
            body = base64.b64decode(fields.pop("body"))
            yield line, Delivery(**{**fields, **times, "body": body, "receipts": 1})


def restore(ledger: Connection, archived: list[Delivery]) -> list[str]:
    """Restore the bodies of deliveries, insert those that the ledger does not have, and return the ids of all.

    What was erased stays so, also where the ledger has deleted the delivery itself since.
    """
    ids = [each.id for each in archived]
    known = select(deliveries.c.id, deliveries.c.body_deletion).where(in_list(deliveries.c.id, ids))
    found = {row.id: row.body_deletion for row in ledger.execute(known)}
    erased = {key for key, deletion in found.items() if deletion is BodyDeletion.ERASURE}
    erased |= of_erased_sessions(ledger, archived)
    kept = [each for each in archived if each.id not in erased]
    for each in kept:
        if found.get(each.id) is BodyDeletion.RETENTION:
            there = {"body": each.body, "headers": dict(each.headers), "body_deleted_at": None, "body_deletion": None}
            is_still = deliveries.c.body_deletion == BodyDeletion.RETENTION  # it may be erased at this moment
            ledger.execute(update(deliveries).where(deliveries.c.id == each.id, is_still).values(there))
    new = [each for each in kept if each.id not in found]
    # A replay reads them again, as it does with what could not be read.
    ledger_deliveries.store(ledger, new, {each.id: (DeliveryState.UNREADABLE, "from an archive") for each in new})
    return [each.id for each in kept]


def _lines_of(engine: Engine, before: datetime) -> Iterator[bytes]:
    after = None
    while page := _page(engine, before, after):
        for delivery in page:
            yield json.dumps(_fields(delivery)).encode() + b"\n"
        after = page[-1].received_at, page[-1].id


def _page(engine: Engine, before: datetime, after: Position | None) -> list[Delivery]:
    query = select(*(deliveries.c[name] for name in ARRIVED)).where(
        deliveries.c.received_at < before, deliveries.c.settled_at.is_not(None), deliveries.c.body_deleted_at.is_(None)
    )
    if after is not None:
        is_later = or_(deliveries.c.received_at > after[0], deliveries.c.id > after[1])
        query = query.where(deliveries.c.received_at >= after[0], is_later)
    with read_only(engine) as ledger:
        rows = ledger.execute(query.order_by(deliveries.c.received_at, deliveries.c.id).limit(PAGE))
        return [Delivery(**row._mapping, receipts=1) for row in rows]  # noqa: SLF001 - public, despite its name


def _fields(delivery: Delivery) -> dict[str, Any]:
    fields = asdict(delivery)
    del fields["receipts"]
    times = {name: fields[name] and fields[name].isoformat() for name in TIMES}
    return {**fields, **times, "body": base64.b64encode(delivery.body or b"").decode()}


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ArchiveUnreadable("The file is no archive, or is incomplete.") from error


def _parse(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ArchiveUnreadable("The file is no archive.")
    return fields
