"""The form of the login; AccessControl answers what it sends."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from workers.console.page_template import render


def login_page(request: Request) -> Response:
    """Return the form, with a sentence if the last try was wrong."""
    wrong = "wrong" in request.query_params
    page = render(request, "login.html", {"wrong": wrong, "target": request.query_params.get("next", "/")})
    page.status_code = HTTPStatus.OK
    return page
