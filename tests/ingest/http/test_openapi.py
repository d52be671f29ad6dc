import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ingest.http.openapi import ANY_TEXT, OPENAPI_PATH, openapi_route


async def echo(request: Request):
    return PlainTextResponse(request.path_params["text"])


@pytest.fixture
def client(tmp_path, serving):
    document = tmp_path / "openapi.json"
    document.write_text('{"openapi": "3.1.0"}')
    app = Starlette(routes=[openapi_route(document), Route(f"/x/{{text:{ANY_TEXT}}}/y", echo)])
    with httpx.Client(base_url=f"http://127.0.0.1:{serving(app)}") as client:
        yield client


def test_the_document_is_served_as_it_is(client):
    answer = client.get(OPENAPI_PATH)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"openapi": "3.1.0"}


@pytest.mark.parametrize(("path", "text"), [("a", "a"), ("", ""), ("a/b", "a/b"), ("a%0Ab%2F", "a\nb/")])
def test_a_parameter_of_any_text_matches_slashes_line_breaks_and_nothing(client, path, text):
    assert client.get(f"/x/{path}/y").text == text
