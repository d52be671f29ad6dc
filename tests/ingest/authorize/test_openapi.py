"""What `authorize` says of itself is true: all that its document lets come is tried."""

import json
import tomllib
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from starlette.routing import Route

from ingest.authorize.app import OPENAPI
from ingest.authorize.evaluator import PolicyResult
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import Allowed, Decision

QUESTIONS = {
    "/plugsurfing/authorizations": "a-secret",
    "/ocpi/2.2.1/tokens/{token_uid}/authorize": "Token YS1zZWNyZXQ=",
}
RULINGS = [
    PolicyResult(),
    *(PolicyResult(Decision(allowed, "Für Sie: \U0001f50c" * 100, "tried")) for allowed in Allowed),
]
DOCUMENT = json.loads(OPENAPI.read_bytes())

api = schemathesis.openapi.from_path(
    OPENAPI,
    config=SchemathesisConfig.from_dict(
        {
            "generation": {"max-examples": settings.default.max_examples // 4, "database": "none"},
            "checks": {
                "negative_data_rejection": {"enabled": False},  # no body is refused for its shape: a driver waits
                "missing_required_header": {"enabled": False},  # it wants 401 in both forms
            },
        }
    ),
)


def rule(question):
    return RULINGS[len(question.key or "") % len(RULINGS)]


def test_the_document_is_openapi():
    api.validate()


@api.parametrize()
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_only_what_the_document_says_is_answered(case, lane):
    lane.judges.rule = rule
    path, method = case.operation.path, case.operation.method.upper()
    right = {"Authorization": QUESTIONS[path]} if path in QUESTIONS else {}
    answer = case.call_and_validate(base_url=f"http://127.0.0.1:{lane.port}", headers=right)
    # Whoever may ask, and does ask, is never answered anything but a decision.
    if right.items() <= answer.request.headers.items():
        assert answer.status_code == (200 if case.method == method else 405)


def test_it_has_every_path_and_no_other(lane):
    served = {route.path_format.removesuffix("/") for route in lane.app.routes if isinstance(route, Route)}
    assert served == DOCUMENT["paths"].keys()


def test_every_cause_of_a_refusal_is_answered_as_it_says(open_lane):
    lane = open_lane(max_body_bytes=1000)
    for path, right in QUESTIONS.items():
        operation = api[path]["POST"]
        tries = {
            413: {"headers": {"Authorization": right}, "data": b"x" * 1001},
            415: {"headers": {"Authorization": right, "Content-Encoding": "gzip"}, "data": b"{}"},
            403 if path == "/plugsurfing/authorizations" else 401: {"headers": {"Authorization": "wrong"}},
        }
        for status, request in tries.items():
            case = operation.Case(path_parameters={"token_uid": "0414DA"})
            answer = case.call(base_url=f"http://127.0.0.1:{lane.port}", **request)
            assert answer.status_code == status
            operation.validate_response(answer)


def test_a_process_that_is_not_ready_says_so_as_it_says(lane):
    lane.judges.ready = 0
    answer = api["/readyz"]["GET"].Case().call(base_url=f"http://127.0.0.1:{lane.port}")
    assert answer.status_code == 503
    api["/readyz"]["GET"].validate_response(answer)


def test_it_names_every_setting_that_changes_it_and_the_defaults_that_it_is_about():
    defaults = load_settings(authorize_credentials="a-secret")
    named = DOCUMENT["info"]["description"]
    for name in ("KEY", "COUNTRY", "REFERENCE", "LOCATION", "EVSE", "SESSION", "ANSWER", "OCPI_ANSWER", "ON_FAILURE"):
        assert f"AUTHORIZE_{name}" in named
    schemas = DOCUMENT["components"]["schemas"]
    firsts = [getattr(defaults, f"authorize_{name}")[0].text for name in ("key", "country", "reference", "location")]
    firsts += [defaults.authorize_evse[0].text, defaults.authorize_session[0].text]
    assert [f"/{name}" for name in schemas["Question"]["properties"]] == firsts
    assert schemas["Answer"]["properties"].keys() == defaults.authorize_answer.document.keys()
    assert schemas["AuthorizationInfo"]["properties"].keys() == defaults.authorize_ocpi_answer.document.keys()
    assert schemas["Allowed"]["enum"] == list(Allowed)
    assert DOCUMENT["servers"][0]["url"].endswith(f":{defaults.authorize_port}")


def test_its_version_is_ours():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert DOCUMENT["info"]["version"] == project["project"]["version"]
