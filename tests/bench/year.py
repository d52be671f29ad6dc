"""A year with retention on: how large the ledger becomes, and how long everything takes, month by month.

The mass of each month is copied by the database from a month that was made once, with other ids and later times; a
sample of it goes the whole way, through `serve`, `work` and `clock`, whose clocks say what month it is.
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from urllib.parse import urlencode

import httpx
from rich.progress import Progress
from sqlalchemy import Connection, Engine, Table, delete, func, select, text
from starlette.types import ASGIApp

from handlers.kit.column_types import UtcDateTime
from ingest.config.settings import Settings
from ingest.wire.timestamps import utc_now
from tests.bench.databases import POSTGRESQL, harness_on, kinds_on
from tests.bench.harness import KEY, Harness, load_result, wait_until
from tests.bench.http_load import LoadSpec
from tests.bench.large_ledger import TABLES, LargeLedger, fill_ledger
from tests.bench.pipeline import Pipeline, Transit, start_pipeline
from tests.bench.report import Column, Report, Row
from tests.faults.fake_wall_clock import VARIABLE
from workers.commands.check.check_result import CheckStatus
from workers.commands.check.consistency import check_consistency
from workers.console.console_server import create_console_app
from workers.console.list_page import LISTS
from workers.console.page_template import path_to
from workers.ledger.database.engine import create_ledger_engine, read_only, write_in_bulk
from workers.ledger.tables.core_tables import deliveries
from workers.lists.cdr_list import TOTAL_QUERY
from workers.lists.formatting import iso
from workers.privacy.retention import RetentionTask
from workers.privacy.vacuum import vacuum_ledger

MONTH = timedelta(days=30)
MADE_ONCE = 50_000
"""Deliveries of the month that is copied, at most."""
COPIED = ("deliveries", "runs", "sightings", "sessions", "pushes", "cdrs", "authorizations")
#: Columns whose values must differ in each copy, beside the ids of deliveries, runs and pushes.
NAMES = frozenset({"session_id", "idempotency_key", "identity", "request_id"})
IDS = frozenset({"id", "delivery_id"})
COPIES_OF_A_MONTH = 100_000
TOTALS_OF = timedelta(days=1)
ASKED = 3
FLOOD_S, STEADY_S = 3.0, 6.0
STEADY_RATE = 50.0
MOST_IN_FLOOD = 40_000
QUARTER = 3
FLAT = 1.15
"""So much more than the quarter before the last one may have of everything."""
NOISE_MS = 5.0
"""A time that has grown by less has not: another process beside it does that."""

COLUMNS = (
    Column("bodies", "bodies"),
    Column("deliveries", "deliveries"),
    Column("MB", "mb"),
    Column("of it deliveries", "mb_deliveries"),
    Column("runs", "mb_runs"),
    Column("rest", "mb_rest"),
    Column("rows deleted", "deleted"),
    Column("in s", "retention_s"),
    Column("ms of a slice", "slice_ms", 1),
    Column("the longest", "longest_slice_ms"),
    Column("slowest list, ms", "list_ms"),
    Column("a session, ms", "session_ms"),
    Column("check --deep, s", "check_s", 1),
    Column("settled/s", "settled"),
    Column("while it deletes", "settled_meanwhile"),
    Column("ratio", "ratio", 2),
    Column("longest wait at 50/s, ms", "wait_ms"),
    Column("while it deletes", "wait_meanwhile_ms"),
)
MUST_BE_FLAT = ("mb", "deliveries", "retention_s", "slice_ms", "list_ms", "session_ms", "check_s")


@dataclass(frozen=True)
class YearScale:
    """How many deliveries there are in all, over how many months, and for how many days what is kept."""

    deliveries: int
    months: int
    bodies: int
    rows: int
    settle_every: int = 1

    @property
    def of_a_month(self) -> int:
        """Deliveries of a month."""
        return self.deliveries // self.months


def year(scale: YearScale, server: str | None, progress: Progress, kinds: Sequence[str] | None = None) -> list[Report]:
    """Let the months pass on each database."""
    reports = []
    for kind in kinds or kinds_on(server):
        with harness_on(kind, server) as harness:
            reports.append(_months(kind, harness, scale, progress))
    return reports


def _months(kind: str, harness: Harness, scale: YearScale, progress: Progress) -> Report:
    task = progress.add_task(f"{kind}: a month to copy", total=scale.months)
    clock = harness.folder / "clock"
    clock.write_text("0")
    # The clock itself deletes nothing, so that it can be measured what happens while something deletes.
    harness.launcher = ("-m", "tests.faults.fake_wall_clock")
    harness.environment = {VARIABLE: str(clock), **{name.upper(): "0" for name in retention(scale)}}
    engine = create_ledger_engine(harness.settings().database_url)
    write_in_bulk(engine)
    made = min(scale.of_a_month, MADE_ONCE)
    fill_ledger(engine, LargeLedger(made, days=MONTH.days))
    copied = PastMonth(engine)
    rows = []
    with start_pipeline(harness) as pipeline:
        settings = harness.settings().model_copy(update=retention(scale))
        app = create_console_app(settings, engine)
        for month in range(1, scale.months + 1):
            progress.update(task, description=f"{kind}: month {month}", completed=month - 1)
            for number in range(max(scale.of_a_month // made, 1)):
                copied.copy(month, number)
            clock.write_text(str(int((month * MONTH).total_seconds())))
            row = Row(f"month {month}")
            if month % scale.settle_every == 0:
                _settle_and_retain(pipeline, row, settings, month)
            else:
                _retain(pipeline, row, settings, month)
            if kind == POSTGRESQL:
                _vacuum(engine)
            session = f"steady-{month - month % scale.settle_every}-alone-0"
            _measure(row, engine, app, settings, _pages(session, utc_now() + month * MONTH))
            rows.append(row)
            # A year takes long: whoever interrupts it has these.
            progress.console.print(f"{kind}, {row.name}: {row.samples}", highlight=False, soft_wrap=True)
    vacuum_ledger(engine)
    with read_only(engine) as ledger:
        vacuumed = sum(size for name, size in sizes(ledger).items() if not name.startswith("made_")) / 1e6
    engine.dispose()
    return Report(
        f"year: {scale.deliveries:,} deliveries in {scale.months} months on {kind}; bodies kept {scale.bodies} d,"
        f" rows {scale.rows} d",
        COLUMNS,
        rows,
        f"{vacuumed:,.0f} MB after a vacuum. " + flatness(rows),
    )


def retention(scale: YearScale) -> dict[str, timedelta]:
    """Return the settings of retention: so many days for bodies and what goes with them, so many for the rest."""
    short = dict.fromkeys(("retain_bodies", "retain_pushes", "retain_authorizations"), timedelta(days=scale.bodies))
    kept = ("retain_deliveries", "retain_sessions", "retain_alerts", "retain_audit", "retain_cdrs")
    return {**short, **dict.fromkeys(kept, timedelta(days=scale.rows))}


def flatness(rows: Sequence[Row]) -> str:
    """Say how the last quarter compares with the one before."""
    if len(rows) < 2 * QUARTER:
        return ""
    last, before = rows[-QUARTER:], rows[-2 * QUARTER : -QUARTER]
    ratios, growing = {}, []
    for key in MUST_BE_FLAT:
        then, now = (median(row.samples[key][0] for row in quarter) for quarter in (before, last))
        ratios[key] = now / then if then else 1.0
        if ratios[key] > FLAT and not (key.endswith("_ms") and now - then < NOISE_MS):
            growing.append(key)
    titles = {column.key: column.title for column in COLUMNS}
    told = ", ".join(f"{titles[key]} × {ratio:.2f}" for key, ratio in ratios.items())
    verdict = f"NOT FLAT: {', '.join(titles[key] for key in growing)}" if growing else "flat"
    return f"The last quarter to the one before: {told}: {verdict}."


class PastMonth:
    """A month that was made once, and moved aside: it is copied for each month to come."""

    def __init__(self, engine: Engine) -> None:
        """Move all rows aside."""
        self._engine = engine
        with engine.begin() as ledger:
            for name in COPIED:
                ledger.execute(text(f"CREATE TABLE made_{name} AS SELECT * FROM {name}"))
                ledger.execute(delete(TABLES[name]))

    def copy(self, month: int, number: int) -> None:
        """Copy it to a month; each copy needs a number."""
        assert number < COPIES_OF_A_MONTH
        with self._engine.begin() as ledger:
            for name in COPIED:
                ledger.execute(text(copy_statement(TABLES[name], ledger, month, month * COPIES_OF_A_MONTH + number)))


def copy_statement(table: Table, ledger: Connection, month: int, number: int) -> str:
    """Return the statement that copies a table's rows: with other ids in another order, some months later."""
    is_sqlite = ledger.dialect.name == "sqlite"
    days = month * MONTH.days

    def value(name: str) -> str:
        if isinstance(table.c[name].type, UtcDateTime):
            later = f"strftime('%Y-%m-%d %H:%M:%f000', {name}, '+{days} days')"
            return later if is_sqlite else f"{name} + interval '{days} days'"
        if name in IDS:
            return f"substr({name} || {name}, {1 + number % 32}, 24) || '{number:08x}'"
        return f"{name} || '-{number}'" if name in NAMES else name

    names = list(table.c.keys())
    return f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(map(value, names))} FROM made_{table.name}"


