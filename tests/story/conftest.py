"""The environment of a new user, and ports for everything that `dev` runs."""

import os
from collections.abc import Callable

import pytest

from ingest.config.settings import Settings
from tests.ports import reserve_neighbours


@pytest.fixture(scope="session")
def clean_env() -> dict[str, str]:
    """Return this environment without our settings."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.fixture(scope="session")
def dev_port() -> Callable[[], int]:
    """Return a function that reserves the port of a `dev` and the four after it, for its other servers."""
    return lambda: reserve_neighbours(5)
