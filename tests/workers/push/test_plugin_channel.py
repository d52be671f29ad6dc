"""A channel as a plugin author writes it: one file beside the .env, named in HANDLER_MODULES and in PUSH."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handlers.kit.channel import channel_plugins_of
from ingest.config.settings import load_settings
from ingest.errors import SettingsError
from workers.clock.push_sender import send_due
from workers.plugins import PluginError, load_plugins
from workers.push.registry import open_channels

WEBHOOKS = str(Path(sys.executable).with_name("webhooks"))

MANUAL = Path(__file__).resolve().parents[3] / "handlers" / "PUSHES.md"
# The channel that the manual shows, as it stands there.
(SMS,) = re.findall(
    r"^```python\n(\"\"\"Send pushes by SMS.*?)^```$", MANUAL.read_text("utf-8"), re.MULTILINE | re.DOTALL
)

ASYNC = '''
"""Append pushes to a list, asynchronously."""

import asyncio

from handlers import OutgoingPush, channel

taken: list[str] = []


@channel("paper")
async def on_paper(push: OutgoingPush) -> None:
    """Write it down, unless it is too long."""
    await asyncio.sleep(60 if push.title == "long" else 0)
    taken.append(push.title)
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a plugin into the folder that a process is started in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text.lstrip())
        return name

    return write


@pytest.fixture
def sms(write, provider, monkeypatch):
    """Write the plugin, and let it know its service."""
    monkeypatch.setenv("SMS_URL", f"{provider.url}/sms")
    return lambda name: write(name, SMS)


def environment(node, **more: str) -> dict[str, str]:
    settings = node.resources.settings
    connection = node.resources.connection.connection_pool.connection_kwargs
    return {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": f"unix://{connection['path']}",
        "PUSH": ",".join(settings.push),
        **more,
    }


def test_the_clock_sends_through_a_channel_in_one_file(push_node, provider, sms, tmp_path, until):
    plugins = load_plugins(load_settings(handler_modules=sms("sms_by_contract")))
    node = push_node(plugins, push="sms")
    for number in range(5):
        node.push(number, user_id="driver-1")
    clock = subprocess.Popen(
        [WEBHOOKS, "clock"], env=environment(node, HANDLER_MODULES="sms_by_contract"), cwd=tmp_path
    )
    until(lambda: node.states() == ["sent"] * 5)
    clock.terminate()
    assert clock.wait() == 0
    assert {body["to"] for body in provider.bodies} == {"+49-driver-1"}
    assert {body["reference"] for body in provider.bodies} == {row.id for row in node.rows()}


def test_a_clock_that_is_killed_while_sending_loses_no_push(push_node, provider, sms, tmp_path, until):
    plugins = load_plugins(load_settings(handler_modules=sms("sms_again")))
    node = push_node(plugins, push="sms")
    provider.is_working.clear()
    push_id = node.push()
    start = environment(node, HANDLER_MODULES="sms_again", PUSH_TIMEOUT="1s")
    first = subprocess.Popen([WEBHOOKS, "clock"], env=start, cwd=tmp_path)
    until(lambda: provider.bodies)
    first.send_signal(signal.SIGKILL)
    first.wait()
    provider.is_working.set()
    second = subprocess.Popen([WEBHOOKS, "clock"], env=start, cwd=tmp_path)
    until(lambda: node.states() == ["sent"])
    second.terminate()
    second.wait()
    # At least once; on a busy machine the first clock may have tried again before it was killed.
    assert len(provider.bodies) >= 2
    assert {body["reference"] for body in provider.bodies} == {push_id}


def test_an_asynchronous_channel_is_cancelled_after_the_timeout(push_node, write):
    plugins = load_plugins(load_settings(handler_modules=write("on_paper", ASYNC)))
    node = push_node(plugins, push="paper", push_timeout="1s", retry_first="1m")
    node.push(1)
    node.push(2, title="long")
    assert send_due(node.resources) == 1
    assert sys.modules["on_paper"].taken == ["Fee"]
    assert node.states() == ["sent", "waiting"]


KEPT = '''
"""Send pushes over one connection, which belongs to the event loop that opened it."""

import asyncio
import time

from handlers import OutgoingPush, channel

loops: list[asyncio.AbstractEventLoop] = []
lock = asyncio.Lock()


@channel("kept")
async def on_kept(push: OutgoingPush) -> None:
    """Use what the module keeps: a lock that waits is bound to its event loop."""
    loops.append(asyncio.get_running_loop())
    if push.title == "blocks" and len(loops) == 1:
        time.sleep(10)
    if push.title == "exits":
        raise SystemExit
    async with lock:
        await asyncio.sleep(0.05)
'''


def test_all_pushes_of_a_process_run_in_one_event_loop(push_node, write):
    plugins = load_plugins(load_settings(handler_modules=write("on_kept", KEPT)))
    node = push_node(plugins, push="kept")
    for number in range(4):
        node.push(number)
    node.push(9, title="exits", expires_at=None)
    assert send_due(node.resources) == 4
    node.push(5)
    assert send_due(node.resources) >= 1
    loops = sys.modules["on_kept"].loops
    assert (len(loops) >= 6, len(set(loops))) == (True, 1)


def test_a_channel_that_blocks_its_event_loop_keeps_no_other_push_back_for_long(push_node, write, until):
    plugins = load_plugins(load_settings(handler_modules=write("on_kept_too", KEPT)))
    node = push_node(plugins, push="kept", push_timeout="500ms")

    def sent():
        send_due(node.resources)
        return node.states() == ["sent", "sent"]

    node.push(1, title="blocks")
    send_due(node.resources)
    node.push(2)
    until(sent)
    assert len(set(sys.modules["on_kept_too"].loops)) > 1


def test_an_unknown_channel_is_refused_at_the_start_with_the_known_ones(write):
    plugins = load_plugins(load_settings(handler_modules=write("sms_offered", SMS)))
    with pytest.raises(SettingsError, match="log, http, fcm, sms"):
        open_channels(load_settings(push="pigeon"), plugins.channels)


def test_two_channels_of_one_name_are_refused_with_both_files(write):
    write("sms_one", SMS.replace("@devices", ""))
    write("sms_two", SMS.replace("@devices", ""))
    with pytest.raises(PluginError, match=r"sms_one\.py.+sms_two\.py.+sms"):
        load_plugins(load_settings(handler_modules="sms_one,sms_two"))


def test_two_registries_are_refused_with_both_files(write):
    write("sms_three", SMS)
    write("sms_four", SMS.replace('"sms"', '"text"'))
    with pytest.raises(PluginError, match=r"sms_three\.py.+sms_four\.py.+@devices"):
        load_plugins(load_settings(handler_modules="sms_three,sms_four"))


def test_a_plugin_cannot_take_the_name_of_a_built_in_channel(write):
    plugins = load_plugins(load_settings(handler_modules=write("not_fcm", SMS.replace('"sms"', '"fcm"'))))
    with pytest.raises(SettingsError, match=r"not_fcm\.py.+fcm"):
        open_channels(load_settings(push="log"), plugins.channels)


def test_a_channel_that_a_plugin_only_imports_is_not_registered_again(write):
    plugins = load_plugins(load_settings(handler_modules=write("sms_lent", SMS)))
    write("borrower", "from sms_lent import by_sms, from_our_registry\n")
    assert load_plugins(load_settings(handler_modules="sms_lent,borrower")).channels == plugins.channels
    assert [type(each).__name__ for each in channel_plugins_of(sys.modules["sms_lent"])] == [
        "ChannelPlugin",
        "DeviceRegistryPlugin",
    ]