def _settle_and_retain(pipeline: Pipeline, row: Row, settings: Settings, month: int) -> None:
    """Settle a sample, then another one while retention deletes what is a month older now, and then all of it."""
    settled, wait = _settle(pipeline, f"{month}-alone", month)
    thread = threading.Thread(target=_retain, args=(pipeline, row, settings, month))
    thread.start()
    meanwhile, wait_meanwhile = _settle(pipeline, f"{month}-meanwhile", month)
    row.remark({} if thread.is_alive() else {"retention had ended before the second sample was settled": 1})
    thread.join()
    row.add(
        settled=settled,
        wait_ms=wait,
        settled_meanwhile=meanwhile,
        wait_meanwhile_ms=wait_meanwhile,
        ratio=meanwhile / settled,
    )


def _retain(pipeline: Pipeline, row: Row, settings: Settings, month: int) -> None:
    """Delete all that is too old by now."""
    slices: list[float] = []

    def pause(took: float) -> None:
        slices.append(1000 * took)
        time.sleep(took)

    task = RetentionTask(pipeline.ledger, settings, now=lambda: utc_now() + month * MONTH, sleep=pause)
    began = time.monotonic()
    deleted = task.delete()
    row.add(
        deleted=sum(deleted.values()),
        retention_s=time.monotonic() - began,
        slice_ms=median(slices or [0.0]),
        longest_slice_ms=max(slices or [0.0]),
    )


