"""A flood of events into a cluster, and how fast it is settled."""

import itertools
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import func, select

from ingest.http.app import PATHS
from ingest.wire.envelope import Kind
from tests.bench.http_load import LoadResult, LoadSpec
from tests.faults.cluster import ROOT, Cluster, wait_until
from tests.faults.load import KEY
from workers.ledger.database.engine import read_only
from workers.ledger.tables.core_tables import deliveries

#: Events a second that are prepared: more than a cluster can take.
MOST = 8_000
SEEDS = itertools.count()
SETTLES_WITHIN_S = 900.0


def flood(cluster: Cluster, seconds: float, *, rate: float | None = None) -> float:
    """Send events as fast as they are answered, or at a rate; return how many a second are settled with all retries."""
    seed, began_at = f"flood-{next(SEEDS)}", datetime.now(UTC)
    url = f"http://127.0.0.1:{cluster.ports[0]}{PATHS[Kind.EVENTS]}"
    count = round(seconds * (rate or MOST))
    spec = json.dumps(asdict(LoadSpec(url, KEY.decode(), seed, count, seconds, rate=rate)))
    command = [sys.executable, "-m", "tests.bench.http_load", spec]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    result = LoadResult(**json.loads(ended.stdout.splitlines()[-1]))
    is_ours = (deliveries.c.session_id.startswith(seed), deliveries.c.received_at >= began_at)
    settled = select(func.count(), func.min(deliveries.c.received_at), func.max(deliveries.c.settled_at))
    settled = settled.where(*is_ours, deliveries.c.settled_at.is_not(None))

    def is_settled() -> bool:
        with read_only(cluster.engine) as ledger:
            return ledger.execute(settled).one()[0] >= result.kept

    wait_until(is_settled, "the flood is settled", SETTLES_WITHIN_S)
    with read_only(cluster.engine) as ledger:
        number, first, last = ledger.execute(settled).one()
    return float(number / (last - first).total_seconds())
