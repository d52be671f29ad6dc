"""The messages between `authorize` and its policy processes, and what a process does with them."""

import asyncio
import socket
import subprocess
import sys
from datetime import UTC, datetime
from textwrap import dedent

import pytest

from ingest.authorize.decisions import FallbackReason, PolicyResult
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import Allowed, AuthorizationRequest, Decision, WireFormat
from ingest.wire.json_documents import parse_json
from workers.policies import process_main
from workers.policies.process_main import LENGTH, Evaluate, Evaluated, PolicyStarted, Ready, receive, send

WHOLE = AuthorizationRequest(
    WireFormat.OCPI,
    datetime(2026, 11, 22, 20, 0, 0, 123456, tzinfo=UTC),
    key="04ab\ud800",
    token_type="APP_USER",
    country_code="DE",
    reference_id="r",
    location_id="l",
    evse_ids=("e1", "e2"),
    session_id="s",
    document={"text": "\x00\udfff", "number": 9**4000, "fraction": 0.1, "nothing": None, "list": [True, {}]},
)
EMPTY = AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC))


async def connected():
    ours, theirs = socket.socketpair()
    return await asyncio.open_connection(sock=ours), await asyncio.open_connection(sock=theirs)


def transferred(*messages):
    """Send messages through a socket; return them as they are received."""

    async def run():
        (_, writer), (reader, other) = await connected()
        for message in messages:
            send(writer, message)
        received = [await receive(reader) for _ in messages]
        writer.close()
        with pytest.raises(EOFError):
            await receive(reader)
        other.close()
        return received

    return asyncio.run(run())


def test_messages_arrive_unchanged_and_in_order():
    messages = [
        Ready(),
        Evaluate(1, WHOLE, frozenset({"b", "a"})),
        Evaluate(2, EMPTY, frozenset()),
        PolicyStarted(3, "key_list"),
        Evaluated(4, PolicyResult()),
        Evaluated(5, PolicyResult(Decision(Allowed.BLOCKED, "Call us. \ud83d", "why"), "key_list")),
        Evaluated(6, PolicyResult(policy="balance", failure=FallbackReason.RAISED, error="KeyError")),
    ]
    assert transferred(*messages) == messages


@pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]")])
def test_a_body_that_could_be_parsed_arrives_however_deeply_it_is_nested(opening, closing):
    document = {"body": parse_json(opening * 800 + b"1" + closing * 800)}
    message = Evaluate(
        1, AuthorizationRequest(WireFormat.PLUGSURFING, datetime.now(UTC), document=document), frozenset()
    )
    assert transferred(message) == [message]


def test_a_message_that_is_cut_off_is_the_end():
    async def run():
        (_, writer), (reader, other) = await connected()
        writer.write(LENGTH.pack(100) + b"only a part")
        writer.close()
        with pytest.raises(EOFError):
            await receive(reader)
        other.close()

    asyncio.run(run())


def test_a_process_serves_requests_until_the_socket_is_closed(tmp_path, monkeypatch):
    plugin = """
        from handlers import Allowed, Decision, authorize

        @authorize()
        def refuses(request, ctx):
            return Decision(Allowed.BLOCKED, reason=f"{request.key} for {ctx}")
    """
    (tmp_path / "served_policies.py").write_text(dedent(plugin))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(process_main, "policy_context_factory", lambda _settings: lambda policy: policy.name)
    settings = load_settings(handler_modules="served_policies", data_dir=tmp_path)

    async def run():
        ours, theirs = socket.socketpair()
        serving = asyncio.create_task(process_main._serve(theirs, settings))  # noqa: SLF001 - main() would end the test
        reader, writer = await asyncio.open_connection(sock=ours)
        assert await receive(reader) == Ready()
        send(writer, Evaluate(7, WHOLE, frozenset()))
        decision = Decision(Allowed.BLOCKED, reason=f"{WHOLE.key} for refuses")
        assert [await receive(reader) for _ in range(2)] == [
            PolicyStarted(7, "refuses"),
            Evaluated(7, PolicyResult(decision, "refuses")),
        ]
        send(writer, Evaluate(8, EMPTY, frozenset({"refuses"})))
        skipped = PolicyResult(policy="refuses", failure=FallbackReason.CIRCUIT_OPEN)
        assert await receive(reader) == Evaluated(8, skipped)
        writer.close()
        await serving

    asyncio.run(run())


def test_a_process_that_cannot_load_its_plugins_exits_with_1_and_logs_why(tmp_path):
    (tmp_path / "broken_policies.py").write_text("from handlers import authorise\n")
    script = """
        import socket
        from ingest.config.settings import load_settings
        from workers.policies.process_main import main
        main(socket.socketpair()[0], load_settings(handler_modules="broken_policies", log_format="json"))
    """
    ended = subprocess.run(
        [sys.executable, "-c", dedent(script)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert '"policy_process.failed"' in ended.stderr
    assert "broken_policies.py, line 1, cannot be loaded" in ended.stderr
