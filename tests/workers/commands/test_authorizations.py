import json
from datetime import timedelta

import pytest

from workers.ledger import authorizations
from workers.ledger.authorizations import DecisionRow

NAMES = [
    *("id", "at", "form", "decision", "policy", "reason", "latency_ms", "session_id", "reference_id", "location_id"),
    *("country_code", "key", "repeated", "failure"),
]


@pytest.fixture
def asked_node(any_node, noon):
    rows = [
        DecisionRow("d1", noon, "plugsurfing", "ALLOWED", None, None, 4200, session_id="s1", key="04a1b2"),
        DecisionRow(
            "d2", noon + timedelta(hours=1), "ocpi", "BLOCKED", "key_list", "the key is disabled", 900, key="b2a104"
        ),
        DecisionRow(
            "d3", noon + timedelta(hours=2), "ocpi", "ALLOWED", "slow", None, 2_400_000, failure="late", repeated=True
        ),
    ]
    with any_node.engine.begin() as conn:
        authorizations.insert(conn, rows)
    return any_node


def ids(node, *words):
    return [row["id"] for row in node.rows("authorizations", *words)]


def test_decisions_are_listed_newest_first(asked_node):
    rows = asked_node.rows("authorizations")
    assert [row["id"] for row in rows] == ["d3", "d2", "d1"]
    assert all(list(row) == NAMES for row in rows)
    assert (rows[2]["latency_ms"], rows[2]["key"], rows[2]["repeated"]) == (4.2, "04a1b2", False)
    assert rows[2]["at"].endswith("Z")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--decision", "BLOCKED"], ["d2"]),
        (["--policy", "slow"], ["d3"]),
        (["--session", "s1"], ["d1"]),
        (["--key", "04:A1:B2"], ["d2", "d1"]),
        (["--limit", "1"], ["d3"]),
    ],
)
def test_decisions_are_filtered_by_what_they_are_about(asked_node, words, found):
    assert ids(asked_node, *words) == found


def test_decisions_are_filtered_by_their_time(asked_node, noon):
    since, until = (noon + timedelta(minutes=30)).isoformat(), (noon + timedelta(minutes=90)).isoformat()
    assert ids(asked_node, "--since", since, "--until", until) == ["d2"]


def test_a_person_reads_the_reasons(asked_node):
    shown = asked_node.run("authorizations").stdout
    assert "the key is disabled" in shown
    assert "failure: late, asked again" in shown


PLUGIN = '''
"""A policy of a team."""

from handlers import Allowed, AuthorizeContext, Decision, AuthorizationRequest, authorize


@authorize()
def knows_some(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    return Decision(Allowed.BLOCKED, reason="it was stolen") if request.key == "04A1" else None
'''


@pytest.fixture
def offline(node, monkeypatch):
    """A node without a ledger, Redis and credentials, but with a policy."""
    monkeypatch.syspath_prepend(node.folder)
    (node.folder / "team_policy.py").write_text(PLUGIN)
    (node.folder / "question.json").write_text('{"keyIdentifier": "04A1"}')
    (node.folder / "nothing").write_text("")
    settings = {"HANDLER_MODULES": "team_policy", "DATABASE_URL": f"sqlite:///{node.folder}/none.db", "REDIS_URL": ""}

    def run(*words, code=0, **more):
        return node.run("authorize", *words, code=code, **{**settings, **more})

    yield run
    assert not (node.folder / "none.db").exists()


def test_policies_are_tried_without_a_ledger_redis_or_credentials(offline):
    done = offline("--try", "question.json", "--json", AUTHORIZE_KEY_LIST="true")
    first, second, last = map(json.loads, done.stdout.splitlines())
    assert (first["policy"], first["says"]) == ("key_list", None)
    assert first["notes"] == ["the list of keys was never read, or too long ago"]
    assert (second["policy"], second["says"], second["reason"]) == ("knows_some", "BLOCKED", "it was stolen")
    answer = {"allowed": "BLOCKED"}
    assert last == {"decision": "BLOCKED", "decided_by": "knows_some", "failure": None, "answer": answer}


def test_a_person_reads_what_each_policy_decides_and_the_answer(offline):
    done = offline("--try", "nothing", "--form", "ocpi", "--uid", "04A1")
    assert "it was stolen" in done.stdout
    assert "BLOCKED (knows_some)" in done.stdout
    assert '"status_code": 1000' in done.stdout
    assert "There is no ledger yet." in done.stderr


def test_a_policy_that_fails_is_an_exit_code(offline):
    done = offline("--try", "question.json", code=1, AUTHORIZE_KEY_LIST="true", AUTHORIZE_WITHOUT_FACTS="fail")
    assert "AUTHORIZE_ON_FAILURE, as key_list fails" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--uid", "04A1"),
        ("--json",),
        ("--try", "question.json", "--uid", "04A1"),
        ("--try", "question.json", "--form", "ocpi"),
        ("--try", "not-there.json"),
    ],
)
def test_options_that_make_no_sense_together_are_wrong_usage(offline, words):
    offline(*words, code=2)


FAILING = '''
"""A policy with a bug, which takes longer than it may."""

import time

from handlers import AuthorizationRequest, AuthorizeContext, Decision, authorize


@authorize()
def has_a_bug(request: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    time.sleep(0.02)
    raise KeyError("no such thing")
'''


def test_a_bug_of_a_policy_is_shown_with_its_traceback_and_that_it_was_too_slow(offline, node):
    (node.folder / "policy_with_a_bug.py").write_text(FAILING)
    changed = {"HANDLER_MODULES": "policy_with_a_bug", "AUTHORIZE_TIMEOUT": "0.01s"}
    done = offline("--try", "question.json", code=1, **changed)
    assert "Traceback" in done.stdout
    assert "no such thing" in done.stdout
    assert "longer than AUTHORIZE_TIMEOUT" in done.stderr


def test_without_a_policy_every_key_may_charge(offline):
    done = offline("--try", "question.json", HANDLER_MODULES="")
    assert "No policy is asked: there is none." in done.stdout
    assert "ALLOWED (no policy objects)" in done.stdout


@pytest.mark.parametrize("database", ["ledger", "another"])
def test_policies_are_tried_with_what_the_ledger_knows(node, monkeypatch, database):
    """A ledger without tables cannot be used; the policies are asked all the same."""
    (node.folder / "question.json").write_text('{"keyIdentifier": "04A1"}')
    (node.folder / "another.db").touch()
    settings = {"DATABASE_URL": f"sqlite:///{node.folder}/{database}.db", "AUTHORIZE_ONE_SESSION": "true"}
    done = node.run("authorize", "--try", "question.json", **settings)
    assert "one_session" in done.stdout
    assert ("The ledger cannot be used." in done.stderr) is (database == "another")
