"""What `devices serve` says of itself is true: all that its document lets come is tried."""

import json
import socket
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck
from hypothesis import settings as how
from schemathesis.config import SchemathesisConfig
from starlette.applications import Starlette

from ingest.config.settings import load_settings
from workers.devices import devices_app
from workers.devices.devices_app import OPENAPI, create_devices_app
from workers.devices.lookup import LONGEST_TOKEN, LONGEST_USER
from workers.ledger.database.engine import create_ledger_engine
from workers.ledger.tables import metadata

RIGHT = {"Authorization": "Bearer the-token"}
DOCUMENT = json.loads(OPENAPI.read_bytes())
DEVICE = "/devices/{userId}/{token}"

api = schemathesis.openapi.from_path(
    OPENAPI,
    config=SchemathesisConfig.from_dict(
        {
            "generation": {"max-examples": how.default.max_examples // 5, "database": "none"},
            # No schema can say what a time zone is, nor that a sign can be seen.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    ),
)


@pytest.fixture
def serve() -> Iterator[Callable[[Starlette], str]]:
    """Serve an application on a socket; gives its URL."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve_it(app: Starlette) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        running.append((server, threading.Thread(target=server.run, kwargs={"sockets": [listening]})))
        running[-1][1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve_it
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def url(serve: Callable[[Starlette], str], tmp_path: Path) -> Iterator[str]:
    """Where devices can be registered."""
    engine = create_ledger_engine(f"sqlite:///{tmp_path / 'ledger.db'}", creates_file=True)
    metadata.create_all(engine)
    yield serve(create_devices_app(load_settings(admin_token="the-token"), engine))
    engine.dispose()


def test_the_document_is_openapi() -> None:
    api.validate()


@api.parametrize()
@how(deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_is_documented(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url, headers=RIGHT)


def test_it_needs_no_token(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json", timeout=30).json() == DOCUMENT


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_while_the_database_is_unavailable_it_responds_as_documented(
    method: str, serve: Callable[[Starlette], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices_app, "DATABASE_TIMEOUT", 0.1)
    missing = serve(
        create_devices_app(load_settings(), create_ledger_engine("postgresql+psycopg://u@127.0.0.1:1/none"))
    )
    operation = api[DEVICE][method]
    case = operation.Case(path_parameters={"userId": "driver", "token": "token"})
    answer = case.call(base_url=missing)
    assert answer.status_code == 503
    operation.validate_response(answer)


def test_it_documents_the_limits_of_the_code() -> None:
    parameters: list[dict[str, Any]] = DOCUMENT["paths"][DEVICE]["parameters"]
    assert [each["schema"]["maxLength"] for each in parameters] == [LONGEST_USER, LONGEST_TOKEN]
    assert str(devices_app.MAX_BODY_BYTES) in DOCUMENT["paths"][DEVICE]["put"]["requestBody"]["description"]
    assert DOCUMENT["servers"][0]["url"].endswith(f":{load_settings().devices_port}")


def test_its_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert DOCUMENT["info"]["version"] == project["project"]["version"]
