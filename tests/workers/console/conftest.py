"""A console on the stores of a node."""

import re
from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from ingest.config.settings import load_settings
from tests.workers.commands.conftest import Node, any_node, event_writer, node, noon
from workers.console.console_server import access_routes, with_access_control

__all__ = ["any_node", "event_writer", "node", "noon"]


def csrf_token(console: TestClient) -> str:
    """Return what the page's forms send."""
    (token,) = re.findall('name="csrf-token" content="([^"]+)"', console.get("/pushes").text)
    return str(token)


def keys_of(page: str, path: str = "failures") -> list[str]:
    """Return the keys of the causes that a page links to."""
    return re.findall(rf'href="/{path}/([0-9a-f]{{16}})"', page)


def reveal(console: TestClient, page: str) -> None:
    """Click on the button with which a page shows what is masked."""
    answer = console.post("/reveal", data={"csrf_token": csrf_token(console), "page": page}, follow_redirects=False)
    assert answer.headers["location"] == page


@pytest.fixture
def console_of() -> Iterator[Callable[[Node], TestClient]]:
    """Return a browser without scripts for the console of a node."""
    with pytest.MonkeyPatch.context() as patch:

        def build(node: Node) -> TestClient:
            for name, value in node.environment.items():
                patch.setenv(name, value)
            app = with_access_control(load_settings(), node.engine, access_routes(load_settings(), node.engine))
            return TestClient(app, base_url="http://localhost")

        yield build


@pytest.fixture
def console(node: Node, console_of: Callable[[Node], TestClient]) -> TestClient:
    return console_of(node)
