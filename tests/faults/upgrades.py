"""Upgrades under load, and back: processes of the previous version and of this one share ledger, inbox and Redis."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.cluster import POSTGRESQL, ROOT, SQLITE, Cluster, start_program, wait_until
from tests.faults.trials import Group, Impossible, Trial

#: The version before this one: the commit of the last release. Move it with each release, after the matrix has passed.
#: Now it is the commit of 2026-11-29 that first reads compressed bodies: nothing before it can read this ledger.
PREVIOUS_VERSION = "8130fc0de8a86f0340323c24f3b7647fa35a844f"
#: What its processes need, with the handlers whose effects are counted.
PARTS = ("ingest", "handlers", "workers", "tests/faults", "tests/ports.py")
STARTED = {"serve": "Application startup complete", "work": "worker.started", "clock": "clock.started"}
WORKERS, SERVES, CLOCKS = ("work-0", "work-1"), ("serve-0-0", "serve-0-1"), ("clock", "clock-1")


class UpgradedCluster(Cluster):
    """A node with two of each process, which all begin as the previous version."""

    launch = staticmethod(start_program)  # a fork server has imported this version

    def __init__(self, database: str) -> None:
        super().__init__(database, serves=2, workers=2)
        self.previous = self.folder / "previous"
        try:
            extract_previous_version(self.previous)
        except Impossible:
            shutil.rmtree(self.folder)
            raise

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{"PYTHONPATH": str(self.previous), **more})

    def migrate(self) -> None:
        self.run(self.previous, "migrate")
        self.add("clock-1", "clock")

    def starts(self, name: str) -> int:
        """Return how often a process has started."""
        return self.log_of(name).count(STARTED[name.partition("-")[0]])

    def run(self, version: Path, *command: str) -> None:
        """Run a `webhooks` command of a version, which must succeed."""
        environment = self.environment(PYTHONPATH=str(version))
        ended = subprocess.run(
            [sys.executable, "-m", "workers.cli", *command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == os.EX_OK, f"{command}: {ended.stdout}{ended.stderr}"


def extract_previous_version(folder: Path) -> None:
    """Write the previous version's files into a folder. Raise Impossible in a clone without its commit."""
    command = ["git", "-C", str(ROOT), "archive", PREVIOUS_VERSION, *PARTS]
    try:
        archive = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise Impossible(f"the previous version cannot be read: {error}") from None
    with archive:
        try:
            with tarfile.open(fileobj=archive.stdout, mode="r|") as files:
                files.extractall(folder, filter="data")
        except tarfile.ReadError:
            reason = f"the previous version, commit {PREVIOUS_VERSION[:8]}, is not in this clone"
            raise Impossible(f"{reason}: fetch its history (`git fetch --unshallow`)") from None


def restart(*names: str, upgraded: bool) -> Callable[[Cluster], None]:
    """Return what restarts processes as this version, or as the previous one."""

    def restart_them(cluster: Cluster) -> None:
        assert isinstance(cluster, UpgradedCluster)
        before = {name: cluster.starts(name) for name in names}
        for name in names:
            cluster.members[name].restart_with(PYTHONPATH=str(ROOT if upgraded else cluster.previous))
        for name in names:
            wait_until(lambda name=name: cluster.starts(name) > before[name], f"{name} has started")

    return restart_them


def migrate_ledger(cluster: Cluster) -> None:
    """Migrate to this version's tables, under the hands of the previous version."""
    assert isinstance(cluster, UpgradedCluster)
    cluster.run(ROOT, "migrate")


upgrade, roll_back = partial(restart, upgraded=True), partial(restart, upgraded=False)


def roll_back_and_check(cluster: Cluster) -> None:
    """Let the previous version serve again, and judge what this one has left."""
    assert isinstance(cluster, UpgradedCluster)
    roll_back(*SERVES)(cluster)
    cluster.run(cluster.previous, "check", "--deep")


TRIALS = (
    Trial("upgrade: migrated, all of the previous version", migrate_ledger),
    Trial("upgrade: new worker and clock beside old ones", upgrade("work-1", "clock-1")),
    Trial("upgrade: old serve, new workers and clocks", upgrade("work-0", "clock")),
    Trial("upgrade: old and new serve on one inbox", upgrade("serve-0-1")),
    Trial("upgrade: all new", upgrade("serve-0-0")),
    Trial("rollback: new serve, old workers and clocks", roll_back(*WORKERS, *CLOCKS)),
    Trial("rollback: all of the previous version, which checks it", roll_back_and_check),
)

GROUPS = [
    Group(f"upgrade on {database}", partial(UpgradedCluster, database), TRIALS) for database in (POSTGRESQL, SQLITE)
]
