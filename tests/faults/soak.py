"""Run a whole installation for hours, with faults now and then: `python -m tests.faults.soak --hours 6`.

`serve`, `work`, `clock` and `dashboard` run with a real Valkey and database at a fifth of what they could do; retention
is on, with short spans, so that everything must become flat. Every few minutes something is killed, restarted, locked
or fails. Meanwhile the books are balanced as for a single fault, some seconds at a time, and at the end `webhooks check
--deep` is asked. Exit code 1: something grows, or a delivery was lost, doubled or stuck.
"""

# ruff: noqa: T201  it prints its tables
import argparse
import csv
import http.client
import itertools
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple, Self

from sqlalchemy import delete, select

from tests.faults.audit import (
    Discrepancies,
    compare,
    found_by_check,
    read_books,
    wait_until_quiet,
)
from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, wait_until
from tests.faults.database_faults import cut, lock, lock_file
from tests.faults.effects import effects
from tests.faults.flood import flood
from tests.faults.growth import HEAD
from tests.faults.kills import kill
from tests.faults.load import misbehaving_event
from tests.faults.other_faults import NUMBERS
from tests.faults.report import commit
from tests.faults.resource_samples import UNAVAILABLE, Sampler
from tests.faults.trials import STUCK_AFTER_S
from tests.ports import reserve_port
from workers.dev.valkey import is_answering
from workers.ledger.database.conditions import in_list
from workers.ledger.database.engine import read_only
from workers.ledger.states import PushState
from workers.ledger.tables.core_tables import deliveries, pushes

SHARE_OF_CAPACITY = 0.2
FLOOD_S = 10.0
#: This share of the time is warm-up: what fills until then, fills once.
WARM_UP = 0.25
#: A delivery is kept for this share of the time, and longer than anything may be stuck; its body and its session a
#: little shorter.
KEPT_FOR = 1 / 12
LEAST_KEPT_S = 4 * STUCK_AFTER_S
#: At the end a backlog may be left, where the machine had too much to do; what is not settled then counts as lost.
DRAINS_WITHIN_S = 900.0
#: How long RQ shows a finished job: Valkey, which a fault starts anew every few minutes, is full again soon after.
FINISHED_JOBS_KEPT_S = 60
#: Between the moment when an item is sent and the earliest when it is audited.
SETTLES_IN_S = 5.0
PAGES = ("/", "/deliveries", "/failures", "/pushes", "/cdrs", "/warnings", "/alerts", "/metrics")


class Fault(NamedTuple):
    """Something that happens to a cluster now and then."""

    name: str
    inject: Callable[[Cluster], None]


class SoakCluster(Cluster):
    """A cluster with a dashboard, and with retention in spans that pass within the run."""

    def __init__(self, database: str, *, kept_s: float) -> None:
        span = f"{kept_s:.0f}s"
        kept = ("RETAIN_BODIES", "RETAIN_SESSIONS", "RETAIN_PUSHES", "RETAIN_CDRS", "RETAIN_ALERTS", "RETAIN_AUDIT")
        settings = {
            **dict.fromkeys((*kept, "DUPLICATES_REMEMBERED", "QUARANTINE_AGE"), span),
            "FINISHED_JOBS_KEPT": f"{FINISHED_JOBS_KEPT_S}s",
            "RETAIN_DELIVERIES": f"{1.2 * kept_s:.0f}s",
            "FAILED_JOBS_KEPT": span,
            "RETRY_ATTEMPTS": "4",
            "RETRY_FIRST": "500ms",
            "LOG_LEVEL": "warning",
        }
        super().__init__(database, settings=settings, launcher=("-m", "tests.faults.short_retention"))
        self.dashboard_port = reserve_port()

    def __enter__(self) -> Self:
        super().__enter__()  # the database has its address only then
        self.add("dashboard", "dashboard", DASHBOARD_PORT=str(self.dashboard_port)).start()
        return self


