"""A driver is erased from a whole installation: no byte of any file names them, and all is consistent."""

import base64
import contextlib
import gzip
import http.client
import json
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ingest.http.app import PATHS
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, sign
from tests.faults.cluster import POSTGRESQL, SQLITE, Cluster, wait_until
from tests.faults.load import KEY
from workers.ledger.database.engine import read_only
from workers.ledger.deliveries import DeliveryFilters, find

DRIVER = "jane.roe@example.com"
SESSION = "Zx81Session"
NAMES = (DRIVER, "M-XY-4711", SESSION)


def post(port, kind, document, *, signed=True):
    body = json.dumps(document).encode()
    headers = {SIGNATURE_HEADER: sign(body, KEY) if signed else "0" * 128}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", PATHS[kind], body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def event(name, session=SESSION, **payload):
    at = datetime.now(UTC).isoformat()
    return {"event": name, "payload": {"sessionId": session, "timestamp": at, **payload}}


def files_with(folder, name):
    """The files that have a text, whatever program wrote them; the file of the push channel is the provider's."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "pushed" and name.lower().encode() in content(path).lower()
    ]


def content(path):
    """The bytes of a file; of an archive, its lines and their bodies."""
    if path.suffix != ".gz":
        return path.read_bytes()
    lines = gzip.decompress(path.read_bytes()).splitlines()
    return b"\n".join([*lines, *(base64.b64decode(json.loads(line).get("body", "")) for line in lines)])


def _count(inbox, table):
    with contextlib.closing(sqlite3.connect(inbox)) as file:
        return file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def webhooks(cluster, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env=cluster.environment(),
        cwd=cluster.folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("database", [SQLITE, POSTGRESQL])
def test_no_byte_of_an_installation_names_an_erased_driver(database):
    with Cluster(database, settings={"HANDLER_MODULES": "", "PUSH": "log"}) as cluster:
        (port,) = cluster.ports
        for document in (
            event("SESSION_STARTED", userId=DRIVER, plate="M-XY-4711"),
            event("SOMETHING_NEW", userEmail=DRIVER),
            event("SESSION_STARTED", "other-session", userId="driver-2"),
            {"note": f"from {DRIVER}"},
        ):
            assert post(port, Kind.EVENTS, document) == 200
        cdr = {"id": "cdr-1", "sessionId": SESSION, "userId": DRIVER, "amount": 12.5, "currency": "EUR"}
        assert post(port, Kind.CDRS, cdr) == 200
        assert post(port, Kind.EVENTS, event("SESSION_STOPPED", userId=DRIVER), signed=False) == 403

        def settled():
            with read_only(cluster.engine) as ledger:
                return [row for row in find(ledger, DeliveryFilters(), None) if row.state.is_ended]

        wait_until(lambda: len(settled()) == 5, "all is settled")
        inbox = cluster.folder / "node-0" / "inbox.db"
        wait_until(lambda: _count(inbox, "quarantine") == 1, "the quarantine is written")

        copy, archive = cluster.folder / "copy", cluster.folder / "old.jsonl.gz"
        assert webhooks(cluster, "backup", "--to", str(copy)).returncode == 0
        written = webhooks(cluster, "archive", "--before", datetime.now(UTC).isoformat(), "--to", str(archive))
        assert written.returncode == 0, written.stderr
        assert files_with(copy, DRIVER)
        assert DRIVER.encode() in content(archive)

        files = ("--backup", str(copy), "--archive", str(archive))
        done = webhooks(
            cluster, "erase", "--user", DRIVER.upper(), *files, "--vacuum", "--reason", "ticket 7", "--json"
        )
        assert done.returncode == 0, done.stderr
        certificate = json.loads(done.stdout)
        assert certificate["ledger"]["deliveries"] == 4
        assert certificate["ledger"]["cdrs"] == certificate["ledger"]["sessions"] == 1
        assert [report["quarantined"] for report in certificate["inboxes"].values()] == [1], certificate
        assert certificate["backups"][str(copy)]["inbox quarantine"] == 1, certificate
        assert certificate["archives"] == {str(archive): 4}

        # Late, and again: what came of the session before is known, what is new is erased.
        assert post(port, Kind.EVENTS, event("SESSION_COMPLETE", userId=DRIVER)) == 200

        def erased():
            return [row for row in settled() if row.body_deletion == "erasure"]

        wait_until(lambda: len(erased()) == 5, "the late event is erased")
        assert webhooks(cluster, "check", "--deep").returncode == 0, webhooks(cluster, "check", "--deep").stdout
        assert "ticket 7" in webhooks(cluster, "audit").stdout
        others = json.loads(webhooks(cluster, "session", "other-session", "--json").stdout)
        assert others["user_id"] == "driver-2"
        assert "12.5" in webhooks(cluster, "cdrs").stdout

        again = webhooks(cluster, "erase", "--user", DRIVER, "--vacuum", "--json")
        assert again.returncode == 0, again.stderr
        redis = cluster.redis().plain
        wait_until(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], "Redis has rewritten its file")
        redis.save()
        for member in cluster.members.values():
            if member.name != "valkey":
                member.stop()
        if cluster.postgres is not None:
            # Its log of writes keeps old pages until it is reused; what is left in the tables is what counts.
            with cluster.engine.connect() as conn:
                conn.connection.driver_connection.autocommit = True
                conn.connection.driver_connection.execute("CHECKPOINT")
        for name in NAMES:
            found = [each for each in files_with(cluster.folder, name) if "pg_wal" not in each]
            assert not found, (name, found)
