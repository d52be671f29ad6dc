"""What an application says of itself: an OpenAPI document, which lies as a file beside the code that it describes."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OPENAPI_PATH = "/openapi.json"


def openapi_route(document: Path) -> Route:
    """Serve the document, as it is now, to whoever asks: it says nothing that is a secret."""
    text = document.read_bytes()

    async def openapi(_request: Request) -> Response:
        return Response(text, media_type="application/json")

    return Route(OPENAPI_PATH, openapi)
