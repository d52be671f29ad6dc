"""Erases a driver or sessions from archives: their deliveries are left out, and the digest is made anew."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ingest.errors import Unreadable
from ingest.events import SessionEvent, decode
from ingest.queue.batch import Delivery
from ingest.queue.erasure_orders import is_distinctive
from ingest.wire.envelope import Kind
from workers.privacy.archive import read_archive, read_lines, verify_archive, write_lines
from workers.privacy.erasure_targets import ErasureTargets, is_named

END_LINE = ("archive", "count", "sha256")


def sessions_in_archives(paths: Iterable[Path], user: str) -> set[str]:
    """Return the sessions of a driver in archives, which the ledger may not know any more. Raise ArchiveUnreadable."""
    found: set[str] = set()
    for path in paths:
        verify_archive(path)
        found |= {id_ for delivery in read_archive(path) if (id_ := _session_of(delivery, user))}
    return found


def erase_from_archive(path: Path, targets: ErasureTargets, *, dry_run: bool = False) -> int:
    """Leave out of an archive what names a driver or their sessions, and return how many deliveries that were.

    The file is replaced once the new one is complete. Raise ArchiveUnreadable if it is not as it was written.
    """
    end = verify_archive(path)
    counts = Counter(_is_of(delivery, targets) for delivery in read_archive(path))
    if counts[True] and not dry_run:
        facts = {name: value for name, value in end.items() if name not in END_LINE}
        left = (line for line, delivery in read_lines(path) if not _is_of(delivery, targets))
        erased = int(facts.get("erased", 0)) + counts[True]
        write_lines(path.resolve(), left, {**facts, "erased": erased})  # and not in place of a link to it
    return counts[True]


def _is_of(delivery: Delivery, targets: ErasureTargets) -> bool:
    if delivery.session_id in targets.sessions or delivery.id in targets.deliveries:
        return True
    # As in the ledger: a short word names nobody in a delivery that has a session.
    names = set(filter(is_distinctive, targets.names)) if delivery.session_id else targets.names
    return is_named(names, delivery.body, *delivery.headers.values())


def _session_of(delivery: Delivery, user: str) -> str | None:
    try:
        event = decode(Kind(delivery.kind), delivery.body or b"")
    except Unreadable:
        return None
    is_theirs = isinstance(event, SessionEvent) and (event.user_id or "").lower() == user.lower()
    return event.session_id if is_theirs else None