class Soak:
    """A run of a cluster under load and faults, sampled and audited."""

    def __init__(self, cluster: SoakCluster, seconds: float, kept_s: float) -> None:
        self.cluster = cluster
        self.seconds = seconds
        self.sampler = Sampler(cluster)
        self.found = Discrepancies()
        self.injected: Counter[str] = Counter()
        self.pages: Counter[int] = Counter()
        self.audited = 0
        self.pushed_again = 0
        self._received: Counter[str] = Counter()
        self._read_to = 0
        self._audited_last: set[str] = set()
        self.slow = 0
        """Deliveries that took longer to settle than one that is stuck: a machine that has too much to do."""
        #: What was too late for an audit, as its body may be deleted as soon as it is settled; it must settle.
        self._late: set[str] = set()
        self._were_late: set[str] = set()
        self._overdue_after = kept_s - STUCK_AFTER_S
        self._seen: dict[str, float] = {}
        self._ends_at = 0.0

    def run(self, faults: Sequence[Fault], every: float) -> None:
        """Send, inject a fault now and then, and wait until all that was sent is settled and audited."""
        self._ends_at = time.monotonic() + self.seconds
        threads = [
            threading.Thread(target=self._repeat, args=(what, pause), daemon=True)
            for what, pause in (
                (self.sampler.sample, max(1.0, self.seconds / 720)),
                (self._read_dashboard, 2.0),
                (self._balance, max(SETTLES_IN_S, self.seconds / 240)),
            )
        ]
        self.cluster.load.start()
        for thread in threads:
            thread.start()
        self._inject(faults, every)
        time.sleep(max(0.0, self._ends_at - time.monotonic()))
        for thread in threads:
            thread.join()
        self.cluster.load.pause()
        if wait_until_quiet(self.cluster, DRAINS_WITHIN_S) is None:
            self.found.stuck.append("something was left under way")
        self._audit(self.cluster.load.pending().keys() - self._audited_last)
        self.found.lost += [f"{each} was never settled" for each in self._late - self._settled(self._late)]
        self.found.stuck += found_by_check(self.cluster)

    def _inject(self, faults: Sequence[Fault], every: float) -> None:
        for _ in itertools.count():
            for fault in random.sample(faults, len(faults)):
                pause = every * random.uniform(0.7, 1.3)
                if time.monotonic() + pause > self._ends_at:
                    return
                time.sleep(pause)
                try:
                    fault.inject(self.cluster)
                except AssertionError as failure:
                    self.found.stuck.append(f"after {fault.name}: {failure}")
                self.injected[fault.name] += 1
                say(f"{fault.name}; {self.cluster.load.count():,} acknowledged, {self.audited:,} audited")

    def _repeat(self, what: Callable[[], None], every: float) -> None:
        while time.monotonic() < self._ends_at:
            began = time.monotonic()
            try:
                what()
            except UNAVAILABLE as failure:
                say(f"{what.__name__}: {type(failure).__name__}")
            time.sleep(max(0.1, every - (time.monotonic() - began)))

    def _balance(self) -> None:
        """Audit each session some seconds after it was sent, when all of it is settled: retention deletes it soon.

        The record of a session may be ahead of its deliveries until they are settled.
        """
        now, sent = time.monotonic(), self.cluster.load.pending()
        pending = sent.keys() - self._audited_last
        self._seen = {each: self._seen.get(each, now) for each in pending}
        settled = self._settled(pending | self._late)
        self._late -= settled
        # What was not answered is published within seconds if it was kept.
        overdue = {each for each, at in self._seen.items() if now - at >= self._overdue_after} - settled
        self._late |= overdue & self.cluster.load.acknowledged()
        self._were_late |= overdue
        young = {each for each, at in self._seen.items() if now - at < SETTLES_IN_S}
        going_on = {sent[each] for each in (pending - overdue - settled) | young}
        window = {each for each in pending - overdue if sent[each] not in going_on}
        self.slow += sum(now - self._seen[each] > STUCK_AFTER_S for each in window)
        self._audit(window)
        self.cluster.load.forget(overdue)

    def _settled(self, ids: set[str]) -> set[str]:
        """Return which of these are settled, with their pushes sent."""
        ended = select(deliveries.c.id).where(in_list(deliveries.c.id, ids), deliveries.c.settled_at.is_not(None))
        unsent = select(pushes.c.delivery_id).where(pushes.c.state == PushState.WAITING)
        with read_only(self.cluster.engine) as ledger:
            waiting = set(ledger.scalars(unsent))
            return set(ledger.scalars(ended)) - waiting

    def _audit(self, window: set[str]) -> None:
        """Compare what the stores have of these items, then forget them, and delete their effects."""
        load = self.cluster.load
        self._receive_pushes()
        books = read_books(self.cluster, window, self._received)
        new = compare(books, window & load.acknowledged(), window, self.cluster.skew, only=window)
        new.lost += [f"{each} was answered with the id of another delivery" for each in load.wrong_ids]
        load.wrong_ids.clear()
        with self.cluster.engine.begin() as ledger:
            ledger.execute(delete(effects).where(in_list(effects.c.delivery_id, window)))
            left = set(ledger.scalars(select(effects.c.delivery_id)))
        # Whatever has an effect now is sent and not audited yet: the effects of all others were deleted.
        audited = left - self._were_late - (load.pending().keys() - self._audited_last - window)
        new.doubled += [f"{each} had an effect again" for each in audited]
        self.found.lost += new.lost
        self.found.doubled += new.doubled
        self.found.stuck += new.stuck
        for each in (new.lost, new.doubled, new.stuck):
            if each:
                say(f"{len(each)}: {each[0]}")
        self.pushed_again += sum(count > 1 for count in books.sent_pushes.values())
        for push_id in books.push_states:
            del self._received[push_id]
        self.audited += len(books.kept.keys() & window)
        load.forget(self._audited_last)
        self._audited_last = window

    def _receive_pushes(self) -> None:
        """Read which pushes their provider has received since the last time."""
        with self.cluster.pushed.open("rb") as file:
            file.seek(self._read_to)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read_to += len(lines)
        self._received.update(lines.decode().split())

    def _read_dashboard(self) -> None:
        """Open a page, as somebody who leaves a browser open does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.cluster.dashboard_port, timeout=30)
        try:
            connection.request("GET", random.choice(PAGES))
            self.pages[connection.getresponse().status] += 1
        except (OSError, http.client.HTTPException):  # it was just killed
            return
        finally:
            connection.close()


def fail(cluster: Cluster) -> None:
    """Send events at which a handler ends its process, and others at which it raises."""
    for kind in ("exit", "raise", "segfault", "raise"):
        cluster.load.send(misbehaving_event(kind, next(NUMBERS)), cluster.ports[0])


def restart_redis(cluster: Cluster) -> None:
    valkey = cluster.members["valkey"]
    valkey.stop(signal.SIGTERM)
    time.sleep(2)
    valkey.start()
    wait_until(lambda: is_answering(cluster.redis_port), "Valkey answers")


def faults_on(database: str) -> list[Fault]:
    """Return what happens now and then."""
    of_database = (
        [Fault("connections cut", cut), Fault("database locked", lock)]
        if database == POSTGRESQL
        else [Fault("database locked", lock_file)]
    )
    return [
        *(Fault(f"killed: {name}", partial(kill, name)) for name in ("serve-0-0", "work-0", "clock", "dashboard")),
        Fault("killed: valkey", partial(kill, "valkey")),
        Fault("Redis restarted", restart_redis),
        Fault("handler fails", fail),
        *of_database,
    ]


def measure_capacity(database: str) -> float:
    """Return how many events a second such a cluster settles while a flood comes in."""
    with SoakCluster(database, kept_s=3600) as cluster:
        return flood(cluster, FLOOD_S)


def say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Return 1 if something grows, or was lost, doubled or stuck, or pages of the dashboard fail outside of faults."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the context managers end what they started
    rate = options.rate
    if rate is None:
        capacity = measure_capacity(options.database)
        rate = SHARE_OF_CAPACITY * capacity
        say(f"{capacity:,.0f} events a second are settled in a flood: {rate:,.0f} are sent")
    seconds = 3600 * options.hours + 60 * options.minutes
    kept_s = max(LEAST_KEPT_S, KEPT_FOR * seconds)
    Cluster.rate, Cluster.connections = rate, max(4, round(rate / 20))
    with SoakCluster(options.database, kept_s=kept_s) as cluster:
        soak = Soak(cluster, seconds, kept_s)
        try:
            soak.run(faults_on(options.database), options.fault_every)
        finally:
            if options.to:
                write_samples(soak.sampler, options.to)
        return report(soak, kept_s)


def report(soak: Soak, kept_s: float) -> int:
    """Print what came of it and return the exit code."""
    warm_up = WARM_UP * soak.seconds
    # What is kept for so long is deleted up to a fifth later.
    load, trends = soak.cluster.load, soak.sampler.trends(warm_up, of_stores=max(warm_up, 1.5 * kept_s))
    growing = [each for each in trends if each.grows]
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}: {soak.seconds / 60:.0f} minutes on"
        f" {soak.cluster.database}, {load.count():,} acknowledged ({load.count() / soak.seconds:.0f} a second),"
        f" {load.unanswered:,} without an answer, {load.refused:,} refused, {soak.audited:,} audited:"
        f" {len(soak.found.lost)} lost, {len(soak.found.doubled)} doubled, {len(soak.found.stuck)} stuck;"
        f" {soak.slow:,} took longer than {STUCK_AFTER_S:.0f} s; {soak.pushed_again} pushes sent again.\n"
    )
    print("Faults: " + ", ".join(f"{name} {count} times" for name, count in sorted(soak.injected.items())) + ".")
    print(
        "Pages of the dashboard: " + ", ".join(f"{count} answered {each}" for each, count in soak.pages.items()) + "."
    )
    print(f"\n{HEAD}")
    for each in trends:
        print(each)
    for each in growing:
        unit = f" {each.metric.unit}" if each.metric.unit else ""
        print(f"\nIt grows: {each.metric.name} of {each.subject}, by {each.per_hour:,.1f}{unit} an hour.")
    for what in (soak.found.lost, soak.found.doubled, soak.found.stuck):
        print("\n".join(what[:20]), file=sys.stderr)
    is_well = not (growing or soak.found.lost or soak.found.doubled or soak.found.stuck)
    is_shown = soak.pages[HTTPStatus.OK] > sum(soak.pages.values()) / 2  # a fault takes a page away for seconds
    return 0 if is_well and is_shown and soak.audited else 1


def write_samples(sampler: Sampler, path: Path) -> None:
    """Write the samples as CSV: of, what, at, value, life."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("of", "what", "at_s", "value", "life"))
        for (subject, metric), samples in sampler.series.items():
            rows.writerows((subject, metric.name, f"{at:.1f}", value, life) for at, value, life in samples)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0, help="how long")
    parser.add_argument("--minutes", type=float, default=0, help="how long, too")
    parser.add_argument("--database", choices=(SQLITE, POSTGRESQL), default=SQLITE)
    parser.add_argument("--rate", type=float, help="events a second (a fifth of what it can settle, which it measures)")
    parser.add_argument("--fault-every", type=float, default=120, help="seconds between two faults (120)")
    parser.add_argument("--to", type=Path, help="a CSV file for the samples")
    options = parser.parse_args()
    if not options.hours and not options.minutes:
        parser.error("say for how long: --hours 6, or --minutes 60")
    return options


if __name__ == "__main__":
    sys.exit(main())
