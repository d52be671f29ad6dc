import re
from datetime import timedelta

import pytest

from handlers.kit.context import Push
from ingest.config.settings import load_settings
from workers.commands.session import show_session
from workers.drive.models import DriveSession
from workers.ledger import pushes
from workers.ledger.pushes import NewPush, PushUpdate
from workers.ledger.session_polls import PollSchedule
from workers.ledger.states import Outcome, PushState
from workers.lists.formatting import iso
from workers.reconciliation.merge_drive import merge_drive_sessions

DONE = ("session_record", Outcome.DONE)
RHYTHM = PollSchedule(timedelta(minutes=30), timedelta(hours=4), timedelta(days=7))
KEYS = [
    "session_id",
    "user_id",
    "status",
    "started_at",
    "stopped_at",
    "completed_at",
    "fee_type",
    "fee_will_apply_from",
    "anomalies",
    "cdrs",
    "warnings",
    "timeline",
    "healed",
    "drive",
]


@pytest.fixture
def store_session(noon, event):
    """Store a session: it starts, is warned, completes; its stop comes late, and an unknown event with it."""

    def store_session(node):
        def came(name, minute, late=timedelta(seconds=1), *runs, **payload):
            at = noon + timedelta(minutes=minute)
            return node.settle(event(name, at=at, **payload), *(runs or (DONE,)), received_at=at + late)

        came("SESSION_STARTED", 0, userId="user1")
        warned = came("SESSION_FEE_INCURRING", 1, feeType="BLOCKING", feeWillApplyFrom="2026-05-04T12:10:00Z")
        came("SESSION_COMPLETE", 5)
        came("SESSION_STOPPED", 4, timedelta(minutes=2))
        came("SESSION_PAINTED", 3, timedelta(), ("*", Outcome.IGNORED))
        push = Push("user1", "A fee", "is near", "fee", session_id="L60XMxWy0oP")
        with node.engine.begin() as conn:
            (id_,) = pushes.insert(conn, [NewPush(warned, "warn_the_driver", "log", push, noon + timedelta(minutes=1))])
            sent_at = noon + timedelta(minutes=1, seconds=2)
            pushes.mark(conn, [PushUpdate(id=id_, attempt=0, state=PushState.SENT, sent_at=sent_at)])

    return store_session


def test_a_session_is_its_record_and_a_timeline_in_order_of_event_time(any_node, store_session):
    store_session(any_node)

    (session,) = any_node.rows("session", "L60XMxWy0oP")

    assert list(session) == KEYS
    assert {key: session[key] for key in KEYS[:-5]} == {
        "session_id": "L60XMxWy0oP",
        "user_id": "user1",
        "status": "COMPLETE",
        "started_at": "2026-05-04T12:00:00Z",
        "stopped_at": "2026-05-04T12:04:00Z",
        "completed_at": "2026-05-04T12:05:00Z",
        "fee_type": "BLOCKING",
        "fee_will_apply_from": "2026-05-04T12:10:00Z",
        "anomalies": [],
    }
    entries = session["timeline"]
    assert [moment["event"] for moment in entries] == [
        "SESSION_STARTED",
        "SESSION_FEE_INCURRING",
        "SESSION_PAINTED",
        "SESSION_STOPPED",
        "SESSION_COMPLETE",
    ]
    assert entries[0]["changed"]["status"] == {"before": None, "after": "STARTED"}
    assert entries[4]["changed"]["status"] == {"before": "STARTED", "after": "COMPLETE"}
    assert list(entries[3]["changed"]) == ["stopped_at"]
    assert [moment["late_seconds"] for moment in entries] == [1, 1, None, 120, 1]
    assert [push["state"] for push in entries[1]["pushes"]] == ["sent"]
    assert entries[2]["runs"] == [{"handler": "*", "outcome": "ignored", "attempts": 1, "error": None}]


def test_a_person_reads_what_came_how_late_what_it_changed_and_the_runs(node, store_session):
    store_session(node)

    lines = node.run("session", "L60XMxWy0oP").stdout.splitlines()

    (fee,) = [line.removeprefix("fee").strip() for line in lines if line.startswith("fee ")]
    rows = [re.sub(r"^[-\d]* ?[\d:]{8} +", "", line) for line in lines[lines.index("") + 2 :]]
    assert [re.split(" {2,}", line.strip()) for line in rows] == [
        ["1.0 s", "SESSION_STARTED", "status STARTED, driver user1"],
        ["1.0 s", "SESSION_FEE_INCURRING", f"fee {fee}"],
        ["push by log", "sent: A fee"],
        ["-", "SESSION_PAINTED", "nothing"],
        ["2 min", "SESSION_STOPPED", "stopped"],
        ["1.0 s", "SESSION_COMPLETE", "status STARTED → COMPLETE"],
    ]
    assert "COMPLETE" in lines[1]
    assert "source    events" in lines
    assert max(map(len, lines)) <= 100


