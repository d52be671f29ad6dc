"""CDRs from their bytes to their totals: nothing counted twice, nothing lost, nothing rounded."""

import multiprocessing
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
import redis

from handlers.cdr_records import cdr_record
from handlers.kit.subscriptions import MARK
from handlers.session_records import session_record
from ingest.config.settings import load_settings
from ingest.queue.batch import Batch, Delivery, new_batch_id
from ingest.wire.envelope import Envelope, Kind
from tests.bench.cdrs import SCALE, CdrMix, expected_of
from workers.execution.jobs import process_batch
from workers.ledger import cdr_queries as ledger_cdrs
from workers.ledger import deliveries as ledger_deliveries
from workers.ledger.cdr_queries import CdrFilters
from workers.ledger.cdr_stats import summarize
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.deliveries import DeliveryFilters
from workers.ledger.states import DeliveryState
from workers.ledger.tables import metadata
from workers.plugins import Plugins
from workers.resources import Resources

TOGETHER = 100


def equipment_on(database_url: str, folder: Path) -> Resources:
    settings = load_settings(data_dir=folder, plugsurfing_hmac_current="key", database_url=database_url)
    marked = tuple(getattr(each, MARK) for each in (session_record, cdr_record))
    # No run here needs Redis: nothing is enqueued and nothing sent.
    return Resources(
        settings, Plugins(marked), create_ledger_engine(database_url, creates_file=True), redis.Redis(), {}
    )


def batches(bodies: Sequence[bytes], node: str) -> list[Batch]:
    """Bring bodies as a node's relay does: what has come before, as a repeat that is counted."""
    receipts: dict[str, int] = {}
    arrived = []
    for body in bodies:
        envelope = Envelope(Kind.CDRS, body, datetime.now(UTC), "current", None, {})
        count = receipts[envelope.id] = receipts.get(envelope.id, 0) + 1
        arrived.append(
            Delivery(
                id=envelope.id,
                kind="cdrs",
                event=None,
                session_id=None,
                received_at=envelope.received_at,
                signed_with="current",
                signed_at=None,
                headers={},
                body=body if count == 1 else None,
                receipts=count,
                inbox=node,
            )
        )
    lots = [arrived[start : start + TOGETHER] for start in range(0, len(arrived), TOGETHER)]
    return [Batch(new_batch_id(), node, "cdrs", tuple(lot)) for lot in lots]


def work(database_url: str, folder: Path, given: Sequence[Batch]) -> None:
    resources = equipment_on(database_url, folder)
    for batch in given:
        process_batch(resources, batch)
    resources.engine.dispose()


@pytest.mark.parametrize("nodes", [1, 2])
def test_every_cdr_is_counted_once_and_summed_exactly(database_url, tmp_path, nodes):
    """With two nodes each receives everything, in its own order, and their workers store it side by side."""
    expected = expected_of(CdrMix(count=500, repeated=0.06, in_conflict=0.02))
    engine = create_ledger_engine(database_url, creates_file=True)
    metadata.create_all(engine)
    engine.dispose()
    fork = multiprocessing.get_context("fork")
    workers = []
    for number in range(nodes):
        bodies = list(expected.bodies)
        Random(number).shuffle(bodies)
        given = batches(bodies, f"node-{number}")
        workers.append(fork.Process(target=work, args=(database_url, tmp_path, given)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * nodes

    with read_only(engine) as ledger:
        counted = summarize(ledger, CdrFilters())
        disputed = list(ledger_cdrs.find(ledger, CdrFilters(in_conflict=True), None))
    engine.dispose()
    assert (counted.cdrs, counted.in_conflict) == (510, 20)
    assert counted.repeats == 30 * nodes + 510 * (nodes - 1)
    assert {row.request_id for row in disputed} == expected.request_ids
    assert sum(row.is_counted for row in disputed) == len(expected.request_ids)
    for total in counted.totals:
        assert total.in_conflict == total.not_counted == expected.disputed[total.currency] / 2
        whole, in_conflict = (
            total.amount + total.amount_not_counted,
            total.amount_in_conflict + total.amount_not_counted,
        )
        assert int(whole.scaleb(SCALE)) == expected.sums[total.currency]
        assert int(in_conflict.scaleb(SCALE)) == expected.disputed_sums[total.currency]


def test_odd_cdrs_do_not_harm_others_of_their_batch(database_url, tmp_path):
    odd = [
        b"not JSON",
        b"[]",
        b"\xff",
        b'{"cost": {"total": 1e999999999}}',
        b'{"requestId": {}, "a": "\0\xed\xa0\x80"}',
    ]
    good = b'[{"requestId": "good", "cost": {"total": 1.10, "currency": "EUR"}}, 7, {"requestId": "good too"}]'
    resources = equipment_on(database_url, tmp_path)
    metadata.create_all(resources.engine)
    (batch,) = batches([*odd, good], "node")
    process_batch(resources, batch)
    with read_only(resources.engine) as ledger:
        counted = summarize(ledger, CdrFilters())
        unread = ledger_deliveries.find(ledger, DeliveryFilters(state=DeliveryState.UNREADABLE), None)
        assert ledger_cdrs.unreadable(ledger) == len(unread) == 3
    resources.engine.dispose()
    assert (counted.cdrs, counted.without_request_id) == (5, 3)
    assert [(total.currency, str(total.amount)) for total in counted.totals] == [("EUR", "1.10"), (None, "0")]
