"""How soon a driver is warned of a fee, whatever else happens: others fail, many are warned, events wait."""

import http.server
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from rich.progress import Progress
from sqlalchemy import Engine, func, select

from handlers import Device
from ingest.simulator.scenarios import FEE_INCURRING, STARTED, Participants, make_event
from tests.bench.databases import harness_on, kinds_on
from tests.bench.harness import Harness, wait_until
from tests.bench.http_load import EVENTS, bodies
from tests.bench.pipeline import post, read_only_inbox, settled_in, waiting_in
from tests.bench.report import Column, Report, Row, p99
from tests.bench.work import fill
from workers.ledger import devices
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.database.migrate import migrate
from workers.ledger.tables.core_tables import deliveries, pushes

WARNINGS_PER_SECOND = 20.0
PATIENCE_S = 300.0
FAILING = "failing"
LATENCY_S = 0.02
HANG_S = 30.0
SLOW_WARNINGS = 10
REPLAYED = 1500

COLUMNS = (
    Column("ms to the push, p50", "p50_ms"),
    Column("p99", "p99_ms"),
    Column("most", "most_ms"),
    Column("waiting at the first", "waiting_first"),
    Column("at the last", "waiting_last"),
)


@dataclass(frozen=True)
class Scenario:
    """What else happens while drivers are warned."""

    name: str
    warnings: int
    per_second: float = math.inf
    backlog: int = 0
    failing: int = 0
    """One driver of so many in ten fails: its pushes get 429, 500 or no answer, in turn."""
    slow_s: float = 0
    """How long a handler of the sessions' starts takes, which are not waited for."""
    replayed: int = 0
    """Deliveries that are replayed meanwhile."""


def scenarios(events: int, warnings: int) -> list[Scenario]:
    """Return what is measured with so many events that wait, and so many warnings one by one."""
    one_by_one = Scenario("idle", warnings, WARNINGS_PER_SECOND)
    return [
        one_by_one,
        replace(one_by_one, name="30 % of drivers fail", failing=3),
        Scenario(f"{10 * warnings:,} at once", 10 * warnings),
        replace(one_by_one, name=f"{events:,} events wait", backlog=events),
        Scenario(f"{10 * warnings:,} at once, 30 % fail, {events:,} wait", 10 * warnings, backlog=events, failing=3),
        Scenario("a handler of starts takes 25 s", SLOW_WARNINGS, slow_s=25),
        replace(one_by_one, name=f"{REPLAYED:,} replayed", replayed=REPLAYED),
    ]


def warn(  # noqa: PLR0913 - the options of the command
    runs: int, events: int, warnings: int, server: str | None, progress: Progress, *, channel: str = "http"
) -> Report:
    """Measure each scenario on each database, `runs` times."""
    played = [(kind, scenario) for kind in kinds_on(server) for scenario in scenarios(events, warnings)]
    rows = {each: Row(f"{each[0]}, {each[1].name}") for each in played}
    task = progress.add_task("warn", total=runs * len(rows))
    for _ in range(runs):
        for (kind, scenario), row in rows.items():
            progress.update(task, description=f"warn: {row.name}")
            with harness_on(kind, server) as harness:
                _measure(harness, scenario, row, channel)
            progress.advance(task)
    return Report(
        f"warn: {warnings:,} warnings by {channel}, {WARNINGS_PER_SECOND:.0f} a second or at once, {runs} runs",
        COLUMNS,
        list(rows.values()),
        "medians (least–most) of each run's figures; from receipt to the push of drivers that can be reached",
    )


