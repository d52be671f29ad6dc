"""Routes that Starlette does not have: an OpenAPI document, and a path parameter of any text."""

from pathlib import Path

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OPENAPI_PATH = "/openapi.json"

ANY_TEXT = "anytext"
"""The convertor's name in a route, as in `{token:anytext}`."""


class AnyPathConvertor(PathConvertor):
    """Matches any text, empty too. Starlette's own `path` matches no line break."""

    regex = r"[\s\S]*"


register_url_convertor(ANY_TEXT, AnyPathConvertor())


def openapi_route(document: Path) -> Route:
    """Return the route of a document that lies beside the code it describes. It is public and holds no secret."""
    text = document.read_bytes()

    async def openapi(_request: Request) -> Response:
        return Response(text, media_type="application/json")

    return Route(OPENAPI_PATH, openapi)
