"""A console on the stores of a node."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from ingest.config.settings import load_settings
from tests.workers.commands.conftest import Node, any_node, event_writer, node, noon
from workers.console.console_app import create_console

__all__ = ["any_node", "event_writer", "node", "noon"]


@pytest.fixture
def console_of() -> Iterator[Callable[[Node], TestClient]]:
    """Return a browser without scripts for the console of a node."""
    with pytest.MonkeyPatch.context() as patch:

        def build(node: Node) -> TestClient:
            for name, value in node.environment.items():
                patch.setenv(name, value)
            return TestClient(create_console(load_settings(), node.engine))

        yield build


@pytest.fixture
def console(node: Node, console_of: Callable[[Node], TestClient]) -> TestClient:
    return console_of(node)
