import psycopg
import pytest
from sqlalchemy import make_url

from tests.bench import databases
from tests.bench.databases import harness_on, kinds_on, new_database, postgresql
from tests.bench.harness import BenchFailed


def test_a_named_server_is_used_as_it_is():
    with postgresql("postgresql://somewhere/") as url:
        assert url == "postgresql://somewhere/"


def test_a_url_of_another_database_is_refused():
    with pytest.raises(BenchFailed, match="--database names a PostgreSQL"), postgresql("sqlite:///x.db"):
        pass


def test_without_a_server_only_sqlite_is_measured(monkeypatch):
    monkeypatch.setattr(databases, "SERVER", "no_such_module")
    with postgresql(None) as server:
        assert server is None
        assert kinds_on(server) == ["SQLite"]


def test_a_new_database_is_dropped_afterwards(postgres_url):
    server = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with new_database(server) as url, harness_on("PostgreSQL", server) as harness:
        assert kinds_on(server) == ["SQLite", "PostgreSQL"]
        names = [make_url(url).database, make_url(harness.settings().database_url).database]
        assert set(names) <= databases_of(server)
    assert not set(names) & databases_of(server)


def databases_of(server):
    with psycopg.connect(server) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
