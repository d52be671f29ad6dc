"""Measures whether records become true: `webhooks dev` is told of sessions with events dropped, and asks Drive."""

import json
from contextlib import ExitStack
from dataclasses import dataclass

from rich.progress import Progress

from workers.bench.databases import POSTGRESQL, SQLITE, new_database
from workers.bench.harness import HOST, KEY, WEBHOOKS, Harness, free_port, wait_for_http
from workers.bench.process import BenchFailed
from workers.bench.report import Column, Report, Row
from workers.dev.environment import is_free

# So that what takes hours in earnest takes seconds. Calls stay below Plugsurfing's limit, which is simulated too.
HURRY = {
    "RECONCILE_AFTER": "2s",
    "RECONCILE_LONGEST": "10s",
    "RECONCILE_PER_MINUTE": "2000",
    "HISTORY_EVERY": "15s",
    "HISTORY_SPAN": "1d",
    "LOG_LEVEL": "warning",
}
PORTS = 6
"""How many ports `dev` takes, one after the other."""

COLUMNS = (
    Column("sessions", "sessions"),
    Column("equal", "equal"),
    Column("of them healed", "healed"),
    Column("differ", "differ"),
    Column("unknown", "unknown"),
    Column("events sent", "sent"),
    Column("s after the last event", "seconds"),
)


@dataclass(frozen=True)
class Extent:
    """How much is told, and what goes wrong."""

    sessions: int
    users: int
    share: float
    seed: int
    drive_faults: str
    patience_s: float


def heal(extent: Extent, server: str | None, progress: Progress) -> Report:
    """Measure it on SQLite, and on PostgreSQL if there is a server."""
    rows = [Row(SQLITE), *([Row(POSTGRESQL)] if server else [])]
    task = progress.add_task("heal", total=len(rows))
    for row in rows:
        with ExitStack() as stack:
            url = stack.enter_context(new_database(server)) if server and row.name == POSTGRESQL else None
            row.add(**_measured(stack.enter_context(Harness(url)), url, extent))
        progress.advance(task)
    return Report(
        f"heal: {extent.sessions} sessions of {extent.users} drivers, {extent.share:.0%} of their events dropped",
        COLUMNS,
        rows,
        "user, status, start, stop and completion of every session, against the truth that the simulator holds",
    )


def _measured(stage: Harness, database_url: str | None, extent: Extent) -> dict[str, float]:
    settings = {**HURRY, "PLUGSURFING_HMAC_CURRENT": KEY, "DATA_DIR": str(stage.folder)}
    settings |= {"REDIS_URL": "", **({"DATABASE_URL": database_url} if database_url else {})}

    def webhooks(*words: str) -> str:
        process = stage.python("-c", WEBHOOKS, *words, name=words[0], environment=settings)
        return process.finish(extent.patience_s + 60)

    port = _free_ports()
    dev = stage.python("-c", WEBHOOKS, "dev", "--port", str(port), name="dev", environment=settings)
    wait_for_http(dev, f"http://{HOST}:{port}/readyz", patience_s=extent.patience_s)
    wait_for_http(dev, f"http://{HOST}:{port + PORTS - 1}/simulator/calls", patience_s=extent.patience_s)
    if extent.drive_faults:
        webhooks("drive", "spoil", extent.drive_faults)
    told = (
        "send",
        "session",
        "--count",
        str(extent.sessions),
        "--users",
        str(extent.users),
        "--seed",
        str(extent.seed),
    )
    sent = webhooks(*told, "--fault", "drop", "--share", str(extent.share))
    found = json.loads(webhooks("drive", "compare", "--wait", f"{extent.patience_s:g}s", "--json", "--always"))
    return {**{name: float(count) for name, count in found.items()}, "sent": float(sent.partition(" ")[0])}


def _free_ports() -> int:
    for _ in range(100):
        port = free_port()
        if port + PORTS < 2**16 and all(is_free(HOST, port + after) for after in range(PORTS)):
            return port
    raise BenchFailed(f"there are no {PORTS} free ports one after the other")
