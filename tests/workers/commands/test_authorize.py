import json

import pytest

PLUGIN = '''
"""A policy of a team."""

from handlers import Allowed, AuthorizeContext, Decision, AuthorizationRequest, authorize


@authorize()
def knows_some(question: AuthorizationRequest, ctx: AuthorizeContext) -> Decision | None:
    return Decision(Allowed.BLOCKED, reason="it was stolen") if question.key == "04A1" else None
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
        return node.run("authorize", *words, code=code, **settings, **more)

    yield run
    assert not (node.folder / "none.db").exists()


def test_policies_are_tried_without_anything_else(offline):
    done = offline("--try", "question.json", "--json", AUTHORIZE_KEY_LIST="true")
    first, second, last = map(json.loads, done.stdout.splitlines())
    assert (first["policy"], first["says"]) == ("key_list", None)
    assert first["notes"] == ["the list of keys was never read, or too long ago"]
    assert (second["policy"], second["says"], second["reason"]) == ("knows_some", "BLOCKED", "it was stolen")
    answer = {"allowed": "BLOCKED"}
    assert last == {"decision": "BLOCKED", "decided_by": "knows_some", "failure": None, "answer": answer}


def test_a_person_is_shown_what_each_says_and_the_answer(offline):
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
def test_what_makes_no_sense_together_is_refused(offline, words):
    offline(*words, code=2)