def _vacuum(engine: Engine) -> None:
    """Vacuum once, as autovacuum does 40,000 times in a month that takes a month."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as ledger:
        ledger.execute(text("VACUUM (ANALYZE)"))


def _settle(pipeline: Pipeline, seed: str, month: int) -> tuple[float, float]:
    """Return how many events a second are settled in a flood, and the longest wait in ms of one in a steady load."""
    steady = _load(pipeline, month, LoadSpec(pipeline.url, KEY, f"steady-{seed}", 10_000, STEADY_S, rate=STEADY_RATE))
    longest = max(each.settled_at - each.received_at for each in steady)
    flood = _load(pipeline, month, LoadSpec(pipeline.url, KEY, f"flood-{seed}", MOST_IN_FLOOD, FLOOD_S))
    span = max(each.settled_at for each in flood) - flood[0].received_at
    return len(flood) / span.total_seconds(), 1000 * longest.total_seconds()


def _load(pipeline: Pipeline, month: int, spec: LoadSpec) -> list[Transit]:
    """Run a load until all of it is settled. Retention deletes meanwhile, so only what it sent can be counted."""
    began_at = utc_now() + month * MONTH
    result = load_result(pipeline.harness.load(spec), spec)
    is_ours = (deliveries.c.received_at >= began_at, deliveries.c.settled_at.is_not(None))
    query = select(func.count()).select_from(deliveries).where(*is_ours)

    def is_settled() -> bool:
        with read_only(pipeline.ledger) as ledger:
            return (ledger.scalar(query) or 0) >= result.kept

    wait_until(is_settled, "everything is settled", pipeline.serve, pipeline.worker, patience_s=300, every_s=0.25)
    return pipeline.transits(began_at)


def _pages(session: str, now: datetime) -> Sequence[str]:
    """Return what is asked for: each list, and the page of a session, which is the last."""
    # By itself this list begins a day ago by the clock of this process, before which all months have passed.
    since = urlencode({"since": iso(now - TOTALS_OF)})
    lists = (f"/{name}?{since}" if name == TOTAL_QUERY.name else f"/{name}" for name in LISTS)
    return ("/failures", *lists, path_to("sessions", session))


def _measure(row: Row, engine: Engine, app: ASGIApp, settings: Settings, pages: Sequence[str]) -> None:
    """Measure sizes and times."""
    with read_only(engine) as ledger:
        mb = {name: size / 1e6 for name, size in sizes(ledger).items() if not name.startswith("made_")}
        count = select(func.count()).select_from(deliveries)
        number, bodies = (ledger.scalar(count.where(*more)) or 0 for more in ((), (HAS_BODY,)))
    began = time.monotonic()
    row.remark({each.sentence: 1 for each in check_consistency(settings) if each.status is CheckStatus.FAIL})
    check_s = time.monotonic() - began
    took = asyncio.run(_ask(app, pages))
    of_session = took.pop(pages[-1])
    row.add(
        bodies=bodies,
        deliveries=number,
        mb=sum(mb.values()),
        mb_deliveries=mb["deliveries"],
        mb_runs=mb["runs"],
        mb_rest=sum(mb.values()) - mb["deliveries"] - mb["runs"],
        list_ms=max(took.values()),
        session_ms=of_session,
        check_s=check_s,
    )


async def _ask(app: ASGIApp, addresses: Sequence[str]) -> dict[str, float]:
    """Return the median milliseconds of each page."""
    transport = httpx.ASGITransport(app)
    found = {}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300) as client:
        for address in addresses:
            took = []
            for _ in range(ASKED):
                began = time.perf_counter()
                response = await client.get(address)
                took.append(1000 * (time.perf_counter() - began))
                assert response.status_code in {200, 303, 404}, f"{address}: {response.status_code}"
            found[address] = median(took)
    return found


def sizes(ledger: Connection) -> Mapping[str, float]:
    """Return the bytes of each table with its indexes; on SQLite also what is free, as `free`."""
    if ledger.dialect.name == "sqlite":
        pages = "SELECT m.tbl_name, sum(s.pgsize) FROM dbstat s JOIN sqlite_master m ON m.name = s.name GROUP BY 1"
        found = {name: float(size) for name, size in ledger.exec_driver_sql(pages)}
        free, page = (ledger.exec_driver_sql(f"PRAGMA {each}").scalar_one() for each in ("freelist_count", "page_size"))
        return {**found, "free": float(free * page)}
    relations = (
        "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return {name: float(size) for name, size in ledger.exec_driver_sql(relations)}


HAS_BODY = deliveries.c.body_deleted_at.is_(None)
