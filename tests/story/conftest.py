"""What someone has who has just come: nothing that is set, and ports that nobody uses."""

import os
import socket
from collections.abc import Callable

import pytest

from ingest.config.settings import Settings


@pytest.fixture(scope="session")
def newcomer() -> dict[str, str]:
    """The environment of someone who has set nothing."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture(scope="session")
def four_free_ports() -> Callable[[], int]:
    """Find a port with three free neighbours, another one each time if the last one is taken."""
    return find_four_free_ports


def find_four_free_ports() -> int:
    # Not where another process of these tests looks at the same time.
    first = 21_000 + os.getpid() % 1000 * 10
    for port in range(first, 32_000, 10):
        try:
            for one in range(port, port + 4):
                socket.create_server(("127.0.0.1", one)).close()
        except OSError:
            continue
        return port
    pytest.fail("no ports are free")
