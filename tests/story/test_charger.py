"""A charger asks whether a key is allowed: policies decide from the ledger, and the decision is recorded there."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from handlers.kit.session import Session, StatusTimes
from tests.ports import reserve_port
from workers.ledger import authorizations, charging_keys, sessions, sync_state
from workers.ledger.authorizations import DecisionFilter
from workers.ledger.charging_keys import KeyRow
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.database.migrate import migrate
from workers.policies.cache import KEYS

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))
TIMEOUT_S = 30.0


@pytest.fixture
def database_url(tmp_path):
    """SQLite alone: the ledger is tested on both databases."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(database_url):
    migrate(database_url)
    engine = create_ledger_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def authorize(database_url, ledger, tmp_path):
    """Yield a process `authorize` with two policies, and a client of it."""
    now = datetime.now(UTC)
    keys = [KeyRow("04a1", enabled=True), KeyRow("04a2", enabled=False), KeyRow("04a3", enabled=True, valid_to=now)]
    with ledger.begin() as conn:
        sync_state.claim(conn, KEYS, now, timedelta(1))
        charging_keys.replace_all(conn, keys, sync_state.begin_generation(conn, KEYS), now)
        sync_state.mark_complete(conn, KEYS, now, now, len(keys))
    port = reserve_port()
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "DATA_DIR": str(tmp_path / "var"),
        "AUTHORIZE_CREDENTIALS": "a-secret",
        "AUTHORIZE_PORT": str(port),
        "AUTHORIZE_PROCESSES": "1",
        "AUTHORIZE_REPEATS": "0",
        "AUTHORIZE_KEY_LIST": "true",
        "AUTHORIZE_ONE_SESSION": "true",
        "AUTHORIZE_WITHOUT_FACTS": "fail",
        "AUTHORIZE_ON_FAILURE": "NO_CREDIT",
    }
    process = subprocess.Popen([WEBHOOKS, "authorize"], env=environment, cwd=tmp_path)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "a-secret"}) as client:
        wait_until(lambda: is_open(client))
        yield process, client
    process.kill()
    process.wait()


def is_open(client):
    try:
        return client.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def wait_until(condition):
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until, "the condition is still false"
        time.sleep(0.05)


def test_policies_decide_from_the_ledger_and_the_decision_is_recorded(authorize, ledger):
    process, client = authorize

    def decision_on(key, **parts):
        response = client.post("/plugsurfing/authorizations", json={"keyIdentifier": key, **parts})
        return response.json()["allowed"]

    assert decision_on("04:A1", sessionId="s1") == "ALLOWED"
    assert [decision_on(key) for key in ("A204", "04a3", "04a4")] == ["BLOCKED", "EXPIRED", "NOT_ALLOWED"]

    now = datetime.now(UTC)
    started = {"STARTED": StatusTimes(now, now, frozenset({"event"}))}
    with ledger.begin() as conn:
        sessions.merge(conn, {"s1": lambda known: Session(known.session_id, started)})
    wait_until(lambda: decision_on("a104") == "NOT_ALLOWED")
    assert decision_on("a104", sessionId="s1") == "ALLOWED"

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=TIMEOUT_S) == 0
    with ledger.connect() as conn:
        rows = authorizations.find(conn, DecisionFilter())
    last, before, *_, expired, blocked, first = rows
    assert (first.key, first.session_id, first.decision, first.policy) == ("04a1", "s1", "ALLOWED", None)
    assert (blocked.decision, blocked.policy, blocked.reason) == ("BLOCKED", "key_list", "the key is disabled")
    assert expired.decision == "EXPIRED"
    assert (before.policy, before.reason) == ("one_session", "another session charges: s1")
    assert last.decision == "ALLOWED"
    assert not any(row.failure for row in rows)
