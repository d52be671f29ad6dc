"""`webhooks audit`: what commands record of themselves."""

from sqlalchemy import text

from ingest.config.settings import load_settings
from ingest.inbox.quarantine import Quarantine
from ingest.inbox.schema import FILE_NAME
from tests.workers.commands.test_quarantine import NEW_KEY, quarantine
from workers.alerts.alerts import Alert, AlertKind, raise_alert
from workers.ledger.audit_log import Actor
from workers.ledger.states import Outcome

__all__ = ["quarantine"]  # a fixture


def acts(node, *options):
    return [(row["act"], row["subject"], row["count"]) for row in node.rows("audit", *options)]


def test_who_looked_at_a_body_is_recorded(any_node, event):
    id_ = any_node.settle(event("SESSION_STARTED", userId="a-driver"))
    any_node.run("show", id_)
    (row,) = any_node.rows("audit")
    actor = Actor.of_command()
    assert (row["act"], row["subject"], row["actor"], row["origin"]) == (
        "body_viewed",
        id_[:12],
        actor.name,
        actor.origin,
    )
    assert "a-driver" not in str(row)


def test_a_replay_is_recorded_once_with_what_it_ran(any_node, event, monkeypatch):
    monkeypatch.setattr("workers.commands.replay.CHUNK", 1)
    for number in range(3):
        any_node.settle(event("SESSION_STARTED", f"s{number}"), ("session_record", Outcome.DEAD))
    any_node.run("replay", "--state", "dead", "--dry-run")
    assert acts(any_node) == []
    any_node.run("replay", "--state", "dead")
    assert acts(any_node) == [("replayed", "state=dead", 3)]
    any_node.run("replay", "--state", "dead")
    assert len(acts(any_node)) == 1  # nothing was left to run


def test_an_alert_that_is_resolved_is_recorded_in_the_same_transaction(any_node, noon):
    with any_node.engine.begin() as ledger:
        raise_alert(ledger, Alert(AlertKind.SILENCE, "events", "It is quiet."), noon)
    (alert,) = any_node.rows("alerts")
    any_node.run("alerts", "resolve", "no-such-alert", code=1)
    assert acts(any_node) == []
    any_node.run("alerts", "resolve", alert["id"])
    assert acts(any_node) == [("resolved", alert["id"], 1)]
    with any_node.engine.begin() as ledger:
        raise_alert(ledger, Alert(AlertKind.SILENCE, "events", "It is quiet."), noon)
        ledger.execute(text("CREATE UNIQUE INDEX one_of_each_act ON audit (act)"))
    (again,) = any_node.rows("alerts", "--open")
    any_node.run("alerts", "resolve", again["id"], code=1)
    assert len(any_node.rows("alerts", "--open")) == 1


def test_what_was_let_in_and_bodies_in_quarantine_are_recorded(node, event, quarantine):
    quarantine(event("SESSION_STARTED"))
    node.run("quarantine")
    assert acts(node) == []
    node.rows("quarantine")
    node.run("reverify", PLUGSURFING_HMAC_NEXT=NEW_KEY)
    assert acts(node, "--act", "body_viewed") == [("body_viewed", "quarantine", 1)]
    assert [(act, count) for act, _, count in acts(node, "--act", "reverified")] == [("reverified", 1)]


def test_without_a_ledger_the_quarantine_is_listed_all_the_same(node, event, quarantine):
    quarantine(event("SESSION_STARTED"))
    result = node.run("quarantine", "--json", DATABASE_URL=f"sqlite:///{node.folder}/none.db")
    assert len(result.stdout.splitlines()) == 1
    assert "This is not in the audit log: There is no ledger" in result.stderr
    assert len(Quarantine(node.folder / FILE_NAME, load_settings(data_dir=node.folder)).list(None)) == 1


def test_acts_are_listed_for_people_and_as_csv(node, event):
    node.run("show", node.settle(event("SESSION_STARTED")))
    assert "body_viewed" in node.run("audit", "--since", "1h").stdout
    assert node.run("audit", "--csv").stdout.startswith("id,at,actor,origin,act,subject,count\n")
    assert "None." in node.run("audit", "--actor", "nobody else").stdout
    node.run("audit", "--csv", "--json", code=2)
