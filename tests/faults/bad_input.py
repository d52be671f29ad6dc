"""Bad input: all of it is sent to one `serve`, whose responses, inbox, log and other clients are checked.

`python -m tests.faults.bad_input` prints its table, `python -m tests.faults.report` that of the faults before it.
"""

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ingest.inbox.schema import FILE_NAME, open_inbox_file
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.documents import HOSTILE, Document, documents
from tests.faults.http_abuse import CLOSED, OTHER_PATH, abusive_requests
from tests.faults.keep_alive_senders import KEY, PATH, KeepAliveSenders
from tests.ports import reserve_port

PATHS = {Kind.EVENTS: PATH, Kind.CDRS: OTHER_PATH}
#: Senders of one byte a second: half of them send a head, half a body.
SLOW = 500
#: The longest that such a connection may stay open: BODY_TIMEOUT or HEAD_TIMEOUT, and a margin for a busy machine.
SLOW_TIMEOUT_S = 40.0
EXAMPLES = 4
#: The growth of `serve` that is allowed, in MiB; it was less than 20.
MAX_GROWTH_MIB = 80
#: The p99 of the response times of other clients that is allowed, even beside other tests.
MAX_P99_S = 2.0


@dataclass(frozen=True)
class Row:
    """Inputs of one family with one response."""

    family: str
    answer: str
    count: int
    examples: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    """Those of them that should have had another response."""


@dataclass
class Findings:
    """The results of all inputs."""

    rows: list[Row] = field(default_factory=list)
    not_kept: list[str] = field(default_factory=list)
    """Signed bodies with a 200 that are not in the inbox as they were sent."""
    failures: list[str] = field(default_factory=list)
    """Failures of other clients, which send good events at the same time."""
    calm_p99: float = 0.0
    p99: float = 0.0
    mib_before: float = 0.0
    mib_after: float = 0.0
    log_lines: list[str] = field(default_factory=list)
    inputs: int = 0

    @property
    def wrong(self) -> list[str]:
        """Return the broken promises, a line each."""
        others = [f"the p99 of other clients was {self.p99:.1f} s"] if not 0 < self.p99 < MAX_P99_S else []
        grown = self.mib_after - self.mib_before
        growth = [f"serve has grown by {grown:.0f} MiB"] if grown > MAX_GROWTH_MIB else []
        answers = [each for row in self.rows for each in row.wrong]
        return [*answers, *self.not_kept, *self.failures, *others, *growth]

    @property
    def is_well(self) -> bool:
        """Return whether every promise was kept."""
        return not self.wrong


class ServeProcess:
    """`webhooks serve` as a process of its own, in a folder of its own."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.inbox = folder / "var" / FILE_NAME
        self.port = reserve_port()
        given = {"DATA_DIR": str(folder / "var"), "PORT": str(self.port), "PLUGSURFING_HMAC_CURRENT": KEY.decode()}
        self.environment = {**os.environ, **given, "LOG_FORMAT": "json", **settings}
        self._log = folder / "serve.log"

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            command = [str(Path(sys.executable).with_name("webhooks")), "serve"]
            self._process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stderr=log)
        until = time.monotonic() + 30
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            time.sleep(0.05)
        raise AssertionError(self._log.read_text())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    @property
    def mib(self) -> float:
        """Return its resident memory in MiB."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    @property
    def lines(self) -> list[str]:
        """Return the lines of its log so far, split at line feeds only."""
        return self._log.read_bytes().decode().removesuffix("\n").split("\n")

    def bodies(self, kind: Kind) -> set[bytes]:
        with contextlib.closing(open_inbox_file(self.inbox)) as file:
            found = file.execute("SELECT body FROM deliveries WHERE kind = ? AND body IS NOT NULL", (kind,))
            return {row[0] for row in found}