def _measure(harness: Harness, scenario: Scenario, row: Row, channel: str) -> None:
    harness.valkey(fsync="everysec")
    settings = harness.settings()
    drivers = [
        f"{FAILING if number % 10 < scenario.failing else 'driver'}-{number}" for number in range(scenario.warnings)
    ]
    participants = [Participants(f"warned-{number}", driver) for number, driver in enumerate(drivers)]
    engine = create_ledger_engine(settings.database_url)
    with push_service() as url:
        push = {
            "PUSH": channel,
            "PUSH_HTTP_URL": url,
            "PUSH_HTTP_KEY": "a key for measuring",
            "HANDLER_MODULES": "tests.bench.push_channels",
            "BENCH_PUSH_URL": url,
            "BENCH_SLOW_S": str(scenario.slow_s),
            **({"BENCH_REPLAYED": "1"} if scenario.replayed else {}),
        }
        if channel == "fcm":
            push["PUSH_FCM_CREDENTIALS"] = str(_service_account(harness.folder, url))
        migrate(settings.database_url)
        with engine.begin() as ledger:
            for driver in drivers:
                devices.upsert(ledger, driver, Device(driver), datetime.now(UTC))
        worker, clock = harness.work(**push), harness.webhooks("clock", **push)
        fill(settings, bodies("replayed", scenario.replayed * len(EVENTS)))
        fill(settings, _events(STARTED, participants))
        serve, port = harness.serve()
        known = 0 if scenario.slow_s else len(drivers) + scenario.replayed * len(EVENTS)
        wait_until(lambda: settled_in(engine) >= known, "the sessions are known", worker, serve, patience_s=PATIENCE_S)
        if scenario.replayed:
            replay = ("replay", "--handler", "replayed", "--since", "1d", "--event", STARTED)
            harness.webhooks(*replay, **push).finish(PATIENCE_S)
        if scenario.backlog:
            for process in (serve, worker):
                process.stop()
            fill(settings, bodies("backlog", scenario.backlog))
            worker = harness.work(**push)
            serve, port = harness.serve()
        with read_only_inbox(settings) as inbox:
            first = waiting_in(inbox)
            for _ in post(port, _events(FEE_INCURRING, participants)):
                time.sleep(1 / scenario.per_second)
            last = waiting_in(inbox)
        reachable = sum(not driver.startswith(FAILING) for driver in drivers)
        wait_until(
            lambda: _sent(engine) >= reachable, "all warnings are sent", worker, serve, clock, patience_s=PATIENCE_S
        )
    query = select(deliveries.c.received_at, pushes.c.sent_at).join_from(
        pushes, deliveries, pushes.c.delivery_id == deliveries.c.id
    )
    with read_only(engine) as ledger:
        rows = ledger.execute(query.where(pushes.c.sent_at.is_not(None)))
        took = [1000 * (sent_at - received_at).total_seconds() for received_at, sent_at in rows]
    engine.dispose()
    row.add(p50_ms=median(took), p99_ms=p99(took), most_ms=max(took), waiting_first=first, waiting_last=last)
    if scenario.backlog and not last:
        row.remark({"backlog gone before the last warning": 1})


def _service_account(folder: Path, url: str) -> Path:
    """Write the file of a service account whose Google is the push service."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    account = {
        "type": "service_account",
        "project_id": "bench",
        "private_key_id": "1",
        "client_id": "1",
        "client_email": "bench@bench.example",
        "token_uri": f"{url}token",
        "private_key": key.private_bytes(*form).decode(),
    }
    file = folder / "account.json"
    file.write_text(json.dumps(account))
    return file


class _PushHandler(http.server.BaseHTTPRequestHandler):
    """Accepts pushes after 20 ms, but for failing drivers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a push."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/token":  # of FCM's service account
            self._answer(200, {"access_token": "a token", "expires_in": 3600, "token_type": "Bearer"})
            return
        push = json.loads(body)
        user_id = push["message"]["token"] if "message" in push else push["user_id"]
        kind = int(user_id.rpartition("-")[2]) % 3 if user_id.startswith(FAILING) else None
        time.sleep(HANG_S if kind == 0 else LATENCY_S)
        self._answer({None: 200, 0: 200, 1: 429, 2: 500}[kind], {"name": "projects/bench/messages/1"})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def handle(self) -> None:
        """Let a client leave that has lost patience."""
        with suppress(OSError):
            super().handle()


class _PushServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    block_on_close = False


@contextmanager
def push_service() -> Iterator[str]:
    """Serve a push service and yield its URL."""
    with _PushServer(("127.0.0.1", 0), _PushHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def _events(name: str, participants: Iterable[Participants]) -> Iterator[bytes]:
    """Yield an event of each session, of a second before it is asked for."""
    for each in participants:
        yield make_event(name, each, datetime.now(UTC) - timedelta(seconds=1)).body


def _sent(engine: Engine) -> int:
    with read_only(engine) as ledger:
        return ledger.execute(select(func.count(pushes.c.sent_at))).scalar_one()
