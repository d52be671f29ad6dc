"""Inject the faults, send bad input, and print a table of each: `python -m tests.faults.report`."""

# ruff: noqa: T201  it prints its tables
import argparse
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.faults import (
    bad_input,
    database_faults,
    inbox_faults,
    kills,
    network_faults,
    other_faults,
    redis_faults,
    stranger_faults,
    upgrades,
)
from tests.faults.cluster import Cluster
from tests.faults.fork_server import ForkServer
from tests.faults.trials import Group, Impossible, Verdict, running_groups

MODULES = (kills, redis_faults, database_faults, inbox_faults, other_faults, network_faults, stranger_faults, upgrades)
HEAD = "| fault | database | times | acknowledged | lost | doubled | stuck | seconds to recover |"


def main() -> int:
    """Return 1 if a promise was broken or a trial failed, 2 if no trial fits."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the context managers end what they started
    Cluster.rate = options.rate
    modules = (kills,) if options.kills else MODULES
    groups = [select_trials(group, options.only) for module in modules for group in module.GROUPS]
    groups = [group for group in groups if group.trials]
    if options.kills:
        groups = [each for group in groups for each in separate_clusters(group, options.kills)]
    if options.only and not groups:
        print(f"No fault has a name that matches {options.only!r}.", file=sys.stderr)
        return 2
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()}\n\n{HEAD}")
    print("|---" * 3 + "|--:" * 5 + "|", flush=True)
    is_well = True
    with contextlib.ExitStack() as stack:
        if options.kills:
            Cluster.launch = staticmethod(stack.enter_context(ForkServer()).launch)
        verdicts = stack.enter_context(running_groups(groups, at_once=options.at_once))
        for (_, fault), verdict in verdicts.items():
            try:
                is_well &= print_verdict(verdict.result())
            except Impossible as reason:
                print(f"| {fault} | not tried: {reason} |", flush=True)
            except Exception as failure:  # noqa: BLE001 - the other trials go on
                print(f"| {fault} | FAILED: {failure!r} |", flush=True)
                print("\n".join(getattr(failure, "__notes__", [])), file=sys.stderr)
                is_well = False
    if not (options.kills or options.only):
        findings = bad_input.examine()
        print(f"\n{bad_input.markdown(findings)}")
        print("\n".join(findings.wrong), file=sys.stderr)
        is_well &= findings.is_well
    return 0 if is_well else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.report", description=__doc__)
    parser.add_argument(
        "--kills",
        type=int,
        default=0,
        help="only the kills, this many at each failpoint (1000: an hour or two, three at once)",
    )
    parser.add_argument(
        "--only", default="", help="only faults whose name matches this regular expression; no bad input"
    )
    parser.add_argument("--rate", type=float, default=15, help="events a second on every cluster (15)")
    parser.add_argument(
        "--at-once", type=int, default=1, help="number of clusters at once (1); more make recovery slower"
    )
    return parser.parse_args()


def select_trials(group: Group, only: str) -> Group:
    return replace(group, trials=[trial for trial in group.trials if re.search(only, trial.name)])


def separate_clusters(group: Group, times: int) -> Iterator[Group]:
    """Yield a group for each trial, so that the data of one do not slow down the next."""
    for trial in group.trials:
        yield replace(group, trials=[replace(trial, times=times)])


def print_verdict(verdict: Verdict) -> bool:
    numbers = (verdict.acknowledged, verdict.lost, verdict.doubled, verdict.stuck)
    cells = (verdict.fault, verdict.database, verdict.times, *numbers, f"{verdict.seconds:.1f}")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    for detail in verdict.details:
        print(f"  {detail}", file=sys.stderr)
    return not (verdict.lost or verdict.doubled or verdict.stuck)


def commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
