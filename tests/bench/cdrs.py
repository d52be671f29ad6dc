"""Are 100,000 CDRs, some repeated and some contradicted, counted once and added up to the last digit?

`python -m tests.bench.cdrs --help`
"""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import click
from rich.progress import Progress
from sqlalchemy import func, select

from tests.bench.__main__ import database_option, print_reports, progress
from tests.bench.databases import harness_on, kinds_on, postgresql
from tests.bench.harness import HOST, KEY, BenchFailed, Harness, load_result, wait_until
from tests.bench.http_load import LoadSpec
from tests.bench.pipeline import settled_in
from tests.bench.report import Column, Report, Row
from workers.commands.options import as_json
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.tables.core_tables import receipts

PATIENCE_S = 900.0
PATH = "/plugsurfing/cdrs"
CURRENCIES = ("EUR", "SEK", "CHF")
SCALE = 6
"""The most decimals of an amount; sums are whole numbers of the smallest unit."""

COLUMNS = (
    Column("s to the last answer", "sent_s", 1),
    Column("s to settled", "settled_s", 1),
    Column("CDRs/s", "rate"),
    Column("s to add up", "totals_s", 1),
    Column("s to list conflicts", "conflicts_s", 1),
)


@dataclass(frozen=True)
class CdrMix:
    """How many CDRs, and which share of them is sent again or contradicted."""

    count: int
    repeated: float
    in_conflict: float
    seed: int = 1


@dataclass
class Expected:
    """What is sent and its sums, in whole numbers, so that nothing under test is used to know them."""

    bodies: list[bytes] = field(default_factory=list)
    cdrs: Counter[str] = field(default_factory=Counter)
    disputed: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    disputed_sums: Counter[str] = field(default_factory=Counter)
    request_ids: set[str] = field(default_factory=set)
    """The request ids in conflict."""
    repeats: int = 0


@click.command()
@click.option("--count", default=100_000, show_default=True, type=click.IntRange(min=100), help="CDRs.")
@click.option("--repeated", default=5.0, show_default=True, type=click.FloatRange(0, 100), help="Percent sent again.")
@click.option(
    "--in-conflict", default=1.0, show_default=True, type=click.FloatRange(0, 100), help="Percent contradicted later."
)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same CDRs.")
@database_option
@as_json
def main(  # noqa: PLR0913 - one for each option
    count: int, repeated: float, in_conflict: float, seed: int, database: str | None, *, as_json: bool
) -> None:
    """Send CDRs over 64 connections in any order, some again, some contradicted by others with their request id.

    Then `webhooks cdrs` must count, add up and list what was sent, or the exit code is 1.
    """
    with progress() as bar, postgresql(database) as server:
        report = measure(CdrMix(count, repeated / 100, in_conflict / 100, seed), server, bar)
    print_reports([report], as_json=as_json)


def expected_of(mix: CdrMix) -> Expected:
    """Return the CDRs of a mix, in any order; the same mix gives the same."""
    random, expected = Random(mix.seed), Expected()
    contradicted = set(random.sample(range(mix.count), round(mix.count * mix.in_conflict)))
    repeated = set(random.sample(range(mix.count), round(mix.count * mix.repeated)))
    for number in range(mix.count):
        request_id, currency = f"r-{mix.seed}-{number}", random.choice(CURRENCIES)
        amounts: dict[int, str] = {}
        while len(amounts) < (2 if number in contradicted else 1):
            amounts.update([_amount(random)])
        for amount, written in amounts.items():
            expected.bodies.append(_body(number, request_id, currency, written, len(expected.bodies)))
            expected.cdrs[currency] += 1
            expected.sums[currency] += amount
            if number in contradicted:
                expected.disputed[currency] += 1
                expected.disputed_sums[currency] += amount
                expected.request_ids.add(request_id)
        if number in repeated:
            expected.bodies.append(expected.bodies[-1])
            expected.repeats += 1
    random.shuffle(expected.bodies)
    return expected


def measure(mix: CdrMix, server: str | None, bar: Progress) -> Report:
    """Send the CDRs with each database and run `webhooks cdrs`; raise BenchFailed unless it has what was sent."""
    rows = [Row(kind) for kind in kinds_on(server)]
    expected = expected_of(mix)
    task = bar.add_task("cdrs", total=len(rows))
    for row in rows:
        bar.update(task, description=f"cdrs: {row.name}")
        with harness_on(row.name, server) as harness:
            _measure(harness, expected, row)
        bar.advance(task)
    return Report(
        f"cdrs: {mix.count:,} CDRs, {expected.repeats:,} sent again, {len(expected.request_ids):,} contradicted,"
        f" {len(expected.bodies):,} requests",
        COLUMNS,
        rows,
        "counted, added up and listed by `webhooks cdrs` as they were sent, to the last digit: "
        + "; ".join(f"{currency} {_written(expected.sums[currency])}" for currency in CURRENCIES),
    )


