"""`webhooks drive` and its part of `webhooks check`, against the simulator's Drive API over HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import stamina
import uvicorn
from click.testing import CliRunner
from rich.console import Console

from ingest.simulator.drive.drive_app import DRIVE_KEY, ROAM_TOKEN, DriveCredentials, create_drive
from ingest.simulator.drive.drive_faults import DriveFault, DriveFaults
from ingest.simulator.drive.state import DriveState, SessionState
from workers.cli import main

ODD = "a/b?c#../ü@%2F"
AT = datetime(2025, 6, 12, 10, 56, 51, tzinfo=UTC)


@pytest.fixture(scope="module")
def state() -> DriveState:
    state = DriveState()
    state.apply(
        SessionState(f"s{number}", ODD, "COMPLETE" if number else "STARTED", started_at=AT + timedelta(hours=number))
        for number in range(120)
    )
    return state


@pytest.fixture(scope="module")
def faults() -> DriveFaults:
    return DriveFaults()


@pytest.fixture(scope="module")
def address(state, faults) -> Iterator[str]:
    app = create_drive(state, faults, credentials=DriveCredentials(limited_key="limited-key"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def environment(address, faults, tmp_path) -> dict[str, str | None]:
    faults.rates = {}
    return {
        "DATA_DIR": str(tmp_path),
        "DRIVE_API_URL": f"{address}/drive",
        "DRIVE_API_KEY": DRIVE_KEY,
        "DRIVE_BALANCE_PATH": "/v1/users/{user_id}/balance",
        "ROAM_OCPI_URL": f"{address}/ocpi/2.2.1/tokens",
        "ROAM_OCPI_TOKEN": ROAM_TOKEN,
        "REDIS_URL": None,
        "LOG_LEVEL": "warning",  # the API's server logs in this process, too
    }


@pytest.fixture
def drive(environment):
    """Run `webhooks drive …`."""

    def run(*arguments, code=0, **changed):
        with stamina.set_testing(testing=True, attempts=20, cap=True):  # no waiting between attempts
            result = CliRunner(env={**environment, **changed}).invoke(main, ["drive", *arguments])
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    return run


@pytest.fixture
def check(environment, node, valkey_url):
    """Run `webhooks check`, and return what it found about one subject."""
    environment = {**environment, "DATA_DIR": str(node.folder), "REDIS_URL": valkey_url}

    def run(subject, code=0, **changed):
        rows = node.rows("check", code=code, **{**environment, **changed})
        return [(row["standing"], row["sentence"]) for row in rows if row.get("check") == subject]

    return run


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_session_is_shown(drive):
    (told,) = lines(drive("session", ODD, "s0", "--json"))
    assert (told["session_id"], told["user_id"], told["status"]) == ("s0", ODD, "STARTED")
    assert told["started_at"] == "2025-06-12T10:56:51Z"
    assert told["document"]["operator_display_name"] == told["operator_display_name"]
    shown = drive("session", ODD, "s0").stdout
    assert "STARTED" in shown
    assert "ended" not in shown


def test_a_history_of_several_pages_is_listed(drive):
    told = lines(drive("history", ODD, "--json"))
    assert sorted(row["session_id"] for row in told) == sorted(f"s{number}" for number in range(120))
    (only,) = lines(drive("history", ODD, "--status", "STARTED", "--json"))
    assert only["session_id"] == "s0"
    bounds = ("--since", "2025-06-12T11:56:51Z", "--until", "2025-06-12T13:56:51Z")
    assert [row["session_id"] for row in lines(drive("history", ODD, *bounds, "--json"))] == ["s1", "s2", "s3"]
    assert len(lines(drive("history", ODD, "--limit", "7", "--json"))) == 7
    assert drive("history", "nobody").stdout == "None.\n"


def test_charging_keys_are_listed(drive, state):
    told = lines(drive("keys", "--json", "--page-size", "10"))
    assert {row["identifier"] for row in told} == set(state.keys)
    of_one = lines(drive("keys", "--fleet", "fleet-1", "--json"))
    assert {row["fleet_id"] for row in of_one} == {"fleet-1"}
    assert "visual number" in drive("keys").stdout


def test_only_the_list_is_printed_when_it_is_piped(drive):
    assert drive("keys").stderr == ""


def test_a_list_is_counted_on_a_terminal(drive, monkeypatch):
    monkeypatch.setattr(
        "workers.commands.drive.Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=80)
    )
    assert "charging keys" in drive("keys").stderr


def test_a_balance_is_exact(drive, state):
    assert drive("balance", "u").stdout == f"{state.balance('u')}\n"
    assert lines(drive("balance", "u", "--json")) == [{"balance": str(state.balance("u"))}]
    assert "DRIVE_BALANCE_PATH" in drive("balance", "u", code=2, DRIVE_BALANCE_PATH="").output


def test_a_location_is_shown(drive, state):
    location_id, operator = next(iter(state.locations.items()))
    (told,) = lines(drive("location", location_id, "--json"))
    assert told["operator_display_name"] == operator
    assert operator in drive("location", location_id).stdout


def test_fleets_are_created_and_renamed_and_have_invitations(drive, state):
    assert "created" in drive("fleets", "create", "vans/1", "--name", "Vans").stdout
    assert "renamed" in drive("fleets", "rename", "vans/1", "Cars").stdout
    assert state.fleets["vans/1"] == "Cars"
    (told,) = lines(drive("fleets", "invitation", "vans/1"))
    assert told["invitation"]["invitations"] == [{"code": state.invitation("vans/1")}]
    assert "already" in drive("fleets", "create", "vans/1", code=1).stderr
    assert "1 to 100 characters" in drive("fleets", "create", "x" * 101, code=2).stderr


def test_who_changes_fleets_and_tokens_is_recorded_without_the_person(drive, node):
    party = ("--country", "DE", "--party", "ABC", "--contract", "C1", "--issuer", "We", "--whitelist", "never")
    drive("fleets", "create", "vans", **node.environment)
    drive("fleets", "rename", "vans", "Cars", **node.environment)
    drive("token", "push", "04A1", *party, "--invalid", **node.environment)
    drive("fleets", "create", "vans", code=1, **node.environment)
    assert [(act["act"], act["subject"]) for act in node.rows("audit")] == [
        ("drive_changed", "drive token push --invalid"),
        ("drive_changed", "drive fleets rename vans"),
        ("drive_changed", "drive fleets create vans"),
    ]


def test_a_token_is_pushed(drive, state):
    party = ("--country", "DE", "--party", "ABC", "--contract", "C1", "--issuer", "We", "--whitelist")
    assert "pushed" in drive("token", "push", "04/A1", *party, "never").stdout
    pushed = state.tokens["DE/ABC/04%2FA1"] if "DE/ABC/04%2FA1" in state.tokens else state.tokens["DE/ABC/04/A1"]
    assert (pushed["whitelist"], pushed["valid"], pushed["type"]) == ("NEVER", True, "RFID")
    refused = drive("token", "push", "0" * 37, *party, "NEVER", code=2)
    assert "uid" in refused.stderr
    assert "ROAM_OCPI_TOKEN" in drive("token", "push", "1", *party, "NEVER", code=1, ROAM_OCPI_TOKEN="wrong").stderr


@pytest.mark.parametrize(
    ("arguments", "changed", "code", "word"),
    [
        (("keys",), {"DRIVE_API_KEY": "wrong"}, 1, "does not accept the key in DRIVE_API_KEY (401)"),
        (("keys",), {"DRIVE_API_KEY": "limited-key"}, 1, "lacks the permission to read charging keys (403)"),
        (("session", ODD, "none"), {}, 1, "knows no such session (404)"),
        (("session", "", "s0"), {}, 1, "empty id"),
        (("keys", "--fleet", "none"), {}, 1, "knows no such fleet (404)"),
        (("keys",), {"DRIVE_API_KEY": ""}, 2, "DRIVE_API_KEY is not set"),
        (("keys",), {"DRIVE_API_URL": "http://127.0.0.1:1", "DRIVE_ATTEMPTS": "1"}, 1, "cannot be reached"),
    ],
)
def test_an_error_is_one_sentence(drive, arguments, changed, code, word):
    (line,) = drive(*arguments, code=code, **changed).stderr.splitlines()
    assert line.startswith("webhooks: ")
    assert word in line
    assert ODD not in line


def test_log_lines_are_not_mixed_with_the_list(drive, faults):
    faults.rates = {DriveFault.BROKEN: 0.3}
    result = drive("keys", "--json", "--page-size", "10", DRIVE_ATTEMPTS="20", LOG_FORMAT="json")
    assert all("identifier" in row for row in lines(result))
    assert "stamina.retry_scheduled" in result.stderr


@pytest.mark.parametrize(
    ("changed", "standing", "word"),
    [
        ({}, "ok", "lists charging keys"),
        ({"DRIVE_API_KEY": "limited-key"}, "ok", "not for charging keys"),
        ({"DRIVE_API_KEY": ""}, "ok", "Off"),
        ({"DRIVE_API_KEY": "wrong"}, "fail", "DRIVE_API_KEY"),
        ({"DRIVE_API_URL": "http://127.0.0.1:1", "DRIVE_ATTEMPTS": "1"}, "warn", "cannot be reached"),
    ],
)
def test_check_reports_whether_the_key_is_accepted(check, changed, standing, word):
    ((found, sentence),) = check("drive", code=int(standing == "fail"), **changed)
    assert found == standing
    assert word in sentence


def test_check_finds_a_wrong_url(check, address):
    ((standing, sentence),) = check("drive", code=1, DRIVE_API_URL=address)
    assert standing == "fail"
    assert "DRIVE_API_URL" in sentence


def test_check_warns_of_an_unencrypted_url(check):
    (_, sentence), _ = check("drive", DRIVE_API_URL="http://192.0.2.1:1", DRIVE_TIMEOUT="10ms", DRIVE_ATTEMPTS="1")
    assert "https" in sentence


def test_check_requires_both_settings_of_roam_or_none(check):
    ((standing, sentence),) = check("roam", code=1, ROAM_OCPI_TOKEN="")
    assert standing == "fail"
    assert "ROAM_OCPI_TOKEN" in sentence
    assert check("roam", ROAM_OCPI_TOKEN="", ROAM_OCPI_URL="") == []
