"""Fee warnings from the socket to the driver, against everything that `webhooks dev` runs."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingest.config.settings import SECRETS
from workers.dev.env_file import read_devfile

COUNT = 60
WEBHOOKS = (sys.executable, "-m", "workers.cli")


@dataclass(frozen=True)
class RunningDev:
    """A running `dev`, and a second terminal in its folder."""

    folder: Path
    environment: dict[str, str]
    running: subprocess.Popen

    def run(self, *arguments: str) -> str:
        ran = subprocess.run(
            [*WEBHOOKS, *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json").splitlines()]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.running.poll() is None, (self.folder / "dev.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "dev.log").read_text()
            time.sleep(0.1)

    def runs(self, session_id: str, handler: str) -> list[str]:
        """Return the outcomes of the runs of a handler for a session."""
        (record,) = self.rows("session", session_id)
        return [run["outcome"] for one in record["timeline"] for run in one["runs"] if run["handler"] == handler]


@pytest.fixture(scope="module")
def dev(clean_env, dev_port, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDev]:
    folder = tmp_path_factory.mktemp("dev")
    # A notice comes ten minutes before its fee: the reminder is sent some seconds after the warning.
    environment = clean_env | {"REMIND_BEFORE": "594s", "DEFAULT_LOCALE": "de"}
    with (folder / "dev.log").open("w") as log:
        running = subprocess.Popen(
            [*WEBHOOKS, "dev", "--port", str(dev_port())], env=environment, cwd=folder, stdout=log, stderr=log
        )
    dev = RunningDev(folder, environment, running)
    try:
        dev.wait_until(lambda: "Everything is up." in (folder / "dev.log").read_text())
        yield dev
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=60)


def test_each_of_many_sessions_in_disorder_has_one_warning_and_one_reminder_in_time(dev):
    sent = dev.run(
        *("send", "--scenario", "fee-warning", "--session", "many", "--count", str(COUNT), "--seed", "7"),
        *("--fault", "shuffle,dup,late"),
    )
    assert "known already" in sent

    def pushes() -> list[dict[str, Any]]:
        return [row for row in dev.rows("pushes", "--limit", "1000") if row["session_id"].startswith("many")]

    dev.wait_until(lambda: sum(row["state"] == "sent" for row in pushes()) >= 2 * COUNT)

    all_sessions = sorted(f"many-{number:02}" for number in range(1, COUNT + 1))
    warned = {"Blockiergebühr": [], "Letzte": []}
    for push in pushes():
        assert push["state"] == "sent"
        assert datetime.fromisoformat(push["sent_at"]) < datetime.fromisoformat(push["expires_at"])
        warned[push["title"].split()[0]].append(push["session_id"])
    assert {first_word: sorted(sessions) for first_word, sessions in warned.items()} == {
        "Blockiergebühr": all_sessions,
        "Letzte": all_sessions,
    }
    (record,) = dev.rows("session", "many-01")
    assert (record["status"], record["fee_type"], record["anomalies"]) == ("STARTED", "BLOCKING", [])


def test_a_session_that_ended_in_time_gets_no_warning(dev):
    for event in ("SESSION_STARTED", "SESSION_COMPLETE"):
        dev.run("send", event, "--session", "ended", "--user", "driver")
        dev.wait_until(lambda: dev.rows("deliveries", "--session", "ended", "--state", "settled"))
    dev.wait_until(lambda: dev.rows("session", "ended")[0]["status"] == "COMPLETE")
    dev.run("send", "SESSION_FEE_INCURRING", "--session", "ended")
    dev.wait_until(lambda: dev.runs("ended", "warn_the_driver") == ["moot"])
    assert dev.runs("ended", "remind_the_driver") == ["moot"]
    assert not [row for row in dev.rows("pushes") if row["session_id"] == "ended"]
    assert "moot: the session is over" in dev.run("session", "ended")


def test_a_session_that_ends_after_its_warning_is_not_reminded(dev):
    dev.run("send", "--scenario", "fee-warning", "--session", "warned")
    dev.run("send", "SESSION_STOPPED", "--session", "warned")
    dev.wait_until(lambda: dev.runs("warned", "remind_the_driver") == ["moot"])
    assert not [row for row in dev.rows("pushes") if row["session_id"] == "warned" and "Erinnerung" in row["title"]]


def test_a_warning_without_a_driver_waits_until_the_fee_starts_and_is_moot(dev):
    fee_starts_at = datetime.now(UTC) + timedelta(seconds=6)
    at = fee_starts_at - timedelta(minutes=10)
    dev.run("send", "SESSION_FEE_INCURRING", "--session", "no-driver", "--at", at.isoformat())
    dev.wait_until(lambda: dev.runs("no-driver", "warn_the_driver") == ["moot"])
    assert datetime.now(UTC) >= fee_starts_at
    assert "moot: no event of the session has named its driver" in dev.run("session", "no-driver")


def test_no_log_line_of_any_process_contains_a_user_a_key_or_a_body(dev):
    user = "someone@example.com"
    dev.run("send", "--scenario", "fee-warning", "--session", "private", "--user", user)
    dev.run("send", "SESSION_STOPPED", "--session", "private", "--user", user, "--sign", "bad")
    dev.run("send", "--scenario", "cdr", "--session", "private", "--user", user)
    dev.run("devices", "add", user, "a-token-of-a-phone", "--locale", "nl")

    def is_processed() -> bool:
        rows = dev.rows("deliveries", "--session", "private")
        is_settled = all(row["state"] == "settled" for row in rows)
        return is_settled and Counter(row["kind"] for row in rows) == {"events": 4, "cdrs": 1}

    dev.wait_until(is_processed)
    dev.wait_until(lambda: [row for row in dev.rows("pushes") if row["session_id"] == "private"])
    text = (dev.folder / "dev.log").read_text()
    from_processes = [line for line in text.splitlines() if "│" in line]
    generated = read_devfile(dev.folder / "var")
    keys = [value for name, value in generated.items() if name.lower() in SECRETS and "://" not in value]
    assert len(keys) >= 2
    assert any("push" in line for line in from_processes)
    for secret in (user, "userId", "a-token-of-a-phone", *keys):
        assert not [line for line in from_processes if secret in line], secret
