"""The JSON API: what its document says, with the filters of the lists, masked until asked for."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as how
from schemathesis.config import SchemathesisConfig

from tests.workers.console.past import fill
from workers.console.api import openapi_document
from workers.console.list_page import LISTS

USERS = "olga look olgas-long-secret"
BEARER = {"authorization": "Bearer olgas-long-secret"}

# The token is this test's own.
DOCUMENT = {name: part for name, part in openapi_document().items() if name != "security"}

api = schemathesis.openapi.from_dict(
    json.loads(json.dumps(DOCUMENT)),
    config=SchemathesisConfig.from_dict(
        {
            "generation": {"max-examples": max(1, how.default.max_examples // 20), "database": "none"},
            # No schema can say what a time may be. The access control refuses other methods, before a route does.
            "checks": {"positive_data_acceptance": {"enabled": False}, "unsupported_method": {"enabled": False}},
        }
    ),
)


@pytest.fixture
def client(node, console_of):
    node.environment["DASHBOARD_USERS"] = USERS
    fill(node, failures=3)
    client = console_of(node)
    client.headers.update(BEARER)
    return client


def test_the_address_of_the_api_leads_to_its_document(client):
    for path in ("/api", "/api/"):
        assert client.get(path).json()["openapi"]


@api.parametrize()
@how(deadline=None, suppress_health_check=list(HealthCheck))
def test_what_the_document_says_is_true(case, client):
    answer = client.get(case.formatted_path, params=case.query)
    case.validate_response(answer)


def test_an_empty_filter_is_any_and_the_document_says_so(client):
    whole = client.get("/api/authorizations").json()
    assert client.get("/api/authorizations?decision=").json() == whole
    parameters = DOCUMENT["paths"]["/api/authorizations"]["get"]["parameters"]
    (decision,) = [each["schema"] for each in parameters if each["name"] == "decision"]
    assert "" in decision["enum"]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_holds_what_its_command_prints_once_that_is_asked_for(client, node, name):
    masked = client.get(f"/api/{name}").json()["rows"]
    assert "dana@example.com" not in json.dumps(masked)
    shown = client.get(f"/api/{name}?reveal=true").json()["rows"]
    if name == "audit":
        shown = [row for row in shown if row["act"] != "user_viewed"]
        assert shown == []
    else:
        assert shown == [json.loads(line) for line in client.get(f"/{name}.json?reveal=true").text.splitlines()]


def test_pages_follow_each_other_to_the_end(client):
    found, before = [], None
    while True:
        page = client.get("/api/deliveries", params={"limit": 2, **({"before": before} if before else {})}).json()
        assert len(page["rows"]) <= 2
        found += [row["id"] for row in page["rows"]]
        before = page["next"]
        if before is None:
            break
    assert found == [row["id"] for row in client.get("/api/deliveries").json()["rows"]]
    assert len(found) > 4


def test_a_filter_is_the_lists_and_a_misspelt_one_is_refused(client):
    dead = client.get("/api/deliveries?state=dead").json()["rows"]
    assert dead
    assert {row["state"] for row in dead} == {"dead"}
    for wrong in ("stat=dead", "state=lost", "limit=0", "limit=1001", "limit=x", "before=x", "since=someday"):
        answer = client.get(f"/api/deliveries?{wrong}")
        assert (answer.status_code, list(answer.json())) == (400, ["error"]), wrong


def test_a_body_and_a_driver_are_shown_once_they_are_asked_for(client, node):
    id_ = client.get("/api/deliveries").json()["rows"][0]["id"]
    masked = client.get(f"/api/deliveries/{id_[:10]}").json()
    assert (masked["id"], masked["body"], masked["body_base64"], masked["headers"]) == (id_, None, None, None)
    assert client.get(f"/api/deliveries/{id_[:10]}?reveal=true").json()["body"]
    assert client.get("/api/deliveries/none").json() == {
        "error": "No delivery, or more than one, has an id that begins so."
    }
    driver = client.get("/api/drivers/DANA@example.com").json()
    assert driver["user_id"] == "dan…"
    assert driver["sessions"]
    assert "token-of" not in json.dumps(driver)
    assert client.get("/api/drivers/DANA@example.com?reveal=true").json()["user_id"] == "dana@example.com"
    assert client.get("/api/drivers/nobody").status_code == 404
    assert (
        [(row["act"], row["subject"]) for row in node.rows("audit")]
        == [
            ("user_viewed", "/drivers/…"),  # with their id
            ("user_viewed", "/drivers/…"),  # and before that by who knew it
            ("body_viewed", f"/deliveries/{id_[:10]}"),
        ]
    )


def test_the_numbers_of_a_span_are_those_of_the_command(client, node):
    span = ("2026-01-01T00:00:00Z", "2026-12-31T00:00:00Z")
    (printed,) = node.rows("stats", "--since", span[0], "--until", span[1])
    assert client.get("/api/stats", params={"since": span[0], "until": span[1]}).json() == printed
    assert client.get("/api/stats?since=x").status_code == 400


def test_it_changes_nothing_and_asks_for_a_token(client):
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/api/deliveries").status_code == 403
    assert client.get("/api/deliveries", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/api/openapi.json").json()["paths"].keys() >= {"/api/deliveries", "/api/stats"}


def test_a_session_is_what_its_command_prints_and_no_driver_is_named_until_asked_for(client, node):
    (printed,) = node.rows("session", "warned")
    shown = client.get("/api/sessions/warned?reveal=true").json()
    assert shown == printed
    assert [each["sentence"].partition(": ")[2] for each in shown["warnings"]] == [
        "the driver was warned 10 min before it began. The session ended before the fee began."
    ]
    assert [each["request_id"] for each in shown["cdrs"]] == ["r-0"]
    assert [push["state"] for entry in shown["timeline"] for push in entry["pushes"]] == ["sent"]
    masked = client.get("/api/sessions/warned")
    assert masked.json()["user_id"] == "dan…"
    (change,) = [each["changed"]["user_id"] for each in masked.json()["timeline"] if "user_id" in each["changed"]]
    assert change == {"before": None, "after": "dan…"}
    assert "dana@example.com" not in masked.text
    assert client.get("/api/sessions/unknown").json() == {"error": "The ledger knows no session with this id."}
    assert [(row["act"], row["subject"]) for row in node.rows("audit")] == [("user_viewed", "/sessions/warned")]


def test_a_driver_s_sessions_say_why_there_was_a_warning_or_none(client):
    sessions = client.get("/api/drivers/dana@example.com").json()["sessions"]
    sentences = {each["session_id"]: each["sentences"] for each in sessions}
    assert sentences["silent"] == ["No fee notice came for this session, so there was nothing to warn of."]
    assert "because the warning failed: UNREGISTERED" in sentences["refused"][0]


def test_failures_are_one_row_a_cause_and_now_is_what_the_first_page_shows(client):
    failures = client.get("/api/failures").json()
    points, other = sorted(failures["runs"], key=lambda each: -each["count"])
    assert (points["name"], points["error"], points["place"]) == (
        "add_points",
        "KeyError",
        "loyalty.py:41 in add_points",
    )
    assert (points["count"], other["count"], len(points["by_hour"])) == (3, 1, 24)
    assert [each["error"] for each in failures["pushes"]] == ["UNREGISTERED"]
    assert client.get(f"/failures/{points['key']}").status_code == 200
    now = client.get("/api/now").json()
    assert now["today"]["deliveries"]
    assert now["oldest_unsettled_at"]
