"""The summary of CDRs is what looking at each of them gives, whatever they are and whichever match."""

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest
from sqlalchemy import insert

from handlers.kit.cdr_table import UPSERT, cdrs
from workers.ledger import cdr_stats
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.tables.core_tables import receipts

AMOUNTS = ["7", "7.0", "7.00", "-0.05", "0", "1200.50", "0.0000001", "99999999999.99", "123456789012345.678", None]
MINUTES = 20


def rows_of(seed, noon):
    random = Random(seed)
    for number in range(40):
        request_id = random.choice([None, *(f"r-{each}" for each in range(12))])
        name, position = f"d{number // 2}" if number < 10 else f"d{number}", number % 2
        yield dict.fromkeys(cdrs.c.keys()) | {
            "delivery_id": name,
            "position": position,
            "request_id": request_id,
            "identity": request_id or f"{name} {position}",
            "content": random.choice("abc"),
            "session_id": random.choice([None, "s1", "s2", *(f"t{each}" for each in range(20))]),
            "user_id": random.choice(["u1", "u2"]),
            "amount": (text := random.choice(AMOUNTS)) and Decimal(text),
            "currency": random.choice(["EUR", "SEK", None]),
            "notes": [],
            "document": "{}",
            "received_at": noon + timedelta(minutes=random.randrange(MINUTES)),
            "recorded_at": noon,
        }


def expected(rows, again, matches):
    """Compare each row with each other."""
    rows = sorted(rows, key=lambda row: (row["received_at"], row["delivery_id"], row["position"]))
    counts, totals = Counter(), {}
    in_conflict = set()
    for number, row in enumerate(rows):
        same = [(n, each) for n, each in enumerate(rows) if n != number and each["identity"] == row["identity"]]
        equal = [(n, each) for n, each in same if each["content"] == row["content"]]
        is_contradicted = len(equal) < len(same)
        if not matches(row):
            continue
        is_repeat = any(n < number for n, _ in equal)
        if is_repeat:
            continue
        is_counted = not any(n < number for n, _ in same)
        times = again[row["delivery_id"]] + sum(1 + again[each["delivery_id"]] for _, each in equal)
        shares = [
            each for each in rows if each["session_id"] == row["session_id"] and each["identity"] != row["identity"]
        ]
        counts += Counter(
            cdrs=1,
            in_conflict=is_contradicted,
            without_request_id=row["request_id"] is None,
            sharing_session=bool(shares and row["session_id"]),
            repeated=times > 0,
            repeats=times,
        )
        in_conflict |= {row["request_id"]} if is_contradicted else set()
        total = totals.setdefault(
            row["currency"], {"amount": Decimal(), "conflict": Decimal(), "left": Decimal(), "of": Counter()}
        )
        total["of"] += Counter(
            cdrs=is_counted,
            in_conflict=is_counted and is_contradicted,
            without_amount=is_counted and row["amount"] is None,
            not_counted=not is_counted,
        )
        for name, is_in in (
            ("amount", is_counted),
            ("conflict", is_counted and is_contradicted),
            ("left", not is_counted),
        ):
            total[name] += (row["amount"] or 0) if is_in else 0
    return counts, len(in_conflict - {None}), totals


@pytest.mark.parametrize("seed", range(4))
def test_a_summary_is_what_looking_at_each_of_them_gives(ledger, noon, seed):
    rows = list(rows_of(seed, noon))
    random = Random(seed)
    names = {row["delivery_id"] for row in rows}
    again = Counter({name: random.choice([0, 0, 0, 1, 3]) for name in sorted(names)})
    ledger.store(*(ledger.delivery(name, kind="cdrs") for name in names))
    with ledger.begin() as conn:
        conn.execute(UPSERT, rows)
        conn.execute(
            insert(receipts),
            [{"delivery_id": name, "inbox": "here", "receipts": 1 + count} for name, count in again.items() if count],
        )
    half = noon + timedelta(minutes=MINUTES // 2)
    for filters, matches in (
        (CdrFilters(), lambda _: True),
        (CdrFilters(since=half), lambda row: row["received_at"] >= half),
        (CdrFilters(since=half, is_brief=True), lambda row: row["received_at"] >= half),
        (CdrFilters(user_id="U1"), lambda row: row["user_id"] == "u1"),
        (CdrFilters(session_id="s1"), lambda row: row["session_id"] == "s1"),
        (CdrFilters(request_id="r-1"), lambda row: row["request_id"] == "r-1"),
    ):
        with ledger.begin() as conn:
            found, sums = cdr_stats.summarize(conn, filters), cdr_stats.totals(conn, filters)
        counts, request_ids, totals = expected(rows, again, matches)
        assert {name: getattr(found, name) for name in counts} == dict(counts)
        assert found.cdrs == counts["cdrs"]
        assert found.request_ids_in_conflict == request_ids
        assert found.totals == sums
        assert {each.currency: str(each.amount) for each in sums} == {
            currency: str(total["amount"]) for currency, total in totals.items()
        }
        for each in sums:
            total = totals[each.currency]
            assert (each.amount_in_conflict, each.amount_not_counted) == (total["conflict"], total["left"])
            assert all(getattr(each, name) == count for name, count in total["of"].items())