def post(port: int, bodies: Iterable[tuple[Document, Kind]]) -> Iterator[tuple[Document, Kind, int]]:
    """Send signed documents over one connection; yield each with its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for document, kind in bodies:
        connection.request("POST", PATHS[kind], document.body, {SIGNATURE_HEADER: sign(document.body, KEY)})
        answer = connection.getresponse()
        answer.read()
        yield document, kind, answer.status
    connection.close()


def examine(slow: int = SLOW) -> Findings:
    """Send all bad input to a `serve` of its own."""
    found = Findings()
    with tempfile.TemporaryDirectory(prefix="inputs-") as folder, ServeProcess(Path(folder)) as endpoint:
        with KeepAliveSenders(endpoint.port, senders=4) as calm:
            time.sleep(2)
        found.mib_before = endpoint.mib
        slow_answers: Counter[str] = Counter()
        drip = threading.Thread(target=lambda: slow_answers.update(asyncio.run(_drip(endpoint.port, slow))))
        with KeepAliveSenders(endpoint.port, senders=4) as others:
            drip.start()
            found.rows += _documents(endpoint, found)
            found.rows += _abusive_requests(endpoint.port)
            drip.join()
        found.rows += [_slow_row(answer, count, slow) for answer, count in sorted(slow_answers.items())]
        found.mib_after = endpoint.mib
        found.failures = others.failures
        found.calm_p99, found.p99 = _p99(calm.seconds), _p99(others.seconds)
        found.log_lines = endpoint.lines
    found.inputs = sum(row.count for row in found.rows)
    return found


def _documents(endpoint: ServeProcess, found: Findings) -> list[Row]:
    sent = [(document, kind) for document in documents() for kind in Kind]
    by_answer: dict[tuple[str, str], list[str]] = defaultdict(list)
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for document, _kind, status in post(endpoint.port, sent):
        key = (f"{document.shape}, well signed", str(status))
        by_answer[key].append(document.name)
        if status != http.HTTPStatus.OK:
            wrong[key].append(document.name)
    kept = {kind: endpoint.bodies(kind) for kind in Kind}
    found.not_kept = [f"{kind}: {document.name}" for document, kind in sent if document.body not in kept[kind]]
    return [_row(key, names, wrong[key]) for key, names in sorted(by_answer.items())]


def _abusive_requests(port: int) -> list[Row]:
    by_answer: dict[tuple[str, str], list[str]] = defaultdict(list)
    wrong: dict[tuple[str, str], list[str]] = defaultdict(list)
    for abuse in abusive_requests():
        answers = abuse.send(port)
        key = (abuse.family, format_statuses(answers))
        by_answer[key].append(abuse.name)
        if answers != abuse.promised:
            wrong[key].append(f"{abuse.name}: {format_statuses(abuse.promised)} was expected")
    return [_row(key, names, wrong[key]) for key, names in sorted(by_answer.items())]


def _slow_row(answer: str, count: int, slow: int) -> Row:
    """Return the row of half of the slow senders, which must all have the same response."""
    is_right = answer in {"408 in the body", "closed in the head"} and count == slow // 2
    wrong = () if is_right else (f"{count} senders of one byte a second: {answer}",)
    return Row("one byte a second", answer, count, (), wrong)


def _row(key: tuple[str, str], names: list[str], wrong: list[str]) -> Row:
    return Row(*key, len(names), tuple(names[:: max(1, len(names) // EXAMPLES)][:EXAMPLES]), tuple(wrong))


def format_statuses(answers: tuple[int, ...]) -> str:
    """Format the statuses of a connection for the table."""
    words = ["closed" if status == CLOSED else str(status) for status in answers]
    return f"{len(words)} × {words[0]}" if len(words) > 3 else ", then ".join(words)


async def _drip(port: int, count: int) -> list[str]:
    return list(await asyncio.gather(*(_drip_one(port, in_body=bool(number % 2)) for number in range(count))))


async def _drip_one(port: int, *, in_body: bool) -> str:
    """Send one byte a second until `serve` closes the connection; return its response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    if in_body:
        writer.write(f"{head}\r\n".encode())
    sending = asyncio.create_task(_send_slowly(writer, b"x" * 1000 if in_body else head.encode() * 10))
    try:
        answer = await asyncio.wait_for(reader.read(), SLOW_TIMEOUT_S)
    except ConnectionError:
        answer = b""
    except TimeoutError:
        answer = b"HTTP/1.1 nothing at all"
    sending.cancel()
    writer.close()
    where = "in the body" if in_body else "in the head"
    return f"{answer.split()[1].decode() if answer else 'closed'} {where}"


async def _send_slowly(writer: asyncio.StreamWriter, text: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        for byte in text:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)


def unclean(lines: Iterable[str]) -> list[str]:
    """Return the lines of a log with control characters, a traceback, or a user, a body or a text that was sent."""
    forbidden = ["Traceback", "user1", "L60XMxWy0oP", *(text[:20] for text in HOSTILE.values() if len(text) > 3)]
    return [
        line
        for line in lines
        if not line.isprintable() or any(word in text for text in _texts(json.loads(line)) for word in forbidden)
    ]


def _texts(value: object) -> Iterator[str]:
    """Yield every string in a JSON document, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for each in pair for text in _texts(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _texts(each))


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] if seconds else 0.0


def markdown(found: Findings) -> str:
    """Format the findings and the table."""
    wrong = sum(len(row.wrong) for row in found.rows)
    lines = [
        f"- {found.inputs:,} inputs; {wrong} with another response than promised.",
        f"- Well-signed bodies that were not kept: {len(found.not_kept)}.",
        f"- Other clients, which sent good events: {len(found.failures)} without a 200.",
        f"- Their p99 was {found.p99 * 1000:.0f} ms; before: {found.calm_p99 * 1000:.0f} ms.",
        f"- Memory of the process: {found.mib_before:.0f} MiB before, {found.mib_after:.0f} MiB after.",
        "",
        "| input | how many | answer | among them |",
        "|---|---|---|---|",
    ]
    for row in found.rows:
        examples = ", ".join(name.replace("|", "\\|") for name in row.examples)
        lines.append(f"| {row.family} | {row.count} | {row.answer} | {examples} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(examine()))  # noqa: T201  the command prints it
