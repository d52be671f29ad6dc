"""How long the pages of the console and the lists of the commands take over a large ledger."""

import asyncio
import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from threading import Event, Thread

import httpx
from rich.progress import Progress
from starlette.types import ASGIApp

from tests.bench.console_requests import PageCase, page_cases
from tests.bench.databases import harness_on, kinds_on
from tests.bench.harness import HOST, BenchFailed, Harness, resident_mib, wait_for_http
from tests.bench.large_ledger import FLEET, LargeLedger, fill_ledger
from tests.bench.report import Column, Report, Row, percentile
from tests.ports import reserve_port
from workers.console.console_server import create_console_app
from workers.ledger.database.engine import create_ledger_engine

PATIENCE_S = 60.0
LIVE_EVERY_S = 1.0
WARM_UP = 2
OK = {200, 303}

COMMANDS = (
    ("deliveries",),
    ("deliveries", "--state", "dead"),
    ("deliveries", "--event", "SESSION_FEE_INCURRING"),
    ("deliveries", "--user", FLEET),
    ("dead",),
    ("sessions",),
    ("sessions", "--status", "open"),
    ("sessions", "--user", FLEET),
    ("pushes",),
    ("pushes", "--state", "dead"),
    ("warnings",),
    ("warnings", "--user", FLEET),
    ("authorizations",),
    ("authorizations", "--decision", "BLOCKED"),
    ("cdrs",),
    ("cdrs", "--totals"),
    ("cdrs", "--conflicts"),
    ("cdrs", "--repeated"),
    ("cdrs", "--user", FLEET),
    ("driver", FLEET),
    ("session", "S0000042"),
    ("devices",),
    ("alerts",),
    ("audit",),
    ("keys",),
    ("handlers",),
    ("stats",),
)


@dataclass(frozen=True)
class PagesScale:
    """How large the ledger is, and how often each page is asked for."""

    ledger: LargeLedger
    requests: int


def pages(scale: PagesScale, server: str | None, progress: Progress) -> list[Report]:
    """Fill a ledger in each database, and measure every page, every list by every filter, and every command's list."""
    page_rows: dict[str, Row] = {}
    command_rows = {" ".join(command): Row(" ".join(command)) for command in COMMANDS}
    memory = []
    kinds = kinds_on(server)
    for kind in kinds:
        with harness_on(kind, server) as harness:
            harness.valkey(fsync="no")
            settings = harness.settings()
            engine = create_ledger_engine(settings.database_url)
            task = progress.add_task(f"{kind}: filling", total=1.0)
            fill_ledger(engine, scale.ledger, lambda share, task=task: progress.update(task, completed=share))  # type: ignore[misc]
            cases = page_cases(engine, scale.ledger)
            task = progress.add_task(f"{kind}: pages", total=2 * len(cases))

            def add(case: PageCase, what: str, took: Sequence[float], kind: str = kind, task: object = task) -> None:
                row = page_rows.setdefault(case.name, Row(case.name))
                row.add(**{f"{kind} {what} p50": median(took), f"{kind} {what} p95": percentile(took, 95)})
                progress.advance(task)  # type: ignore[arg-type]

            at_application(create_console_app(settings, engine), cases, scale.requests, add)
            engine.dispose()
            memory.append(f"{_over_http(harness, cases, scale.requests, add):.0f} MiB on {kind}")
            for command in COMMANDS:
                command_rows[" ".join(command)].add(**{kind: _seconds_of(harness, command)})
    title = f"{scale.ledger.deliveries:,} deliveries of {scale.ledger.days:g} days"
    return [
        Report(
            f"pages: ms of a page of the console, {title}, {scale.requests} requests each",
            [
                Column(f"{kind}, {what}, {part}", f"{kind} {what} {part}", decimals=1)
                for kind in kinds
                for what in ("application", "HTTP")
                for part in ("p50", "p95")
            ],
            sorted(page_rows.values(), key=_slowest, reverse=True),
            "slowest first; `webhooks dashboard` afterwards, its first page open and live: " + ", ".join(memory),
        ),
        Report(
            f"pages: s of a command, {title}",
            [Column(kind, kind, decimals=2) for kind in kinds],
            list(command_rows.values()),
            "the whole process, which takes a while to start; median of 3",
        ),
    ]


def at_application(
    app: ASGIApp, cases: Sequence[PageCase], requests: int, add: Callable[[PageCase, str, Sequence[float]], None]
) -> None:
    """Ask the application for the pages in this process, one after another."""

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE_S) as client:
            for case in cases:
                took = []
                for address in islice(cycle(case.addresses), WARM_UP + requests):
                    began = time.perf_counter()
                    answer = await client.get(address)
                    took.append(1000 * (time.perf_counter() - began))
                    _check(answer.status_code, address)
                add(case, "application", took[WARM_UP:])

    asyncio.run(ask())


def _over_http(
    harness: Harness, cases: Sequence[PageCase], requests: int, add: Callable[[PageCase, str, Sequence[float]], None]
) -> float:
    """Ask a `webhooks dashboard` for the pages, its first one being open meanwhile; return its MiB at the end."""
    port = reserve_port()
    process = harness.webhooks("dashboard", DASHBOARD_PORT=str(port))
    wait_for_http(process, f"http://{HOST}:{port}/healthz")
    with _first_page_open(port):
        connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
        for case in cases:
            took = []
            for address in islice(cycle(case.addresses), requests):
                began = time.perf_counter()
                connection.request("GET", address)
                answer = connection.getresponse()
                answer.read()
                took.append(1000 * (time.perf_counter() - began))
                _check(answer.status, address)
            add(case, "HTTP", took)
        connection.close()
        resident = resident_mib(process.pid)
    process.stop()
    return resident


@contextmanager
def _first_page_open(port: int) -> Iterator[None]:
    """Ask for the live part of the first page as a browser does, which shows it."""
    ended = Event()

    def show() -> None:
        while not ended.wait(LIVE_EVERY_S):
            connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
            connection.request("GET", "/live")
            connection.getresponse().read()
            connection.close()

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _seconds_of(harness: Harness, command: Sequence[str]) -> float:
    took = []
    for _ in range(3):
        began = time.perf_counter()
        harness.webhooks(*command).finish(PATIENCE_S)
        took.append(time.perf_counter() - began)
    return median(took)


def _slowest(row: Row) -> float:
    return max(value for key, values in row.samples.items() if key.endswith("p95") for value in values)


def _check(status: int, address: str) -> None:
    if status not in OK:
        raise BenchFailed(f"{address} was answered with {status}")
