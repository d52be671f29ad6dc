"""`webhooks devices`: listed, added and removed by hand; and the listener as a process."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.ports import reserve_port


@pytest.fixture
def registered(node):
    options = ("--platform", "ios", "--locale", "sv", "--time-zone", "Europe/Stockholm")
    assert "registered" in node.run("devices", "add", "driver-1", "token-that-is-rather-long", *options).output
    node.run("devices", "add", "driver-2", "token-b")


def test_devices_are_listed_for_programs(node, registered):
    newest, oldest = node.rows("devices")
    assert (newest["user_id"], newest["token"], newest["platform"]) == ("driver-2", "token-b", None)
    assert oldest.pop("updated_at").endswith("Z")
    assert oldest == {
        "user_id": "driver-1",
        "token": "token-that-is-rather-long",
        "platform": "ios",
        "locale": "sv",
        "time_zone": "Europe/Stockholm",
    }
    assert [row["user_id"] for row in node.rows("devices", "--user", "driver-1")] == ["driver-1"]
    assert len(node.rows("devices", "--limit", "1")) == 1


def test_who_changes_devices_is_recorded_without_the_driver(node, registered):
    node.run("devices", "remove", "driver-2", "token-b")
    node.run("devices", "remove", "driver-2", "token-b", code=1)
    acts = node.rows("audit")
    assert [(act["act"], act["subject"]) for act in acts] == [
        ("devices_changed", "devices remove"),
        ("devices_changed", "devices add"),
        ("devices_changed", "devices add"),
    ]
    assert all(act["actor"] for act in acts)


def test_people_see_the_beginning_of_a_token(node, registered):
    shown = node.run("devices").output
    assert "Europe/Stockholm" in shown
    assert "token-that-is-ra…" in shown


def test_a_device_is_removed_once(node, registered):
    node.run("devices", "remove", "driver-2", "token-b")
    assert "no such device" in node.run("devices", "remove", "driver-2", "token-b", code=1).output
    assert len(node.rows("devices")) == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((" ", "token"), "user id"),
        (("driver", "t" * 2001), "token"),
    ],
)
def test_what_makes_no_sense_is_refused(node, arguments, word):
    assert word in node.run("devices", "add", *arguments, code=2).output
    assert node.rows("devices") == []


def test_a_device_is_added_whatever_is_not_understood_and_that_is_said(node):
    said = node.run("devices", "add", "driver", "token", "--time-zone", "Europe/Atlantis", "--locale", "de_AT.UTF-8")
    assert "time zone was not understood" in said.output
    assert "locale" not in said.output
    assert [(row["token"], row["locale"], row["time_zone"]) for row in node.rows("devices")] == [
        ("token", "de-AT", None)
    ]


def test_the_device_server_serves_until_it_is_terminated(node, until):
    port = reserve_port()
    environment = {**os.environ, **node.environment, "DEVICES_PORT": str(port), "ADMIN_TOKEN": "the-token"}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("webhooks"), "devices", "serve"],
        env=environment,
        cwd=node.folder,
        stderr=subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"

    def answers():
        try:
            return httpx.get(f"{url}/healthz").is_success
        except httpx.TransportError:
            return False

    until(answers)
    put = httpx.put(f"{url}/devices/driver-1/a-token", headers={"authorization": "Bearer the-token"}, json={})
    assert put.status_code == 204
    assert httpx.delete(f"{url}/devices/driver-1/a-token").status_code == 401
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert b"devices.started" in log
    assert b"driver-1" not in log
    assert b"the-token" not in log
    assert [row["user_id"] for row in node.rows("devices")] == ["driver-1"]


def test_the_device_server_does_not_start_open_to_other_machines(node):
    refused = node.process("devices", "serve", HOST="0.0.0.0")
    assert refused.returncode == 2
    assert b"ADMIN_TOKEN" in refused.stderr
