import shlex
import sys
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result

from ingest.config.settings import Settings
from ingest.events import decode, use_models
from ingest.simulator import sender
from ingest.simulator.sender import SimulatorResponse
from ingest.wire.envelope import Kind, verify_request
from ingest.wire.signature import SigningKeys
from workers.commands.send import send
from workers.dev.env_file import write_devfile

AT = "2025-06-12T10:56:51Z"


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("PLUGSURFING_HMAC_CURRENT", "the current key")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def receiver(monkeypatch):
    """A receiver that records requests, and responds with `status` or what is expected."""

    class Receiver:
        url = ""
        rate = None
        status = None

        def __init__(self):
            self.requests = []

    here = Receiver()

    async def send(url, tracks, signer, *, on_response, rate=None):
        here.url, here.rate = url, rate
        for step in (step for track in tracks for step in track):
            request = signer.request(step, at=datetime.now(UTC))
            here.requests.append(request)
            status = here.status or min(request.expected)
            delivery_id = "0123456789abcdef" if status == 200 else None
            on_response(SimulatorResponse(request, timedelta(milliseconds=4), status=status, delivery_id=delivery_id))

    monkeypatch.setattr(sender, "send", send)
    return here


def run(*arguments: str) -> Result:
    return CliRunner().invoke(send, arguments)


def printed(*arguments: str) -> list[list[str]]:
    """The curl commands of `--print`, as words."""
    result = run(*arguments, "--print")
    assert result.exit_code == 0, result.output
    return [shlex.split(line) for line in result.stdout.splitlines()]


def body(words: list[str]) -> bytes:
    return words[words.index("--data-binary") + 1].encode()


def names(commands: list[list[str]]) -> list[str]:
    return [decode(Kind.EVENTS, body(words)).name for words in commands]


def test_the_default_is_a_session_from_its_start_to_its_price():
    assert names(printed()) == ["SESSION_STARTED", "SESSION_STOPPED", "SESSION_COMPLETE"]


@pytest.mark.parametrize("words", [("stop-failed",), ("--scenario", "stop-failed")])
def test_a_scenario_is_played_by_its_name(words):
    assert names(printed(*words)) == ["SESSION_STARTED", "SESSION_STOP_FAILED"]


def test_any_event_is_sent_by_its_name_with_the_given_ids():
    (words,) = printed("SOMETHING_ELSE", "--session", "L60XMxWy0oP", "--user", "user1", "--at", AT)
    assert body(words).decode() == (
        '{"event": "SOMETHING_ELSE", "payload": '
        '{"userId": "user1", "sessionId": "L60XMxWy0oP", "timestamp": "2025-06-12T10:56:51Z"}}'
    )


def test_what_is_printed_verifies():
    (words,) = printed("SESSION_STARTED")
    headers = [words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "--header"]
    envelope = verify_request(
        Kind.EVENTS,
        [(name.encode(), value.encode()) for name, value in headers],
        body(words),
        SigningKeys(b"the current key"),
        signature_required=True,
        received_at=datetime.now(UTC),
    )
    assert envelope.signed_with == "current"


def test_many_sessions_have_ids_of_their_own():
    ids = [decode(Kind.EVENTS, body(words)).session_id for words in printed("unknown", "--count", "12")]
    assert len(set(ids)) == 12
    named = printed("unknown", "--count", "12", "--session", "mine")
    assert [decode(Kind.EVENTS, body(words)).session_id for words in named][:2] == ["mine-01", "mine-02"]