def _measure(harness: Harness, expected: Expected, row: Row) -> None:
    harness.valkey(fsync="everysec")
    worker = harness.work()
    serve, port = harness.serve()
    file = harness.folder / "bodies"
    file.write_bytes(b"\n".join(expected.bodies))
    spec = LoadSpec(f"http://{HOST}:{port}{PATH}", KEY, "cdrs", len(expected.bodies), PATIENCE_S, bodies=str(file))
    load = harness.load(spec)
    result = load_result(load, spec)
    if result.kept != len(expected.bodies):
        raise BenchFailed(f"{len(expected.bodies) - result.kept} requests were not answered with 200: {result.refused}")
    began = time.monotonic() - result.seconds
    engine = create_ledger_engine(harness.settings().database_url)
    again = select(func.coalesce(func.sum(receipts.c.receipts - 1), 0))

    def is_done() -> bool:
        with read_only(engine) as ledger:
            repeats = ledger.scalar(again)
        return settled_in(engine) == sum(expected.cdrs.values()) and repeats == expected.repeats

    wait_until(is_done, "all CDRs are settled", worker, serve, patience_s=PATIENCE_S, every_s=0.2)
    settled_s = time.monotonic() - began
    engine.dispose()
    totals_s, totals = _asked(harness, "--totals")
    conflicts_s, conflicts = _asked(harness, "--conflicts")
    repeated_s, repeated = _asked(harness, "--repeated")
    _compare(expected, totals, conflicts, repeated)
    row.add(
        sent_s=result.seconds,
        settled_s=settled_s,
        rate=len(expected.bodies) / settled_s,
        totals_s=totals_s,
        conflicts_s=conflicts_s,
        repeated_s=repeated_s,
    )
    row.remark(
        {"CDR": sum(expected.cdrs.values()), "CDR in conflict": len(conflicts), "CDR that came again": len(repeated)}
    )


def _asked(harness: Harness, option: str) -> tuple[float, list[dict[str, Any]]]:
    """Run `webhooks cdrs` as a process of its own; return how long it took and what it listed."""
    began = time.monotonic()
    output = harness.webhooks("cdrs", option, "--json").finish(PATIENCE_S)
    (harness.folder / "cdrs.out").unlink()  # else the output of the next one follows
    return time.monotonic() - began, [json.loads(line) for line in output.splitlines()]


def _compare(
    expected: Expected, totals: list[dict[str, Any]], conflicts: list[dict[str, Any]], repeated: list[dict[str, Any]]
) -> None:
    """Raise BenchFailed at the first difference from what was sent."""
    for total in totals:
        currency = total["currency"]
        for name, actual, wanted in (
            ("CDRs", total["cdrs"] + total["not_counted"], expected.cdrs[currency]),
            ("CDRs in conflict", total["in_conflict"] * 2, expected.disputed[currency]),
            ("CDRs that are not counted", total["not_counted"], total["in_conflict"]),
            ("CDRs without an amount", total["without_amount"], 0),
            ("sum", _whole(total["amount"]) + _whole(total["amount_not_counted"]), expected.sums[currency]),
            (
                "sum in conflict",
                _whole(total["amount_in_conflict"]) + _whole(total["amount_not_counted"]),
                expected.disputed_sums[currency],
            ),
        ):
            _same(f"{name} in {currency}", actual, wanted)
    _same("currencies", sorted(total["currency"] for total in totals), sorted(expected.cdrs))
    _same("request ids in conflict", {row["request_id"] for row in conflicts}, expected.request_ids)
    _same("CDRs in conflict that count", sum(row["counted"] for row in conflicts), len(expected.request_ids))
    _same("CDRs listed as in conflict", len(conflicts), expected.disputed.total())
    _same("repeats", sum(row["duplicates"] for row in repeated), expected.repeats)


def _same(what: str, actual: object, wanted: object) -> None:
    if actual != wanted:
        raise BenchFailed(f"{what}: {str(actual)[:100]}, but {str(wanted)[:100]} was sent")


def _amount(random: Random) -> tuple[int, str]:
    """Draw an amount, mostly in hundredths; return it as a whole number and as JSON."""
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
    """Return an amount as a whole number of the smallest unit; raise BenchFailed if it has too many decimals."""
    whole, _, fraction = amount.partition(".")
    if len(fraction) > SCALE:
        raise BenchFailed(f"{amount} has more decimals than were sent")
    return int(whole + fraction.ljust(SCALE, "0"))


def _written(amount: int) -> str:
    return f"{amount // 10**SCALE}.{amount % 10**SCALE:0{SCALE}}"


if __name__ == "__main__":
    main()
