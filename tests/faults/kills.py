"""kill -9 of the process that stands at a step of the path."""

import random
import time
from functools import partial

from ingest.failpoints import Failpoint
from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, wait_until
from tests.faults.trials import Group, Trial

#: Steps that have to do with the database.
IN_THE_LEDGER = (
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


def kill_at(step: Failpoint, cluster: Cluster) -> None:
    """Kill the next process that comes by."""
    cluster.arm(step)
    wait_until(lambda: cluster.has_killed(step), f"somebody reaches {step}")


def kill(name: str, cluster: Cluster) -> None:
    """Kill a process wherever it stands, soon after its start or later."""
    member = cluster.members[name]
    wait_until(lambda: member.is_running, f"{name} runs")
    time.sleep(random.uniform(0, LONGEST_LIFE))
    assert member.is_running, f"{name} has ended by itself"
    pid = member.pid
    member.kill()
    wait_until(lambda: not member.is_running or member.pid != pid, f"{name} is dead")


#: Who dies there may have pushes in hand.
REACHED_BY_THE_CLOCK = (Failpoint.RUN_ENQUEUED, Failpoint.SENDING, Failpoint.SENT, Failpoint.RECORDED)
#: Seconds that a process lives at most before it is killed anywhere: about a second passes before it is at work.
LONGEST_LIFE = 3.0
# A step may kill the worker of one delivery often, in the long version; that is not the delivery's fault.
SETTINGS = {"POISON_DEATHS": "1000000"}
STEPS = {
    step: Trial(f"killed: {step}", partial(kill_at, step), spares_clock=step not in REACHED_BY_THE_CLOCK)
    for step in Failpoint
}
ANYWHERE = [
    Trial("killed anywhere: serve", partial(kill, "serve-0-0")),
    Trial("killed anywhere: work", partial(kill, "work-0")),
    Trial("killed anywhere: clock", partial(kill, "clock"), spares_clock=False),
    Trial("killed anywhere: Redis", partial(kill, "valkey")),
]
HALF = len(Failpoint) // 2
#: Of these, those that are tried on PostgreSQL each time that all tests run.
ON_POSTGRESQL = "path to PostgreSQL"
ESSENTIAL = (Failpoint.STORING, Failpoint.CONCLUDING, Failpoint.CLAIMED, Failpoint.FINISHING, Failpoint.SENT)
GROUPS = [
    Group(
        "first half of the path", lambda: Cluster(SQLITE, settings=SETTINGS), [*list(STEPS.values())[:HALF], *ANYWHERE]
    ),
    Group("second half of the path", lambda: Cluster(SQLITE, settings=SETTINGS), list(STEPS.values())[HALF:]),
    Group(ON_POSTGRESQL, lambda: Cluster(POSTGRESQL, settings=SETTINGS), [STEPS[step] for step in IN_THE_LEDGER]),
]