def test_a_seed_and_a_time_give_the_same_bytes():
    again = [[body(words) for words in printed("--seed", "7", "--at", AT, "--count", "3")] for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != [body(words) for words in printed("--seed", "8", "--at", AT, "--count", "3")]


def test_requests_go_to_the_given_url_or_to_this_machine(receiver, monkeypatch):
    run("--url", "https://example.com/")
    assert receiver.url == "https://example.com"
    monkeypatch.setenv("PORT", "9000")
    run("--rate", "5")
    assert (receiver.url, receiver.rate) == ("http://127.0.0.1:9000", 5)


def test_beside_dev_it_signs_with_the_keys_that_dev_made_up(receiver, tmp_path, monkeypatch):
    monkeypatch.delenv("PLUGSURFING_HMAC_CURRENT")
    assert "PLUGSURFING_HMAC_CURRENT is not set" in str(run().exception)
    write_devfile(tmp_path / "var", {"PORT": "9000", "PLUGSURFING_HMAC_CURRENT": "made up"})
    assert run().exit_code == 0
    assert receiver.url == "http://127.0.0.1:9000"


def test_during_a_rotation_the_configured_key_signs(receiver, monkeypatch):
    monkeypatch.delenv("PLUGSURFING_HMAC_CURRENT")
    monkeypatch.setenv("PLUGSURFING_HMAC_NEXT", "the next key")
    assert run().exit_code == 0
    assert "200" in run("--sign", "next").stdout
    assert len(receiver.requests) == 6


def test_where_no_signature_is_required_there_is_none(receiver, monkeypatch):
    monkeypatch.delenv("PLUGSURFING_HMAC_CURRENT")
    monkeypatch.setenv("PLUGSURFING_HMAC_REQUIRED", "false")
    monkeypatch.setenv("PLUGSURFING_AUTHORIZATION", "sesame")
    assert run("unknown").exit_code == 0
    assert set(receiver.requests[0].headers) == {"content-type", "authorization"}


def test_few_responses_are_printed_one_by_one_and_many_are_counted(receiver):
    few = run("SESSION_STARTED", "--session", "L60XMxWy0oP").stdout
    assert "SESSION_STARTED       L60XMxWy0oP  200 kept as 0123456789ab  4 ms" in few
    assert "1 sent: 1 x 200 · p50 4 ms · p99 4 ms" in few
    assert "webhooks session L60XMxWy0oP" in few
    many = run("--count", "50").stdout
    assert many.splitlines() == ["150 sent: 150 x 200 · p50 4 ms · p99 4 ms"]


def test_a_provoked_refusal_is_right(receiver):
    result = run("SESSION_STARTED", "--fault", "bad-sig")
    assert result.exit_code == 0
    assert "403, as it should be" in result.stdout
    assert receiver.requests[0].expected == {403}


def test_a_wrong_response_is_printed_and_the_exit_code_is_one(receiver):
    receiver.status = 503
    result = run("SESSION_STARTED")
    assert result.exit_code == 1
    assert "503, which is wrong: it should be 200" in result.output


def test_a_receiver_that_does_not_answer_is_one_sentence():
    result = run("SESSION_STARTED", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "Nothing answers at http://127.0.0.1:1: is `webhooks dev` running?" in result.output


def test_when_everything_is_dropped_nothing_is_sent(receiver):
    assert "Nothing was sent" in run("SESSION_STARTED", "--fault", "drop").stdout
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("SESSION_STARTED", "--scenario", "session"), "Choose EVENT or --scenario."),
        (("--fault", "dup,no-such"), "choose from dup, late"),
        (("--count", "0"), "0 is not in the range"),
        (("--rate", "0"), "0 is not in the range"),
        (("--sign", "maybe"), "'current', 'next', 'none', 'bad'"),
        (("--at", "some day"), "some day"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(arguments, sentence):
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_fault_counts_once_and_spaces_do_not_matter():
    assert len(printed("unknown", "--fault", " dup , dup,")) == 2


def test_an_event_that_a_plugin_knows_is_sent_with_the_fields_of_its_sample(tmp_path, monkeypatch):
    (tmp_path / "team_pauses.py").write_text(
        "from handlers import event\nfrom ingest.events import SessionEvent\n\n"
        "@event('SESSION_PAUSED', sample={'reason': 'GRID'})\nclass SessionPaused(SessionEvent):\n    reason: str\n"
    )
    monkeypatch.setenv("HANDLER_MODULES", "team_pauses")
    monkeypatch.setattr(sys, "path", [*sys.path])
    try:
        (words,) = printed("SESSION_PAUSED", "--session", "S")
    finally:
        use_models({})
    assert '"sessionId": "S"' in words[-1]
    assert '"reason": "GRID"' in words[-1]


def test_an_event_is_sent_beside_a_broken_plugin(monkeypatch):
    monkeypatch.setenv("HANDLER_MODULES", "no_such_module")
    result = run("SESSION_PAUSED", "--print")
    assert result.exit_code == 0
    assert "Without fields of a plugin: HANDLER_MODULES names no_such_module" in result.stderr
