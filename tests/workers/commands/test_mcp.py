"""`webhooks mcp`: an agent's client on the other end."""

import asyncio
import json
import os
import sys

import pytest

from tests.workers.console.past import fill

mcp = pytest.importorskip("mcp", reason="the extra [mcp] is not installed")


@pytest.fixture
def asked(node):
    """Start `webhooks mcp` and call tools; return their answers, and the tools."""
    fill(node, failures=3)

    def ask(*calls, options=()):
        command = [sys.executable, "-c", "from workers.cli import main; main()", "mcp", *options]
        environment = {**os.environ, **node.environment}
        server = mcp.StdioServerParameters(command=command[0], args=command[1:], env=environment, cwd=str(node.folder))

        async def talk():
            async with mcp.stdio_client(server) as (reading, writing), mcp.ClientSession(reading, writing) as session:
                await session.initialize()
                tools = (await session.list_tools()).tools
                return tools, [await session.call_tool(name, arguments) for name, arguments in calls]

        return asyncio.run(talk())

    return ask


def test_tools_read_and_mask(asked, node):
    tools, (listed, stats, driver, unknown, found, session) = asked(
        ("list_rows", {"name": "deliveries", "filters": {"state": "dead"}, "limit": 2}),
        ("stats", {"since": "2026-01-01"}),
        ("driver", {"user_id": "DANA@example.com"}),
        ("list_rows", {"name": "deliveries", "filters": {"stat": "dead"}}),
        ("find", {"text": "dana"}),
        ("session", {"session_id": "warned"}),
    )
    assert {tool.name for tool in tools} == {"list_rows", "stats", "delivery", "driver", "session", "find"}
    assert all(tool.annotations.read_only_hint for tool in tools)
    page = json.loads(listed.content[0].text)
    assert [row["state"] for row in page["rows"]] == ["dead", "dead"]
    assert page["next"]
    assert json.loads(stats.content[0].text)["events"]["SESSION_STARTED"]
    assert json.loads(driver.content[0].text)["sessions"]
    assert json.loads(session.content[0].text)["warnings"][0]["outcome"] == "sent"
    assert unknown.is_error
    assert "The filter stat is unknown" in unknown.content[0].text
    for answer in (listed, stats, driver, found, session):
        assert not answer.is_error
        assert "dana@example.com" not in answer.content[0].text
    assert node.rows("audit") == []


def test_what_is_masked_is_shown_when_that_was_recorded(asked, node):
    _, (driver,) = asked(("driver", {"user_id": "dana@example.com"}), options=("--reveal",))
    assert "dana@example.com" in driver.content[0].text
    assert [(row["act"], row["subject"]) for row in node.rows("audit")] == [("body_viewed", "mcp")]


def test_without_the_extra_one_sentence_says_what_to_install(node, monkeypatch):
    monkeypatch.setattr("workers.commands.mcp.find_spec", lambda _name: None)
    assert "pip install 'plugsurfing-webhooks[mcp]'" in node.run("mcp", code=2).output
