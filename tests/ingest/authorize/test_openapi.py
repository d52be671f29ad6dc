"""The OpenAPI document of `authorize` is complete and true: schemathesis tries all that it allows."""

import json
import tomllib
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig
from starlette.routing import Route

from ingest.authorize.authorize_app import OPENAPI
from ingest.authorize.decisions import PolicyResult
from ingest.config.settings import load_settings
from ingest.wire.authorization.request import Allowed, Decision

CREDENTIALS = {
    "/plugsurfing/authorizations": "a-secret",
    "/ocpi/2.2.1/tokens/{token_uid}/authorize": "Token YS1zZWNyZXQ=",
}
RESULTS = [
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
                "missing_required_header": {"enabled": False},  # it expects 401 in both formats
            },
        }
    ),
)


def result_of(request):
    return RESULTS[len(request.key or "") % len(RESULTS)]


def test_the_document_is_openapi():
    api.validate()


@api.parametrize()
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_is_as_documented(case, running):
    running.evaluator.result_of = result_of
    path, method = case.operation.path, case.operation.method.upper()
    right = {"Authorization": CREDENTIALS[path]} if path in CREDENTIALS else {}
    response = case.call_and_validate(base_url=f"http://127.0.0.1:{running.port}", headers=right)
    # With valid credentials and the right method every response is a decision.
    if right.items() <= response.request.headers.items():
        assert response.status_code == (200 if case.method == method else 405)


def test_the_document_has_exactly_the_paths_that_are_served(running):
    served = {route.path_format.removesuffix("/") for route in running.app.routes if isinstance(route, Route)}
    assert served == DOCUMENT["paths"].keys()


def test_every_refusal_is_as_documented(start):
    running = start(max_body_bytes=1000)
    for path, right in CREDENTIALS.items():
        operation = api[path]["POST"]
        tries = {
            413: {"headers": {"Authorization": right}, "data": b"x" * 1001},
            415: {"headers": {"Authorization": right, "Content-Encoding": "gzip"}, "data": b"{}"},
            403 if path == "/plugsurfing/authorizations" else 401: {"headers": {"Authorization": "wrong"}},
        }
        for status, request in tries.items():
            case = operation.Case(path_parameters={"token_uid": "0414DA"})
            response = case.call(base_url=f"http://127.0.0.1:{running.port}", **request)
            assert response.status_code == status
            operation.validate_response(response)


def test_the_response_of_a_process_that_is_not_ready_is_as_documented(running):
    running.evaluator.ready = 0
    response = api["/readyz"]["GET"].Case().call(base_url=f"http://127.0.0.1:{running.port}")
    assert response.status_code == 503
    api["/readyz"]["GET"].validate_response(response)


def test_the_document_names_its_settings_and_their_defaults():
    defaults = load_settings(authorize_credentials="a-secret")
    named = DOCUMENT["info"]["description"]
    for name in ("KEY", "COUNTRY", "REFERENCE", "LOCATION", "EVSE", "SESSION", "ANSWER", "OCPI_ANSWER", "ON_FAILURE"):
        assert f"AUTHORIZE_{name}" in named
    schemas = DOCUMENT["components"]["schemas"]
    firsts = [getattr(defaults, f"authorize_{name}")[0].text for name in ("key", "country", "reference", "location")]
    firsts += [defaults.authorize_evse[0].text, defaults.authorize_session[0].text]
    assert [f"/{name}" for name in schemas["AuthorizationRequest"]["properties"]] == firsts
    assert schemas["Answer"]["properties"].keys() == defaults.authorize_answer.document.keys()
    assert schemas["AuthorizationInfo"]["properties"].keys() == defaults.authorize_ocpi_answer.document.keys()
    assert schemas["Allowed"]["enum"] == list(Allowed)
    assert DOCUMENT["servers"][0]["url"].endswith(f":{defaults.authorize_port}")


def test_the_document_has_the_version_of_the_project():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert DOCUMENT["info"]["version"] == project["project"]["version"]
