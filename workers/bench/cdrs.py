"""Whether 100,000 CDRs, some repeated and some contradicted, are counted and added up to the last digit."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rich.progress import Progress
from sqlalchemy import func, select

from workers.bench.databases import POSTGRESQL, SQLITE
from workers.bench.depths import settled_in
from workers.bench.harness import HOST, KEY, Harness, seen, wait_until
from workers.bench.http_load import LoadSpec
from workers.bench.process import BenchFailed
from workers.bench.report import Column, Report, Row
from workers.bench.work import stage_on
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables.core import receipts

MANY_S = 900.0
PATH = "/plugsurfing/cdrs"
CURRENCIES = ("EUR", "SEK", "CHF")
SCALE = 6
"""Amounts have up to so many decimals; what they come to is known as whole numbers of the smallest of them."""

COLUMNS = (
    Column("s to the last answer", "sent_s", 1),
    Column("s to settled", "settled_s", 1),
    Column("CDRs/s", "rate"),
    Column("s to add up", "totals_s", 1),
    Column("s to list conflicts", "conflicts_s", 1),
)


@dataclass(frozen=True)
class Extent:
    """How many CDRs, and which part of them is sent again or contradicted."""

    count: int
    repeated: float
    in_conflict: float
    seed: int = 1


@dataclass
class Expected:
    """What is sent, and what it comes to: in whole numbers, so that nothing under test is used to know it."""

    bodies: list[bytes] = field(default_factory=list)
    cdrs: Counter[str] = field(default_factory=Counter)
    disputed: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    disputed_sums: Counter[str] = field(default_factory=Counter)
    request_ids: set[str] = field(default_factory=set)
    """Those in conflict."""
    repeats: int = 0


def truth(extent: Extent) -> Expected:
    """Make the CDRs, in any order; the same extent makes the same."""
    random, told = Random(extent.seed), Expected()  # noqa: S311 - nothing secret is drawn
    contradicted = set(random.sample(range(extent.count), round(extent.count * extent.in_conflict)))
    repeated = set(random.sample(range(extent.count), round(extent.count * extent.repeated)))
    for number in range(extent.count):
        request_id, currency = f"r-{extent.seed}-{number}", random.choice(CURRENCIES)
        for _ in range(2 if number in contradicted else 1):
            amount, written = _amount(random)
            told.bodies.append(_body(number, request_id, currency, written, len(told.bodies)))
            told.cdrs[currency] += 1
            told.sums[currency] += amount
            if number in contradicted:
                told.disputed[currency] += 1
                told.disputed_sums[currency] += amount
                told.request_ids.add(request_id)
        if number in repeated:
            told.bodies.append(told.bodies[-1])
            told.repeats += 1
    random.shuffle(told.bodies)
    return told


def cdrs(extent: Extent, server: str | None, progress: Progress) -> Report:
    """Send them on each database, ask `webhooks cdrs`, and raise BenchFailed unless it says the truth."""
    kinds = [SQLITE, *([POSTGRESQL] if server else [])]
    rows = {kind: Row(kind) for kind in kinds}
    told = truth(extent)
    task = progress.add_task("cdrs", total=len(kinds))
    for kind in kinds:
        progress.update(task, description=f"cdrs: {kind}")
        with stage_on(kind, server) as stage:
            _measure(stage, told, rows[kind])
        progress.advance(task)
    return Report(
        f"cdrs: {extent.count:,} CDRs, {told.repeats:,} sent again, {len(told.request_ids):,} contradicted,"
        f" {len(told.bodies):,} requests",
        COLUMNS,
        list(rows.values()),
        "counted, added up and listed by `webhooks cdrs` as they were sent, to the last digit: "
        + "; ".join(f"{currency} {_written(told.sums[currency])}" for currency in CURRENCIES),
    )


def _measure(stage: Harness, told: Expected, row: Row) -> None:
    stage.valkey(fsync="everysec")
    worker = stage.work()
    serve, port = stage.serve()
    file = stage.folder / "bodies"
    file.write_bytes(b"\n".join(told.bodies))
    order = LoadSpec(f"http://{HOST}:{port}{PATH}", KEY, "cdrs", len(told.bodies), MANY_S, bodies=str(file))
    load = stage.load(order)
    answers = seen(load, order)
    if answers.kept != len(told.bodies):
        raise BenchFailed(f"{len(told.bodies) - answers.kept} requests were not answered with 200: {answers.refused}")
    began = time.monotonic() - answers.seconds
    engine = create_ledger_engine(stage.settings().database_url)
    again = select(func.coalesce(func.sum(receipts.c.receipts - 1), 0))

    def is_done() -> bool:
        with read_only(engine) as ledger:
            repeats = ledger.scalar(again)
        return settled_in(engine) == sum(told.cdrs.values()) and repeats == told.repeats

    wait_until(is_done, "all CDRs are settled", worker, serve, patience_s=MANY_S, every_s=0.2)
    settled_s = time.monotonic() - began
    engine.dispose()
    totals_s, totals = _asked(stage, "--totals")
    conflicts_s, conflicts = _asked(stage, "--conflicts")
    repeated_s, repeated = _asked(stage, "--repeated")
    _compare(told, totals, conflicts, repeated)
    row.add(
        sent_s=answers.seconds,
        settled_s=settled_s,
        rate=len(told.bodies) / settled_s,
        totals_s=totals_s,
        conflicts_s=conflicts_s,
        repeated_s=repeated_s,
    )
    row.remark(
        {"CDR": sum(told.cdrs.values()), "CDR in conflict": len(conflicts), "CDR that came again": len(repeated)}
    )


def _asked(stage: Harness, option: str) -> tuple[float, list[dict[str, Any]]]:
    """Ask the command, as a process of its own; return how long it took and what it said."""
    began = time.monotonic()
    said = stage.webhooks("cdrs", option, "--json").finish(MANY_S)
    (stage.folder / "cdrs.out").unlink()  # the next one's words would follow these
    return time.monotonic() - began, [json.loads(line) for line in said.splitlines()]


def _compare(
    told: Expected, totals: list[dict[str, Any]], conflicts: list[dict[str, Any]], repeated: list[dict[str, Any]]
) -> None:
    """Raise BenchFailed at the first thing that is not as it was sent."""
    for total in totals:
        currency = total["currency"]
        for name, is_so, should_be in (
            ("CDRs", total["cdrs"], told.cdrs[currency]),
            ("CDRs in conflict", total["in_conflict"], told.disputed[currency]),
            ("CDRs without an amount", total["without_amount"], 0),
            ("sum", _whole(total["amount"]), told.sums[currency]),
            ("sum in conflict", _whole(total["amount_in_conflict"]), told.disputed_sums[currency]),
        ):
            _same(f"{name} in {currency}", is_so, should_be)
    _same("currencies", sorted(total["currency"] for total in totals), sorted(told.cdrs))
    _same("request ids in conflict", {row["request_id"] for row in conflicts}, told.request_ids)
    _same("CDRs listed as in conflict", len(conflicts), told.disputed.total())
    _same("repeats", sum(row["duplicates"] for row in repeated), told.repeats)


def _same(what: str, is_so: object, should_be: object) -> None:
    if is_so != should_be:
        raise BenchFailed(f"{what}: {str(is_so)[:100]}, but {str(should_be)[:100]} was sent")


def _amount(random: Random) -> tuple[int, str]:
    """Draw an amount, most of them in hundredths; return it as a whole number, and as it is written in JSON."""
    decimals = random.choice((2, 2, 2, 0, 1, 4, SCALE))
    digits = random.randrange(10**decimals, 10 ** (decimals + 3))
    written = f"{digits // 10**decimals}.{digits % 10**decimals:0{decimals}}" if decimals else str(digits)
    return digits * 10 ** (SCALE - decimals), random.choice((written, f'"{written}"'))


def _body(number: int, request_id: str, currency: str, amount: str, unlike: int) -> bytes:
    return (
        f'{{"requestId": "{request_id}", "userId": "driver-{number % 5000}", "session": {{"id": "s-{number}",'
        f' "startedAt": "2026-01-01T00:00:00Z", "stoppedAt": "2026-01-01T00:42:00Z", "energyKwh": 12.340}},'
        f' "cost": {{"total": {amount}, "currency": "{currency}"}}, "location": {{"id": "loc-{number % 100}",'
        f' "operator": "Example Charging"}}, "number": {unlike}}}'
    ).encode()


def _whole(amount: str) -> int:
    """Read an amount as a whole number of the smallest decimals. Raises BenchFailed if it has more than were sent."""
    whole, _, fraction = amount.partition(".")
    if len(fraction) > SCALE:
        raise BenchFailed(f"{amount} has more decimals than were sent")
    return int(whole + fraction.ljust(SCALE, "0"))


def _written(amount: int) -> str:
    return f"{amount // 10**SCALE}.{amount % 10**SCALE:0{SCALE}}"
