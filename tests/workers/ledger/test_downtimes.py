"""Times in which a door was closed, as the ledger takes them in."""

from datetime import timedelta

from ingest.inbox.downtime import Downtime
from workers.ledger import downtimes

MINUTE = timedelta(minutes=1)


def test_of_downtimes_reported_repeatedly_the_new_ones_are_returned(ledger, noon):
    first, second, third = (
        Downtime(noon + number * MINUTE, noon + (number + 1) * MINUTE, "here") for number in range(3)
    )
    there = Downtime(first.closed_at, first.opened_at, "there")
    with ledger.begin() as conn:
        assert downtimes.import_new(conn, [], noon) == []
        assert downtimes.import_new(conn, [second, first], noon) == [first, second]
        assert downtimes.import_new(conn, [third, second, there, first, third], noon + MINUTE) == [there, third]
        assert {(row.inbox, row.closed_at) for row in downtimes.find(conn)} == {
            (gap.inbox, gap.closed_at) for gap in (first, second, third, there)
        }
