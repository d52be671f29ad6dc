"""Verifying again what is in quarantine: nothing happens before it was shown what would."""

import pytest

from ingest.config.settings import load_settings
from ingest.errors import NotAuthentic
from ingest.inbox.quarantine import Quarantine
from ingest.inbox.quarantined_request import from_request
from ingest.inbox.schema import FILE_NAME
from ingest.wire.envelope import Kind
from ingest.wire.signature import SIGNATURE_HEADER, SigningKeys, sign
from tests.workers.console.conftest import csrf_token
from workers.ledger.audit_log import AuditAct


@pytest.fixture
def refused(node, event):
    """Refuse a request that is signed with today's key, and one with a stranger's."""
    node.keep(b"{}")
    key = node.environment["PLUGSURFING_HMAC_CURRENT"].encode()
    store = Quarantine(node.folder / FILE_NAME, load_settings(data_dir=node.folder))
    for number, by in enumerate((key, key, b"of-a-stranger")):
        body = event("SESSION_STARTED", f"s{number}")
        headers = [(SIGNATURE_HEADER.encode(), sign(body, by).encode())]
        refusal = NotAuthentic("The signature was made with neither key.")
        store.add([from_request(Kind.EVENTS, headers, body, refusal, SigningKeys(current=b"an-older-key"))])
    return store


def test_a_preview_shows_what_would_pass_by_which_key_and_lets_nothing_in(refused, console):
    page = console.get("/quarantine/reverify").text
    assert "Let in (2)" in page
    assert 'data-name="key">current<' in page
    assert 'data-name="requests">2<' in page
    assert "What would still be refused" in page
    assert len(refused.list()) == 3
    assert "/quarantine/reverify" in console.get("/quarantine").text


def test_what_passes_is_let_in_by_a_click_that_is_recorded(refused, node, console):
    answer = console.post("/quarantine/reverify", data={"csrf_token": csrf_token(console)})
    assert "Let in: 2. Still refused: 1." in answer.text
    assert len(refused.list()) == 1
    assert [(act["act"], act["count"]) for act in node.rows("audit")] == [(AuditAct.REVERIFIED, 2)]


def test_without_a_ledger_what_is_refused_is_shown_and_nothing_is_let_in_unrecorded(refused, node, console):
    token = csrf_token(console)
    node.engine.dispose()
    for file in node.folder.glob("ledger.db*"):
        file.unlink()
    for url in ("/quarantine", "/quarantine.json", "/api/quarantine"):
        assert "The signature was made with neither key." in console.get(url).text
    assert "Let in (2)" in console.get("/quarantine/reverify").text
    assert console.post("/quarantine/reverify", data={"csrf_token": token}).status_code == 503
    assert len(refused.list()) == 3


def test_the_command_previews_the_same(refused, node):
    printed = node.run("reverify", "--dry-run").stdout
    assert "Would be let in: 2" in printed
    assert "By the key current: 2" in printed
    rows = node.rows("reverify", "--dry-run")
    assert [row["key"] for row in rows] == ["current", "current", None]
    assert len(refused.list()) == 3


def test_without_an_inbox_on_this_node_the_page_says_so(node, console):
    (node.folder / FILE_NAME).unlink(missing_ok=True)
    assert "no inbox on this node" in console.get("/quarantine/reverify").text
