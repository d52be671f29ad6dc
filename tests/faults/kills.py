"""SIGKILL at each failpoint of the path, and anywhere."""

import random
import time
from functools import partial

from ingest.failpoints import Failpoint
from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, wait_until
from tests.faults.trials import Group, Trial

#: Failpoints around the transactions of the ledger.
OF_THE_LEDGER = (
    Failpoint.STORING,
    Failpoint.STORED,
    Failpoint.CONCLUDING,
    Failpoint.CONCLUDED,
    Failpoint.RUN_ENQUEUED,
    Failpoint.CLAIMED,
    Failpoint.FINISHING,
    Failpoint.SENDING,
    Failpoint.SENT,
)


def kill_at(failpoint: Failpoint, cluster: Cluster) -> None:
    """Kill the next process that hits the failpoint."""
    cluster.arm(failpoint)
    wait_until(lambda: cluster.has_fired(failpoint), f"a process hits {failpoint}")


def kill(name: str, cluster: Cluster) -> None:
    """Kill a process at a random moment of its first seconds."""
    member = cluster.members[name]
    wait_until(lambda: member.is_running, f"{name} runs")
    time.sleep(random.uniform(0, LONGEST_LIFE_S))
    assert member.is_running, f"{name} has ended by itself"
    pid = member.pid
    member.kill()
    wait_until(lambda: not member.is_running or member.pid != pid, f"{name} is dead")


#: A process that is killed there may be sending pushes.
HIT_BY_THE_CLOCK = (Failpoint.RUN_ENQUEUED, Failpoint.SENDING, Failpoint.SENT, Failpoint.RECORDED)
#: This cluster reads no Drive API; `tests/workers/reconciliation` kills a clock at these.
OF_THE_DRIVE_API = (Failpoint.HEALING, Failpoint.HEALED)
#: The longest that a process lives before it is killed anywhere; it starts work after about a second.
LONGEST_LIFE_S = 3.0
# In the long version a failpoint may kill the worker of one delivery many times; that makes no poison of it.
SETTINGS = {"POISON_DEATHS": "1000000"}
KILLS = {
    failpoint: Trial(
        f"killed: {failpoint}", partial(kill_at, failpoint), clock_survives=failpoint not in HIT_BY_THE_CLOCK
    )
    for failpoint in Failpoint
    if failpoint not in OF_THE_DRIVE_API
}
ANYWHERE = [
    Trial("killed anywhere: serve", partial(kill, "serve-0-0")),
    Trial("killed anywhere: work", partial(kill, "work-0")),
    Trial("killed anywhere: clock", partial(kill, "clock"), clock_survives=False),
    Trial("killed anywhere: Redis", partial(kill, "valkey")),
]
HALF = len(KILLS) // 2
ON_POSTGRESQL = "path to PostgreSQL"
#: Those of this group that `pytest` runs, too.
ESSENTIAL = (Failpoint.STORING, Failpoint.CONCLUDING, Failpoint.CLAIMED, Failpoint.FINISHING, Failpoint.SENT)
GROUPS = [
    Group(
        "first half of the path", lambda: Cluster(SQLITE, settings=SETTINGS), [*list(KILLS.values())[:HALF], *ANYWHERE]
    ),
    Group("second half of the path", lambda: Cluster(SQLITE, settings=SETTINGS), list(KILLS.values())[HALF:]),
    Group(ON_POSTGRESQL, lambda: Cluster(POSTGRESQL, settings=SETTINGS), [KILLS[each] for each in OF_THE_LEDGER]),
]