def test_an_anomaly_is_shown_with_the_facts(node, event, noon):
    def came(name, minute, received=0, **payload):
        at = noon + timedelta(minutes=minute)
        node.settle(event(name, at=at, **payload), DONE, received_at=noon + timedelta(minutes=received))

    came("SESSION_COMPLETE", 10, userId="user1")
    came("SESSION_STARTED", 20, 19, userId="user2")

    out = node.run("session", "L60XMxWy0oP").stdout

    assert re.search(r"anomaly +2 drivers were named: user1, user2\n", out)
    assert re.search(r"anomaly +STARTED at .*, after COMPLETE at ", out)
    assert re.search(r"anomaly +.* was received 10 min before it was that time\n", out)
    assert "anomaly two_users, started_after_complete, ahead_of_clock" in out


def test_a_failed_run_is_shown_with_its_error(node, event):
    node.settle(event("SESSION_STARTED"), DONE, ("greet", Outcome.DEAD), error="ValueError: odd")

    lines = node.run("session", "L60XMxWy0oP").stdout.splitlines()
    assert re.split(" {2,}", lines[-1])[1:] == ["greet", "dead: ValueError: odd"]


def test_an_unknown_session_is_a_failure_in_one_sentence(node, event):
    assert "no session 'x\\x1b'" in node.run("session", "x\x1b", code=1).stderr
    node.keep(event("SESSION_STARTED"))
    assert "1 of its deliveries" in node.run("session", "L60XMxWy0oP", code=1).stderr


def test_deliveries_that_wait_in_the_inbox_are_counted(node, event):
    node.settle(event("SESSION_STARTED"), DONE)
    node.keep(event("SESSION_STOPPED"))

    assert "Still on its way from the inbox: 1." in node.run("session", "L60XMxWy0oP").stderr


def test_unreadable_deliveries_are_shown_of_a_session_without_a_record(node):
    node.settle(b'{"event": "SESSION_STARTED", "payload": {"sessionId": "s"}}')

    (session,) = node.rows("session", "s")

    assert session["status"] is None
    assert [moment["state"] for moment in session["timeline"]] == ["unreadable"]


def test_a_status_known_from_the_drive_api_alone_is_shown_as_healed(node, event, noon):
    node.settle(event("SESSION_STARTED", at=noon, userId="user1"), DONE)
    stop, end = noon + timedelta(minutes=42), noon + timedelta(minutes=43)
    drive = DriveSession(
        session_id="L60XMxWy0oP",
        user_id="user1",
        status="COMPLETE",
        started_at=noon,
        ended_at=stop,
        completed_at=end,
    )
    with node.engine.begin() as ledger:
        merge_drive_sessions(
            ledger,
            "user1",
            [drive.model_copy(update={"status": "STARTED", "ended_at": None, "completed_at": None})],
            noon,
            RHYTHM,
        )
        merge_drive_sessions(ledger, "user1", [drive], end, RHYTHM)

    lines = node.run("session", "L60XMxWy0oP").stdout.splitlines()

    assert [re.split(" {2,}", line.strip())[-2:] for line in lines[-2:]] == [
        ["Drive API: STOPPED", "no SESSION_STOPPED came"],
        ["Drive API: COMPLETE", "no SESSION_COMPLETE came"],
    ]
    assert any(re.fullmatch(r"source +the Drive API and events", line) for line in lines)
    assert any(re.match(r"Drive API +complete there, read at ", line) for line in lines)
    (row,) = node.rows("session", "L60XMxWy0oP")
    assert row["healed"] == {"STOPPED": iso(stop), "COMPLETE": iso(end)}
    assert (row["drive"]["outcome"], row["drive"]["next_at"]) == ("complete", None)


def test_a_session_known_from_the_drive_api_alone_is_shown_too(node, noon):
    with node.engine.begin() as ledger:
        merge_drive_sessions(ledger, "user1", [DriveSession(session_id="S1", status="WAITING_TO_START")], noon, RHYTHM)
    lines = node.run("session", "S1").stdout.splitlines()
    assert [re.split(" {2,}", line.strip()) for line in lines[-2:]] == [
        ["-", "-", "Drive API: WAITING_TO_START", "no event says this"],
        ["-", "-", "Drive API: driver", "user1, whom no event named"],
    ]


def test_the_demo_prints_a_session_whether_it_has_a_record_or_not(node, store_session, capsys):
    store_session(node)
    settings = load_settings(data_dir=node.folder, database_url=node.environment["DATABASE_URL"])
    show_session(settings, "L60XMxWy0oP")
    assert re.search(r"^status +COMPLETE$", capsys.readouterr().out, re.MULTILINE)
    show_session(settings, "unknown")
    assert re.search(r"^status +-$", capsys.readouterr().out, re.MULTILINE)
